//! Texts that many plugs have in common, such as model and firmware, stored once.

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::DeviceId;
use crate::smarthome::message::DeviceInfo;

/// Ten thousand plugs have a few dozen. A device that invents plugs could send any number.
const MAX_WORDS: usize = 1000;

/// Each text once.
#[derive(Debug, Default)]
pub(super) struct Interner(HashSet<Arc<str>>);

impl Interner {
    /// The same device with shared texts. `device_id` is the known id of the plug.
    pub(super) fn share(&mut self, device: &DeviceInfo, device_id: Option<&DeviceId>) -> Arc<DeviceInfo> {
        let mut device = device.clone();
        let DeviceInfo { model, hw_version, sw_version, kind, feature, dev_name, .. } = &mut device;
        for word in [model, hw_version, sw_version, kind, feature, dev_name] {
            self.share_word(word);
        }
        if device.device_id.as_ref() == device_id {
            device.device_id = device_id.cloned();
        }
        Arc::new(device)
    }

    fn share_word(&mut self, word: &mut Arc<str>) {
        match self.0.get(word) {
            Some(known) => *word = Arc::clone(known),
            None if self.0.len() < MAX_WORDS => drop(self.0.insert(Arc::clone(word))),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smarthome::message::{Reply, Request};

    fn device(model: &str) -> DeviceInfo {
        let text = format!(r#"{{"system":{{"get_sysinfo":{{"deviceId":"{:040}","model":"{model}"}}}}}}"#, 1);
        match Request::SysInfo.read_reply(text.as_bytes(), None) {
            Ok(Reply::SysInfo(reading)) => (*reading.device).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn plugs_of_one_model_share_its_name_and_the_device_id_that_they_are_known_by() {
        let mut words = Interner::default();
        let (one, other) = (device("HS100(EU)"), device("HS100(EU)"));
        assert!(!Arc::ptr_eq(&one.model, &other.model));
        let known = other.device_id.clone().unwrap();
        let shared = [words.share(&one, None), words.share(&other, Some(&known))];
        assert_eq!(*shared[0], one, "it says the same as before");
        assert!(Arc::ptr_eq(&shared[0].model, &shared[1].model));
        assert_eq!(shared[1].device_id.as_ref().unwrap().as_str().as_ptr(), known.as_str().as_ptr());
    }

    #[test]
    fn a_device_that_invents_texts_cannot_fill_the_memory() {
        let mut words = Interner::default();
        for number in 0..2 * MAX_WORDS {
            words.share(&device(&format!("HS{number}")), None);
        }
        assert!(words.0.len() <= MAX_WORDS);
        assert_eq!(
            &*words.share(&device("HS9999"), None).model,
            "HS9999",
            "but each text stays as it was sent"
        );
    }
}
