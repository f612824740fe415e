//! quorum (stub).
