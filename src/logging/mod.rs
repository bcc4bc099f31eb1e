//! What the daemon says of itself while it runs: plain lines on a terminal, structured fields under journald.
//!
//! Everything goes to standard error. This room decides how lines look, which are let through, and when a
//! failure that repeats itself is said again; what is worth a line is decided where it happens.
//!
//! The message of a line says all that a person needs, since `journalctl` shows nothing else. What a program may
//! want to pick it by stands beside it in the fields `event`, `plug`, `route` and `reason`.

mod plain;
mod repeated;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{FilterExt, Targets, dynamic_filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

use plain::Seconds;
pub use repeated::{Past, Repeated};

/// Our own lines; everything else that logs is a library.
const OURS: &str = "hs100d";
/// Where the embedded broker's library complains of each session that it cannot write.
const SESSION_LOG: &str = "mqtt5::broker::storage::session_log";

/// How bad a line is in the journal's words, as other services mean them.
const PRIORITIES: PriorityMappings = PriorityMappings {
    error: Priority::Error,
    warn: Priority::Warning,
    info: Priority::Informational,
    debug: Priority::Debug,
    trace: Priority::Debug,
};

/// How lines look and which are let through, as the command line and the environment have it.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOptions<'a> {
    /// How often `-v` was given, less how often `-q` was.
    pub verbosity: i8,
    /// `$RUST_LOG`, which goes before the verbosity: `hs100d=debug,mqtt5=info`.
    pub rust_log: Option<&'a str>,
    /// `$JOURNAL_STREAM`: the file that systemd connected to the journal, as `device:inode`.
    pub journal_stream: Option<&'a str>,
    /// `$NO_COLOR` is set.
    pub no_color: bool,
}

/// Starts logging for this process. Returns what is to be warned of, now that it can be.
pub fn start(options: LogOptions<'_>) -> Option<String> {
    let (filter, mut warning) = filter(options);
    let journal =
        options.journal_stream.filter(|stream| is_standard_error(stream)).map(|_| tracing_journald::layer());
    let layer = match journal {
        Some(Ok(journal)) => journal
            .with_syslog_identifier(OURS.to_owned())
            .with_field_prefix(Some(OURS.to_ascii_uppercase()))
            .with_priority_mappings(PRIORITIES)
            .boxed(),
        Some(Err(error)) => {
            warning.get_or_insert(format!("the journal cannot be reached: {error}: plain lines instead"));
            plain::layer(options).without_time().boxed()
        }
        None => plain::layer(options).with_timer(Seconds).boxed(),
    };
    // A second start, as tests in one process would have it, changes nothing.
    let damper = LibraryDamping::default();
    let damped = dynamic_filter_fn(move |line, _| damper.lets_through(line, Instant::now()));
    registry().with(layer.with_filter(filter.and(damped))).try_init().ok();
    warning
}

/// What stands before a line that is printed and means the end, so that the journal takes it for an error.
pub fn mark_of_error() -> &'static str {
    let stream = std::env::var("JOURNAL_STREAM");
    if stream.is_ok_and(|stream| is_standard_error(&stream)) { "<3>" } else { "" }
}

/// Which lines are let through, and what is wrong with `$RUST_LOG`.
fn filter(options: LogOptions<'_>) -> (Targets, Option<String>) {
    let (ours, others) = match options.verbosity {
        ..=-2 => (LevelFilter::ERROR, LevelFilter::ERROR),
        -1 => (LevelFilter::WARN, LevelFilter::WARN),
        0 => (LevelFilter::INFO, LevelFilter::WARN),
        1 => (LevelFilter::DEBUG, LevelFilter::WARN),
        2.. => (LevelFilter::TRACE, LevelFilter::INFO),
    };
    // What the embedded broker cannot write, `mqtt::broker_store` says in one line, with the remedy.
    let quiet = if options.verbosity >= 2 { others } else { LevelFilter::OFF };
    let default = Targets::new().with_default(others).with_target(OURS, ours).with_target(SESSION_LOG, quiet);
    match options.rust_log.map(str::parse::<Targets>) {
        None => (default, None),
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (default, Some(format!("RUST_LOG: {error}: write it like hs100d=debug,warn"))),
    }
}

/// Lets what libraries complain of through once, and then at growing intervals: on a full disk the embedded broker
/// complains of each message, and without a file to open for a client it does so as fast as it can.
#[derive(Debug, Default)]
struct LibraryDamping(Mutex<HashMap<Identifier, Repeated>>);

impl LibraryDamping {
    fn lets_through(&self, line: &Metadata<'_>, now: Instant) -> bool {
        if *line.level() > Level::WARN || line.target().starts_with(OURS) {
            return true;
        }
        let mut complaints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.entry(line.callsite()).or_default().failed("", now).is_some()
    }
}

/// The variable is inherited by whatever a service starts, so only the file itself tells whether it is meant.
fn is_standard_error(journal_stream: &str) -> bool {
    let file = || File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok();
    file().is_some_and(|meta| journal_stream == format!("{}:{}", meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lets_through(options: LogOptions<'_>, target: &str) -> Option<Level> {
        let (filter, _) = filter(options);
        [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR]
            .into_iter()
            .find(|level| filter.would_enable(target, level))
    }

    #[test]
    fn verbosity_is_about_our_own_lines_first() {
        for (verbosity, ours, others) in [
            (-3, Level::ERROR, Level::ERROR),
            (-1, Level::WARN, Level::WARN),
            (0, Level::INFO, Level::WARN),
            (1, Level::DEBUG, Level::WARN),
            (5, Level::TRACE, Level::INFO),
        ] {
            let options = LogOptions { verbosity, ..LogOptions::default() };
            assert_eq!(lets_through(options, "hs100d::daemon"), Some(ours));
            assert_eq!(lets_through(options, "mqtt5::broker"), Some(others));
            assert_eq!(lets_through(options, SESSION_LOG), Some(others).filter(|_| verbosity > 1));
        }
    }

    #[test]
    fn rust_log_goes_before_the_verbosity_and_a_bad_one_is_told() {
        let good = LogOptions { rust_log: Some("warn,hs100d=trace"), ..LogOptions::default() };
        assert_eq!(lets_through(good, "hs100d::mqtt"), Some(Level::TRACE));
        assert_eq!(lets_through(good, "mqtt5"), Some(Level::WARN));
        let bad = LogOptions { rust_log: Some("hs100d=loud"), ..LogOptions::default() };
        assert_eq!(lets_through(bad, "hs100d::mqtt"), Some(Level::INFO));
        assert!(filter(bad).1.unwrap().contains("write it like hs100d=debug,warn"));
    }

    #[test]
    fn what_a_library_complains_of_again_and_again_is_let_through_at_growing_intervals() {
        fn line(target: &'static str, level: Level) -> Metadata<'static> {
            let fields = tracing::field::FieldSet::new(&[], tracing::callsite::Identifier(&SITE));
            Metadata::new("line", target, level, None, None, None, fields, tracing::metadata::Kind::EVENT)
        }
        struct Site;
        static SITE: Site = Site;
        impl tracing::Callsite for Site {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                unreachable!()
            }
        }
        let (damper, start) = (LibraryDamping::default(), Instant::now());
        let passed = |target, level, second| {
            damper.lets_through(&line(target, level), start + Duration::from_secs(second))
        };
        let said: Vec<u64> = (0..200).filter(|&second| passed("mqtt5", Level::ERROR, second)).collect();
        assert_eq!(said, [0, 60, 180]);
        assert!((0..200).all(|second| passed("mqtt5", Level::DEBUG, second)), "who asks for all gets all");
        assert!(
            (0..200).all(|second| passed("hs100d::daemon", Level::WARN, second)),
            "ours are weighed elsewhere"
        );
    }

    #[test]
    fn another_journal_stream_than_ours_is_not_ours() {
        assert!(!is_standard_error("1:1"));
        assert!(!is_standard_error("nonsense"));
    }
}
