//! Signed statements of accounts, chats and authorities.

use super::mutate::Kind;
use super::run::Target;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::*;
use quorate_engine::authz::membership::{
    ChatChange, ChatGenesis, ChatPayload, ChatStatement, Invite,
};
use quorate_engine::authz::standing::Role;
use quorate_engine::crypto::labels::SIGN_ACCOUNT;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::types::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

const T: u64 = 1_800_000_000_000;
const KEY: PublicKey = PublicKey([5; 32]);

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("statements serialise")
}

/// What is read is written so that it is read the same.
fn reads<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else {
        return false;
    };
    let again: T = serde_json::from_slice(&json(&value)).expect("what is written is read");
    assert_eq!(again, value);
    true
}

fn accounts() -> Vec<Vec<u8>> {
    let authorities = ["bank", "post"].map(|a| AuthorityId::new(a).expect("a valid name"));
    let genesis = AccountGenesis {
        deployment: DeploymentId([1; 16]),
        authorities: authorities.clone().into(),
        device: KEY,
        expires_ms: T,
        secret: Some(KEY),
        created_ms: T,
        nonce: Nonce([3; 16]),
    };
    let device = device_id(&KEY);
    let (public, expires_ms) = (KEY, T);
    let authorities = authorities.into();
    let changes = [
        AccountChange::AddDevice { public, expires_ms },
        AccountChange::Renew { device, expires_ms },
        AccountChange::Revoke { device },
        AccountChange::RecoverBegin { public },
        AccountChange::Veto,
        AccountChange::RecoverFinish { public, expires_ms },
        AccountChange::SetSecret { public: None },
        AccountChange::SetAuthorities { authorities },
    ];
    let statement = |change| {
        json(&AccountPayload::Statement(AccountStatement {
            account: AccountId([4; 32]),
            number: 1,
            previous: StatementHash([6; 32]),
            at_ms: T,
            change,
        }))
    };
    let mut out: Vec<_> = changes.into_iter().map(statement).collect();
    out.push(json(&AccountPayload::Genesis(genesis)));
    out
}

fn chats() -> Vec<Vec<u8>> {
    let device = device_id(&KEY);
    let account = AccountId([4; 32]);
    let genesis = ChatGenesis {
        deployment: DeploymentId([1; 16]),
        creator: account,
        device,
        public: true,
        created_ms: T,
        nonce: Nonce([3; 16]),
    };
    let role = Role::Admin;
    let (key, from_epoch) = (KEY, 9);
    let invite = Invite {
        from_epoch,
        expires_ms: T,
        uses: 2,
    };
    let changes = [
        ChatChange::Add {
            account,
            role,
            from_epoch,
        },
        ChatChange::Remove { account },
        ChatChange::SetRole { account, role },
        ChatChange::Leave,
        ChatChange::Invite { key, invite },
        ChatChange::RevokeInvite { key },
        ChatChange::Join {
            invite: Some(key),
            from_epoch,
        },
        ChatChange::SetPublic { public: false },
    ];
    let statement = |change| {
        json(&ChatPayload::Statement(ChatStatement {
            chat: ChatId([2; 32]),
            number: 1,
            previous: StatementHash([6; 32]),
            at_ms: T,
            account,
            device,
            change,
        }))
    };
    let mut out: Vec<_> = changes.into_iter().map(statement).collect();
    out.push(json(&ChatPayload::Genesis(genesis)));
    out
}

/// Payloads of every kind. No payload is read as two kinds.
pub(crate) fn statements() -> Target {
    let keys = AuthorityKeys {
        authority: AuthorityId::new("bank").expect("a valid name"),
        key: AuthorityKey {
            version: 2,
            public: KEY,
            not_before_ms: T,
            not_after_ms: T + 1,
        },
        oldest: 1,
    };
    let mut corpus = accounts();
    corpus.extend(chats());
    corpus.push(json(&keys));
    let check = |bytes: &[u8]| {
        // All but the chains' payloads name their kind by their fields alone.
        let kinds = [
            reads::<AccountPayload>(bytes),
            reads::<ChatPayload>(bytes),
            reads::<AuthorityKeys>(bytes),
        ];
        let read = kinds.iter().filter(|k| **k).count();
        assert!(read <= 1, "read as {read} kinds");
        read == 1
    };
    Target {
        corpus,
        kind: Kind::Text,
        iterations: 60_000,
        allocation_bytes_max: 8 << 20,
        check: Box::new(check),
    }
}

/// Envelopes: none but the one that was signed holds, however it is written.
pub(crate) fn envelopes() -> Target {
    let deployment = DeploymentId([1; 16]);
    let seed = Secret::from_slice(&[9; 32]).expect("32 bytes");
    let key = SigningKey::from_seed(&seed);
    let whole = Envelope::sign(SIGN_ACCOUNT, &deployment, &("a statement", 7), &[&key]);
    let corpus = vec![json(&whole)];
    let check = move |bytes: &[u8]| {
        let Ok(e) = serde_json::from_slice::<Envelope>(bytes) else {
            return false;
        };
        let held = e.signers(SIGN_ACCOUNT, &deployment).is_ok();
        if held {
            assert_eq!(e.payload, whole.payload, "another payload holds");
        }
        true
    };
    Target {
        corpus,
        kind: Kind::Text,
        iterations: 20_000,
        allocation_bytes_max: 8 << 20,
        check: Box::new(check),
    }
}
