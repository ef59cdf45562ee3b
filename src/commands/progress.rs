//! How far a long command has got: on standard error, and only if that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Drawn at most this often.
const DRAW_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Rows of which nobody knows how many there will be.
    pub fn rows() -> Self {
        Self::new(ProgressBar::new_spinner(), "{spinner} {human_pos} rows, {elapsed}")
    }

    /// Bytes of so many.
    pub fn bytes(total: u64) -> Self {
        Self::new(ProgressBar::new(total), "{wide_bar} {bytes} of {total_bytes}, {eta} left")
    }

    fn new(bar: ProgressBar, template: &str) -> Self {
        // A template that does not parse leaves the default one.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = bar.with_style(style);
        bar.enable_steady_tick(DRAW_EVERY);
        Self(bar)
    }

    pub fn at(&self, position: u64) {
        self.0.set_position(position);
    }

    pub fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
