//! Chance that can be had again: the same seed throws the same dice.

use std::ops::Range;
use std::time::Duration;

/// A stream of random numbers (SplitMix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of somebody else, whose throws do not depend on how often these are thrown.
    pub(crate) fn lend(&mut self) -> Self {
        Self(self.next())
    }

    /// Any number of the range; its start if the range is empty.
    pub(crate) fn number(&mut self, range: Range<usize>) -> usize {
        let count = range.len().max(1) as u64;
        range.start + (self.next() % count) as usize
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.number(0..count) == 0
    }

    /// One of these. There has to be one.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.number(0..from.len())]
    }

    pub(crate) fn millis(&mut self, range: Range<usize>) -> Duration {
        Duration::from_millis(self.number(range) as u64)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.number(0..last + 1));
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
