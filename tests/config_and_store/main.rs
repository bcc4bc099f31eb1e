//! The files that hs100d reads and writes: its config, its state, and both as earlier versions wrote them.

mod config_faults;
mod config_meaning;
mod config_placeholders;
mod store;
mod upgrade;
