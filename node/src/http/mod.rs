//! HTTP planes of a node: client, operator, registry, audit, health. One listener, one router
//! and one service definition each, so that no plane can reach another's
//! endpoints.
//!
//! ```text
//!  socket ─▶ serve (connection cap, handshake and header deadlines, TLS 1.3)
//!              ─▶ envelope (request id, concurrency, deadline, problem+json)
//!                   ─▶ client   ─▶ dyn HomeApi
//!                   ─▶ operator ─▶ dyn OperatorApi   (operator certificate needed)
//!                   ─▶ registry ─▶ dyn RegistryApi   (authority certificate needed)
//!                   ─▶ audit    ─▶ dyn AuditApi      (entries: an auditor's token needed)
//!  plain socket ──▶ health      ─▶ dyn HealthApi
//! ```
//!
//! Errors are RFC 9457 problem documents, made in one place ([`problem`]), each
//! with a stable code, what to do next, whether and when repeating may help,
//! and what may be concluded about the effect. A deadline on a write is
//! *unknown*, never *failed*.
//!
//! Deliberately not here: any decision, any state. Handlers parse, call a
//! trait, and print.

pub mod audit;
pub mod client;
pub mod envelope;
pub mod health;
pub mod input;
mod keys;
mod officers;
pub mod openapi;
pub mod operator;
pub mod problem;
pub mod registry;
pub mod serve;
mod services;
pub mod session;
pub mod tls;

#[cfg(test)]
mod tests;
