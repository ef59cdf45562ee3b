//! Listening sockets: handed to us by whoever started us, or bound here.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Config, Origin, SETTINGS};

/// Connections that may wait to be accepted: what gathers while a killed service starts again.
const BACKLOG: i32 = 4096;
/// Where inherited descriptors begin (`sd_listen_fds(3)`).
const LISTEN_FDS_START: i32 = 3;
const API: &str = "api";
const DOWNLOAD: &str = "download";

/// The two sockets of a service.
#[derive(Debug)]
pub struct Sockets {
    pub api: TcpListener,
    pub download: TcpListener,
}

impl Sockets {
    /// The sockets that were handed to this process, if any.
    ///
    /// # Safety
    ///
    /// Must be called once, before anything else in the process opens or closes descriptors.
    pub unsafe fn inherited() -> anyhow::Result<Option<Self>> {
        let Some(count) = inherited_count()? else { return Ok(None) };
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let (mut api, mut download) = (None, None);
        for (fd, index) in (LISTEN_FDS_START..).zip(0..count) {
            // SAFETY: the service manager opened this descriptor for us, and nobody else has it.
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
            let slot = match names.get(index).copied().unwrap_or_default() {
                API => &mut api,
                DOWNLOAD => &mut download,
                _ if index == 0 => &mut api,
                _ if index == 1 => &mut download,
                name => {
                    bail!("LISTEN_FDS hands over a socket named {name:?}; known names are {API} and {DOWNLOAD} (LISTEN_FDNAMES)")
                }
            };
            if slot.replace(listening(socket, fd)?).is_some() {
                bail!("LISTEN_FDNAMES={} names a socket twice: it must be {API}:{DOWNLOAD}", names.join(":"));
            }
        }
        match (api, download) {
            (Some(api), Some(download)) => Ok(Some(Self { api, download })),
            _ => {
                bail!("LISTEN_FDS={count} hands over {count} socket(s); two are needed, named {API}:{DOWNLOAD} by LISTEN_FDNAMES")
            }
        }
    }

    /// The sockets that a supervisor left open under these numbers.
    ///
    /// # Safety
    ///
    /// Nobody else in this process may use the two descriptors.
    pub unsafe fn from_descriptors(api: RawFd, download: RawFd) -> anyhow::Result<Self> {
        let socket = |fd| {
            // SAFETY: the caller promises that it is ours.
            listening(Socket::from(unsafe { OwnedFd::from_raw_fd(fd) }), fd)
        };
        Ok(Self { api: socket(api)?, download: socket(download)? })
    }

    /// What the configuration says of addresses that these, which somebody else bound, do not have: a sentence for each
    /// setting that is given. Port 0 is any.
    pub fn ignored(&self, config: &Config, origins: &[Origin]) -> std::io::Result<Vec<String>> {
        let (api, download) = (self.api.local_addr()?, self.download.local_addr()?);
        let is_in_use = |key| match key {
            "bind" => config.bind.is_none_or(|ip| [api, download].iter().all(|socket| is_same(ip, socket.ip()))),
            "listenPort" => [0, api.port()].contains(&config.port),
            "downloadPort" => [0, download.port()].contains(&config.download_port),
            _ => true,
        };
        let given = SETTINGS.iter().zip(origins).filter(|(_, origin)| **origin != Origin::Default);
        let ignored = given.filter(|(setting, _)| !is_in_use(setting.key)).map(|(setting, origin)| {
            let value = setting.field.show(config).unwrap_or_default();
            format!(
                "{origin}: {} is {value} and has no effect, because the sockets were handed over: the API is on {api}, downloads on {download}",
                setting.key
            )
        });
        Ok(ignored.collect())
    }

    /// Binds the sockets that the configuration names.
    pub fn bind(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            api: bind(config.bind, config.port, "--port")?,
            download: bind(config.bind, config.download_port, "--download-port")?,
        })
    }
}

fn is_same(one: IpAddr, other: IpAddr) -> bool {
    one.to_canonical() == other.to_canonical() || one.is_unspecified() && other.is_unspecified()
}

/// How many descriptors were handed to this process; `None` for none, or when they were meant for another.
fn inherited_count() -> anyhow::Result<Option<usize>> {
    let Ok(count) = std::env::var("LISTEN_FDS") else { return Ok(None) };
    if std::env::var("LISTEN_PID").is_ok_and(|pid| pid != std::process::id().to_string()) {
        return Ok(None);
    }
    let count: usize = count.parse().with_context(|| format!("LISTEN_FDS={count} is not a number of descriptors"))?;
    Ok((count > 0).then_some(count))
}

fn listening(socket: Socket, fd: i32) -> anyhow::Result<TcpListener> {
    if !socket.is_listener().unwrap_or(false) {
        bail!("descriptor {fd}, which was handed over, is not a listening stream socket");
    }
    socket.set_cloexec(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind(ip: Option<IpAddr>, port: u16, option: &str) -> anyhow::Result<TcpListener> {
    let bound = match ip {
        Some(ip) => bind_one(SocketAddr::new(ip, port)),
        // One socket for both families; a machine without IPv6 has only the other.
        None => bind_one((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| match error.raw_os_error() {
            Some(code)
                if code == rustix::io::Errno::AFNOSUPPORT.raw_os_error()
                    || code == rustix::io::Errno::ADDRNOTAVAIL.raw_os_error() =>
            {
                bind_one((Ipv4Addr::UNSPECIFIED, port).into())
            }
            _ => Err(error),
        }),
    };
    bound.map_err(|error| {
        let ip = ip.map_or_else(|| "all addresses".to_owned(), |ip| ip.to_string());
        let advice = match error.kind() {
            ErrorKind::AddrNotAvailable => "choose an address of this machine with --bind".to_owned(),
            _ => format!("choose another with {option}, or 0 for any that is free"),
        };
        anyhow::Error::new(error).context(format!("cannot listen on port {port} of {ip}; {advice}"))
    })
}

fn bind_one(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A port is free again the moment its last service has stopped, whatever connections are still closing.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// An address at which this socket can be reached from this machine.
pub fn reachable(listener: &TcpListener) -> std::io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    Ok(if address.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, address.port()).into() } else { address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_given_and_not_in_use_are_told() {
        let listener = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let sockets = Sockets { api: listener(), download: listener() };
        let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        let (api, download) = (port(&sockets.api), port(&sockets.download));
        let told = |bind: &str, port, download_port, given: &[&str]| {
            let bind = Some(bind.parse().expect("an address"));
            let config = Config { bind, port, download_port, ..Config::default() };
            let origin = |key| if given.contains(&key) { Origin::Variable(format!("OF_{key}")) } else { Origin::Default };
            let origins: Vec<Origin> = SETTINGS.iter().map(|setting| origin(setting.key)).collect();
            sockets.ignored(&config, &origins).expect("bound")
        };
        let all = ["bind", "listenPort", "downloadPort"];
        assert!(told("127.0.0.1", api, download, &all).is_empty(), "that is what they are");
        assert!(told("::ffff:127.0.0.1", 0, 0, &all).is_empty(), "the same in other words");
        assert!(told("127.0.0.2", download, api, &[]).is_empty(), "nobody gave them");
        let said = told("0.0.0.0", download, api, &all);
        assert_eq!(said.len(), 3, "{said:?}");
        for key in all {
            assert!(said.iter().any(|sentence| sentence.starts_with(&format!("OF_{key}: {key} is "))), "{key} in {said:?}");
        }
    }
}
