//! The file descriptors that connections to plugs may use. The rest is kept for the broker's clients, the cloud and the
//! store: a plug can be asked a moment later, these cannot wait.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use hs100d_core::logging::Repeated;

/// EMFILE and ENFILE: this process, or the whole machine, has too many files open.
const OUT_OF_FILES: [i32; 2] = [24, 23];
/// The shortage is over when no connection lacked a file for this long.
const QUIET: Duration = Duration::from_secs(60);

/// Whether an error says that no more files may be opened.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| OUT_OF_FILES.contains(&code))
}

/// The limit, and whether it was enough.
#[derive(Debug)]
pub(crate) struct FdBudget {
    /// How many files this process may have open; absent without a limit.
    limit: Option<u64>,
    missed: Mutex<OverBudget>,
}

#[derive(Debug, Default)]
struct OverBudget {
    log: Repeated,
    last: Option<Instant>,
}

impl Default for FdBudget {
    fn default() -> Self {
        Self::of(limit())
    }
}

impl FdBudget {
    fn of(limit: Option<u64>) -> Self {
        Self { limit, missed: Mutex::default() }
    }

    /// Whether a connection that was just opened may be used.
    pub(crate) fn admits(&self, connection: &impl AsRawFd) -> bool {
        self.is_below(connection, |limit| limit / 8 * 7)
    }

    /// Whether it may stay open for the next request.
    pub(crate) fn keeps(&self, connection: &impl AsRawFd) -> bool {
        self.is_below(connection, |limit| limit / 4 * 3)
    }

    /// The system gives the lowest number that is free, so a number shows how many are taken.
    fn is_below(&self, connection: &impl AsRawFd, part: fn(u64) -> u64) -> bool {
        let number = u64::try_from(connection.as_raw_fd()).unwrap_or_default();
        self.limit.is_none_or(|limit| number < part(limit))
    }

    /// There was none left for a connection.
    pub(crate) fn missed_one(&self, now: Instant) {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.last = Some(now);
        if missed.log.failed("out of files", now).is_some() {
            let limit = self.limit.map(|limit| format!(" ({limit} at most)")).unwrap_or_default();
            tracing::warn!(
                "no more files may be opened{limit}: some plugs are asked later: raise the limit (LimitNOFILE= in the \
                 unit, ulimit -n in a shell)"
            );
        }
    }

    /// There was one.
    pub(crate) fn found_one(&self, now: Instant) {
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if missed.last.take_if(|last| *last + QUIET <= now).is_some()
            && let Some(past) = missed.log.ended(now)
        {
            tracing::info!("enough files may be opened again {past}");
        }
    }
}

/// How many files this process may have open (RLIMIT_NOFILE); `None` without a limit.
fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_left_of_a_share_is_logged_by_the_number_of_a_file() {
        let file = File::open("/dev/null").unwrap();
        let number = u64::try_from(file.as_raw_fd()).unwrap();
        let budget = |limit| FdBudget::of(Some(limit));
        assert!(budget(number * 4).keeps(&file) && budget(number * 4).admits(&file));
        assert!(!budget(number * 5 / 4).keeps(&file) && budget(number * 5 / 4 + 8).admits(&file));
        assert!(!budget(number).admits(&file));
        assert!(FdBudget::of(None).keeps(&file));
        assert!(FdBudget::default().keeps(&file), "a test has more files than it needs");
    }

    #[test]
    fn a_shortage_of_files_is_logged_once() {
        let (budget, start) = (FdBudget::of(Some(64)), Instant::now());
        let is_logged = || budget.missed.lock().unwrap().log.clone().ended(start).is_some();
        budget.missed_one(start);
        budget.found_one(start);
        assert!(is_logged(), "other connections may still lack one");
        budget.found_one(start + QUIET);
        assert!(!is_logged());
    }
}
