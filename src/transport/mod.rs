//! RIGHT WING.
pub mod cloud;
pub mod discovery;
