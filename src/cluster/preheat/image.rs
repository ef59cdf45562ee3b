//! From an image's name to what has to be fetched of it: manifest list, manifest, configuration and layers.

use std::collections::HashSet;

use http::StatusCode;

use super::part_of;
use crate::cluster::fetch::chain;
use crate::domain::{Platform, TaskSpec};
use crate::origin::registry::{Challenge, MANIFEST_TYPES, Manifest, token_in};
use crate::origin::{Document, Source};

/// How deep indexes may name each other.
const DEPTH_MAX: usize = 3;
/// Manifests of one image that are read, and parts that are fetched.
const MANIFESTS_MAX: usize = 64;
const PARTS_MAX: usize = 1024;
/// A token is stored with every part of an image until that is here.
const TOKEN_MAX_BYTES: usize = 8 * 1024;
const AUTHORIZATION: &str = "Authorization";

/// What to fetch of the image whose manifest is at this source.
pub async fn resolve(
    registry: &Source,
    source: &TaskSpec,
    filter: &[String],
    platform: &Platform,
) -> Result<Vec<TaskSpec>, String> {
    let Some((repository, _)) = source.raw_url.split_once("/manifests/").filter(|(before, _)| before.contains("/v2/")) else {
        return Err("the URL of an image is that of its manifest: <registry>/v2/<name>/manifests/<tag or digest>".to_owned());
    };
    let mut asking = Asking { registry, source: source.clone() };
    let mut manifests = vec![(source.raw_url.clone(), 0)];
    let (mut parts, mut known, mut read) = (Vec::new(), HashSet::new(), 0);
    while let Some((url, depth)) = manifests.pop() {
        read += 1;
        if read > MANIFESTS_MAX {
            return Err(format!("the image has more than {MANIFESTS_MAX} manifests"));
        }
        let document = asking.read(&url).await?;
        match Manifest::read(&document.body, platform).map_err(|error| error.to_string())? {
            Manifest::Index(_) if depth == DEPTH_MAX => return Err("indexes of the image name each other too deep".to_owned()),
            Manifest::Index(digests) => {
                manifests.extend(digests.iter().map(|digest| (format!("{repository}/manifests/{digest}"), depth + 1)));
            }
            Manifest::Blobs(digests) => {
                for digest in digests {
                    let part = part_of(source, format!("{repository}/blobs/{digest}"), filter, asking.source.headers.clone());
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

/// A registry that is asked, with the token that it was last content with.
struct Asking<'a> {
    registry: &'a Source,
    source: TaskSpec,
}

impl Asking<'_> {
    async fn read(&mut self, url: &str) -> Result<Document, String> {
        let first = self.ask(&self.source, url, MANIFEST_TYPES).await?;
        // Whoever a redirect led to is not the one whose credentials these are.
        let challenge = first.challenge.as_deref().filter(|_| !first.redirected).and_then(Challenge::parse);
        let document = match (first.status, challenge) {
            (StatusCode::UNAUTHORIZED, Some(challenge)) => {
                self.take_token(&challenge).await?;
                self.ask(&self.source, url, MANIFEST_TYPES).await?
            }
            _ => first,
        };
        match document.status {
            StatusCode::OK => Ok(document),
            status => Err(format!("the registry answered {status} for the manifest")),
        }
    }

    async fn take_token(&mut self, challenge: &Challenge) -> Result<(), String> {
        let document = self.ask(&self.with_credentials_for(challenge), &challenge.url, "application/json").await?;
        if document.status != StatusCode::OK {
            return Err(format!("the registry's token server answered {}", document.status));
        }
        let token = token_in(&document.body).ok_or("the registry's token server gave no token")?;
        if token.len() > TOKEN_MAX_BYTES {
            return Err(format!("the registry's token is longer than {TOKEN_MAX_BYTES} bytes"));
        }
        self.source.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(AUTHORIZATION));
        self.source.headers.push((AUTHORIZATION.to_owned(), format!("Bearer {token}")));
        Ok(())
    }

    /// The registry's credentials are for its token server, which is how the protocol has it; over plain HTTP only where
    /// the registry itself is asked like that, for a challenge must not be able to lower that.
    fn with_credentials_for(&self, challenge: &Challenge) -> TaskSpec {
        let is_secret = |url: &str| url.starts_with("https:");
        let mut source = self.source.clone();
        // An old token is no credential.
        let keeps = is_secret(&challenge.url) || !is_secret(&source.raw_url);
        source.headers.retain(|(name, value)| {
            keeps && (!name.eq_ignore_ascii_case(AUTHORIZATION) || !value.to_ascii_lowercase().starts_with("bearer "))
        });
        source
    }

    async fn ask(&self, source: &TaskSpec, url: &str, accept: &'static str) -> Result<Document, String> {
        self.registry.read(source, url, accept).await.map_err(|error| chain(&error))
    }
}
