//! Sources on loopback, which behave well, or badly in a way that a test asks for, and count.
//!
//! [`Origin`] serves files as an HTTP server does; [`scripted::Scripted`] says byte by byte what no HTTP server would.

mod file;
pub mod scripted;
pub mod tls;

#[allow(unused_imports, reason = "a benchmark may need no source of its own")]
pub use file::*;

/// The send buffer of each connection. Small, so that what is counted has all but left. Bytes.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Handed to the connection at once. Bytes.
const CHUNK_BYTES: usize = 32 * 1024;
