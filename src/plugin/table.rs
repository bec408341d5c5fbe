//! Columns of text.

use chrono::TimeDelta;

/// Rows under their headings, as kubectl aligns them; the last column is not padded.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N]| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("   ").trim_end().to_owned() + "\n"
    };
    let mut text = line(headings);
    for row in rows {
        text += &line(row.each_ref().map(String::as_str));
    }
    text
}

/// A span in its two greatest units: `3d4h`, `12m`, `0s`.
pub fn span(span: TimeDelta) -> String {
    let seconds = span.num_seconds().max(0);
    let parts =
        [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).filter(|(n, _)| *n > 0 || first == 3);
    shown.map(|(n, unit)| n.to_string() + unit).collect()
}

/// Without what a terminal would obey: much of what is shown was written by others.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Notes at the end of an answer, if there are any.
pub fn notes(notes: &[String]) -> Option<String> {
    let lines: Vec<String> = notes.iter().map(|note| format!("Note: {note}.\n")).collect();
    (!lines.is_empty()).then(|| lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["a".into(), "long".into(), String::new()], ["bcd".into(), "x".into(), "end".into()]];
        assert_eq!(table(["A", "B", "C"], &rows), "A     B      C\na     long\nbcd   x      end\n");
        assert_eq!(table(["A"], &[]), "A\n");
    }

    #[test]
    fn a_terminal_obeys_nothing_that_is_shown() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc"), "a\u{fffd}[2Jb\u{fffd}\nc");
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let told = |seconds| span(TimeDelta::seconds(seconds));
        assert_eq!([told(0), told(-5), told(61), told(3600)], ["0s", "0s", "1m1s", "1h"]);
        assert_eq!([told(86400 * 3 + 4 * 3600 + 59), told(86400 + 59)], ["3d4h", "1d"]);
    }
}
