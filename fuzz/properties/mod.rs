//! What must hold for any untrusted input: one file for each kind of input. Each property is a function of bytes that
//! panics if it does not hold. The fuzz targets call it, and so do the tests in `tests/untrusted_input.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a property fails")]
#![allow(missing_docs, unreachable_pub, reason = "two crates include these files, and neither is a library")]

pub mod bridge;
pub mod cloud;
pub mod commands;
pub mod config;
pub mod datagrams;
pub mod frames;
pub mod klap_handshake;
pub mod klap_reply;
pub mod replies;
pub mod requests;
pub mod store;
pub mod sysinfo;
pub mod texts;
pub mod topics;

/// Takes untrusted bytes, and panics if the property does not hold.
pub type Property = fn(&[u8]);

/// Every kind of input, by the name of its fuzz target and of its corpus.
pub const ALL: [(&str, Property); 13] = [
    ("frames", frames::hold),
    ("replies", replies::hold),
    ("sysinfo", sysinfo::hold),
    ("klap_handshake", klap_handshake::hold),
    ("klap_reply", klap_reply::hold),
    ("datagrams", datagrams::hold),
    ("cloud", cloud::hold),
    ("commands", commands::hold),
    ("topics", topics::hold),
    ("requests", requests::hold),
    ("config", config::hold),
    ("store", store::hold),
    ("bridge", bridge::hold),
];
