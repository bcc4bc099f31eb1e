//! What is shipped: the Debian package, the list of what is in it, and the unit under a real systemd.

mod package;
mod service_booted;
mod supply_chain;
