//! hs100d.
fn main() {}
