//! How connections are spread over time.

use std::time::{Duration, Instant};

/// The most that happened within this time is the peak.
const WINDOW: Duration = Duration::from_secs(1);
/// Heights of a bar, from none to the highest.
const BARS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The largest number of these times in any second.
pub(crate) fn peak(times: &[Instant]) -> usize {
    let mut sorted = times.to_vec();
    sorted.sort();
    let within = |first: usize| sorted[first..].iter().take_while(|at| **at < sorted[first] + WINDOW).count();
    (0..sorted.len()).map(within).max().unwrap_or(0)
}

/// A bar for each second from the beginning, as far as anything happened.
pub(crate) fn bars(begin: Instant, times: &[Instant]) -> String {
    let mut seconds = Vec::new();
    for at in times {
        let second = at.saturating_duration_since(begin).as_secs() as usize;
        if seconds.len() <= second {
            seconds.resize(second + 1, 0_usize);
        }
        seconds[second] += 1;
    }
    let highest = seconds.iter().copied().max().unwrap_or(0).max(1);
    seconds.iter().map(|count| BARS[(count * (BARS.len() - 1)).div_ceil(highest)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_the_most_within_a_second_wherever_that_begins() {
        let begin = Instant::now();
        let times: Vec<_> = [0, 900, 1100, 1800, 5000].map(|ms| begin + Duration::from_millis(ms)).into();
        assert_eq!(peak(&times), 3);
        assert_eq!(peak(&[]), 0);
        assert_eq!(bars(begin, &times), "██···▄");
    }
}
