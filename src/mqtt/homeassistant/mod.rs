//! Discovery documents for Home Assistant's MQTT integration: one per device, or one per entity.
//!
//! `renderer` writes them from `entities` and `fields`, `retained` recognises them at the broker, `lifecycle` decides when
//! they are sent, migrated and cleared. The entities are those of Home Assistant's own integration for these devices, plus the
//! route. A strip is a device, and so is each of its outlets, connected through the strip.
//!
//! No id of an entity contains the instance, so entities survive a move to another machine. Which instance wrote a document
//! is in `via_device`, which names the bridge device. An outlet's document names its strip there and is recognised by its base
//! topic.

mod discovery_topics;
mod entities;
mod fields;
pub(super) mod lifecycle;
mod migration;
pub(super) mod options;
mod renderer;
mod retained;
mod stale;

pub use options::{DocumentForm, HomeAssistantOptions};
