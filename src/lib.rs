//! hs100d keeps TP-Link HS100 smart plugs within reach: over the LAN while the LAN answers, over the cloud while it
//! does not, with MQTT for whoever wants to switch them.
//!
//! *One bridge, two wings, one loop.* The [`bridge`] is the whole daemon as a value: events in, actions out, without
//! a socket, a clock or a task. The left wing ([`mqtt`]) speaks to the broker, the right wing ([`transport`]) to the
//! plugs; neither knows the other, and the bridge knows neither. The [`daemon`] is the one loop that carries events
//! in and actions out.
//!
//! ```text
//!                           main
//!                             |
//!                          commands ------------------+
//!                         /        \                  |
//!                   daemon          sim (feature)     |      the loop            the pretend house
//!                         \        /                  |
//!                      config      store -------------+      what is wanted      what outlives a restart
//!                          \      /
//!                      mqtt        transport                 left wing: broker   right wing: plugs
//!                          \      /
//!                           bridge                           the decisions
//!                             |
//!                         smarthome                          the plug's language: words, frame, cipher
//!                             |
//!          model  cause  secret  permissions  duration  backoff  logging   plain values
//! ```
//!
//! Imports go down, never up and never sideways; `tests/house_rules.rs` holds us to it. Every room opens with what it
//! owns and what it refuses, so this page stops here.
//!
//! To read how it works, begin with [`bridge::event`], which is every word that the rooms say to each other. To see
//! it at work from a program of your own, there are small ones under `examples/`.

// Plain values.
pub(crate) mod backoff;
pub mod cause;
pub mod duration;
pub mod logging;
pub mod model;
pub mod permissions;
pub mod secret;

// The plug's language.
pub mod smarthome;

// The decisions.
pub mod bridge;

// The two wings: the broker on the left, the plugs on the right.
pub mod mqtt;
pub mod transport;

// What the user wants, and what is remembered.
pub mod config;
pub mod store;

// The loop, and the pretend house to try it in.
pub mod daemon;
#[cfg(feature = "sim")]
pub mod sim;

// The command line.
pub mod commands;
