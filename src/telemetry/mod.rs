//! What the service tells of itself: its log and its metrics.

mod log;
pub mod metrics;
mod rolling;

pub use log::{Log, WrongLogFilter};
pub use rolling::LogFile;
