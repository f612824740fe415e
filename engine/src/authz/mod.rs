//! authz (stub).
