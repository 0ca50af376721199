//! Tables for people, and what stands in their cells: columns without lines, and no space at the end
//! of a row.

use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{Table, presets};

use crate::error::harmless;

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

/// How much of a text is shown in a cell: about a line of a terminal.
const CELL: usize = 80;

/// How many digits of a key or digest are shown: more than enough to be unique.
const DIGITS: usize = 12;

/// Returns text of a guest on one line, its beginning where it is long.
pub(super) fn flat(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = harmless(&line);
    match line.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Returns the beginning of a key or digest, which stands for the whole.
pub(super) fn short(digits: &str) -> &str {
    digits.get(..DIGITS).unwrap_or(digits)
}

/// Returns a moment, in milliseconds since the Unix epoch, in universal time.
pub(super) fn stamp(millis: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    // What lies beyond the year 9999 has no such form.
    let shown = time.filter(|_| millis < YEAR_10000_MILLIS).map(humantime::format_rfc3339_seconds);
    shown.map_or_else(|| "for ever".to_owned(), |time| time.to_string())
}

/// When the years of five digits begin.
const YEAR_10000_MILLIS: u64 = 253_402_300_800_000;

/// Returns how long something took, in milliseconds; nothing where it has not ended.
pub(super) fn took(from: Option<u64>, until: Option<u64>) -> String {
    match (from, until) {
        (Some(from), Some(until)) => format!("{} ms", until.saturating_sub(from)),
        _ => String::new(),
    }
}
