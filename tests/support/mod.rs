//! Shared by the tests. Each program includes it once and uses its own part of it.

#![allow(dead_code, unreachable_pub, reason = "each program uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

#[cfg(feature = "broker")]
pub(crate) mod broker_proxy;
#[cfg(feature = "broker")]
pub(crate) mod browser;
pub(crate) mod cloud;
#[cfg(all(feature = "sim", feature = "broker"))]
pub(crate) mod discovery;
#[cfg(all(feature = "sim", feature = "broker"))]
pub(crate) mod e2e;
pub(crate) mod home_assistant;
#[cfg(all(feature = "sim", feature = "broker"))]
pub(crate) mod http;
#[cfg(feature = "broker")]
pub(crate) mod mqtt;
#[cfg(all(feature = "broker", target_os = "linux"))]
pub(crate) mod namespace;
pub(crate) mod peers;
pub(crate) mod scenario;
pub(crate) mod supervisor;
