//! Conformance of the stores.
