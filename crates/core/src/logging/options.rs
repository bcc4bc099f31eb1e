//! What the log is started with.

/// What the command line and the environment say about the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOptions<'a> {
    /// The number of `-v` minus the number of `-q`.
    pub verbosity: i8,
    /// `$RUST_LOG`, such as `hs100d=debug,rumqttc=info`. Replaces the verbosity.
    pub rust_log: Option<&'a str>,
    /// `$JOURNAL_STREAM`: `device:inode` of the stream that systemd connected to the journal.
    pub journal_stream: Option<&'a str>,
    /// `$NO_COLOR` is set.
    pub no_color: bool,
}
