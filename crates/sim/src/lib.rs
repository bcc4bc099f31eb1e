//! THE SIMULATED HOME: plugs as values, and a LAN and a TP-Link cloud that reach them, all on loopback.
//!
//! It serves `demo`, the tests, and trials without a plug. It shares the codec ([`hs100d_core::smarthome::cipher`],
//! [`hs100d_core::smarthome::frame`]) with the daemon and nothing else. Its JSON is written separately, from what is known of
//! real plugs and the real cloud, so that a mistake on one side shows on the other.
//!
//! - [`plug`]: one plug as a value, without sockets and without a clock. [`model`] has the models, [`fault`] the
//!   faults; [`handle`] shares a plug between the LAN, the cloud and a test.
//! - [`lan`]: plugs behind TCP and UDP on addresses of 127.0.0.0/8.
//! - [`cloud`]: plugs behind an HTTP server that behaves as TP-Link's.
//! - [`home`]: all of it put together.
//!
//! Nothing here listens on or sends to an address outside 127.0.0.0/8, unless a test explicitly asks for it in its own
//! network namespace. A home needs no thread: its tasks run on the runtime that started it, and end when it is dropped.

pub mod cloud;
pub mod fault;
pub mod handle;
pub mod home;
pub mod lan;
mod listener;
pub mod model;
pub mod notify;
pub mod plug;
