//! What users type and read: the command line, the man pages, the README, the pages in `docs/` and the examples.

mod cli;
mod examples;
mod man;
mod readme;
