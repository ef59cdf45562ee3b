//! What a request may reach: every address is checked where the connection is made, so that no name and no redirect leads
//! around the policy, and a name that resolves otherwise the second time is checked a second time.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use tokio::sync::Semaphore;
use url::{Host, Url};

use super::trouble::{NameUnknown, causes, is_sent_on_to};
use crate::domain::policy::{Forbidden, SourcePolicy};

/// Names looked up at once, of all sources. A lookup takes one of the threads that may block, which the disk needs as well,
/// and goes on when nobody waits for it any more: half of them are never a name server's.
const LOOKUPS_MAX: usize = 256;
/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;

/// Resolves names to those of their addresses that may be connected to.
#[derive(Debug)]
pub struct CheckedResolver {
    policy: Arc<SourcePolicy>,
    lookups: Arc<Semaphore>,
}

impl CheckedResolver {
    pub fn new(policy: Arc<SourcePolicy>) -> Self {
        static LOOKUPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LOOKUPS_MAX)));
        Self { policy, lookups: LOOKUPS.clone() }
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookups) = (self.policy.clone(), self.lookups.clone());
        Box::pin(async move {
            let turn = lookups.acquire_owned().await?;
            let host = name.as_str().to_owned();
            let looked_up = tokio::task::spawn_blocking(move || {
                // The port is filled in by whoever asks.
                let found = (name.as_str(), 0).to_socket_addrs();
                drop(turn);
                found
            });
            let found = looked_up.await?.map_err(|error| NameUnknown::new(&host, &error))?;
            let (mut allowed, mut forbidden) = (Vec::<SocketAddr>::new(), None);
            for address in found {
                match policy.check_address(&host, address.ip()) {
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
            return attempt.error(NotFollowed::TooMany);
        }
        if !matches!(attempt.url().scheme(), "http" | "https") {
            return attempt.error(NotFollowed::NotHttp);
        }
        match check_url(&policy, attempt.url()) {
            Ok(()) => {
                is_sent_on_to(attempt.url());
                attempt.follow()
            }
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
    causes(error).find_map(|cause| cause.downcast_ref::<Forbidden>()).cloned()
}

/// A redirect that leads nowhere.
#[derive(Debug, thiserror::Error)]
enum NotFollowed {
    #[error("it redirects more than {REDIRECTS_MAX} times")]
    TooMany,
    #[error("it redirects to what is no http or https URL")]
    NotHttp,
}
