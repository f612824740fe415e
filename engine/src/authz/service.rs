//! Service credentials: a program writes for accounts, and never reads.
//!
//! An operator of a home enrols an Ed25519 key there, for some accounts and
//! until some day. The program signs short-lived tokens with it: a JWS like a
//! grant's ([`grant`](super::grant)) with a `typ` of its own, by which no
//! custodian ever takes it for one. Only the home looks at them, and only for
//! appending messages; what it seals them under it deals afresh.
//!
//! ```text
//!  ServiceToken::parse ──▶ decide_service(the enrolled key, member, time) ──▶ append, nothing else
//! ```

use super::grant::GrantRefusal;
use super::jws;
use crate::crypto::labels;
use crate::crypto::sign::{SIGNATURE_LEN, SigningKey};
use crate::types::{AccountId, ChatId, DeploymentId, HomeId, PublicKey, ServiceId, WallMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// The only `typ`.
pub const SERVICE_TYP: &str = "quorate-service+jwt";
/// Longest token, in bytes of its compact form.
pub const SERVICE_BYTES_MAX: usize = 8 << 10;
/// Most chats in one token.
pub const SERVICE_CHATS_MAX: usize = 64;
/// Longest life of a token, in seconds.
pub const SERVICE_LIFE_S_MAX: u64 = 900;
/// Longest that a key stays enrolled, in milliseconds: 366 days.
pub const ENROLMENT_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// Longest name of a key, in bytes.
pub const SERVICE_NAME_BYTES_MAX: usize = 64;
/// Most accounts that one key names.
pub const SERVICE_ACCOUNTS_MAX: usize = 256;

/// The id of a service's key: the hash of its public part.
pub fn service_id(public: &PublicKey) -> ServiceId {
    ServiceId(blake3::derive_key(labels::SERVICE_ID, &public.0))
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident, $code:literal, $text:literal;)+) => {
        /// Why a token lets nobody write.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ServiceRefusal {
            $($(#[$doc])* #[doc = $text] $name),+
        }

        impl ServiceRefusal {
            /// All of them, in the order they are checked.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The stable code of the reason.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code),+ }
            }
            /// What is wrong and what to do.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

refusals! {
    Malformed, "service_malformed", "the token is not of the documented form";
    OtherDeployment, "service_other_deployment", "the token is for another deployment";
    OtherHome, "service_other_home", "the token is for another home";
    Unknown, "service_unknown", "no such key is enrolled at this home; its operator enrols one";
    Ended, "service_ended", "the key's time is over or an operator ended it; enrol a fresh one";
    Signature, "service_signature", "the token's signature does not hold for its key";
    NotYetValid, "service_not_yet", "the token's nbf lies ahead of the home's clock; check the program's clock";
    Expired, "service_expired", "the token's time is over; sign a new one";
    Account, "service_account", "the key was not enrolled for this account";
    Chat, "service_chat", "the token does not name the chat";
    NotMember, "service_not_member", "the account is no member of the chat";
}

impl fmt::Display for ServiceRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ServiceRefusal {}

/// A key as an operator enrols it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceKey {
    /// What it is called in lists.
    pub name: String,
    /// Its public part.
    pub public: PublicKey,
    /// For whom it may write; `None`: for everybody.
    pub accounts: Option<BTreeSet<AccountId>>,
    /// It counts until then.
    pub expires_ms: WallMs,
}

impl ServiceKey {
    /// Whether it can be enrolled at `now_ms`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, now_ms: WallMs) -> Result<(), String> {
        let named = (1..=SERVICE_NAME_BYTES_MAX).contains(&self.name.len());
        if !named || self.name.chars().any(char::is_control) {
            let max = SERVICE_NAME_BYTES_MAX;
            return Err(format!("the name must be 1 to {max} printable bytes"));
        }
        if let Some(accounts) = &self.accounts
            && !(1..=SERVICE_ACCOUNTS_MAX).contains(&accounts.len())
        {
            let (n, max) = (accounts.len(), SERVICE_ACCOUNTS_MAX);
            return Err(format!(
                "{n} accounts; 1 to {max} are allowed, or everybody"
            ));
        }
        let life_ms = self.expires_ms.saturating_sub(now_ms);
        if !(1..=ENROLMENT_MS_MAX).contains(&life_ms) {
            let days = ENROLMENT_MS_MAX / 86_400_000;
            return Err(format!(
                "it must end within {days} days, and not before now"
            ));
        }
        Ok(())
    }
}

/// What a token says, field by field as its payload has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceClaims {
    /// For whom.
    #[serde(rename = "sub", deserialize_with = "jws::canonical")]
    pub account: AccountId,
    /// The deployment it is good for.
    #[serde(rename = "dep", deserialize_with = "jws::canonical")]
    pub deployment: DeploymentId,
    /// The only home that takes it.
    pub home: HomeId,
    /// The chats that are written to: 1 to [`SERVICE_CHATS_MAX`], each once.
    #[serde(deserialize_with = "chats")]
    pub chats: Vec<ChatId>,
    /// Not before, Unix seconds.
    #[serde(rename = "nbf")]
    pub not_before_s: u64,
    /// Not from this time on, Unix seconds; at most [`SERVICE_LIFE_S_MAX`] later.
    #[serde(rename = "exp")]
    pub expires_s: u64,
}

fn chats<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<ChatId>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Written(#[serde(deserialize_with = "jws::canonical")] ChatId);
    let all = Vec::<Written>::deserialize(d)?;
    Ok(all.into_iter().map(|w| w.0).collect())
}

impl ServiceClaims {
    fn check(&self) -> Result<(), ServiceRefusal> {
        let distinct: BTreeSet<_> = self.chats.iter().collect();
        let counted = (1..=SERVICE_CHATS_MAX).contains(&self.chats.len());
        let life_s = self.expires_s.checked_sub(self.not_before_s);
        let lives = life_s.is_some_and(|s| (1..=SERVICE_LIFE_S_MAX).contains(&s));
        match counted && distinct.len() == self.chats.len() && lives {
            true => Ok(()),
            false => Err(ServiceRefusal::Malformed),
        }
    }
}

/// A token of valid form. Whether it lets anybody write, [`decide_service`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceToken {
    service: ServiceId,
    claims: ServiceClaims,
    compact: String,
    signature: [u8; SIGNATURE_LEN],
}

impl ServiceToken {
    /// Signs `claims` with a service's key.
    ///
    /// # Errors
    /// [`ServiceRefusal::Malformed`] when nobody would accept the claims.
    ///
    /// # Panics
    /// Never: claims serialise.
    pub fn sign(key: &SigningKey, claims: ServiceClaims) -> Result<Self, ServiceRefusal> {
        claims.check()?;
        let service = service_id(&PublicKey(key.public()));
        let (compact, signature) = jws::sign(key, SERVICE_TYP, &service, &claims);
        Ok(Self {
            service,
            claims,
            compact,
            signature,
        })
    }

    /// Reads a compact serialization of at most [`SERVICE_BYTES_MAX`].
    ///
    /// # Errors
    /// [`ServiceRefusal::Malformed`].
    pub fn parse(compact: &str) -> Result<Self, ServiceRefusal> {
        Self::read(compact).map_err(|_| ServiceRefusal::Malformed)
    }

    fn read(compact: &str) -> Result<Self, GrantRefusal> {
        let (service, claims, signature) =
            jws::read::<ServiceId, ServiceClaims>(compact, SERVICE_BYTES_MAX, SERVICE_TYP)?;
        claims.check().map_err(|_| GrantRefusal::Payload)?;
        let signature = jws::signature(&signature)?;
        Ok(Self {
            service,
            claims,
            compact: compact.to_owned(),
            signature,
        })
    }

    /// The key that says it signed.
    pub fn service(&self) -> &ServiceId {
        &self.service
    }
    /// What it says.
    pub fn claims(&self) -> &ServiceClaims {
        &self.claims
    }
    /// The text to send.
    pub fn compact(&self) -> &str {
        &self.compact
    }

    fn verify(&self, public: &PublicKey) -> bool {
        jws::holds(&self.compact, &self.signature, &public.0)
    }
}

/// Where a token is shown.
#[derive(Clone, Copy, Debug)]
pub struct ServiceShown<'a> {
    /// The deployment this home is in.
    pub deployment: &'a DeploymentId,
    /// This home.
    pub home: &'a HomeId,
    /// The key with the token's id, and when an operator ended it, if it is enrolled here.
    pub key: Option<(&'a ServiceKey, Option<WallMs>)>,
    /// The chat to be written to.
    pub chat: &'a ChatId,
    /// Whether the token's account is a member of it.
    pub member: bool,
    /// The home's time.
    pub now_ms: WallMs,
}

/// Decides whether messages may be appended to a chat under a token.
///
/// # Errors
/// [`ServiceRefusal`], the first that holds in the order of [`ServiceRefusal::ALL`].
pub fn decide_service(
    token: &ServiceToken,
    shown: &ServiceShown<'_>,
) -> Result<(), ServiceRefusal> {
    use ServiceRefusal as R;
    let claims = token.claims();
    let refuse = |hit: bool, why| if hit { Err(why) } else { Ok(()) };
    refuse(claims.deployment != *shown.deployment, R::OtherDeployment)?;
    refuse(claims.home != *shown.home, R::OtherHome)?;
    let (key, ended_ms) = shown.key.ok_or(R::Unknown)?;
    refuse(service_id(&key.public) != token.service, R::Unknown)?;
    refuse(
        ended_ms.is_some() || shown.now_ms >= key.expires_ms,
        R::Ended,
    )?;
    refuse(!token.verify(&key.public), R::Signature)?;
    let (begins_s, ends_s) = (claims.not_before_s, claims.expires_s);
    refuse(shown.now_ms < begins_s.saturating_mul(1000), R::NotYetValid)?;
    refuse(shown.now_ms >= ends_s.saturating_mul(1000), R::Expired)?;
    let accounts = key.accounts.as_ref();
    let named = accounts.is_none_or(|of| of.contains(&claims.account));
    refuse(!named, R::Account)?;
    refuse(!claims.chats.contains(shown.chat), R::Chat)?;
    refuse(!shown.member, R::NotMember)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::grant::{Action, ChatRange, Claims, Grant};
    use crate::types::{DeviceId, GrantId, Secret};

    const NOW_S: u64 = 1_700_000_100;
    const DEPLOYMENT: DeploymentId = DeploymentId([2; 16]);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
    }
    fn ae() -> HomeId {
        HomeId::new("ae").unwrap()
    }
    fn claims() -> ServiceClaims {
        ServiceClaims {
            account: AccountId([1; 32]),
            deployment: DEPLOYMENT,
            home: ae(),
            chats: vec![ChatId([3; 32])],
            not_before_s: NOW_S - 100,
            expires_s: NOW_S + 100,
        }
    }
    fn enrolled() -> ServiceKey {
        ServiceKey {
            name: "nightly import".into(),
            public: PublicKey(key(1).public()),
            accounts: Some(BTreeSet::from([AccountId([1; 32])])),
            expires_ms: (NOW_S + 1_000) * 1000,
        }
    }

    #[test]
    fn every_reason_has_a_case_and_the_first_one_counts() {
        use ServiceRefusal as R;
        type Case = (
            R,
            fn(&mut ServiceClaims),
            fn(&mut ServiceKey),
            u8,
            u64,
            bool,
        );
        let keep: fn(&mut ServiceClaims) = |_| {};
        let as_is: fn(&mut ServiceKey) = |_| {};
        let cases: Vec<Case> = vec![
            (
                R::OtherDeployment,
                |c| c.deployment = DeploymentId([9; 16]),
                as_is,
                1,
                NOW_S,
                true,
            ),
            (
                R::OtherHome,
                |c| c.home = HomeId::new("zz").unwrap(),
                as_is,
                1,
                NOW_S,
                true,
            ),
            (
                R::Unknown,
                keep,
                |k| k.public = PublicKey(key(2).public()),
                1,
                NOW_S,
                true,
            ),
            (
                R::Ended,
                keep,
                |k| k.expires_ms = NOW_S * 1000,
                1,
                NOW_S,
                true,
            ),
            (R::Signature, keep, as_is, 2, NOW_S, true),
            (R::NotYetValid, keep, as_is, 1, NOW_S - 101, true),
            (R::Expired, keep, as_is, 1, NOW_S + 100, true),
            (
                R::Account,
                |c| c.account = AccountId([9; 32]),
                as_is,
                1,
                NOW_S,
                true,
            ),
            (
                R::Chat,
                |c| c.chats[0] = ChatId([9; 32]),
                as_is,
                1,
                NOW_S,
                true,
            ),
            (R::NotMember, keep, as_is, 1, NOW_S, false),
        ];
        let decide = |claims, row: &ServiceKey, signed_by: u8, now_s: u64, member, ended| {
            let mut token = ServiceToken::sign(&key(1), claims).unwrap();
            if signed_by != 1 {
                let signed = token.compact.rsplit_once('.').unwrap().0.to_owned();
                let signature = key(signed_by).sign(signed.as_bytes());
                token =
                    ServiceToken::parse(&format!("{signed}.{}", jws::encode(&signature))).unwrap();
            }
            let token = ServiceToken::parse(token.compact()).unwrap();
            decide_service(
                &token,
                &ServiceShown {
                    deployment: &DEPLOYMENT,
                    home: &ae(),
                    key: Some((row, ended)),
                    chat: &ChatId([3; 32]),
                    member,
                    now_ms: now_s * 1000,
                },
            )
        };
        assert_eq!(decide(claims(), &enrolled(), 1, NOW_S, true, None), Ok(()));
        let everybody = ServiceKey {
            accounts: None,
            ..enrolled()
        };
        let other = ServiceClaims {
            account: AccountId([9; 32]),
            ..claims()
        };
        assert_eq!(decide(other, &everybody, 1, NOW_S, true, None), Ok(()));
        let ended = decide(claims(), &enrolled(), 1, NOW_S, true, Some(1));
        assert_eq!(ended, Err(R::Ended));
        let mut seen = BTreeSet::from([R::Malformed]);
        for (why, claim, row, signed_by, now_s, member) in cases {
            let (mut claims, mut key) = (claims(), enrolled());
            claim(&mut claims);
            row(&mut key);
            let found = decide(claims, &key, signed_by, now_s, member, None);
            assert_eq!(found, Err(why));
            seen.insert(why);
        }
        assert_eq!(seen, ServiceRefusal::ALL.iter().copied().collect());
    }

    #[test]
    fn what_is_not_of_the_form_is_refused() {
        for spoil in [
            (|c| c.chats.clear()) as fn(&mut ServiceClaims),
            |c| c.chats.push(ChatId([3; 32])),
            |c| c.chats = (0..65).map(|n| ChatId([n; 32])).collect(),
            |c| c.expires_s = c.not_before_s,
            |c| c.expires_s = c.not_before_s + 901,
        ] {
            let mut claims = claims();
            spoil(&mut claims);
            let refused = ServiceToken::sign(&key(1), claims);
            assert_eq!(refused.err(), Some(ServiceRefusal::Malformed));
        }
        let text = ServiceToken::sign(&key(1), claims()).unwrap().compact;
        for n in 0..text.len() {
            assert!(ServiceToken::parse(&text[..n]).is_err(), "{n}");
        }
        assert!(ServiceToken::parse(&format!("{text}=")).is_err());
    }

    #[test]
    fn neither_a_grant_nor_a_token_passes_for_the_other() {
        let token = ServiceToken::sign(&key(1), claims()).unwrap();
        let read = Grant::parse(token.compact());
        assert_eq!(read.err(), Some(GrantRefusal::ServiceCredential));
        let grant = Claims {
            account: AccountId([1; 32]),
            deployment: DEPLOYMENT,
            home: ae(),
            actions: vec![Action::Write],
            chats: vec![ChatRange {
                chat: ChatId([3; 32]),
                from: 0,
                to: None,
            }],
            ceiling: 1,
            not_before_s: NOW_S,
            expires_s: NOW_S + 1,
            id: GrantId([4; 16]),
        };
        let grant = Grant::sign(DeviceId([5; 32]), &key(1), grant).unwrap();
        let read = ServiceToken::parse(grant.compact());
        assert_eq!(read.err(), Some(ServiceRefusal::Malformed));
        // Nor with a grant's claims under the service's typ.
        let payload = grant.compact().split('.').nth(1).unwrap();
        let header = token.compact().split('.').next().unwrap();
        let signed = format!("{header}.{payload}");
        let forged = format!("{signed}.{}", jws::encode(&key(1).sign(signed.as_bytes())));
        assert!(ServiceToken::parse(&forged).is_err());
        assert_eq!(
            Grant::parse(&forged).err(),
            Some(GrantRefusal::ServiceCredential)
        );
    }

    #[test]
    fn a_key_is_enrolled_for_somebody_and_not_for_ever() {
        let now = NOW_S * 1000;
        assert_eq!(enrolled().check(now), Ok(()));
        let bad: [fn(&mut ServiceKey); 6] = [
            |k| k.name.clear(),
            |k| k.name = "a\nb".into(),
            |k| k.name = "x".repeat(65),
            |k| k.accounts = Some(BTreeSet::new()),
            |k| k.expires_ms = NOW_S * 1000,
            |k| k.expires_ms = NOW_S * 1000 + ENROLMENT_MS_MAX + 1,
        ];
        for spoil in bad {
            let mut key = enrolled();
            spoil(&mut key);
            assert!(key.check(now).is_err(), "{key:?}");
        }
    }
}
