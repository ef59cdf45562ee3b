//! From an image's name to what has to be fetched of it: manifest list, manifest, configuration and layers.

use std::collections::HashSet;

use tokio::time::Instant;

use super::part_of;
use crate::cdn::Worker;
use crate::cluster::fetch::reason;
use crate::domain::{Platform, TaskSpec};
use crate::origin::registry::{MANIFEST_TYPES, Manifest};

/// How deep indexes may name each other.
const DEPTH_MAX: usize = 3;
/// Manifests of one image that are read, and parts that are fetched.
const MANIFESTS_MAX: usize = 64;
const PARTS_MAX: usize = 1024;

/// What to fetch of the image whose manifest is at this source, if that can be told until then.
pub async fn resolve(
    registry: &Worker,
    source: &TaskSpec,
    filter: &[String],
    platform: &Platform,
    deadline: Instant,
) -> Result<Vec<TaskSpec>, String> {
    let Some((repository, _)) = source.raw_url.split_once("/manifests/").filter(|(before, _)| before.contains("/v2/")) else {
        return Err("the URL of an image is that of its manifest: <registry>/v2/<name>/manifests/<tag or digest>".to_owned());
    };
    let mut manifests = vec![(source.raw_url.clone(), 0)];
    let (mut parts, mut known, mut read) = (Vec::new(), HashSet::new(), 0);
    while let Some((url, depth)) = manifests.pop() {
        read += 1;
        if read > MANIFESTS_MAX {
            return Err(format!("the image has more than {MANIFESTS_MAX} manifests"));
        }
        let document = read_manifest(registry, source, &url, deadline).await?;
        match Manifest::read(&document, platform).map_err(|error| error.to_string())? {
            Manifest::Index(_) if depth == DEPTH_MAX => return Err("indexes of the image name each other too deep".to_owned()),
            Manifest::Index(digests) => {
                manifests.extend(digests.iter().map(|digest| (format!("{repository}/manifests/{digest}"), depth + 1)));
            }
            Manifest::Blobs(digests) => {
                for digest in digests {
                    let part = part_of(source, format!("{repository}/blobs/{digest}"), filter);
                    if known.insert(part.id) {
                        parts.push(part);
                    }
                    if parts.len() > PARTS_MAX {
                        return Err(format!("the image has more than {PARTS_MAX} parts"));
                    }
                }
            }
        }
    }
    Ok(parts)
}

async fn read_manifest(registry: &Worker, source: &TaskSpec, url: &str, deadline: Instant) -> Result<Vec<u8>, String> {
    let read = registry.read(source, url, MANIFEST_TYPES, deadline).await;
    read.map_err(|error| format!("the manifest cannot be read: {}", reason(&error)))
}
