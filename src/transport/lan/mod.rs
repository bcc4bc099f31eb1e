//! Exchanges with plugs on the LAN, over the protocol that each plug speaks.

pub(crate) mod fd_budget;
pub mod xor;
