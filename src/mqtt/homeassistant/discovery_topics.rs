//! The topics of discovery documents, in both forms.

use super::entities;
use super::fields::ORIGIN;

/// All topics below one discovery prefix.
#[derive(Debug, Clone)]
pub(super) struct DiscoveryTopics {
    prefix: String,
}

impl DiscoveryTopics {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Of the document of a whole device.
    pub(super) fn device(&self, id: &str) -> String {
        format!("{}/device/{id}/config", self.prefix)
    }

    /// Of the document of one entity.
    pub(super) fn entity(&self, platform: &str, id: &str, key: &str) -> String {
        format!("{}/{platform}/{id}/{ORIGIN}_{key}/config", self.prefix)
    }

    /// The filters that find all documents of an earlier run, in both forms, and little else.
    pub(super) fn filters(&self) -> Vec<String> {
        let entity = |(key, platform): &(&str, &str)| self.entity(platform, "+", key);
        std::iter::once(self.device("+")).chain(entities::ALL.iter().map(entity)).collect()
    }

    pub(super) fn is_document(&self, topic: &str) -> bool {
        topic
            .strip_prefix(&self.prefix)
            .is_some_and(|rest| rest.starts_with('/') && rest.ends_with("/config"))
    }

    /// Whether this is the topic of a document in device form.
    pub(super) fn is_device(&self, topic: &str) -> bool {
        topic.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with("/device/"))
    }
}
