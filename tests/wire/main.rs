//! The whole service over the wire: the real binary, clients that act as the published ones do, and a source.
//!
//! Black box: nothing of the library is used. Everything happens on loopback, each test with a home and ports of its own.
//! What is waited for is told by a handshake or seen in a dump, never slept for.

mod bad_input;
mod cache;
mod clients;
mod configuration;
mod end_to_end;
mod harness;
mod origins;
mod reference;
mod replay;
mod rest;
mod source_pattern;
mod supervised;
mod vectors;
