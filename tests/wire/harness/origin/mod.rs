//! Sources on loopback, which behave well, or badly in a way that a test asks for, and count.
//!
//! [`Origin`] serves files as an HTTP server does; [`Scripted`] says byte by byte what no HTTP server would.

mod file;
pub mod scripted;
pub mod tls;

pub use file::{Ending, File, Origin, Seen};
pub use scripted::Scripted;
