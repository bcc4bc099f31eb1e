//! Growing pauses between retries, and the spread that keeps many clients from retrying at the same moment.
//!
//! Values only: no clock and no random source. The spread is computed from a seed, so that a run can be repeated.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Pauses that double from failure to failure, up to a longest one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    /// Each pause is multiplied by a factor between these two.
    factors: (f64, f64),
    seed: u64,
}

impl Backoff {
    /// `first` after the first failure, at most `longest`, without a spread.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, factors: (1.0, 1.0), seed: 0 }
    }

    /// Multiplies each pause by a factor from `low` to `high`, which depends on the seed and on the number of failures.
    pub const fn spread(self, low: f64, high: f64, seed: u64) -> Self {
        Self { factors: (low, high), seed, ..self }
    }

    /// The pause after this many failures in a row; 1 is the first.
    pub fn pause(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let pause = self.first.saturating_mul(1 << doublings).min(self.longest);
        let (low, high) = self.factors;
        pause.mul_f64(low + (high - low) * spread(self.seed.wrapping_add(failures.into())))
    }

    /// The longest pause at once, whatever the number of failures.
    pub fn longest_pause(self) -> Duration {
        self.pause(u32::MAX)
    }
}

/// A fraction from 0 up to 1 that depends on the seed only. Consecutive seeds are distributed evenly over the interval.
pub fn spread(seed: u64) -> f64 {
    // Multiples of the golden ratio, modulo 1, stay as far apart as possible.
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let high = (seed.wrapping_mul(GOLDEN) >> 32) as u32;
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

/// The seed of an installation or a plug, from what identifies it.
pub fn seed(id: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest() {
        let backoff = Backoff::new(SECOND / 4, 2 * SECOND);
        let pauses: Vec<_> = (1..=6).map(|failures| backoff.pause(failures).as_millis()).collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 2000, 2000]);
        assert_eq!(backoff.longest_pause(), 2 * SECOND);
    }

    #[test]
    fn a_spread_differs_between_installations_and_is_the_same_in_a_repeated_run() {
        let pauses = |id: &str| {
            let backoff = Backoff::new(SECOND, 60 * SECOND).spread(0.8, 1.2, seed(id));
            (1..=10).map(|failures| backoff.pause(failures)).collect::<Vec<_>>()
        };
        assert_eq!(pauses("one"), pauses("one"));
        assert_ne!(pauses("one"), pauses("two"));
        for (pause, base) in pauses("one").iter().zip([1, 2, 4, 8, 16, 32, 60, 60, 60, 60]) {
            assert!((base * SECOND * 4 / 5..=base * SECOND * 6 / 5).contains(pause), "{pause:?}");
        }
    }

    #[test]
    fn consecutive_seeds_are_distributed_evenly() {
        for first in [0, seed("an installation")] {
            let mut tenths = [0; 10];
            for number in 0..1000 {
                tenths[(spread(first.wrapping_add(number)) * 10.0) as usize] += 1;
            }
            assert!(tenths.iter().all(|&count| (80..=120).contains(&count)), "{tenths:?}");
        }
    }
}
