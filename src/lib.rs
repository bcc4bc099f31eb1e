//! hs100d controls TP-Link HS100 smart plugs: over the LAN while it works, over TP-Link's cloud while it does not, with
//! MQTT for programs and Home Assistant.
//!
//! The [`bridge`] makes all decisions as one value: events in, actions out, without a socket, a clock or a task. [`mqtt`]
//! connects to the broker, [`http`] serves browsers and scripts, and [`transport`] connects to the plugs; none of them knows
//! another, and the bridge knows none. The loop in [`daemon`] carries events in and actions out.
//!
//! ```text
//!                        main
//!                          |
//!                       commands                  one file a subcommand; exit codes
//!                      /        \
//!          daemon    supervisor    sim            the main loop | Home Assistant's Supervisor | the simulated home
//!                      \        /
//!                   config      store             the config | what outlives a restart
//!                       \      /
//!             mqtt      http      transport       the broker | browsers and scripts | LAN and cloud
//!                 \      /         /
//!  - - - - - - - - - - - - - - - - - - - - - -    crates/core, from here down
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
//! What is below the line is the crate `hs100d_core`, in `crates/core`; it is linked without tokio. [`http`], [`transport`]
//! and `sim`, which is behind the feature of this name, are `hs100d_http`, `hs100d_transport` and `hs100d_sim`, in
//! `crates/http`, `crates/transport` and `crates/sim`; they know only `hs100d_core`. All else is in `src`. This crate shows
//! all of it under one name.
//!
//! Imports go down, never up and never sideways. Among the crates the compiler sees to it, among the modules
//! `tests/house_rules.rs`. Each module says at its top what it owns and what it does not do. `docs/DESIGN.md` explains the
//! ideas.
//!
//! Start with [`bridge::event`], the events and actions. The small programs in `examples/` show how to use the library.

// The plain values, the plug's messages, the decisions, and what frontends show and understand.
pub(crate) use hs100d_core::{backoff, logging, permissions};
pub use hs100d_core::{bridge, cause, duration, klap_hashes, model, payload, secret, smarthome};

// Browsers and scripts, and the plugs.
pub use hs100d_http as http;
pub use hs100d_transport as transport;

// The broker.
pub mod mqtt;

// The config, and what outlives a restart.
pub mod config;
pub mod store;

// The loop, Home Assistant's Supervisor, and the simulated home.
pub mod daemon;
#[cfg(feature = "sim")]
pub use hs100d_sim as sim;
pub(crate) mod supervisor;

// The command line.
pub mod commands;
