//! RIGHT WING: carries out what the bridge wants said to plugs, over whichever wire the exchange names.
//!
//! Owns the tasks in which exchanges run and the one trace line that each leaves. Decides nothing.

pub mod cloud;
pub mod discovery;
pub mod lan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::{AbortHandle, JoinSet};

use crate::bridge::event::{Exchange, ExchangeId, Outcome, Target};
use crate::model::Failure;
use cloud::Cloud;
use lan::Lan;

/// Both wires, and the exchanges under way on them.
#[derive(Debug)]
pub struct Transport {
    lan: Arc<Lan>,
    cloud: Option<Cloud>,
    under_way: JoinSet<(ExchangeId, Outcome)>,
    handles: HashMap<ExchangeId, AbortHandle>,
}

impl Transport {
    /// The wires, with or without a cloud.
    pub fn new(cloud: Option<Cloud>) -> Self {
        Self { lan: Arc::default(), cloud, under_way: JoinSet::new(), handles: HashMap::new() }
    }

    /// Another account, or none. Exchanges under way end on the one they started with.
    pub fn set_cloud(&mut self, cloud: Option<Cloud>) {
        self.cloud = cloud;
    }

    /// The cloud wire, if there is one.
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

    /// Drops an exchange where it stands; its connection is reset.
    pub fn abandon(&mut self, id: ExchangeId) {
        if let Some(handle) = self.handles.remove(&id) {
            handle.abort();
        }
    }

    /// The next exchange that ends. Waits for ever while none is under way. Cancel safe.
    pub async fn next(&mut self) -> (ExchangeId, Outcome) {
        loop {
            match self.under_way.join_next().await {
                Some(Ok((id, outcome))) if self.handles.remove(&id).is_some() => return (id, outcome),
                // Abandoned in the moment of its end.
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

    /// Drops everything under way and closes the kept connections.
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
        // In a box of its own, or a poll over the LAN would carry the room that this one needs.
        (Target::Cloud { .. }, Some(cloud)) => Box::pin(cloud.perform(exchange)).await,
        (Target::Cloud { .. }, None) => {
            Outcome::of(Err(Failure::CloudStopped("no account is configured".into())))
        }
    }
}

/// One line in the log, at debug.
fn trace(exchange: &Exchange, outcome: &Outcome, begun: Instant) {
    let (plug, route, request) = (&*exchange.label, exchange.route(), &exchange.request);
    let took = begun.elapsed();
    match &outcome.result {
        Ok(_) => tracing::debug!(plug, %route, ?request, ?took, "answered"),
        Err(failure) => tracing::debug!(plug, %route, ?request, ?took, %failure, "not answered"),
    }
}
