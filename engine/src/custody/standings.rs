//! How `apply` learns where devices and members stand, at its own place in the log.

use super::view_chains;
use crate::authz::standing::{DeviceStanding, MemberStanding};
use crate::types::kv::{KvError, KvRead};
use crate::types::{AccountId, ChatId, DeviceId, WallMs};
use std::fmt;

/// Reads standings out of replicated state, and out of nothing else: every
/// node of a custodian must find the same.
pub trait Standings: fmt::Debug + Send + Sync {
    /// Where `device` stands as a device of `account`.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    fn device(
        &self,
        kv: &dyn KvRead,
        account: &AccountId,
        device: &DeviceId,
        now_ms: WallMs,
    ) -> Result<DeviceStanding, KvError>;

    /// Where `account` stands in `chat`.
    ///
    /// # Errors
    /// [`KvError`] when the store cannot be read.
    fn member(
        &self,
        kv: &dyn KvRead,
        chat: &ChatId,
        account: &AccountId,
    ) -> Result<MemberStanding, KvError>;
}

/// The rows of accounts and chats.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows;

impl Standings for Rows {
    fn device(
        &self,
        kv: &dyn KvRead,
        account: &AccountId,
        device: &DeviceId,
        now_ms: WallMs,
    ) -> Result<DeviceStanding, KvError> {
        view_chains::device(kv, account, device, now_ms)
    }
    fn member(
        &self,
        kv: &dyn KvRead,
        chat: &ChatId,
        account: &AccountId,
    ) -> Result<MemberStanding, KvError> {
        view_chains::member(kv, chat, account)
    }
}
