//! The real program in a process of its own, against the simulated home and a broker.

#![cfg(all(feature = "sim", feature = "broker"))]

#[path = "../support/mod.rs"]
mod support;

mod app;
mod bridged_brokers;
mod broker;
mod broker_faults;
mod cli;
mod discovery;
mod doctor;
mod doctor_broker;
mod fleet_health;
mod host_faults;
mod http_api;
mod http_commands;
mod http_events;
mod http_limits;
mod integrations;
mod klap;
mod klap_features;
mod list_watch_health;
mod metrics;
mod peers;
mod routes;
mod secrets;
mod security;
mod service_logs;
mod service_manager;
mod several_brokers;
mod thirty_plugs;
mod two_sites;
