//! hs100d.
pub mod bridge;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod logging;
pub mod model;
pub mod mqtt;
pub mod secret;
#[cfg(feature = "sim")]
pub mod sim;
pub mod smarthome;
pub mod store;
pub mod transport;
