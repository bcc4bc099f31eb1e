//! THE DECISIONS.
pub mod event;
