//! Home Assistant's Supervisor, as an app sees it: the options that it writes for the app, and what it says when it is asked.
//!
//! `options` turns the options into values that are laid over the config file, `client` asks one question over HTTP, `answers`
//! holds what is known, and `watch` asks until everything is known, and again when the broker refuses the login. Nothing here
//! knows the daemon: whoever reads the config takes the answers from [`answers::Answers`].

pub(crate) mod answers;
pub(crate) mod client;
pub(crate) mod options;
pub(crate) mod watch;
