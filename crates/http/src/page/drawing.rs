//! What the page draws of the last day: the routes as a band, the power as a line, and both in words.
//!
//! Pure: a history and `now` in, markup out. One coordinate is ten minutes of a day; sizes and colours are the style sheet's.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use maud::{Markup, html};

use crate::history::{DAY, History, Interval};
use hs100d_core::model::Route;

/// The width of the drawings: one for each ten minutes of a day.
const SLOTS: usize = 144;
/// The time that the drawings span: the shortest that has all that is known.
const AXES: [Duration; 3] = [Duration::from_secs(3600), Duration::from_secs(6 * 3600), DAY];
/// The height of the line, and of the place in which it is drawn: the rest is for its own width.
const LINE_HEIGHT: f32 = 32.0;
const SPARK_HEIGHT: f32 = 34.0;

/// How a plug was reached, the worst last: in a slot with several, the worst is drawn, so that no short failure is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum BandRoute {
    Local,
    Cloud,
    Neither,
}

impl BandRoute {
    fn of(interval: &Interval) -> Self {
        match interval.route {
            Some(Route::Local) => Self::Local,
            Some(Route::Cloud) => Self::Cloud,
            None => Self::Neither,
        }
    }

    /// For the style sheet.
    fn class(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cloud => "cloud",
            Self::Neither => "none",
        }
    }

    /// The better, the higher: the band reads without its colours.
    fn height(self) -> u8 {
        match self {
            Self::Local => 10,
            Self::Cloud => 6,
            Self::Neither => 3,
        }
    }
}

/// The routes of the last day, from left to right.
pub(super) fn band(history: &History, now: Instant) -> Markup {
    html! {
        svg.band viewBox="0 0 144 10" preserveAspectRatio="none" aria-hidden="true" {
            rect.track width="144" height="10" {}
            @for (begin, end, reach) in runs(history, now) {
                rect class=(reach.class()) x=(begin) y=(10 - reach.height()) width=(end - begin)
                    height=(reach.height()) {}
            }
        }
    }
}

/// The slots in which the plug was reached in the same way: the first, the one after the last, and how.
fn runs(history: &History, now: Instant) -> Vec<(usize, usize, BandRoute)> {
    let axis = axis(history, now);
    let mut slots: [Option<BandRoute>; SLOTS] = [None; SLOTS];
    let mut intervals = history.intervals(DAY, now).peekable();
    while let Some(interval) = intervals.next() {
        let until = intervals.peek().map_or(now, |next| next.since);
        let reach = Some(BandRoute::of(interval));
        for slot in &mut slots[slot_of(interval.since, now, axis)..=slot_of(until, now, axis)] {
            *slot = (*slot).max(reach);
        }
    }
    let mut runs: Vec<(usize, usize, BandRoute)> = Vec::new();
    for (n, reach) in slots.into_iter().enumerate() {
        let Some(reach) = reach else { continue };
        match runs.last_mut() {
            Some((_, end, last)) if *end == n && *last == reach => *end = n + 1,
            _ => runs.push((n, n + 1, reach)),
        }
    }
    runs
}

/// The slot of a moment; what is older than the axis is in the first.
fn slot_of(moment: Instant, now: Instant, axis: Duration) -> usize {
    let age = now.saturating_duration_since(moment).min(axis).as_millis();
    let slot = age * SLOTS as u128 / axis.as_millis();
    (SLOTS - 1).saturating_sub(usize::try_from(slot).unwrap_or(SLOTS))
}

/// The time that the drawings of this history span.
pub(super) fn axis(history: &History, now: Instant) -> Duration {
    let known = history.intervals(DAY, now).next().map(|first| now.saturating_duration_since(first.since));
    let fits = |axis: &Duration| known.is_some_and(|known| known <= *axis);
    AXES.into_iter().find(fits).unwrap_or(DAY)
}

/// The shares of the last day in words: `97.2 % LAN`, each with the class of its sign. Empty before anything is known.
pub(super) fn shares(history: &History, now: Instant) -> Vec<(&'static str, String)> {
    let Some(shares) = history.shares(DAY, now) else { return Vec::new() };
    let named =
        [("local", shares.local, "LAN"), ("cloud", shares.cloud, "cloud"), ("none", shares.none, "neither")];
    let parts = named.into_iter().filter(|(_, share, _)| *share > 0.0);
    parts.map(|(class, share, name)| (class, format!("{} {name}", percent(share)))).collect()
}

/// A share above 0 never reads as 0, and one below 1 never as 100 %.
fn percent(share: f64) -> String {
    if share >= 1.0 {
        "100 %".to_owned()
    } else if share < 0.001 {
        "<0.1 %".to_owned()
    } else {
        format!("{:.1} %", (share * 100.0).min(99.9))
    }
}

/// The highest power of each slot, in watts, where it is known; `None` for a plug without a meter.
pub(super) fn power(history: &History, now: Instant) -> Option<Vec<(usize, f32)>> {
    let (begin, values) = history.power()?;
    let (axis, minute) = (axis(history, now), Duration::from_secs(60));
    let starts = std::iter::successors(Some(begin), |start| Some(*start + minute));
    let known =
        starts.zip(values).filter_map(|(start, watts)| Some((start, watts.filter(|w| w.is_finite())?)));
    let mut slots: Vec<(usize, f32)> = Vec::new();
    for (start, watts) in known.filter(|(start, _)| now.saturating_duration_since(*start) < axis + minute) {
        // Its ends belong to the minutes beside it.
        let inside = Duration::from_millis(1);
        for slot in slot_of(start + inside, now, axis)..=slot_of(start + (minute - inside), now, axis) {
            match slots.last_mut() {
                Some((last, most)) if *last >= slot => *most = most.max(watts),
                _ => slots.push((slot, watts)),
            }
        }
    }
    Some(slots)
}

/// The power of the last day, from left to right; a gap where it is not known.
pub(super) fn spark(slots: &[(usize, f32)]) -> Markup {
    let most = slots.iter().map(|(_, watts)| *watts).fold(1.0, f32::max);
    let (mut line, mut area) = (String::new(), String::new());
    for run in slots.chunk_by(|(one, _), (next, _)| one + 1 == *next) {
        let points = run
            .iter()
            .map(|(slot, watts)| (*slot, SPARK_HEIGHT - 1.0 - (watts / most).clamp(0.0, 1.0) * LINE_HEIGHT));
        let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { continue };
        // Writing to a string cannot fail.
        let _ = write!(area, "M{first} {SPARK_HEIGHT}");
        for (n, (x, y)) in points.enumerate() {
            let _ = write!(line, "{}{x} {y:.1}", if n == 0 { 'M' } else { 'L' });
            let _ = write!(area, "L{x} {y:.1}");
        }
        // The newest value reaches up to now, and one alone is seen.
        line.push_str("h1");
        let _ = write!(area, "h1L{} {SPARK_HEIGHT}z", last + 1);
    }
    html! {
        svg.spark viewBox="0 0 144 34" preserveAspectRatio="none" aria-hidden="true" {
            path.area d=(area) {}
            path.line d=(line) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn history(changes: &[(Duration, Option<Route>)], begin: Instant) -> History {
        let mut history = History::default();
        for (after, route) in changes {
            history.note(*route, None, begin + *after);
        }
        history
    }

    #[test]
    fn a_short_failure_is_drawn_and_what_is_not_known_is_not() {
        let begin = Instant::now();
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let changes = [
            (Duration::ZERO, Some(Route::Local)),
            (minutes(185), None),
            (minutes(187), Some(Route::Local)),
            (minutes(300), Some(Route::Cloud)),
        ];
        let now = begin + 7 * HOUR;
        let drawn = runs(&history(&changes, begin), now);
        // Seven hours of a day are 42 slots, the newest right.
        let expected = [
            (101, 120, BandRoute::Local),
            (120, 121, BandRoute::Neither),
            (121, 131, BandRoute::Local),
            (131, 144, BandRoute::Cloud),
        ];
        assert_eq!(drawn, expected);
        // Up to six hours fill the band.
        let drawn = runs(&history(&changes, begin), begin + 6 * HOUR);
        let expected = [
            (0, 73, BandRoute::Local),
            (73, 75, BandRoute::Neither),
            (75, 119, BandRoute::Local),
            (119, 144, BandRoute::Cloud),
        ];
        assert_eq!(drawn, expected);
        assert!(runs(&History::default(), now).is_empty());
    }

    #[test]
    fn a_day_without_a_change_is_one_rectangle() {
        let begin = Instant::now();
        let history = history(&[(Duration::ZERO, Some(Route::Local))], begin);
        let drawn = band(&history, begin + 100 * HOUR).into_string();
        assert_eq!(drawn.matches("<rect").count(), 2, "{drawn}");
        assert!(drawn.contains(r#"class="local" x="0" y="0" width="144" height="10""#), "{drawn}");
    }

    #[test]
    fn shares_are_words_that_never_round_a_failure_away() {
        let begin = Instant::now();
        let changes = [(Duration::ZERO, Some(Route::Local)), (HOUR, Some(Route::Cloud)), (2 * HOUR, None)];
        let words = |history: &History, now| {
            shares(history, now).into_iter().map(|(_, words)| words).collect::<Vec<_>>().join(", ")
        };
        let now = begin + 4 * HOUR;
        assert_eq!(words(&history(&changes, begin), now), "25.0 % LAN, 25.0 % cloud, 50.0 % neither");
        assert_eq!(words(&history(&changes[..1], begin), now), "100 % LAN");
        assert_eq!(words(&History::default(), now), "");
        let second = Duration::from_secs(1);
        let blink = [(Duration::ZERO, Some(Route::Local)), (HOUR, None), (HOUR + second, Some(Route::Local))];
        assert_eq!(words(&history(&blink, begin), begin + 24 * HOUR), "99.9 % LAN, <0.1 % neither");
    }

    #[test]
    fn a_line_has_a_gap_where_the_power_is_not_known() {
        let begin = Instant::now();
        let mut history = History::default();
        for (minute, watts) in [(1, 10.0), (2, 40.0), (12, 20.0), (45, 20.0)] {
            history.note_power(watts, begin + Duration::from_secs(60 * minute));
        }
        let slots = power(&history, begin + HOUR).unwrap();
        assert_eq!(slots, [(138, 40.0), (139, 20.0), (142, 20.0)]);
        let drawn = spark(&slots).into_string();
        assert!(drawn.contains(r#"d="M138 1.0L139 17.0h1M142 17.0h1""#), "{drawn}");
        assert_eq!(power(&History::default(), begin), None);
    }

    #[test]
    fn a_meter_that_reports_nonsense_draws_inside_its_place() {
        let begin = Instant::now();
        let mut history = History::default();
        for (minute, watts) in [(0, f32::NAN), (10, -5.0), (20, f32::INFINITY), (30, 7.0)] {
            history.note_power(watts, begin + Duration::from_secs(60 * minute));
        }
        let slots = power(&history, begin + HOUR).unwrap();
        assert_eq!(slots, [(139, -5.0), (141, 7.0)]);
        let drawn = spark(&slots).into_string();
        assert!(drawn.contains(r#"d="M139 33.0h1M141 1.0h1""#), "{drawn}");
    }
}
