//! Tables for people: columns without lines, and no space at the end of a row.

use comfy_table::{Table, presets};

/// Returns the rows below their header, each ending with a line break.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    // Cells come from modules, but are names: checked, and without control characters.
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}
