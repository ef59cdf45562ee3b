//! `supernode serve`: the service.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::Mode;
use rustix::process::Resource;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::home_lock::HomeLock;
use super::reload::{log_loaded, reload_on};
use super::sockets::{Sockets, reachable};
use crate::cluster::Cluster;
use crate::config::{CdnPattern, Config, Home, LogConfig, Sources, units};
use crate::http::{Api, Connections, Observed, api_routes, control_routes, download_routes, serve_tcp, serve_unix};
use crate::telemetry::{Log, LogFile};

/// How long connections may take to end once the service is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long work on blocking threads may take to end after that.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// The configuration wants what is not built.
#[derive(Debug, thiserror::Error)]
#[error("cdnPattern is source, which this supernode cannot do yet: use local, with which it keeps the pieces on its disk")]
pub struct SourcePattern;

/// Serves until it is told to stop (SIGTERM, SIGINT), or until it can promise nothing any more.
pub fn run(sources: Sources) -> anyhow::Result<()> {
    // SAFETY: nothing has opened a descriptor yet.
    let inherited = unsafe { Sockets::inherited()? };
    let loaded = sources.load()?;
    if loaded.config.cdn_pattern == CdnPattern::Source {
        return Err(SourcePattern.into());
    }
    // Whatever is made from here on is this user's alone: credentials for sources are stored in the home.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let log = set_up_log(&loaded.config)?;
    log_loaded(&loaded);
    let config = loaded.config;
    let descriptors = raise_descriptor_limit();
    let home = Home::new(config.home.clone());
    // The home before the ports: who starts twice should read who has the home, not that a port is taken.
    let _lock = HomeLock::take(&home)?;
    // What a killed service left there must not be taken for us.
    let _ = std::fs::remove_file(home.addresses());
    let sockets = inherited.map_or_else(|| Sockets::bind(&config), Ok)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(config, &home, sockets, descriptors, &log, Arc::new(sources)));
    // Reading back a large file is not waited for: it changes nothing.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    outcome
}

fn set_up_log(config: &Config) -> anyhow::Result<Log> {
    let LogConfig { path, size_max_mb, backups_max, age_max_days } = &config.log;
    let file = path.as_ref().map(|path| LogFile {
        path: path.clone(),
        size_max_bytes: u64::from(*size_max_mb) * units::M,
        backups_max: *backups_max,
        age_max: Duration::from_hours(24 * u64::from(*age_max_days)),
    });
    Log::set_up(config.debug, file)
}

/// Every connection and open piece file takes a descriptor, and the usual soft limit is that of an interactive program.
/// Tells how many there may be.
fn raise_descriptor_limit() -> usize {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "limit of open files cannot be raised");
    }
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

async fn serve(
    config: Config,
    home: &Home,
    sockets: Sockets,
    descriptors: usize,
    log: &Log,
    sources: Arc<Sources>,
) -> anyhow::Result<()> {
    // From the first moment on: a signal that comes while the service starts is not lost.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let addresses = Addresses { api: reachable(&sockets.api)?, download: reachable(&sockets.download)? };
    let opening = tokio::task::spawn_blocking(move || Cluster::open(config));
    let cluster = opening.await?.with_context(|| format!("cannot start on the home {}", home.path().display()))?;
    let connections = Connections::within(descriptors);
    let mut listening = listen(sockets, home, &cluster, &addresses, &connections)?;
    cluster.start();
    addresses.write(&home.addresses()).context("cannot write the addresses in use")?;
    tracing::info!(api = %addresses.api, download = %addresses.download, home = %home.path().display(), "serving");

    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        Err(failed) = reload_on(&mut hangup, sources, &cluster, log) => Some(failed),
        failed = cluster.failed() => Some(anyhow::Error::from(failed)),
        Some(ended) = listening.join_next() => Some(anyhow::anyhow!("a listening socket is no longer served: {ended:?}")),
    };
    let _ = std::fs::remove_file(home.addresses());
    let _ = std::fs::remove_file(home.control_socket());
    if let Some(failed) = failed {
        return Err(failed);
    }
    tracing::info!("stopping: answering what is held, finishing what is open");
    cluster.drain();
    connections.end();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.ended()).await.is_err() {
        tracing::warn!("some connections did not end in time and are cut");
    }
    cluster.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Begins to serve on every socket.
fn listen(
    sockets: Sockets,
    home: &Home,
    cluster: &Arc<Cluster>,
    addresses: &Addresses,
    connections: &Connections,
) -> anyhow::Result<JoinSet<()>> {
    let api = Api { cluster: cluster.clone(), download_port: addresses.download.port() };
    let api = serve_tcp(TcpListener::from_std(sockets.api)?, Observed(warp::service(api_routes(api))), connections.clone());
    let routes = warp::service(download_routes(cluster.clone()));
    let download = serve_tcp(TcpListener::from_std(sockets.download)?, routes, connections.clone());
    let control = bind_control(&home.control_socket())?;
    let control = serve_unix(control, warp::service(control_routes(cluster.clone())), connections.clone());
    let mut listening = JoinSet::new();
    listening.spawn(api);
    listening.spawn(download);
    listening.spawn(control);
    Ok(listening)
}

/// The socket for commands on this machine. The home's lock is ours, so a socket that is there is a dead one's.
fn bind_control(path: &Path) -> anyhow::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on the control socket {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Where the service can be reached, for scripts.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    api: SocketAddr,
    download: SocketAddr,
}

impl Addresses {
    /// Writes beside and renames, so that nobody reads half of it.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::json!({
            "pid": std::process::id(),
            "api": self.api.to_string(),
            "download": self.download.to_string(),
        });
        let beside = path.with_extension("json.new");
        let mut file = std::fs::File::create(&beside)?;
        writeln!(file, "{text}")?;
        std::fs::rename(&beside, path)?;
        Ok(())
    }
}
