//! The LAN, discovery, the cloud and MQTT over real sockets on loopback, and the recordings of real devices.

#[path = "../support/mod.rs"]
mod support;

mod cloud;
mod cloud_home;
mod cloud_session;
mod discovery;
mod klap;
mod lan;
mod mosquitto;
mod mqtt;
mod recordings;
