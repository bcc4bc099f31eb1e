//! What was published last of one relay, so that only changes are published.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bridge::event::{PlugInfo, PlugState};

/// The signal strength differs in nearly every reading; alone it is published no more often than this.
const SIGNAL_INTERVAL: Duration = Duration::from_secs(60);

/// The last `state` and `info`.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) state: Option<PlugState>,
    pub(super) info: Option<(Arc<PlugInfo>, Instant)>,
}

impl Published {
    /// Notes that this state is published. False if the last one was the same.
    pub(super) fn set_state(&mut self, state: &PlugState) -> bool {
        let is_news = self.state.as_ref() != Some(state);
        if is_news {
            self.state = Some(state.clone());
        }
        is_news
    }

    pub(super) fn set_info(&mut self, info: &Arc<PlugInfo>, now: Instant) {
        self.info = Some((Arc::clone(info), now));
    }

    /// The last `info`, and whether it is too recent for another one because of the signal alone.
    pub(super) fn info(&self, now: Instant) -> Option<(&PlugInfo, bool)> {
        self.info.as_ref().map(|(info, at)| (&**info, *at + SIGNAL_INTERVAL > now))
    }

    /// The state is published again on the next occasion.
    pub(super) fn forget_state(&mut self) {
        self.state = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RelayState;

    #[test]
    fn the_same_state_is_published_once_unless_it_is_forgotten() {
        let (on_since, until) = (None, None);
        let state =
            PlugState { relay: RelayState::On, route: None, led: None, on_since, brightness: None, until };
        let mut published = Published::default();
        assert!(published.set_state(&state));
        assert!(!published.set_state(&state));
        assert!(published.set_state(&PlugState { relay: RelayState::Off, ..state.clone() }));
        published.forget_state();
        assert!(published.set_state(&PlugState { relay: RelayState::Off, ..state }));
    }
}
