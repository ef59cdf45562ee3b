//! What a request may reach: every address is checked where the connection is made, so that no name and no redirect leads
//! around the policy, and a name that resolves otherwise the second time is checked a second time.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use url::{Host, Url};

use crate::domain::policy::{Forbidden, SourcePolicy};

/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;

/// Resolves names to those of their addresses that may be connected to.
#[derive(Debug)]
pub struct CheckedResolver(pub Arc<SourcePolicy>);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let host = name.as_str();
            // The port is filled in by whoever asks.
            let found = tokio::net::lookup_host((host, 0)).await?;
            let (mut allowed, mut forbidden) = (Vec::<SocketAddr>::new(), None);
            for address in found {
                match policy.check_address(host, address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(error) => forbidden = Some(error),
                }
            }
            match forbidden.filter(|_| allowed.is_empty()) {
                Some(forbidden) => Err(forbidden.into()),
                None => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

/// Follows redirects to where the policy allows. An address in a URL is never resolved, so it is checked here.
pub fn checked_redirects(policy: Arc<SourcePolicy>) -> Policy {
    Policy::custom(move |attempt: Attempt| {
        if attempt.previous().len() > REDIRECTS_MAX {
            return attempt.error(TooManyRedirects);
        }
        match check_url(&policy, attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(forbidden) => attempt.error(forbidden),
        }
    })
}

/// Checks what can be checked before a name is resolved.
pub fn check_url(policy: &SourcePolicy, url: &Url) -> Result<(), Forbidden> {
    match url.host() {
        Some(Host::Domain(name)) => policy.check_host(name),
        Some(Host::Ipv4(address)) => policy.check_address(&address.to_string(), address.into()),
        Some(Host::Ipv6(address)) => policy.check_address(&address.to_string(), address.into()),
        None => Ok(()),
    }
}

/// The policy's word, if that is why a request failed.
pub fn forbidden_by(error: &reqwest::Error) -> Option<Forbidden> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(forbidden) = error.downcast_ref::<Forbidden>() {
            return Some(forbidden.clone());
        }
        cause = error.source();
    }
    None
}

#[derive(Debug, thiserror::Error)]
#[error("it redirects more than {REDIRECTS_MAX} times")]
struct TooManyRedirects;
