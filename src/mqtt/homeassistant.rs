//! The discovery document.

/// Which documents Home Assistant gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discovery {
    /// One document a device.
    #[default]
    Device,
    /// One document an entity, for consumers that know no device form.
    Component,
    /// None.
    Off,
}

/// What Home Assistant is told, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The form of the documents.
    pub discovery: Discovery,
    /// The first level of their topics.
    pub discovery_prefix: String,
    /// Where Home Assistant says that it has started.
    pub status_topic: String,
}
