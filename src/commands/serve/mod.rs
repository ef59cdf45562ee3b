//! `supernode serve`: the service, in a worker process that a supervisor starts again whenever it dies.

mod handover;
mod notify;
mod reload;
mod signals;
mod sockets;
pub mod supervisor;
mod upgrade;
mod worker;

use handover::Part;
use sockets::Sockets;

use crate::cli::ServeArgs;

/// A worker that has finished so that the new program can take over.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("finished for an upgrade")]
pub struct DrainedForUpgrade;

/// The database could not be written for a while, and can be now.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the database can be written again: ending, to be started anew and recover what was acknowledged")]
pub struct WritableAgain;

/// Serves until it is told to stop (SIGTERM, SIGINT), or until it can promise nothing any more.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    // SAFETY: nothing has opened a descriptor yet.
    let (part, inherited) = unsafe { (Part::of_process()?, Sockets::inherited()?) };
    let (alone, sources) = (args.no_supervise, args.into_sources());
    match part {
        Part::Worker { handover, sockets } => worker::run(sources, Some(sockets), Some(handover)),
        Part::Successor { sockets, worker, news } => supervisor::go_on(sockets, worker, news),
        // Whoever holds the sockets for us starts us again, too.
        Part::First if alone || inherited.is_some() => worker::run(sources, inherited, None),
        Part::First => supervisor::run(&sources),
    }
}
