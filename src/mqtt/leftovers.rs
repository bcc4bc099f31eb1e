//! What earlier runs left behind on the broker, as far as it was heard in the search after a connect.
//!
//! It only remembers. Whose a document is says [`super::homeassistant`]; what is cleared, and when, [`super::desk`].

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use crate::model::PlugName;

use super::homeassistant::Found;

/// Leftovers that are remembered; beyond that they are not ours to count.
const MOST: usize = 50_000;

/// What the broker still keeps from earlier runs.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// All that is kept has come by.
    pub(super) is_searched: bool,
    /// Every plug that is known has been told of.
    pub(super) is_round_done: bool,
    /// `bridge/info` was ours too, so that the plugs under this base are ours to clear.
    pub(super) is_base_ours: bool,
    /// Our documents, by topic.
    pub(super) documents: HashMap<String, Found>,
    /// The topics of those documents, by the plug that they are about.
    topics: HashMap<PlugName, Vec<String>>,
    /// Plugs whose availability is kept under our base.
    pub(super) plugs: HashSet<PlugName>,
}

impl Leftovers {
    pub(super) fn add_document(&mut self, topic: &str, found: Found) {
        if self.documents.len() >= MOST || self.documents.contains_key(topic) {
            return;
        }
        if let Some(plug) = &found.plug {
            self.topics.entry(plug.clone()).or_default().push(topic.to_owned());
        }
        self.documents.insert(topic.to_owned(), found);
    }

    pub(super) fn add_plug(&mut self, plug: PlugName) {
        if self.plugs.len() < MOST {
            self.plugs.insert(plug);
        }
    }

    /// The topics of the documents about a plug. None before the search is over, since nothing may be taken back
    /// before what takes its place is sent.
    pub(super) fn documents_of(&self, plug: &PlugName) -> Vec<String> {
        self.topics.get(plug).filter(|_| self.is_searched).cloned().unwrap_or_default()
    }
}

/// Which instance wrote a kept `bridge/info`.
pub(super) fn instance_of(bridge_info: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Info {
        instance: String,
    }
    serde_json::from_slice::<Info>(bridge_info).ok().map(|info| info.instance)
}
