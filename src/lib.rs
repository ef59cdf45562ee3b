//! A supernode: tracker, scheduler and seed of a P2P file-distribution cluster, in one process, with all state durable.
//!
//! # Code map, in reading order
//!
//! | module | what it is |
//! |---|---|
//! | [`domain`] | values: ids, tasks, pieces, clients, digests, and [`domain::Change`], one durable fact |
//! | [`retention`] | pure: which cached files go, and why each goes or stays |
//! | [`swarm`] | the pure core, one `Swarm` a task: events in, decisions and changes out |
//! | [`store`] | typed sled trees, records, schema and migrations, group commit, snapshots, giving room back |
//! | [`pieces`] | the piece files, and slots too small for one: writing, verifying, reading; hashing is the crate `md5-pair` |
//! | [`origin`] | one request to a source, and what its answer means |
//! | [`cdn`] | the background worker: from a source's bytes to stored pieces, resumable |
//! | [`cluster`] | the running whole: owns swarms, store, pieces and downloads; recovery |
//! | [`http`] | the wire: dialects, routes, downloads, connections |
//! | [`commands`] | `serve`, `config`, `version`, `dump`, `snapshot`, `restore`, `check`, `migrate`, `gc`, `bench`: one `run` each |
//! | [`cli`], [`config`], [`telemetry`] | what operators say, and what they are told |
//! | `memory` | what the allocator keeps |
//! | `fuzzing` | what the fuzz targets assert, compiled for fuzzing and tests only |
//!
//! # One event's way through the house
//!
//! A request becomes domain values (`http`), goes to its task's swarm (`cluster`, `swarm`), which changes its state in
//! memory and tells what must become durable; the changes are committed together with everyone else's (`store`), and
//! only then is the request answered.
//!
//! **Architecture Invariant:** `domain`, `swarm` and `retention` do no IO, read no clock and make no randomness.
//! **Architecture Invariant:** no question or report of a client reads the database, but a heartbeat and questions about
//! peers; those, and downloads of what is too small for a file, do it on threads that may block.
//! **Architecture Invariant:** an answer leaves only after everything that it speaks of is durable.
//!
//! Who may use whom is a table in `tests/tidy.rs`, which enforces it.

#![warn(clippy::unwrap_used, clippy::expect_used)]

pub mod cdn;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod domain;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod http;
mod memory;
pub mod origin;
pub mod pieces;
pub mod retention;
pub mod store;
pub mod swarm;
pub mod telemetry;
