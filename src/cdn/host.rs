//! Hosts, as far as places are shared between them.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use crate::origin::parse_url;

/// A scheme, host and port; not kept as text, which may be long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostKey(u64);

impl HostKey {
    /// A URL that is none is asked of nobody.
    pub fn of(url: &str) -> Self {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let url = parse_url(url).ok();
        Self(KEYS.hash_one(url.as_ref().map(|url| (url.scheme(), url.host_str(), url.port_or_known_default()))))
    }
}
