//! Preheats: files and images that are fetched before anybody asks for them.

use std::fmt;
use std::sync::Arc;

use super::{TaskId, TaskSpec};

/// Names a preheat: 128 random bits, written as hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PreheatId([u8; 16]);

/// The text is no preheat's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 32 hexadecimal digits")]
pub struct NotAPreheatId;

impl PreheatId {
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub fn parse(text: &str) -> Result<Self, NotAPreheatId> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAPreheatId)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for PreheatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What is behind a preheat's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreheatKind {
    File,
    /// A registry's manifest; its configuration and layers are fetched.
    Image {
        platform: Platform,
    },
}

/// Which of an image's manifests are meant, where it has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platform {
    All,
    One {
        os: String,
        architecture: String,
        /// Any, where none is named.
        variant: Option<String>,
    },
}

/// The text is no platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be \"all\", or an operating system and an architecture like linux/amd64 or linux/arm/v7")]
pub struct NotAPlatform;

impl Platform {
    /// Reads `all`, `linux/amd64` or `linux/arm/v7`.
    pub fn parse(text: &str) -> Result<Self, NotAPlatform> {
        if text == "all" {
            return Ok(Self::All);
        }
        let mut parts = text.split('/').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), variant, None)
                if !os.is_empty() && !architecture.is_empty() && variant.as_deref() != Some("") =>
            {
                Ok(Self::One { os, architecture, variant })
            }
            _ => Err(NotAPlatform),
        }
    }

    /// Whether a manifest for this platform is meant.
    pub fn takes(&self, offered_os: &str, offered_architecture: &str, offered_variant: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::One { os, architecture, variant } => {
                os == offered_os
                    && architecture == offered_architecture
                    && variant.as_deref().is_none_or(|variant| offered_variant == Some(variant))
            }
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::One { os, architecture, variant: None } => write!(f, "{os}/{architecture}"),
            Self::One { os, architecture, variant: Some(variant) } => write!(f, "{os}/{architecture}/{variant}"),
        }
    }
}

/// How far a preheat is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreheatState {
    /// Others are fetched first.
    Waiting,
    Running,
    Success,
    /// Why, in a sentence.
    Failed(String),
}

/// A preheat without what it found to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preheat {
    pub id: PreheatId,
    pub kind: PreheatKind,
    /// What is fetched; of an image, its manifest.
    pub source: TaskSpec,
    /// Query parameters that are no part of a task's identity, as clients name them.
    pub filter: Vec<String>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    pub ended_ms: Option<u64>,
    pub state: PreheatState,
}

/// One task of a preheat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreheatChild {
    pub task: TaskId,
    pub url: ChildUrl,
    /// Why it was not fetched, in a sentence: in its preheat's latest turn, and stored once that has ended.
    pub failure: Option<Arc<str>>,
}

impl PreheatChild {
    /// This reason, where one of these has it: a cause that many share is in memory once.
    pub fn reason_of_any(children: &[Self], reason: &str) -> Option<Arc<str>> {
        children.iter().filter_map(|child| child.failure.as_ref()).find(|known| &***known == reason).cloned()
    }
}

/// The URL of a preheat's task. All parts of an image are in one folder, whose URL may be long and is here once for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildUrl {
    /// Up to the last slash.
    folder: Arc<str>,
    name: Box<str>,
}

impl ChildUrl {
    /// This URL, which shares its folder with that of another task where both are in one.
    pub fn beside(other: Option<&PreheatChild>, url: &str) -> Self {
        let (folder, name) = url.split_at(url.rfind('/').map_or(0, |slash| slash + 1));
        let shared = other.map(|other| &other.url.folder).filter(|shared| ***shared == *folder);
        Self { folder: shared.cloned().unwrap_or_else(|| folder.into()), name: name.into() }
    }
}

impl fmt::Display for ChildUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.folder)?;
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_image_share_their_folder() {
        let part = |before: Option<&PreheatChild>, url| PreheatChild {
            task: TaskId::from_bytes([0; 32]),
            url: ChildUrl::beside(before, url),
            failure: None,
        };
        let first = part(None, "https://r/v2/app/blobs/sha256:01");
        let second = part(Some(&first), "https://r/v2/app/blobs/sha256:02");
        let other = part(Some(&second), "https://r/v2/other/blobs/sha256:02");
        assert!(Arc::ptr_eq(&first.url.folder, &second.url.folder) && !Arc::ptr_eq(&first.url.folder, &other.url.folder));
        assert_eq!(second.url.to_string(), "https://r/v2/app/blobs/sha256:02");
        for url in ["", "name", "https://h/f?from=/a/b", "https://h/"] {
            assert_eq!(part(Some(&other), url).url.to_string(), url);
        }
    }

    #[test]
    fn a_platform_is_what_registries_call_one() {
        for text in ["all", "linux/amd64", "linux/arm/v7"] {
            assert_eq!(Platform::parse(text).expect("a platform").to_string(), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x"] {
            assert!(Platform::parse(text).is_err(), "{text:?}");
        }
        let arm = Platform::parse("linux/arm").expect("a platform");
        assert!(arm.takes("linux", "arm", Some("v6")) && arm.takes("linux", "arm", None) && !arm.takes("linux", "arm64", None));
        let arm = Platform::parse("linux/arm/v7").expect("a platform");
        assert!(arm.takes("linux", "arm", Some("v7")) && !arm.takes("linux", "arm", None));
    }
}
