//! Every kind of signed statement about accounts and chats, held still by
//! `docs/identity.md`: payload, hash or id, first signature.

use super::envelope::Envelope;
use super::identity::{
    AccountChange, AccountGenesis, AccountPayload, AccountStatement, AuthorityKey, AuthorityKeys,
    account_id, device_id,
};
use super::membership::{ChatChange, ChatGenesis, ChatPayload, ChatStatement, Invite, chat_id};
use super::standing::Role;
use crate::crypto::labels::{SIGN_ACCOUNT, SIGN_AUTHORITY, SIGN_MEMBERSHIP};
use crate::crypto::sign::SigningKey;
use crate::types::{AccountId, AuthorityId, DeploymentId, Nonce, PublicKey, Secret, StatementHash};
use serde::Serialize;
use std::fmt::Write;

const D: DeploymentId = DeploymentId([0x11; 16]);
const T: u64 = 1_700_000_000_000;

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
}
fn public(n: u8) -> PublicKey {
    PublicKey(key(n).public())
}

fn show<T: Serialize>(out: &mut String, name: &str, label: &str, statement: &T) -> Envelope {
    let e = Envelope::sign(label, &D, statement, &[&key(1)]);
    let hash = hex::encode(e.hash());
    let signature = &e.signatures[0].signature;
    writeln!(
        out,
        "{name}\n  {}\n  hash {hash}\n  signature {signature}",
        e.payload
    )
    .unwrap();
    e
}

fn expected() -> String {
    let mut out = String::new();
    let authorities = ["bank", "post"].map(|a| AuthorityId::new(a).unwrap());
    let genesis = AccountGenesis {
        deployment: D,
        authorities: authorities.clone().into(),
        device: public(1),
        expires_ms: T + 1000,
        secret: Some(public(9)),
        created_ms: T,
        nonce: Nonce([0x22; 16]),
    };
    let payload = AccountPayload::Genesis(genesis);
    let e = show(&mut out, "account genesis", SIGN_ACCOUNT, &payload);
    let account = account_id(&e);
    writeln!(
        out,
        "  account {account}\n  device {}",
        device_id(&public(1))
    )
    .unwrap();
    let expires_ms = T + 2000;
    let changes = [
        AccountChange::AddDevice {
            public: public(2),
            expires_ms,
        },
        AccountChange::Renew {
            device: device_id(&public(2)),
            expires_ms,
        },
        AccountChange::Revoke {
            device: device_id(&public(2)),
        },
        AccountChange::RecoverBegin { public: public(3) },
        AccountChange::Veto,
        AccountChange::RecoverFinish {
            public: public(3),
            expires_ms,
        },
        AccountChange::SetSecret { public: None },
        AccountChange::SetAuthorities {
            authorities: authorities.clone().into(),
        },
    ];
    for change in changes {
        let name = change.name();
        let s = AccountStatement {
            account,
            number: 1,
            previous: StatementHash(e.hash()),
            at_ms: T + 1,
            change,
        };
        show(&mut out, name, SIGN_ACCOUNT, &AccountPayload::Statement(s));
    }
    let genesis = ChatGenesis {
        deployment: D,
        creator: account,
        device: device_id(&public(1)),
        public: false,
        created_ms: T,
        nonce: Nonce([0x33; 16]),
    };
    let payload = ChatPayload::Genesis(genesis);
    let e = show(&mut out, "chat genesis", SIGN_MEMBERSHIP, &payload);
    let chat = chat_id(&e);
    writeln!(out, "  chat {chat}").unwrap();
    let other = AccountId([0x44; 32]);
    let invite = Invite {
        from_epoch: 5,
        expires_ms,
        uses: 3,
    };
    let changes = [
        ChatChange::Add {
            account: other,
            role: Role::Admin,
            from_epoch: 5,
        },
        ChatChange::Remove { account: other },
        ChatChange::SetRole {
            account: other,
            role: Role::Member,
        },
        ChatChange::Leave,
        ChatChange::Invite {
            key: public(4),
            invite,
        },
        ChatChange::RevokeInvite { key: public(4) },
        ChatChange::Join {
            invite: Some(public(4)),
            from_epoch: 5,
        },
        ChatChange::SetPublic { public: true },
    ];
    for change in changes {
        let name = change.name();
        let s = ChatStatement {
            chat,
            number: 1,
            previous: StatementHash(e.hash()),
            at_ms: T + 1,
            account,
            device: device_id(&public(1)),
            change,
        };
        show(&mut out, name, SIGN_MEMBERSHIP, &ChatPayload::Statement(s));
    }
    let key = AuthorityKey {
        version: 2,
        public: public(5),
        not_before_ms: T,
        not_after_ms: T + 1000,
    };
    let [authority, _] = authorities;
    let keys = AuthorityKeys {
        authority,
        key,
        oldest: 2,
    };
    show(&mut out, "authority keys", SIGN_AUTHORITY, &keys);
    out
}

#[test]
fn the_page_has_the_bytes_that_this_build_signs() {
    let page = include_str!("../../../docs/identity.md");
    let block = page
        .split("```vectors\n")
        .nth(1)
        .and_then(|b| b.split("```").next());
    let expected = expected();
    assert_eq!(block, Some(expected.as_str()), "expected:\n{expected}");
}
