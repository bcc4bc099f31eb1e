//! The LAN, discovery, the cloud and MQTT over real sockets on loopback, and the recordings of real devices.

#[path = "../support/mod.rs"]
mod support;

#[cfg(all(feature = "sim", feature = "broker"))]
mod brokers;
mod cloud;
mod cloud_home;
mod cloud_session;
mod cloud_signed;
mod discovery;
mod embedded_broker;
mod klap;
mod lan;
mod mosquitto;
mod mqtt;
mod recordings;

#[cfg(feature = "sim")]
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

#[cfg(feature = "sim")]
use hs100d::{
    bridge::event::{Exchange, Identity, PlugKey, Target},
    model::{Address, DeviceId, LanProtocol},
    smarthome::message::Request,
};

/// An exchange with the plug of this number, which has this id and this address.
#[cfg(feature = "sim")]
fn exchange(
    number: usize,
    device_id: &str,
    (address, protocol): (SocketAddr, LanProtocol),
    request: Request,
    patience: Duration,
) -> Exchange {
    let expect = Identity { device_id: DeviceId::new(device_id), mac: None };
    let target = Target::Local { address: Address::from(address), protocol, expect };
    let look = Exchange::look(PlugKey(number as u32), "a plug".into(), target, Instant::now() + patience);
    Exchange { request, ..look }
}
