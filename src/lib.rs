//! hs100d controls TP-Link HS100 smart plugs: over the LAN while it works, over TP-Link's cloud while it does not, with
//! MQTT for programs and Home Assistant.
//!
//! The [`bridge`] makes all decisions as one value: events in, actions out, without a socket, a clock or a task. [`mqtt`]
//! connects to the broker, `http` serves browsers and scripts, and [`transport`] connects to the plugs; none of them knows
//! another, and the bridge knows none. The loop in [`daemon`] carries events in and actions out.
//!
//! ```text
//!                        main
//!                          |
//!                       commands                  one file a subcommand; exit codes
//!                      /        \
//!          daemon    supervisor    sim            the main loop | Home Assistant's Supervisor | the simulated home (feature)
//!                      \        /
//!                   config      store             the config | what outlives a restart
//!                       \      /
//!             mqtt      http      transport       the broker | browsers and scripts | LAN and cloud
//!                 \      /         /
//!                  payload        /               what frontends show and understand
//!                       \        /
//!                        bridge                   the decisions
//!                          |
//!               smarthome   klap_hashes           the plug's messages, framing, cipher | an account's hashes
//!                          |
//!           model  cause  secret  permissions       plain values
//!               duration  backoff  logging
//! ```
//!
//! Imports go down, never up and never sideways; `tests/house_rules.rs` checks it. Each module says at its top what it
//! owns and what it does not do. `docs/DESIGN.md` explains the ideas.
//!
//! Start with [`bridge::event`], the events and actions. The small programs in `examples/` show how to use the library.

// Plain values.
pub(crate) mod backoff;
pub mod cause;
pub mod duration;
pub(crate) mod logging;
pub mod model;
pub(crate) mod permissions;
pub mod secret;

// The plug's messages, and what its handshake needs of an account.
pub mod klap_hashes;
pub mod smarthome;

// The decisions.
pub mod bridge;

// What frontends say and understand.
pub mod payload;

// The broker, browsers and scripts, and the plugs.
#[allow(dead_code, reason = "the handlers that use the rest of it follow")]
pub mod http;
pub mod mqtt;
pub mod transport;

// The config, and what outlives a restart.
pub mod config;
pub mod store;

// The loop, Home Assistant's Supervisor, and the simulated home.
pub mod daemon;
#[cfg(feature = "sim")]
pub mod sim;
pub(crate) mod supervisor;

// The command line.
pub mod commands;
