//! Figures as text: spreads, and tables of them.

use comfy_table::{CellAlignment, Table, presets};

use crate::statistics::Spread;

/// The median, and the quartiles.
pub fn spread(spread: &Spread, digits: usize) -> String {
    let Spread { median, quartiles: [lower, upper], .. } = spread;
    format!("{median:.digits$} ({lower:.digits$} to {upper:.digits$})")
}

/// A table, with the columns of these names to the left and all others to the right.
pub fn table(header: &[&str], left: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    for (name, column) in header.iter().zip(table.column_iter_mut()) {
        let text = left.contains(name);
        column.set_cell_alignment(if text { CellAlignment::Left } else { CellAlignment::Right });
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}
