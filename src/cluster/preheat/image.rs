//! From an image's name to what has to be fetched of it: manifest list, manifest, configuration and layers.

use std::collections::HashSet;

use tokio::time::Instant;

use super::part_of;
use crate::cdn::Worker;
use crate::cluster::fetch::reason;
use crate::domain::{ChildUrl, Platform, PreheatChild, TaskSpec};
use crate::origin::registry::{MANIFEST_TYPES, Manifest};

/// How deep indexes may name each other.
const DEPTH_MAX: usize = 3;
/// Manifests of one image that are read, and parts that are fetched.
const MANIFESTS_MAX: usize = 64;
const PARTS_MAX: usize = 1024;

/// The URL is that of no manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("of an image must be that of its manifest: <registry>/v2/<name>/manifests/<tag or digest>")]
pub struct NotAManifestUrl;

/// What the URLs of an image's parts begin with, `<registry>/v2/<name>`, by that of its manifest.
pub fn repository_of(manifest_url: &str) -> Result<&str, NotAManifestUrl> {
    let without_query = manifest_url.split(['?', '#']).next().unwrap_or_default();
    let (repository, reference) = without_query.rsplit_once("/manifests/").ok_or(NotAManifestUrl)?;
    let path = repository.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
    // A registry may be below a path of its host.
    let name = path.and_then(|path| path.strip_prefix("v2/").or_else(|| path.split_once("/v2/").map(|(_, name)| name)));
    let is_named = name.is_some_and(|name| name.split('/').all(|part| !part.is_empty()));
    let is_reference = !reference.is_empty() && !reference.contains('/');
    if is_named && is_reference { Ok(repository) } else { Err(NotAManifestUrl) }
}

/// What to fetch of the image whose manifest is at this source, if that can be told until then.
pub async fn resolve(
    registry: &Worker,
    source: &TaskSpec,
    filter: &[String],
    platform: &Platform,
    deadline: Instant,
) -> Result<Vec<PreheatChild>, String> {
    let repository = repository_of(&source.raw_url).map_err(|error| error.to_string())?;
    let mut manifests = vec![(source.raw_url.clone(), 0)];
    let (mut parts, mut known, mut read) = (Vec::<PreheatChild>::new(), HashSet::new(), 0);
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
                        let url = ChildUrl::beside(parts.last(), &part.raw_url);
                        parts.push(PreheatChild { task: part.id, url, failure: None });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_its_manifest() {
        for (url, repository) in [
            ("https://r/v2/app/manifests/1.4", "https://r/v2/app"),
            ("http://r:5000/v2/team/app/manifests/sha256:0a?ns=docker.io#x", "http://r:5000/v2/team/app"),
            ("https://h/api/docker/local/v2/app/manifests/latest", "https://h/api/docker/local/v2/app"),
            ("https://r/v2/manifests/manifests/v2", "https://r/v2/manifests"),
            ("https://v2/v2/a/manifests/b", "https://v2/v2/a"),
        ] {
            assert_eq!(repository_of(url), Ok(repository), "{url}");
        }
        for url in [
            "",
            "https://r/",
            "https://r/v2/app",
            "https://r/v2/app/manifests/",
            "https://r/v2/app/manifests/?x",
            "https://r/v2/app/manifests/a/b",
            "https://r/v2/manifests/b",
            "https://r/v2//manifests/b",
            "https://r/v1/app/manifests/b",
            "https://v2/app/manifests/b",
            "https://r/f?from=/v2/app/manifests/b",
            "https://r/v2/app/blobs/b",
            "r/v2/app/manifests/b",
        ] {
            assert_eq!(repository_of(url), Err(NotAManifestUrl), "{url}");
        }
    }
}
