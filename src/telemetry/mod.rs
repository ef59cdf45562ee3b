//! What the service tells of itself: its log and its metrics.

mod log;
pub mod metrics;

pub use log::set_up;
