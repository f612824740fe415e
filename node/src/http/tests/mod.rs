//! The planes over real TLS on loopback, against homes and custodians made up
//! for the purpose. `fixture` has those, the rest is by plane.

mod client;
mod fixture;
mod limits;
mod openapi;
mod operator_health;
mod registry;
mod session;
