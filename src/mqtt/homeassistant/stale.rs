//! The retained messages of earlier runs that the search after a connect found.
//!
//! It only stores them: `retained` decides which documents are ours, `lifecycle` what is cleared.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use crate::model::PlugName;

use super::retained::RetainedDocument;

/// The most messages of each kind that are stored: another client may have written any number.
const MAX_STALE: usize = 50_000;
/// The longest state that is stored, in bytes; ours are shorter.
const MAX_STATE_SIZE: usize = 512;

/// What the broker retains of earlier runs.
#[derive(Debug, Default)]
pub(super) struct StaleTopics {
    /// The search is over.
    pub(super) is_searched: bool,
    /// The first round of reads is over, so that every plug is known.
    pub(super) is_round_done: bool,
    /// The retained `bridge/info` is ours, so plugs below our base topic may be cleared.
    pub(super) is_base_ours: bool,
    /// Our documents by topic, until a plug takes them over; in the order in which they are cleared.
    pub(super) documents: BTreeMap<String, RetainedDocument>,
    /// Their topics by plug.
    by_plug: HashMap<PlugName, Vec<String>>,
    /// Their topics by device.
    by_device: HashMap<String, Vec<String>>,
    /// The retained states of plugs that have not been read in this run.
    states: BTreeMap<PlugName, Vec<u8>>,
    /// Plugs with a retained availability below our base topic.
    pub(super) plugs: BTreeSet<PlugName>,
}

impl StaleTopics {
    pub(super) fn add_document(&mut self, topic: &str, found: RetainedDocument) {
        if self.documents.len() >= MAX_STALE || self.documents.contains_key(topic) {
            return;
        }
        if let Some(plug) = &found.plug {
            self.by_plug.entry(plug.clone()).or_default().push(topic.to_owned());
        }
        self.by_device.entry(found.device.clone()).or_default().push(topic.to_owned());
        self.documents.insert(topic.to_owned(), found);
    }

    pub(super) fn add_plug(&mut self, plug: PlugName) {
        if self.plugs.len() < MAX_STALE {
            self.plugs.insert(plug);
        }
    }

    pub(super) fn add_state(&mut self, plug: PlugName, state: &[u8]) {
        if self.states.len() < MAX_STALE && state.len() <= MAX_STATE_SIZE {
            self.states.insert(plug, state.to_vec());
        }
    }

    /// The retained state of a plug, once.
    pub(super) fn take_state(&mut self, plug: &PlugName) -> Option<Vec<u8>> {
        self.states.remove(plug)
    }

    /// Whether stale and current messages can be told apart.
    pub(super) fn is_settled(&self) -> bool {
        self.is_searched && self.is_round_done
    }

    pub(super) fn has_device(&self, id: &str) -> bool {
        self.by_device.contains_key(id)
    }

    /// Removes and returns the documents of a device.
    pub(super) fn take_device(&mut self, id: &str) -> Vec<(String, RetainedDocument)> {
        let topics = self.by_device.remove(id).unwrap_or_default();
        topics.into_iter().filter_map(|topic| self.documents.remove_entry(&topic)).collect()
    }

    /// Removes the documents with the name of a plug, whatever their device, and returns their topics.
    pub(super) fn take_plug(&mut self, name: &PlugName) -> Vec<String> {
        let topics = self.by_plug.remove(name).unwrap_or_default();
        topics.into_iter().filter(|topic| self.documents.remove(topic).is_some()).collect()
    }
}

pub(super) fn instance_of(bridge_info: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Info {
        instance: String,
    }
    serde_json::from_slice::<Info>(bridge_info).ok().map(|info| info.instance)
}
