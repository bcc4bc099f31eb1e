//! What is shipped: the Debian packages, the scripts that make a release, the list of what is in it, the unit under a real
//! systemd, and the files of the Home Assistant app.

mod app_options;
mod app_workflow;
mod container;
mod homeassistant_app;
mod package;
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#[path = "../support/peers.rs"]
mod peers;
mod release;
mod service_booted;
mod supply_chain;
