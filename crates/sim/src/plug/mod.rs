//! A simulated device as a value: requests in, replies out, and a record of its switchings.
//!
//! No socket, no task, no clock: `now` is an argument. The same JSON travels over TCP, UDP, KLAP and through the cloud,
//! so one [`SimPlug::handle`] serves all of them. Faults are fields; the LAN and the cloud apply them.
//!
//! `device` has the state, `requests` splits a request into methods, `methods` runs each method. An [`outlet`] has a
//! relay, a [`meter`] and [`rules`]; the device has a [`clock`] and may have a [`dimmer`]. `json` parses requests and
//! forms replies, `context` has the outlets that a request names, `sysinfo` the reply to `get_sysinfo`. [`klap`] has
//! the session of that protocol, `klap_crypto` its formulas.

pub mod clock;
mod context;
mod device;
pub mod dimmer;
mod json;
pub mod klap;
pub(crate) mod klap_crypto;
pub mod meter;
mod methods;
pub mod outlet;
mod record;
mod requests;
pub mod rules;
mod sysinfo;

pub use self::device::SimPlug;
pub(crate) use self::device::{PortBehaviour, TcpPorts};
pub use self::record::SwitchedBy;
pub(crate) use self::record::{Switching, Traffic};
