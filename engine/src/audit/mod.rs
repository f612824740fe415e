//! audit (stub).
