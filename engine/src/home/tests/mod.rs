//! Tests of the home's decisions: exact effects, a model of the shard, crashes
//! at every step of an opening, the lease table.

mod apply;
mod crash;
mod deletions;
mod fixtures;
mod lease;
mod members;
mod model;
mod opening;
mod services;
