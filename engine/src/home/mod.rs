//! home (stub).
