//! Time as the pure core sees it.

use std::time::Duration;

/// A point on a clock that never goes back, in milliseconds since that clock started.
///
/// Whoever owns the clock (the service, a test, a simulation) hands it in: the core never reads one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// How long ago `earlier` was; zero when it is not past yet.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// So much earlier; `None` before the clock started.
    pub fn before(self, span: Duration) -> Option<Self> {
        self.0.checked_sub(u64::try_from(span.as_millis()).ok()?).map(Self)
    }

    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}
