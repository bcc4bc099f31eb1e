//! Performs the bridge's exchanges with plugs, over the LAN or the cloud.
//!
//! Owns the tasks in which exchanges run, and the one debug line for each. Decides nothing.

pub mod cloud;
pub mod discovery;
pub mod lan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::{AbortHandle, JoinSet};

use cloud::Cloud;
use hs100d_core::bridge::event::{Exchange, ExchangeId, Outcome, Target};
use hs100d_core::klap_hashes::KlapAccounts;
use hs100d_core::model::Failure;
use lan::Lan;

/// The LAN and the cloud, and the exchanges under way.
#[derive(Debug)]
pub struct Transport {
    lan: Arc<Lan>,
    cloud: Option<Cloud>,
    under_way: JoinSet<(ExchangeId, Outcome)>,
    handles: HashMap<ExchangeId, AbortHandle>,
}

impl Transport {
    /// With or without a cloud.
    pub fn new(cloud: Option<Cloud>) -> Self {
        Self { lan: Arc::default(), cloud, under_way: JoinSet::new(), handles: HashMap::new() }
    }

    /// Replaces the account, or removes it. Exchanges under way keep the one that they started with.
    pub fn set_cloud(&mut self, cloud: Option<Cloud>) {
        self.cloud = cloud;
    }

    /// Replaces the accounts that plugs may hold for KLAP.
    pub fn set_klap_accounts(&self, accounts: KlapAccounts) {
        self.lan.set_klap_accounts(accounts);
    }

    /// The account's cloud, if there is one.
    pub fn cloud(&self) -> Option<&Cloud> {
        self.cloud.as_ref()
    }

    /// Starts an exchange; its outcome comes from [`Transport::next`].
    pub fn perform(&mut self, exchange: Exchange) {
        let id = exchange.id;
        let (lan, cloud) = (Arc::clone(&self.lan), self.cloud.clone());
        let handle = self.under_way.spawn(async move {
            let begun = Instant::now();
            let outcome = perform(&lan, cloud.as_ref(), &exchange).await;
            trace(&exchange, &outcome, begun);
            (id, outcome)
        });
        self.handles.insert(id, handle);
    }

    /// Drops an exchange at once; its connection is reset.
    pub fn abandon(&mut self, id: ExchangeId) {
        if let Some(handle) = self.handles.remove(&id) {
            handle.abort();
        }
    }

    /// The next exchange that ends. Waits while none is under way. Cancel safe.
    pub async fn next(&mut self) -> (ExchangeId, Outcome) {
        loop {
            match self.under_way.join_next().await {
                Some(Ok((id, outcome))) if self.handles.remove(&id).is_some() => return (id, outcome),
                // Abandoned just as it ended.
                Some(Ok(_)) => {}
                Some(Err(error)) if error.is_cancelled() => {}
                Some(Err(error)) => {
                    tracing::error!("an exchange was lost: {error}: this is a bug, please report it");
                }
                None => std::future::pending().await,
            }
        }
    }

    /// How many exchanges are under way.
    pub fn under_way(&self) -> usize {
        self.handles.len()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.handles.is_empty()
    }

    /// Drops everything under way and closes the idle connections.
    pub fn close(&mut self) {
        self.under_way.abort_all();
        self.handles.clear();
        self.lan.close();
    }
}

async fn perform(lan: &Lan, cloud: Option<&Cloud>, exchange: &Exchange) -> Outcome {
    match (&exchange.target, cloud) {
        (Target::Local { address, protocol, expect }, _) => {
            lan.perform(exchange, address, *protocol, expect).await
        }
        // Boxed, or the future of each LAN poll would be as large as this one.
        (Target::Cloud { .. }, Some(cloud)) => Box::pin(cloud.perform(exchange)).await,
        (Target::Cloud { .. }, None) => {
            Outcome::of(Err(Failure::CloudStopped("no account is configured".into())))
        }
    }
}

fn trace(exchange: &Exchange, outcome: &Outcome, begun: Instant) {
    let (plug, route, request) = (&*exchange.label, exchange.route(), &exchange.request);
    let took = begun.elapsed();
    match &outcome.result {
        Ok(_) => tracing::debug!(plug, %route, ?request, ?took, "answered"),
        Err(failure) => tracing::debug!(plug, %route, ?request, ?took, %failure, "not answered"),
    }
}
