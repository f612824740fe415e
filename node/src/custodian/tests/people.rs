//! An authority, people with one device each, and their chats: what they sign.

use super::*;
use quorate_engine::authz::chain::Source;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::{
    AccountChange, AccountGenesis, AccountPayload, AccountStatement, AuthorityKey, AuthorityRecord,
    account_id, device_id,
};
use quorate_engine::authz::membership::{
    ChatChange, ChatGenesis, ChatPayload, ChatStatement, chat_id,
};
use quorate_engine::authz::standing::Role;
use quorate_engine::crypto::labels::{SIGN_ACCOUNT, SIGN_MEMBERSHIP};
use quorate_engine::custody::{Chained, Command, Effect, RegisterAuthority, RegisterHome};

pub(super) fn signer(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::take(&mut [n; 32]))
}

pub(super) fn public(n: u8) -> PublicKey {
    PublicKey(signer(n).public())
}

pub(super) fn signed<T: serde::Serialize>(label: &str, statement: &T, by: &[u8]) -> Envelope {
    let keys: Vec<SigningKey> = by.iter().map(|n| signer(*n)).collect();
    let keys: Vec<&SigningKey> = keys.iter().collect();
    Envelope::sign(label, &place().deployment, statement, &keys)
}

/// Authority `bank`, since `T0`: statement key 100, identity key 101.
pub(super) fn bank() -> AuthorityRecord {
    bank_since(T0)
}

fn bank_since(at_ms: u64) -> AuthorityRecord {
    AuthorityRecord {
        id: AuthorityId::new("bank").unwrap(),
        entity: "Bank".into(),
        jurisdiction: "jp".into(),
        identity_key: public(101),
        keys: vec![key_of_bank(1, 100, at_ms)],
    }
}

pub(super) fn key_of_bank(version: u32, n: u8, at_ms: u64) -> AuthorityKey {
    AuthorityKey {
        version,
        public: public(n),
        not_before_ms: at_ms,
        not_after_ms: at_ms + 300 * DAY,
    }
}

/// The account of `device`.
pub(super) fn founded(device: u8) -> Envelope {
    founded_at(T0, device, 20 * DAY)
}

/// An account whose device's record lasts for `life_ms`.
pub(super) fn founded_at(at_ms: u64, device: u8, life_ms: u64) -> Envelope {
    let g = AccountGenesis {
        deployment: place().deployment,
        authorities: [bank().id].into(),
        device: public(device),
        expires_ms: at_ms + life_ms,
        secret: None,
        created_ms: at_ms,
        nonce: Nonce([device; 16]),
    };
    signed(SIGN_ACCOUNT, &AccountPayload::Genesis(g), &[device, 100])
}

pub(super) fn account_of(device: u8) -> AccountId {
    account_id(&founded(device))
}

/// A statement about the account that `genesis` founds.
pub(super) fn of_account(
    genesis: &Envelope,
    after: &Envelope,
    number: u64,
    change: AccountChange,
    by: &[u8],
) -> Envelope {
    let s = AccountStatement {
        account: account_id(genesis),
        number,
        previous: StatementHash(after.hash()),
        at_ms: T0,
        change,
    };
    signed(SIGN_ACCOUNT, &AccountPayload::Statement(s), by)
}

/// The chat of the account of `device`.
pub(super) fn chat_of(device: u8) -> Envelope {
    chat_at(T0, device, 9)
}

pub(super) fn chat_at(at_ms: u64, device: u8, nonce: u8) -> Envelope {
    let g = ChatGenesis {
        deployment: place().deployment,
        creator: account_id(&founded_at(at_ms, device, 20 * DAY)),
        device: device_id(&public(device)),
        public: false,
        created_ms: at_ms,
        nonce: Nonce([nonce; 16]),
    };
    signed(SIGN_MEMBERSHIP, &ChatPayload::Genesis(g), &[device])
}

/// A statement about the chat that `genesis` founds, by the account of device 1.
pub(super) fn of_chat(
    genesis: &Envelope,
    after: &Envelope,
    number: u64,
    change: ChatChange,
) -> Envelope {
    let s = ChatStatement {
        chat: chat_id(genesis),
        number,
        previous: StatementHash(after.hash()),
        at_ms: T0,
        account: account_of(1),
        device: device_id(&public(1)),
        change,
    };
    signed(SIGN_MEMBERSHIP, &ChatPayload::Statement(s), &[1])
}

/// The account of `device` may read from `from_epoch` on.
pub(super) fn adds(device: u8, from_epoch: EpochNo) -> ChatChange {
    ChatChange::Add {
        account: account_of(device),
        role: Role::Member,
        from_epoch,
    }
}

/// Statement 1 of the first account's chat: the account of `device` comes in.
pub(super) fn added(device: u8) -> Envelope {
    let genesis = chat_of(1);
    of_chat(&genesis, &genesis, 1, adds(device, 0))
}

pub(super) fn of_account_chain(envelope: Envelope) -> Command {
    let source = Source::Client;
    Command::AccountStatement(Chained { source, envelope })
}

pub(super) fn of_chat_chain(source: Source, envelope: Envelope) -> Command {
    Command::ChatStatement(Chained { source, envelope })
}

/// Has `c` apply `command`; it must change something, or have done so before.
pub(super) async fn applied(c: &Custodian, command: Command) {
    let told = c.submit(command).await.unwrap().into_value();
    let fine = matches!(
        told.effect,
        Effect::Done | Effect::Unchanged | Effect::Chained { .. }
    );
    assert!(fine, "{:?}", told.effect);
}

/// Makes the authority, the home, the account of device 1 and its chat known, all of `at_ms`.
pub(super) async fn introduce(c: &Custodian, at_ms: u64) {
    let reason = || "known to its officers".to_owned();
    let authority = RegisterAuthority {
        operator: operator(),
        reason: reason(),
        record: bank_since(at_ms),
    };
    applied(c, Command::RegisterAuthority(authority)).await;
    let home = RegisterHome {
        operator: operator(),
        reason: reason(),
        home: HomeId::new("ae").unwrap(),
        entity: "Home LLC".into(),
    };
    applied(c, Command::RegisterHome(home)).await;
    applied(c, of_account_chain(founded_at(at_ms, 1, 20 * DAY))).await;
    applied(c, of_chat_chain(Source::Client, chat_at(at_ms, 1, 9))).await;
}
