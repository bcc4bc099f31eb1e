//! Growing pauses, with a spread that is computed and not drawn, so that a run can be played again.

use std::time::Duration;

/// Doubling pauses between two bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    /// The pause after the first failure.
    pub(super) first: Duration,
    /// No pause is longer.
    pub(super) longest: Duration,
}

impl Backoff {
    /// The pause after that many failures in a row (1 is the first).
    pub(super) fn pause(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        (self.first * (1 << doublings)).min(self.longest)
    }
}

/// A fraction from 0 to 1 that differs from number to number, evenly spread over any run of numbers.
pub(super) fn spread(number: u32) -> f64 {
    // Steps of the golden ratio around the unit circle fall as far from each other as they can.
    const GOLDEN: u32 = 0x9E37_79B9;
    f64::from(number.wrapping_mul(GOLDEN)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(2) };
        let pauses: Vec<_> = (1..=6).map(|failures| backoff.pause(failures).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 2000, 2000]);
        assert_eq!(backoff.pause(u32::MAX), Duration::from_secs(2));
    }

    #[test]
    fn neighbours_are_spread_over_the_whole_interval() {
        let mut tenths = [0; 10];
        for number in 0..1000 {
            tenths[((spread(number) * 10.0) as usize).min(9)] += 1;
        }
        assert!(tenths.iter().all(|&count| (80..=120).contains(&count)), "{tenths:?}");
    }
}
