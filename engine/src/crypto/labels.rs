//! Labels (stub).
