//! Telegram Desktop's JSON export: in and out again, nothing lost.
//!
//! ```text
//!  FILE ── survey (pass 1: hash, root, chats, where each chat's messages begin)
//!    │
//!    ├── one archive chat: the root without its chats, then the chats in order
//!    └── per chat (pass 2, several at once): scan ▸ value ▸ records ▸ batches ─▶ home
//!  home ── archive chat ▸ chats in order ▸ pages ▸ value::write ─▶ FILE
//! ```
//!
//! The mapping and its reserved keys are in `docs/import.md`. Media files are
//! not uploaded: their metadata is, as part of the messages.

mod batch;
pub mod export;
mod identify;
pub mod import;
pub mod journal;
pub mod number;
pub mod records;
pub mod scan;
pub mod survey;
pub mod value;
