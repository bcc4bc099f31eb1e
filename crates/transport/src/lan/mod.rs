//! Exchanges with plugs on the LAN, each over the protocol that its target names.
//!
//! A new protocol is a file beside `xor` and an arm in [`Lan::perform`]. The requests are the same over each of them.

mod connection;
pub(crate) mod fd_budget;
mod klap;
mod klap_connection;
pub mod klap_crypto;
pub mod klap_http;
mod klap_plug;
mod xor;

use std::sync::Arc;

use fd_budget::FdBudget;
use hs100d_core::bridge::event::{Exchange, Identity, Outcome};
use hs100d_core::klap_hashes::KlapAccounts;
use hs100d_core::model::{Address, LanProtocol};
use klap::KlapClient;
use xor::XorClient;

/// The LAN: one client for each protocol, with one budget of file descriptors.
#[derive(Debug)]
pub struct Lan {
    xor: XorClient,
    klap: KlapClient,
}

impl Default for Lan {
    fn default() -> Self {
        let budget = Arc::new(FdBudget::default());
        Self { xor: XorClient::new(Arc::clone(&budget)), klap: KlapClient::new(budget) }
    }
}

impl Lan {
    /// Replaces the accounts that plugs may hold for KLAP; until then they are the setup accounts and the blank one. If they
    /// differ, plugs that held another account are tried again at once, and sessions end unless accounts were only added.
    pub fn set_klap_accounts(&self, accounts: KlapAccounts) {
        self.klap.set_accounts(accounts);
    }

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
            LanProtocol::Klap => self.klap.perform(exchange, address, expect).await,
        }
    }

    /// Closes every connection that is not in use.
    pub fn close(&self) {
        self.xor.close();
        self.klap.close();
    }
}
