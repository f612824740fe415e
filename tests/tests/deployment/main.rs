//! Whole deployments of real `quorate-node` processes, and the `quorate` binary
//! against them: what only shows when everything is together.
//!
//! `cargo test` builds the binaries of other crates of the workspace only when
//! the whole workspace is tested; alone, run
//! `cargo build --workspace --bins && cargo test -p quorate-tests --test deployment`.

mod browser;
mod canaries;
mod crashes;
mod deletions;
mod devices;
mod entities;
mod failpoints;
mod faults;
mod freeze;
mod full_disk;
mod hostile_home;
mod interop;
mod keys;
mod load;
mod log;
mod officers;
mod operations;
mod orders;
mod people;
mod planes;
mod rotation;
mod services;
mod shred;
mod webhook;
mod world;
