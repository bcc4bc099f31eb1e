//! Why the search finds no plug, as far as this machine can tell, and when the daemon says so.

use std::fmt;
use std::time::{Duration, Instant};

use hs100d_core::cause::{self, Cause};

/// Plugs answer within a second. In a container whose network is its own, silence for this long is reported.
const ANSWERS_WITHIN: Duration = Duration::from_secs(4);
/// A machine may start before its network; only then its absence is reported.
const NETWORK_WITHIN: Duration = Duration::from_secs(60);

/// What keeps broadcasts from reaching any plug. Prints as what was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchObstacle {
    /// A container with only these interfaces, none of which is on the LAN.
    ContainerNetwork(Vec<String>),
    /// No interface can broadcast.
    NoInterface,
    /// The system accepted no broadcast, for this reason.
    NotSent(String),
}

impl SearchObstacle {
    /// The cause, with the remedy.
    pub fn cause(&self) -> Cause {
        match self {
            Self::ContainerNetwork(_) => cause::CONTAINER_NETWORK,
            Self::NoInterface => cause::NO_INTERFACE,
            Self::NotSent(_) => cause::NOT_SENT,
        }
    }

    /// How long it must last before it is reported.
    fn patience(&self) -> Duration {
        match self {
            Self::ContainerNetwork(_) => ANSWERS_WITHIN,
            Self::NoInterface | Self::NotSent(_) => NETWORK_WITHIN,
        }
    }
}

impl fmt::Display for SearchObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ContainerNetwork(names) if names.is_empty() => f.write_str("this container has no network"),
            Self::ContainerNetwork(names) => write!(
                f,
                "no plug answers, and this container seems to have a network of its own ({}), which broadcasts do not leave",
                names.join(", ")
            ),
            Self::NoInterface => f.write_str("no network interface can broadcast"),
            Self::NotSent(reason) => write!(f, "no broadcast can be sent: {reason}"),
        }
    }
}

/// Logs an obstacle once, and its end.
#[derive(Debug, Default)]
pub(super) struct ObstacleLog {
    since: Option<Instant>,
    logged: Option<SearchObstacle>,
}

impl ObstacleLog {
    /// Whether nothing is left to log: the first obstacle was logged, and has ended.
    pub(super) fn is_done(&self) -> bool {
        self.logged.is_some() && self.since.is_none()
    }

    /// The obstacle now. Returns the line that is due, if one is.
    pub(super) fn observe(&mut self, obstacle: Option<SearchObstacle>, now: Instant) -> Option<ObstacleLine> {
        let Some(obstacle) = obstacle else {
            let lasted = now.saturating_duration_since(self.since.take()?);
            return self.logged.is_some().then_some(ObstacleLine::Ended(lasted));
        };
        let since = *self.since.get_or_insert(now);
        if self.logged.is_some() || now.saturating_duration_since(since) < obstacle.patience() {
            return None;
        }
        self.logged = Some(obstacle.clone());
        Some(ObstacleLine::Begun(obstacle))
    }
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ObstacleLine {
    Begun(SearchObstacle),
    Ended(Duration),
}

impl ObstacleLine {
    pub(super) fn log(&self) {
        match self {
            Self::Begun(obstacle) => {
                let Cause { word, remedy, .. } = obstacle.cause();
                tracing::warn!("plugs cannot be searched for: {obstacle}: {remedy} [{word}]");
            }
            Self::Ended(lasted) => {
                let lasted = humantime::format_duration(Duration::from_secs(lasted.as_secs()));
                tracing::info!("plugs can be searched for, after {lasted}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, begun: Instant) -> Instant {
        begun + Duration::from_secs(seconds)
    }

    #[test]
    fn a_container_is_told_soon_a_machine_whose_network_may_still_come_after_a_minute_and_each_once() {
        let begun = Instant::now();
        let container = SearchObstacle::ContainerNetwork(vec!["eth0".to_owned()]);
        for (obstacle, due) in [
            (container, 4),
            (SearchObstacle::NoInterface, 60),
            (SearchObstacle::NotSent("why".to_owned()), 60),
        ] {
            let mut log = ObstacleLog::default();
            assert_eq!(log.observe(Some(obstacle.clone()), begun), None);
            assert_eq!(log.observe(Some(obstacle.clone()), at(due - 1, begun)), None);
            let line = log.observe(Some(obstacle.clone()), at(due, begun));
            assert_eq!(line, Some(ObstacleLine::Begun(obstacle.clone())));
            assert_eq!(log.observe(Some(obstacle.clone()), at(9999, begun)), None);
            let lasted = Duration::from_secs(10_000);
            assert_eq!(log.observe(None, at(10_000, begun)), Some(ObstacleLine::Ended(lasted)));
            assert!(log.is_done());
        }
    }

    #[test]
    fn a_network_that_comes_in_time_is_not_talked_about() {
        let begun = Instant::now();
        let mut log = ObstacleLog::default();
        assert_eq!(log.observe(Some(SearchObstacle::NoInterface), begun), None);
        assert_eq!(log.observe(None, at(59, begun)), None);
        assert!(!log.is_done());
        // The time counts from the second absence.
        assert_eq!(log.observe(Some(SearchObstacle::NoInterface), at(61, begun)), None);
        assert_eq!(log.observe(Some(SearchObstacle::NoInterface), at(119, begun)), None);
        assert!(log.observe(Some(SearchObstacle::NoInterface), at(121, begun)).is_some());
    }

    #[test]
    fn each_line_names_what_is_needed() {
        for (obstacle, text) in [
            (
                SearchObstacle::ContainerNetwork(vec!["eth0".to_owned(), "wg0".to_owned()]),
                "this container seems to have a network of its own (eth0, wg0)",
            ),
            (SearchObstacle::ContainerNetwork(Vec::new()), "this container has no network"),
            (SearchObstacle::NotSent("Operation not permitted".to_owned()), "sent: Operation not permitted"),
        ] {
            assert!(obstacle.to_string().contains(text), "{obstacle}");
            assert!(obstacle.cause().remedy.contains("`host`"), "{obstacle:?}");
        }
    }
}
