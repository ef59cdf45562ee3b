//! Tables for people, with nothing in them that a terminal would obey.

use std::io::{self, Write};

use comfy_table::Table;
use comfy_table::presets::NOTHING;

/// Rows below their headers.
#[derive(Debug)]
pub struct Listing(Table);

impl Listing {
    pub fn new(header: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(header);
        Self(table)
    }

    pub fn add<const CELLS: usize>(&mut self, cells: [String; CELLS]) {
        self.0.add_row(cells.map(|cell| visible(&cell)));
    }

    /// Writes it below its name and how many rows there are.
    pub fn write(&self, name: &str, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{name} ({})", self.0.row_iter().count())?;
        if !self.0.is_empty() {
            for line in self.0.lines() {
                writeln!(out, "  {}", line.trim_end())?;
            }
        }
        writeln!(out)
    }
}

/// Clients and sources choose what stands here: characters that move the cursor, turn the text around them or are not seen
/// are written as their numbers.
fn visible(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, character| {
        match character {
            // Seen as they are.
            '\'' | '"' | '\\' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
        shown
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_written_as_its_number() {
        for (text, shown) in [
            ("http://host/a'b\"c\\d?e=ü", "http://host/a'b\"c\\d?e=ü"),
            ("a\u{1b}[31m\u{7}\u{9b}2J", r"a\u{1b}[31m\u{7}\u{9b}2J"),
            ("\u{202e}gpj.exe\u{200b}\u{feff}", r"\u{202e}gpj.exe\u{200b}\u{feff}"),
            ("two\nlines\r", r"two\nlines\r"),
        ] {
            assert_eq!(visible(text), shown, "{text:?}");
        }
    }
}
