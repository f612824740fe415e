//! The home: chats and messages, sealed, with their keys at the custodians.

pub mod api;
