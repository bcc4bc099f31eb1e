//! Stands in for the embedded broker in a build without it.

use std::net::SocketAddr;

use super::options::{BrokerError, BrokerOptions};

/// Cannot be created.
#[derive(Debug)]
pub struct EmbeddedBroker(std::convert::Infallible);

impl EmbeddedBroker {
    /// Always fails.
    ///
    /// # Errors
    ///
    /// [`BrokerError::NotBuilt`].
    pub async fn start(_: BrokerOptions) -> Result<Self, BrokerError> {
        Err(BrokerError::NotBuilt)
    }

    /// Always fails.
    pub(crate) fn check(_: &BrokerOptions) -> Result<(), BrokerError> {
        Err(BrokerError::NotBuilt)
    }

    /// Never called.
    pub(crate) fn addr(&self) -> SocketAddr {
        match self.0 {}
    }

    /// Never called.
    pub(crate) fn clients(&self) -> usize {
        match self.0 {}
    }

    /// Never called.
    pub(crate) async fn wait_for_fewer_clients(&self, _clients: usize) {
        match self.0 {}
    }

    /// Never called.
    pub async fn stop(self) {
        match self.0 {}
    }
}
