//! What operators say to the real binary: by flags, variables and files, at the start and while it runs.

mod reload;
mod start;
