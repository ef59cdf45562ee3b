//! The service itself: opens the home, serves the sockets, and ends in order.
//!
//! The sockets are served from the first moment; until the swarms are rebuilt, clients are told to wait.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::Mode;
use rustix::process::Resource;
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::handover::{Handover, News};
use super::notify;
use super::reload::{log_loaded, reload_on};
use super::signals::{Ending, Signals};
use super::sockets::{Sockets, reachable};
use super::{DrainedForUpgrade, WritableAgain};
use crate::cluster::{Cluster, Failed, StartError};
use crate::commands::home_lock::HomeLock;
use crate::config::{Config, Home, LogConfig, Sources, units};
use crate::http::{Api, Connections, Observed, Staged, api_routes, control_routes, download_routes, serve_tcp, serve_unix};
use crate::telemetry::recovery::RECOVERY;
use crate::telemetry::{Log, LogFile, NoLogFile, RollingFile};

/// How long connections may take to end once the service is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long work on blocking threads may take to end after that.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the log tells how far the recovery is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Before a home that cannot be opened for what may pass is tried again.
const OPEN_EVERY: Duration = Duration::from_secs(2);
const OPEN_EVERY_MAX: Duration = Duration::from_secs(15);
/// How often room for a database that cannot be written is looked for.
const MAKE_ROOM_EVERY: Duration = Duration::from_secs(10);
/// What to do about a home that the machine does not let us use.
const REMEDY: &str =
    ", which is left as it is: see that its disk has room and no faults and that its files are ours, then start again";

/// What to do about addresses that are configured and not in use.
const REMEDY_SUPERVISED: &str =
    "stop the service and start it again: a reload, a restart of its worker and an upgrade keep its sockets";
const REMEDY_MANAGED: &str = "set them where the sockets are made (ListenStream of supernode.socket) and restart both units, or take them out of the configuration";

/// Serves until it is told to stop, or until it can promise nothing any more.
pub fn run(sources: Sources, inherited: Option<Sockets>, handover: Option<Handover>) -> anyhow::Result<()> {
    let loaded = sources.load()?;
    // Whatever is made from here on is this user's alone: credentials for sources are stored in the home.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let log = set_up_log(&loaded.config, handover.as_ref().is_some_and(Handover::has_served))?;
    if let Some(handover) = &handover {
        log_news(&handover.news);
    }
    log_loaded(&loaded);
    let config = loaded.config;
    let descriptors = raise_descriptor_limit();
    let home = Home::new(config.home.clone());
    // The home before the ports: who starts twice should read who has the home, not that a port is taken.
    let lock = HomeLock::take(&home)?;
    // What a killed service left there must not be taken for us.
    let _ = std::fs::remove_file(home.addresses());
    let sockets = inherited.map_or_else(|| Sockets::bind(&config), Ok)?;
    for ignored in sockets.ignored(&config, &loaded.origins)? {
        let remedy = if handover.is_some() { REMEDY_SUPERVISED } else { REMEDY_MANAGED };
        tracing::warn!("{ignored}; {remedy}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let service = Service { home, log, sources: Arc::new(sources), handover };
    let ending = runtime.block_on(service.serve(config, sockets, descriptors));
    // Reading back a large file is not waited for: it changes nothing. A database that is being written anew may be put in its
    // place until the process ends, and nobody else may have the home before that.
    std::mem::forget(lock);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    match ending? {
        Ending::Stop => Ok(()),
        Ending::Upgrade => Err(DrainedForUpgrade.into()),
    }
}

/// What the supervisor saw, which does not log itself.
fn log_news(news: &News) {
    if let Some(death) = &news.death {
        tracing::error!(death, failed_starts = news.failed_starts, "the service died and is started again");
    }
    if let Some(why) = &news.failed_upgrade {
        tracing::error!(why, "the new program was not ready before it ended; the old one goes on");
    }
}

/// A service that served before does not end for want of a log file: it can do without, and clients cannot.
fn set_up_log(config: &Config, has_served: bool) -> anyhow::Result<Log> {
    match open_log_file(config) {
        Err(error) if has_served => {
            let log = Log::set_up(config.debug, None)?;
            tracing::error!(error = &error as &dyn std::error::Error, "logging to standard error until the next restart");
            Ok(log)
        }
        file => Ok(Log::set_up(config.debug, file?)?),
    }
}

fn open_log_file(config: &Config) -> Result<Option<RollingFile>, NoLogFile> {
    let LogConfig { path, size_max_mb, backups_max, age_max_days } = &config.log;
    let file = path.as_ref().map(|path| LogFile {
        path: path.clone(),
        size_max_bytes: u64::from(*size_max_mb) * units::M,
        backups_max: *backups_max,
        age_max: Duration::from_hours(24 * u64::from(*age_max_days)),
    });
    file.map(RollingFile::open).transpose()
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

/// A service that is being started, or runs.
struct Service {
    home: Home,
    log: Log,
    sources: Arc<Sources>,
    handover: Option<Handover>,
}

impl Service {
    async fn serve(self, config: Config, sockets: Sockets, descriptors: usize) -> anyhow::Result<Ending> {
        let mut signals = Signals::listen(self.handover.is_some(), &self.home)?;
        let on_all = sockets.api.local_addr()?.ip().is_unspecified();
        let addresses = Addresses { api: reachable(&sockets.api)?, download: reachable(&sockets.download)?, on_all };
        let connections = Connections::within(descriptors);
        let (api, download) = (Staged::default(), Staged::default());
        let mut listening = JoinSet::new();
        let listener = TcpListener::from_std(sockets.api)?;
        listening.spawn(serve_tcp(listener, Observed(api.clone()), connections.clone()));
        listening.spawn(serve_tcp(TcpListener::from_std(sockets.download)?, download.clone(), connections.clone()));

        let (ending, hangup) = signals.split();
        // One for all that follows: a signal that is being looked into is not forgotten when the recovery ends.
        let mut ending = std::pin::pin!(ending);
        let cluster = tokio::select! {
            opened = self.open(config) => opened?,
            // Nothing was acknowledged, so there is nothing to finish but to tell those who wait for it.
            ending = &mut ending => {
                tell_stopping(ending);
                api.end();
                download.end();
                finish(&connections).await;
                return Ok(ending);
            }
            never = self.tell_progress() => match never {},
        };
        api.open(warp::service(api_routes(Api { cluster: cluster.clone(), download_port: addresses.download.port() })));
        download.open(warp::service(download_routes(cluster.clone())));
        let control = bind_control(&self.home.control_socket());
        if let Some(control) = self.or_without(control)? {
            listening.spawn(serve_unix(control, warp::service(control_routes(cluster.clone())), connections.clone()));
        }
        cluster.start();
        self.tell_ready(&addresses)?;

        let ended = tokio::select! {
            ending = &mut ending => Ok(ending),
            Err(failed) = reload_on(hangup, self.sources.clone(), &cluster, &self.log) => Err(failed),
            failed = until_over(&cluster) => Err(failed),
            never = notify::keep_watchdog(&cluster) => match never {},
            Some(ended) = listening.join_next() => Err(anyhow::anyhow!("a listening socket is no longer served: {ended:?}")),
        };
        let _ = std::fs::remove_file(self.home.addresses());
        let _ = std::fs::remove_file(self.home.control_socket());
        let ending = ended?;
        tell_stopping(ending);
        drain(&cluster, &connections).await;
        Ok(ending)
    }

    /// Opens the home. A service that served before does not give up for what may pass (a full disk, say): meanwhile it
    /// tells clients to wait, where its end would drive them to the source. A new program for which the disk has no room
    /// leaves it to the old one.
    async fn open(&self, config: Config) -> anyhow::Result<Arc<Cluster>> {
        let reopened = self.handover.as_ref().map_or(0, |handover| handover.news.reopened);
        if reopened > 1 {
            // It could be opened, and then not be written. That is no reason to try as fast as can be.
            RECOVERY.hinder();
            tokio::time::sleep(OPEN_EVERY.saturating_mul(1 << (reopened - 2).min(8)).min(OPEN_EVERY_MAX)).await;
        }
        loop {
            let config = config.clone();
            match tokio::task::spawn_blocking(move || Cluster::open(config)).await? {
                Err(error) if self.is_on_trial() && error.is_want_of_room() => {
                    return Err(error).context("there is no room for the new program to open the home");
                }
                Err(error) if self.has_served() && error.may_pass() => {
                    let retry_after_s = OPEN_EVERY.as_secs();
                    tracing::error!(error = &error as &dyn std::error::Error, retry_after_s, "the home cannot be opened now");
                    RECOVERY.hinder();
                    tokio::time::sleep(OPEN_EVERY).await;
                }
                opened => {
                    let may_pass = opened.as_ref().is_err_and(StartError::may_pass);
                    let remedy = if may_pass { REMEDY } else { "" };
                    return opened.with_context(|| format!("cannot start on the home {}{remedy}", self.home.path().display()));
                }
            }
        }
    }

    /// Tells how far the recovery is, until it is over.
    async fn tell_progress(&self) -> Infallible {
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        // The first is at once.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            tracing::info!("{RECOVERY}");
            notify::tell(&[NotifyState::Status(&RECOVERY.to_string())]);
            if let Some(handover) = &self.handover {
                handover.tell_alive();
            }
        }
    }

    fn has_served(&self) -> bool {
        self.handover.as_ref().is_some_and(Handover::has_served)
    }

    /// Whether another program goes on where this one ends before it is ready.
    fn is_on_trial(&self) -> bool {
        self.handover.as_ref().is_some_and(|handover| handover.news.on_trial)
    }

    /// What clients can do without, a service that served before does not end for: on a full disk nothing can be made.
    fn or_without<T>(&self, made: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        match made {
            Err(error) if self.has_served() => {
                tracing::error!("serving without: {error:#}");
                Ok(None)
            }
            made => made.map(Some),
        }
    }

    fn tell_ready(&self, addresses: &Addresses) -> anyhow::Result<()> {
        let supervisor = self.handover.as_ref().map(Handover::supervisor);
        let written = addresses.write(&self.home.addresses(), supervisor).context("cannot write the addresses in use");
        self.or_without(written)?;
        if addresses.on_all {
            tracing::info!("listening on all addresses of this machine");
        }
        tracing::info!(api = %addresses.api, download = %addresses.download, home = %self.home.path().display(), "serving");
        notify::tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
        if let Some(handover) = &self.handover {
            handover.tell_ready();
        }
        Ok(())
    }
}

/// Returns when the service can promise nothing any more and should be started anew. One whose database cannot be written
/// serves what it has until that has passed: a start would not get any further, and would serve nothing.
async fn until_over(cluster: &Arc<Cluster>) -> anyhow::Error {
    match cluster.failed().await {
        Failed::Panic => return Failed::Panic.into(),
        Failed::Database => {}
    }
    tracing::error!("degraded: pieces are still served, and clients are told to wait until the database can be written");
    notify::tell(&[NotifyState::Status("degraded: the database cannot be written")]);
    // What is used now may not be in a while.
    let making_room = async {
        loop {
            cluster.make_room_for_database().await;
            tokio::time::sleep(MAKE_ROOM_EVERY).await;
        }
    };
    tokio::select! {
        never = making_room => match never {},
        () = cluster.writable_again() => WritableAgain.into(),
        () = cluster.panicked() => Failed::Panic.into(),
    }
}

fn tell_stopping(ending: Ending) {
    tracing::info!("stopping: answering what is held, finishing what is open");
    if ending == Ending::Stop {
        notify::tell(&[NotifyState::Stopping]);
    }
}

async fn drain(cluster: &Cluster, connections: &Connections) {
    cluster.drain();
    finish(connections).await;
    cluster.stop().await;
    tracing::info!("stopped");
}

/// Lets every connection end with the request that it is serving.
async fn finish(connections: &Connections) {
    connections.end();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.ended()).await.is_err() {
        tracing::warn!("some connections did not end in time and are cut");
    }
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
    /// They are those for this machine; others have others.
    on_all: bool,
}

impl Addresses {
    /// Writes beside and renames, so that nobody reads half of it.
    fn write(&self, path: &Path, supervisor: Option<i32>) -> anyhow::Result<()> {
        let text = serde_json::json!({
            "pid": std::process::id(),
            "supervisor": supervisor,
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
