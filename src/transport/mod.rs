//! transport
pub mod cloud;
