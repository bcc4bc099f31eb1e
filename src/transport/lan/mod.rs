//! Exchanges with plugs on the LAN, each over the protocol that its target names.
//!
//! A new protocol is a file beside `xor` and an arm in [`Lan::perform`]. The requests are the same over each of them.

pub(crate) mod fd_budget;
pub mod klap_crypto;
mod xor;

use crate::bridge::event::{Exchange, Identity, Outcome};
use crate::model::{Address, Failure, LanProtocol};
use xor::XorClient;

/// The LAN: one client for each protocol.
#[derive(Debug, Default)]
pub struct Lan {
    xor: XorClient,
}

impl Lan {
    /// Carries one exchange out, by its deadline. Dropping the future before its end resets the connection, so that
    /// the kernel does not deliver the request later.
    pub async fn perform(
        &self,
        exchange: &Exchange,
        address: &Address,
        protocol: LanProtocol,
        expect: &Identity,
    ) -> Outcome {
        match protocol {
            LanProtocol::Xor => self.xor.perform(exchange, address, expect).await,
            // Not built yet, and the bridge makes no such target.
            LanProtocol::Klap => Outcome::of(Err(Failure::Unsupported("KLAP".into()))),
        }
    }

    /// Closes every connection that is not in use.
    pub fn close(&self) {
        self.xor.close();
    }
}
