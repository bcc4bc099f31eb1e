//! Which discovery documents are published, and below which prefix.

/// The form of the discovery documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DocumentForm {
    /// One document per device. Home Assistant reads these since 2024.11.
    #[default]
    Device,
    /// One document per entity, for consumers that do not know the device form.
    Component,
    /// No documents.
    Off,
}

/// The settings of Home Assistant's MQTT discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeAssistantOptions {
    /// The form of the documents.
    pub discovery: DocumentForm,
    /// The first levels of their topics.
    pub discovery_prefix: String,
    /// The topic of Home Assistant's birth message.
    pub status_topic: String,
}
