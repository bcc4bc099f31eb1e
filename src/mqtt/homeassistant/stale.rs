//! What earlier runs left behind on the broker, as far as it was heard in the search after a connect.
//!
//! It only remembers. Whose a document is says [`super`]; what is cleared, and when, [`crate::mqtt::state`].

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use crate::model::PlugName;

use super::RetainedDocument;

/// Leftovers that are remembered; beyond that they are not ours to count.
const MOST: usize = 50_000;
/// Bytes; no state of ours is longer.
const LONGEST_STATE: usize = 512;

/// What the broker still keeps from earlier runs.
#[derive(Debug, Default)]
pub(in crate::mqtt) struct StaleTopics {
    /// All that is kept has come by.
    pub(in crate::mqtt) is_searched: bool,
    /// Every plug that is known has been told of.
    pub(in crate::mqtt) is_round_done: bool,
    /// `bridge/info` was ours too, so that the plugs under this base are ours to clear.
    pub(in crate::mqtt) is_base_ours: bool,
    /// Our documents, by topic, that nobody has taken over yet. In order, as they are cleared.
    pub(in crate::mqtt) documents: BTreeMap<String, RetainedDocument>,
    /// Their topics, by the plug whose availability they name.
    by_plug: HashMap<PlugName, Vec<String>>,
    /// Their topics, by the device that they are about.
    by_device: HashMap<String, Vec<String>>,
    /// The kept state of plugs that have not told theirs in this run.
    states: BTreeMap<PlugName, Vec<u8>>,
    /// Plugs whose availability is kept under our base.
    pub(in crate::mqtt) plugs: BTreeSet<PlugName>,
}

impl StaleTopics {
    pub(in crate::mqtt) fn add_document(&mut self, topic: &str, found: RetainedDocument) {
        if self.documents.len() >= MOST || self.documents.contains_key(topic) {
            return;
        }
        if let Some(plug) = &found.plug {
            self.by_plug.entry(plug.clone()).or_default().push(topic.to_owned());
        }
        self.by_device.entry(found.device.clone()).or_default().push(topic.to_owned());
        self.documents.insert(topic.to_owned(), found);
    }

    pub(in crate::mqtt) fn add_plug(&mut self, plug: PlugName) {
        if self.plugs.len() < MOST {
            self.plugs.insert(plug);
        }
    }

    pub(in crate::mqtt) fn add_state(&mut self, plug: PlugName, state: &[u8]) {
        if self.states.len() < MOST && state.len() <= LONGEST_STATE {
            self.states.insert(plug, state.to_vec());
        }
    }

    /// The kept state of a plug, once.
    pub(in crate::mqtt) fn take_state(&mut self, plug: &PlugName) -> Option<Vec<u8>> {
        self.states.remove(plug)
    }

    /// Whether all that is known and all that was found can be told apart.
    pub(in crate::mqtt) fn is_settled(&self) -> bool {
        self.is_searched && self.is_round_done
    }

    pub(in crate::mqtt) fn has_device(&self, id: &str) -> bool {
        self.by_device.contains_key(id)
    }

    /// Everything that was found of a device, for whoever goes on with it.
    pub(in crate::mqtt) fn take_device(&mut self, id: &str) -> Vec<(String, RetainedDocument)> {
        let topics = self.by_device.remove(id).unwrap_or_default();
        topics.into_iter().filter_map(|topic| self.documents.remove_entry(&topic)).collect()
    }

    /// The topics of what was found under the name of a plug, whichever device it was.
    pub(in crate::mqtt) fn take_plug(&mut self, name: &PlugName) -> Vec<String> {
        let topics = self.by_plug.remove(name).unwrap_or_default();
        topics.into_iter().filter(|topic| self.documents.remove(topic).is_some()).collect()
    }
}

/// Which instance wrote a kept `bridge/info`.
pub(in crate::mqtt) fn instance_of(bridge_info: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Info {
        instance: String,
    }
    serde_json::from_slice::<Info>(bridge_info).ok().map(|info| info.instance)
}
