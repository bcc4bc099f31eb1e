//! The log: plain lines on a terminal, structured fields under journald, all on standard error.
//!
//! This module decides the format of lines, the levels, and when a failure that repeats is logged again. The rest of the code
//! decides what is logged.
//!
//! The message holds all that a person needs, because `journalctl` shows nothing else. The fields `event`, `plug`, `route` and
//! `reason` are for programs that filter.

mod options;
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

pub use options::LogOptions;
use plain::Seconds;
pub use repeated::Repeated;

/// The targets of our own crates begin with it, as `hs100d::daemon` and `hs100d_transport::lan`; all others are libraries'.
/// The same holds in `$RUST_LOG`: a target there stands for all that begin with it.
const OURS: &str = "hs100d";

/// The priorities in the journal, as other services use them.
const PRIORITIES: PriorityMappings = PriorityMappings {
    error: Priority::Error,
    warn: Priority::Warning,
    info: Priority::Informational,
    debug: Priority::Debug,
    trace: Priority::Debug,
};

/// Starts logging for this process. Returns a warning to be logged.
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
    // Fails at a second start, as with tests in one process; the first stays.
    let throttle = LibraryThrottle::default();
    let throttled = dynamic_filter_fn(move |line, _| throttle.admits(line, Instant::now()));
    registry().with(layer.with_filter(filter.and(throttled))).try_init().ok();
    warning
}

/// The prefix of a line that is printed, not logged, and should be an error in the journal.
pub fn mark_of_error() -> &'static str {
    let stream = std::env::var("JOURNAL_STREAM");
    if stream.is_ok_and(|stream| is_standard_error(&stream)) { "<3>" } else { "" }
}

/// The levels, and a warning about `$RUST_LOG`.
fn filter(options: LogOptions<'_>) -> (Targets, Option<String>) {
    let (ours, others) = match options.verbosity {
        ..=-2 => (LevelFilter::ERROR, LevelFilter::ERROR),
        -1 => (LevelFilter::WARN, LevelFilter::WARN),
        0 => (LevelFilter::INFO, LevelFilter::WARN),
        1 => (LevelFilter::DEBUG, LevelFilter::WARN),
        2.. => (LevelFilter::TRACE, LevelFilter::INFO),
    };
    let default = Targets::new().with_default(others).with_target(OURS, ours);
    match options.rust_log.map(str::parse::<Targets>) {
        None => (default, None),
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (default, Some(format!("RUST_LOG: {error}: write it like hs100d=debug,warn"))),
    }
}

/// Throttles the warnings of libraries: without a free file descriptor some log one as fast as they can.
#[derive(Debug, Default)]
struct LibraryThrottle(Mutex<HashMap<Identifier, Repeated>>);

impl LibraryThrottle {
    fn admits(&self, line: &Metadata<'_>, now: Instant) -> bool {
        if *line.level() > Level::WARN || line.target().starts_with(OURS) {
            return true;
        }
        let mut warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.entry(line.callsite()).or_default().failed("", now).is_some()
    }
}

/// A child process inherits the variable but perhaps not the stream, so the two are compared.
fn is_standard_error(journal_stream: &str) -> bool {
    let file = || File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok();
    file().is_some_and(|meta| journal_stream == format!("{}:{}", meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One of each of our crates.
    const TARGETS: [&str; 4] = [module_path!(), "hs100d::daemon", "hs100d_transport::lan", "hs100d_sim::lan"];

    fn level_of(options: LogOptions<'_>, target: &str) -> Option<Level> {
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
            for target in TARGETS {
                assert_eq!(level_of(options, target), Some(ours), "{target}");
            }
            assert_eq!(level_of(options, "rumqttc::eventloop"), Some(others));
        }
    }

    #[test]
    fn rust_log_goes_before_the_verbosity_and_an_invalid_one_is_reported() {
        let good = LogOptions { rust_log: Some("warn,hs100d=trace"), ..LogOptions::default() };
        for target in TARGETS {
            assert_eq!(level_of(good, target), Some(Level::TRACE), "{target}");
        }
        assert_eq!(level_of(good, "rumqttc"), Some(Level::WARN));
        let part =
            LogOptions { rust_log: Some("hs100d=info,hs100d_transport::lan=debug"), ..LogOptions::default() };
        assert_eq!(level_of(part, "hs100d_transport::lan::xor"), Some(Level::DEBUG));
        assert_eq!(level_of(part, "hs100d_transport::cloud"), Some(Level::INFO));
        let bad = LogOptions { rust_log: Some("hs100d=loud"), ..LogOptions::default() };
        assert_eq!(level_of(bad, "hs100d::mqtt"), Some(Level::INFO));
        assert!(filter(bad).1.unwrap().contains("write it like hs100d=debug,warn"));
    }

    #[test]
    fn a_warning_of_a_library_that_repeats_is_logged_at_growing_intervals() {
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
        let (throttle, start) = (LibraryThrottle::default(), Instant::now());
        let passed = |target, level, second| {
            throttle.admits(&line(target, level), start + Duration::from_secs(second))
        };
        let logged: Vec<u64> = (0..200).filter(|&second| passed("rumqttc", Level::ERROR, second)).collect();
        assert_eq!(logged, [0, 60, 180]);
        assert!(
            (0..200).all(|second| passed("rumqttc", Level::DEBUG, second)),
            "debug lines are not throttled"
        );
        assert!(
            TARGETS.iter().all(|target| (0..200).all(|second| passed(target, Level::WARN, second))),
            "our own are throttled where they are logged"
        );
    }

    #[test]
    fn another_journal_stream_than_ours_is_not_ours() {
        assert!(!is_standard_error("1:1"));
        assert!(!is_standard_error("nonsense"));
    }
}
