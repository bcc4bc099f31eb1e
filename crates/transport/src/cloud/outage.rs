//! Tells an outage of the cloud from the failure of one plug while others are served. Decisions only, with `now` as an
//! argument.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use hs100d_core::model::DeviceId;

/// An answer to a call for a plug shows for this long that the cloud works.
const SERVED_RECENTLY: Duration = Duration::from_secs(5 * 60);

/// The plug of a call; `None` for the device list.
pub(crate) type About = Option<DeviceId>;

/// Which calls were answered and which failed.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// The two plugs served last, newest first: at least one of them is not the one that fails.
    served: [Option<(DeviceId, Instant)>; 2],
    /// Calls that failed since the last answer to any plug.
    failing: HashSet<About>,
    /// Calls that failed while others were answered.
    failing_alone: HashSet<About>,
}

impl Outage {
    /// A call was answered.
    pub(crate) fn answered(&mut self, about: &About, now: Instant) {
        self.failing.remove(about);
        self.failing_alone.remove(about);
        // The list comes from the account's server and does not show that plugs can be reached.
        let Some(plug) = about else { return };
        self.failing_alone.extend(self.failing.drain());
        let [newest, before] = &mut self.served;
        match newest {
            Some((known, at)) if known == plug => *at = now,
            _ => *before = newest.replace((plug.clone(), now)),
        }
    }

    /// A call failed. Returns whether it fails alone: other plugs were served recently, and no other call failed since.
    pub(crate) fn is_of_one(&mut self, about: &About, now: Instant) -> bool {
        let is_other =
            |(plug, at): &&(DeviceId, Instant)| about.as_ref() != Some(plug) && now < *at + SERVED_RECENTLY;
        let serves_others = self.served.iter().flatten().any(|served| is_other(&served));
        if serves_others && self.failing_alone.contains(about) {
            return true;
        }
        self.failing_alone.remove(about);
        self.failing.insert(about.clone());
        serves_others && self.failing.len() == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn plug(number: u8) -> About {
        DeviceId::new(&format!("80060000{number:02}"))
    }

    #[test]
    fn the_only_plug_that_is_asked_says_that_the_cloud_is_out_of_order() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        outage.answered(&None, now);
        outage.answered(&plug(1), now);
        assert!(!outage.is_of_one(&plug(1), now));
    }

    #[test]
    fn plugs_that_fail_while_others_are_served_fail_alone_however_often() {
        let (mut outage, mut now) = (Outage::default(), Instant::now());
        outage.answered(&plug(1), now);
        outage.answered(&plug(2), now);
        for _ in 0..100 {
            assert!(outage.is_of_one(&plug(3), now));
            outage.answered(&plug(1), now);
            assert!(outage.is_of_one(&plug(4), now) && outage.is_of_one(&plug(3), now));
            outage.answered(&plug(2), now);
            now += MINUTE;
        }
    }

    #[test]
    fn an_outage_is_seen_with_the_second_plug_that_fails_and_over_with_the_first_answer() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        for number in 1..=3 {
            outage.answered(&plug(number), now);
        }
        assert!(outage.is_of_one(&plug(1), now), "nothing else has failed yet");
        assert!(!outage.is_of_one(&plug(2), now));
        assert!(!outage.is_of_one(&plug(1), now) && !outage.is_of_one(&plug(3), now));
        outage.answered(&plug(2), now);
        assert!(outage.is_of_one(&plug(1), now));
        assert!(!outage.is_of_one(&plug(1), now + SERVED_RECENTLY), "no plug was served for a long time");
    }

    #[test]
    fn a_list_that_fails_while_plugs_are_served_is_no_outage_and_its_answer_serves_no_plug() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        outage.answered(&None, now);
        assert!(!outage.is_of_one(&plug(1), now));
        outage.answered(&plug(1), now);
        for _ in 0..10 {
            assert!(outage.is_of_one(&None, now));
            outage.answered(&plug(1), now);
        }
        assert!(!outage.is_of_one(&plug(1), now), "the list alone says nothing of plugs");
    }
}
