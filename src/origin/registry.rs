//! Image registries: what a manifest names.
//!
//! Source: the OCI distribution and image specifications. Signatures are not verified
//! and digests are not compared here: whoever pulls an image verifies all of it.

use std::collections::HashSet;

use serde::Deserialize;

use crate::domain::Platform;

/// What is asked for where a manifest is wanted.
pub const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Manifests of one index that are followed.
const MANIFESTS_MAX: usize = 64;
/// Blobs of one image.
const BLOBS_MAX: usize = 1024;
/// Of a digest: those that are in use have names like `sha256`, and each is kept for every part of an image. Bytes.
const ALGORITHM_MAX_BYTES: usize = 32;
/// Platforms that are named to whoever asked for another.
const OFFERED_MAX: usize = 16;

/// Why a text is no manifest that can be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the registry's answer is no manifest")]
    NotAManifest,
    #[error("the manifest names {0:?}, which is no digest")]
    Digest(String),
    #[error("the image has no manifest for {wanted}, only for {offered}")]
    Platform { wanted: String, offered: String },
    #[error("the manifest names more than {0} parts")]
    TooLarge(usize),
}

/// What a manifest names, by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// Manifests for one platform each: those that are wanted.
    Index(Vec<String>),
    /// Configuration and layers.
    Blobs(Vec<String>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    manifests: Option<Vec<WireManifest>>,
    config: Option<WireBlob>,
    layers: Option<Vec<WireBlob>>,
    fs_layers: Option<Vec<WireFsLayer>>,
}

#[derive(Deserialize)]
struct WireManifest {
    digest: String,
    platform: Option<WirePlatform>,
}

#[derive(Deserialize)]
struct WirePlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireBlob {
    #[serde(default)]
    media_type: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireFsLayer {
    blob_sum: String,
}

impl Manifest {
    /// Reads a manifest list, an index, or a manifest of version 1 or 2.
    pub fn read(bytes: &[u8], platform: &Platform) -> Result<Self, ManifestError> {
        let wire: Wire = serde_json::from_slice(bytes).map_err(|_| ManifestError::NotAManifest)?;
        let digests = match wire {
            Wire { manifests: Some(manifests), .. } => return Self::index(manifests, platform),
            Wire { layers: Some(layers), config, .. } => {
                // A registry does not have what must not be passed on.
                let own = layers.into_iter().filter(|layer| !layer.media_type.contains("foreign"));
                config.into_iter().chain(own).map(|blob| blob.digest).collect()
            }
            Wire { fs_layers: Some(layers), .. } => layers.into_iter().map(|layer| layer.blob_sum).collect(),
            Wire { .. } => return Err(ManifestError::NotAManifest),
        };
        Ok(Self::Blobs(checked(digests, BLOBS_MAX)?))
    }

    fn index(manifests: Vec<WireManifest>, platform: &Platform) -> Result<Self, ManifestError> {
        let mut offered = Vec::new();
        let mut wanted = Vec::new();
        for WireManifest { digest, platform: offer } in manifests {
            let offer = offer.unwrap_or(WirePlatform { os: String::new(), architecture: String::new(), variant: None });
            if platform.takes(&offer.os, &offer.architecture, offer.variant.as_deref()) {
                wanted.push(digest);
            }
            // As far as they are shown.
            if offered.len() < OFFERED_MAX {
                let short = |text: &str| text.chars().take(32).collect::<String>();
                offered.push(format!("{}/{}", short(&offer.os), short(&offer.architecture)));
            }
        }
        if wanted.is_empty() {
            return Err(ManifestError::Platform { wanted: platform.to_string(), offered: offered.join(", ") });
        }
        Ok(Self::Index(checked(wanted, MANIFESTS_MAX)?))
    }
}

/// Each digest once, and nothing that is none: they become parts of URLs.
fn checked(digests: Vec<String>, max: usize) -> Result<Vec<String>, ManifestError> {
    let (mut once, mut seen) = (Vec::new(), HashSet::new());
    for digest in digests {
        let (algorithm, hash) = digest.split_once(':').unwrap_or_default();
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+._-".contains(&byte);
        let is_digest = (1..=ALGORITHM_MAX_BYTES).contains(&algorithm.len())
            && algorithm.bytes().all(known)
            && (32..=128).contains(&hash.len())
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_digest {
            return Err(ManifestError::Digest(digest.chars().take(128).collect()));
        }
        if seen.insert(digest.clone()) {
            if once.len() == max {
                return Err(ManifestError::TooLarge(max));
            }
            once.push(digest);
        }
    }
    Ok(once)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> String {
        format!("sha256:{}", hex::encode([number; 32]))
    }

    fn amd64() -> Platform {
        Platform::parse("linux/amd64").expect("a platform")
    }

    fn read(json: serde_json::Value) -> Result<Manifest, ManifestError> {
        Manifest::read(json.to_string().as_bytes(), &amd64())
    }

    #[test]
    fn every_kind_of_manifest_names_what_to_fetch() {
        let manifest = serde_json::json!({
            "schemaVersion": 2, "config": { "digest": digest(1) },
            "layers": [{ "digest": digest(2) }, { "digest": digest(2) },
                { "digest": digest(3), "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" }],
        });
        assert_eq!(read(manifest), Ok(Manifest::Blobs(vec![digest(1), digest(2)])));
        let first = serde_json::json!({ "schemaVersion": 1, "fsLayers": [{ "blobSum": digest(4) }] });
        assert_eq!(read(first), Ok(Manifest::Blobs(vec![digest(4)])));
        let index = serde_json::json!({ "manifests": [
            { "digest": digest(5), "platform": { "os": "linux", "architecture": "amd64" } },
            { "digest": digest(6), "platform": { "os": "linux", "architecture": "arm64", "variant": "v8" } },
        ]});
        assert_eq!(read(index.clone()), Ok(Manifest::Index(vec![digest(5)])));
        let all = Manifest::read(index.to_string().as_bytes(), &Platform::All);
        assert_eq!(all, Ok(Manifest::Index(vec![digest(5), digest(6)])));
        let s390 = Manifest::read(index.to_string().as_bytes(), &Platform::parse("linux/s390x").expect("a platform"));
        let offered = "linux/amd64, linux/arm64".to_owned();
        assert_eq!(s390, Err(ManifestError::Platform { wanted: "linux/s390x".into(), offered }));
    }

    #[test]
    fn what_is_no_digest_does_not_become_part_of_a_url() {
        let long = format!("{}:{}", "a".repeat(ALGORITHM_MAX_BYTES + 1), "0".repeat(64));
        for bad in ["", "sha256:", "sha256:../../etc", &format!("{}/x", digest(1)), &format!("SHA:{}", "0".repeat(64)), &long] {
            let manifest = serde_json::json!({ "layers": [{ "digest": bad }] });
            assert_eq!(read(manifest), Err(ManifestError::Digest((*bad).to_owned())));
        }
        for text in ["", "[]", "{}", "null", "{\"layers\": 1}"] {
            assert_eq!(Manifest::read(text.as_bytes(), &amd64()), Err(ManifestError::NotAManifest), "{text}");
        }
        let many: Vec<_> =
            (0..=BLOBS_MAX).map(|number| serde_json::json!({ "digest": format!("sha256:{number:064x}") })).collect();
        assert_eq!(read(serde_json::json!({ "layers": many })), Err(ManifestError::TooLarge(BLOBS_MAX)));
    }
}
