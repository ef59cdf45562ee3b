//! What a request may reach: every address is checked where the connection is made, so that no name and no redirect leads
//! around the policy, and a name that resolves otherwise the second time is checked a second time.

use std::io;
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
    /// Tells a name's addresses, and may block.
    look_up: fn(&str) -> io::Result<Vec<SocketAddr>>,
}

impl CheckedResolver {
    pub fn new(policy: Arc<SourcePolicy>) -> Self {
        static LOOKUPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LOOKUPS_MAX)));
        Self { policy, lookups: LOOKUPS.clone(), look_up: ask_system }
    }
}

/// The port is filled in by whoever asks.
fn ask_system(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((name, 0).to_socket_addrs()?.collect())
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookups, look_up) = (self.policy.clone(), self.lookups.clone(), self.look_up);
        Box::pin(async move {
            let turn = lookups.acquire_owned().await?;
            let host = name.as_str().to_owned();
            let looked_up = tokio::task::spawn_blocking(move || {
                let found = look_up(name.as_str());
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::domain::policy::SourcePattern;
    use crate::origin::builder;

    const ALLOWED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
    const DENIED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

    /// What an attacker's name server does: it shows the first who asks an address that may be reached, and all others one
    /// that may not.
    fn rebind(_name: &str) -> io::Result<Vec<SocketAddr>> {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let address = if ASKED.fetch_add(1, Ordering::SeqCst) == 0 { ALLOWED } else { DENIED };
        Ok(vec![(address, 0).into()])
    }

    /// Answers at both addresses, and closes each connection, so that the next request needs another; tells its port and at
    /// which address it was connected to.
    async fn serve() -> (u16, tokio::sync::mpsc::UnboundedReceiver<SocketAddr>) {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let (connected, connections) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                connected.send(connection.local_addr().expect("a connection has an address")).expect("the test waits");
                let (mut head, answer) = ([0; 4096], b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
                assert!(connection.read(&mut head).await.expect("a request comes") > 0);
                connection.write_all(answer).await.expect("the answer is taken");
            }
        });
        (port, connections)
    }

    /// A client that may not reach [`DENIED`], with a name server of its own.
    fn client(look_up: fn(&str) -> io::Result<Vec<SocketAddr>>) -> reqwest::Client {
        let denied = SourcePattern::Network(std::net::IpAddr::from(DENIED).into());
        let policy = Arc::new(SourcePolicy { deny: vec![denied], ..SourcePolicy::default() });
        let resolver = CheckedResolver { look_up, ..CheckedResolver::new(policy.clone()) };
        let client = builder(&policy, Duration::from_secs(10)).no_proxy().dns_resolver(Arc::new(resolver)).build();
        client.expect("a client")
    }

    #[tokio::test]
    async fn a_name_that_leads_elsewhere_the_second_time_is_checked_a_second_time() {
        let client = client(rebind);
        let (port, mut connections) = serve().await;
        let url = format!("http://rebound.example:{port}/");

        let answer = client.get(&url).send().await.expect("the first address may be reached");
        assert_eq!(answer.text().await.expect("a body"), "ok");
        assert_eq!(connections.recv().await, Some((ALLOWED, port).into()));

        let refused = client.get(&url).send().await.expect_err("the second address may not be reached");
        let forbidden = forbidden_by(&refused).unwrap_or_else(|| panic!("it is not the policy that refuses: {refused:?}"));
        assert!(forbidden.to_string().ends_with("from rebound.example (127.0.0.2)"), "{forbidden}");
        assert!(connections.try_recv().is_err(), "what is denied was connected to");
    }

    #[tokio::test]
    async fn of_a_name_with_several_addresses_those_allowed_alone_are_connected_to() {
        let (port, mut connections) = serve().await;
        let client = client(|name| {
            let addresses = match name {
                "allowed-first.example" => [ALLOWED, DENIED],
                "denied-first.example" => [DENIED, ALLOWED],
                _ => [DENIED, DENIED],
            };
            Ok(addresses.map(|address| (address, 0).into()).into())
        });
        for name in ["allowed-first.example", "denied-first.example"] {
            let answer = client.get(format!("http://{name}:{port}/")).send().await;
            let answer = answer.unwrap_or_else(|error| panic!("{name} may be reached: {error:?}"));
            assert_eq!(answer.text().await.expect("a body"), "ok");
            assert_eq!(connections.recv().await, Some((ALLOWED, port).into()), "{name}");
        }
        let refused = client.get(format!("http://denied.example:{port}/")).send().await.expect_err("all are denied");
        let forbidden = forbidden_by(&refused).unwrap_or_else(|| panic!("it is not the policy that refuses: {refused:?}"));
        assert!(forbidden.to_string().ends_with("from denied.example (127.0.0.2)"), "{forbidden}");
        assert!(connections.try_recv().is_err(), "what is denied was connected to");
    }
}
