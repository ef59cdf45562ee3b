//! What the service tells of itself: its log and its metrics.

mod log;
pub mod metrics;
pub mod recovery;
mod rolling;

pub use log::{Log, WrongLogFilter};
pub use rolling::{LogFile, NoLogFile, RollingFile};
