//! Rows in aligned columns, as commands print them.

use std::fmt;

/// Rows of N columns under their headings, each column as wide as its widest cell.
pub(super) struct TextTable<const N: usize> {
    lines: Vec<[String; N]>,
}

impl<const N: usize> TextTable<N> {
    pub(super) fn new(headings: [&str; N]) -> Self {
        Self { lines: vec![headings.map(str::to_owned)] }
    }

    /// Adds a row. Text from outside, such as an alias, must be escaped.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.lines.push(cells);
    }
}

impl<const N: usize> fmt::Display for TextTable<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |column: usize| self.lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(width);
        for cells in &self.lines {
            let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_in_characters() {
        let mut table = TextTable::new(["NAME", "X"]);
        table.row(["Küche".to_owned(), "1".to_owned()]);
        table.row([String::new(), String::new()]);
        assert_eq!(table.to_string(), "NAME   X\nKüche  1\n\n");
    }
}
