//! Numbers: percentiles, and the table of docs/PERFORMANCE.md.

use std::fmt::{self, Write as _};

/// One line of the table.
pub(crate) struct Row {
    /// What was measured, with its number in the list of bounds.
    pub(crate) what: String,
    pub(crate) measured: String,
    pub(crate) yardstick: String,
    pub(crate) bound: String,
    /// Whether the bound was kept; `None` without a bound.
    pub(crate) kept: Option<bool>,
}

impl Row {
    /// A figure without a bound.
    pub(crate) fn unbounded(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            measured: measured.into(),
            yardstick: String::new(),
            bound: String::new(),
            kept: None,
        }
    }

    /// A figure with an upper bound.
    pub(crate) fn at_most(what: impl Into<String>, figure: f64, bound: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            measured: format!("{} {unit}", short(figure)),
            yardstick: String::new(),
            bound: format!("{} {unit}", short(bound)),
            kept: Some(figure <= bound),
        }
    }

    /// A figure without a bound, beside the yardstick's.
    pub(crate) fn beside(what: impl Into<String>, figure: f64, yardstick: f64, unit: &str) -> Self {
        Self {
            yardstick: format!("{} {unit}", short(yardstick)),
            ..Self::unbounded(what, format!("{} {unit}", short(figure)))
        }
    }

    /// A figure with an upper bound as a multiple of the yardstick's.
    pub(crate) fn against(
        what: impl Into<String>,
        figure: f64,
        yardstick: f64,
        times: f64,
        unit: &str,
    ) -> Self {
        let ratio = figure / yardstick;
        Self {
            what: what.into(),
            measured: format!("{} {unit}", short(figure)),
            yardstick: format!("{} {unit}", short(yardstick)),
            bound: format!("{times} x, is {ratio:.2} x"),
            kept: Some(ratio <= times),
        }
    }
}

/// Three significant digits.
pub(crate) fn short(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

/// All lines, as Markdown.
pub(crate) struct Table<'a>(pub(crate) &'a [Row]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(rows) = self;
        writeln!(f, "| | measured | yardstick | bound | kept |\n|---|---|---|---|---|")?;
        for Row { what, measured, yardstick, bound, kept } in *rows {
            let kept = kept.map_or("", |kept| if kept { "yes" } else { "**no**" });
            writeln!(f, "| {what} | {measured} | {yardstick} | {bound} | {kept} |")?;
        }
        Ok(())
    }
}

/// Many measurements of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value that this percentage does not exceed.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
        sorted.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = write!(
            text,
            "p50 {} p99 {} of {}",
            short(self.percentile(50.0)),
            short(self.percentile(99.0)),
            self.len()
        );
        text
    }
}

impl From<Vec<f64>> for Samples {
    fn from(samples: Vec<f64>) -> Self {
        Self(samples)
    }
}
