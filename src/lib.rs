pub mod domain;
pub mod swarm;
