//! `supernode serve`: the service.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

use super::home_lock::HomeLock;
use super::sockets::{Sockets, reachable};
use crate::cluster::Cluster;
use crate::config::{Config, Home};
use crate::http::{Api, Connections, Observed, api_routes, control_routes, download_routes, serve_tcp, serve_unix};

/// How long connections may take to end once the service is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until it is told to stop (SIGTERM, SIGINT), or until it can promise nothing any more.
pub fn run(config: Config) -> anyhow::Result<()> {
    // SAFETY: nothing has opened a descriptor yet.
    let sockets = unsafe { Sockets::open(&config)? };
    let home = Home::new(config.home.clone());
    let _lock = HomeLock::take(&home)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(config, &home, sockets))
}

async fn serve(config: Config, home: &Home, sockets: Sockets) -> anyhow::Result<()> {
    // From the first moment on: a signal that comes while the service starts is not lost.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let addresses = Addresses { api: reachable(&sockets.api)?, download: reachable(&sockets.download)? };
    let opening = tokio::task::spawn_blocking(move || Cluster::open(config));
    let cluster = opening.await?.with_context(|| format!("cannot start on the home {}", home.path().display()))?;
    let connections = Connections::default();
    let listening = listen(sockets, home, &cluster, &addresses, &connections)?;
    cluster.start();
    addresses.write(&home.addresses()).context("cannot write the addresses in use")?;
    tracing::info!(api = %addresses.api, download = %addresses.download, home = %home.path().display(), "serving");

    let failed = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = cluster.failed() => true,
    };
    let _ = std::fs::remove_file(home.addresses());
    let _ = std::fs::remove_file(home.control_socket());
    if failed {
        bail!("the database can no longer be written; start again to recover what was acknowledged");
    }
    tracing::info!("stopping: answering what is held, finishing what is open");
    cluster.drain();
    connections.end();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.ended()).await.is_err() {
        tracing::warn!("some connections did not end in time and are cut");
    }
    for task in listening {
        // Each ends with the connections' end; one that panicked must not look like an orderly stop.
        task.await?;
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
) -> anyhow::Result<Vec<tokio::task::JoinHandle<()>>> {
    let api = Api { cluster: cluster.clone(), download_port: addresses.download.port() };
    let api = serve_tcp(TcpListener::from_std(sockets.api)?, Observed(warp::service(api_routes(api))), connections.clone());
    let routes = warp::service(download_routes(cluster.clone()));
    let download = serve_tcp(TcpListener::from_std(sockets.download)?, routes, connections.clone());
    let control = bind_control(&home.control_socket())?;
    let control = serve_unix(control, warp::service(control_routes(cluster.clone())), connections.clone());
    Ok(vec![tokio::spawn(api), tokio::spawn(download), tokio::spawn(control)])
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
