//! Auditors: whoever a custodian's officers let read its log's entries and openings.
//!
//! The officers admit an Ed25519 key until some day. Its holder signs
//! short-lived tokens with it, for one custodian each: a JWS like a grant's
//! ([`grant`](super::grant)) with a `typ` of its own. A token read off at one
//! custodian opens nothing at another, and no token opens a key anywhere.
//!
//! ```text
//!  AuditorToken::parse ──▶ decide_auditor(the admitted key, time) ──▶ entries and openings, read
//! ```

use super::grant::GrantRefusal;
use super::jws;
use crate::crypto::labels;
use crate::crypto::sign::{SIGNATURE_LEN, SigningKey};
use crate::types::{AuditorId, CustodianId, DeploymentId, PublicKey, WallMs};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The only `typ`.
pub const AUDITOR_TYP: &str = "quorate-auditor+jwt";
/// Longest token, in bytes of its compact form.
pub const AUDITOR_BYTES_MAX: usize = 4 << 10;
/// Longest life of a token, in seconds.
pub const AUDITOR_LIFE_S_MAX: u64 = 900;
/// Longest that a key stays admitted, in milliseconds: 400 days, a yearly audit and its delays.
pub const ADMISSION_MS_MAX: u64 = 400 * 24 * 3600 * 1000;
/// Most auditors that a custodian admits at once.
pub const AUDITORS_MAX: usize = 64;
/// Longest name, in bytes.
pub const AUDITOR_NAME_BYTES_MAX: usize = 64;

/// The id of an auditor's key: the hash of its public part.
pub fn auditor_id(public: &PublicKey) -> AuditorId {
    AuditorId(blake3::derive_key(labels::AUDITOR_ID, &public.0))
}

/// A key as officers admit it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auditor {
    /// What it is called in lists.
    pub name: String,
    /// Its public part.
    pub public: PublicKey,
    /// It counts until then.
    pub expires_ms: WallMs,
}

impl Auditor {
    /// Its id.
    pub fn id(&self) -> AuditorId {
        auditor_id(&self.public)
    }

    /// Whether it can be admitted at `now_ms`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, now_ms: WallMs) -> Result<(), String> {
        let named = (1..=AUDITOR_NAME_BYTES_MAX).contains(&self.name.len());
        if !named || self.name.chars().any(char::is_control) {
            let max = AUDITOR_NAME_BYTES_MAX;
            return Err(format!(
                "an auditor's name must be 1 to {max} printable bytes"
            ));
        }
        let life_ms = self.expires_ms.saturating_sub(now_ms);
        if !(1..=ADMISSION_MS_MAX).contains(&life_ms) {
            let days = ADMISSION_MS_MAX / 86_400_000;
            return Err(format!(
                "an auditor is admitted for {days} days at most, and not until a day gone by"
            ));
        }
        Ok(())
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident, $code:literal, $text:literal;)+) => {
        /// Why a token shows nobody anything.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum AuditorRefusal {
            $($(#[$doc])* #[doc = $text] $name),+
        }

        impl AuditorRefusal {
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
    Malformed, "auditor_malformed", "the token is not of the documented form";
    OtherDeployment, "auditor_other_deployment", "the token is for another deployment";
    OtherCustodian, "auditor_other_custodian", "the token is for another custodian";
    Unknown, "auditor_unknown", "this custodian's officers have not admitted this key, or have dismissed it";
    Ended, "auditor_ended", "the key's time is over; the officers may admit it again";
    Signature, "auditor_signature", "the token's signature does not hold for its key";
    NotYetValid, "auditor_not_yet", "the token's nbf lies ahead of the custodian's clock; check the clocks";
    Expired, "auditor_expired", "the token's time is over; sign a new one";
}

impl fmt::Display for AuditorRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for AuditorRefusal {}

/// What a token says, field by field as its payload has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditorClaims {
    /// The deployment it is good for.
    #[serde(rename = "dep", deserialize_with = "jws::canonical")]
    pub deployment: DeploymentId,
    /// The only custodian that takes it.
    #[serde(rename = "aud")]
    pub custodian: CustodianId,
    /// Not before, Unix seconds.
    #[serde(rename = "nbf")]
    pub not_before_s: u64,
    /// Not from this time on, Unix seconds; at most [`AUDITOR_LIFE_S_MAX`] later.
    #[serde(rename = "exp")]
    pub expires_s: u64,
}

impl AuditorClaims {
    fn check(&self) -> Result<(), AuditorRefusal> {
        let life_s = self.expires_s.checked_sub(self.not_before_s);
        match life_s.is_some_and(|s| (1..=AUDITOR_LIFE_S_MAX).contains(&s)) {
            true => Ok(()),
            false => Err(AuditorRefusal::Malformed),
        }
    }
}

/// A token of valid form. Whether it shows anything, [`decide_auditor`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditorToken {
    auditor: AuditorId,
    claims: AuditorClaims,
    compact: String,
    signature: [u8; SIGNATURE_LEN],
}

impl AuditorToken {
    /// Signs `claims` with an auditor's key.
    ///
    /// # Errors
    /// [`AuditorRefusal::Malformed`] when nobody would accept the claims.
    pub fn sign(key: &SigningKey, claims: AuditorClaims) -> Result<Self, AuditorRefusal> {
        claims.check()?;
        let auditor = auditor_id(&PublicKey(key.public()));
        let (compact, signature) = jws::sign(key, AUDITOR_TYP, &auditor, &claims);
        Ok(Self {
            auditor,
            claims,
            compact,
            signature,
        })
    }

    /// Reads a compact serialization of at most [`AUDITOR_BYTES_MAX`].
    ///
    /// # Errors
    /// [`AuditorRefusal::Malformed`].
    pub fn parse(compact: &str) -> Result<Self, AuditorRefusal> {
        Self::read(compact).map_err(|_| AuditorRefusal::Malformed)
    }

    fn read(compact: &str) -> Result<Self, GrantRefusal> {
        let (auditor, claims, signature) =
            jws::read::<AuditorId, AuditorClaims>(compact, AUDITOR_BYTES_MAX, AUDITOR_TYP)?;
        claims.check().map_err(|_| GrantRefusal::Payload)?;
        let signature = jws::signature(&signature)?;
        Ok(Self {
            auditor,
            claims,
            compact: compact.to_owned(),
            signature,
        })
    }

    /// The key that says it signed.
    pub fn auditor(&self) -> &AuditorId {
        &self.auditor
    }
    /// The text to send.
    pub fn compact(&self) -> &str {
        &self.compact
    }
}

/// Where a token is shown.
#[derive(Clone, Copy, Debug)]
pub struct AuditorShown<'a> {
    /// The deployment this custodian is in.
    pub deployment: &'a DeploymentId,
    /// This custodian.
    pub custodian: &'a CustodianId,
    /// The key with the token's id, if it is admitted here.
    pub admitted: Option<&'a Auditor>,
    /// The custodian's time.
    pub now_ms: WallMs,
}

/// Decides whether whoever shows a token may read entries and openings.
///
/// # Errors
/// [`AuditorRefusal`], the first that holds in the order of [`AuditorRefusal::ALL`].
pub fn decide_auditor(
    token: &AuditorToken,
    shown: &AuditorShown<'_>,
) -> Result<(), AuditorRefusal> {
    use AuditorRefusal as R;
    let claims = &token.claims;
    let refuse = |hit: bool, why| if hit { Err(why) } else { Ok(()) };
    refuse(claims.deployment != *shown.deployment, R::OtherDeployment)?;
    refuse(claims.custodian != *shown.custodian, R::OtherCustodian)?;
    let key = shown.admitted.ok_or(R::Unknown)?;
    refuse(key.id() != token.auditor, R::Unknown)?;
    refuse(shown.now_ms >= key.expires_ms, R::Ended)?;
    let held = jws::holds(&token.compact, &token.signature, &key.public.0);
    refuse(!held, R::Signature)?;
    let (begins_s, ends_s) = (claims.not_before_s, claims.expires_s);
    refuse(shown.now_ms < begins_s.saturating_mul(1000), R::NotYetValid)?;
    refuse(shown.now_ms >= ends_s.saturating_mul(1000), R::Expired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    const NOW_S: u64 = 1_700_000_100;
    const DEPLOYMENT: DeploymentId = DeploymentId([2; 16]);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap())
    }
    fn ch() -> CustodianId {
        CustodianId::new("ch").unwrap()
    }
    fn claims() -> AuditorClaims {
        AuditorClaims {
            deployment: DEPLOYMENT,
            custodian: ch(),
            not_before_s: NOW_S - 100,
            expires_s: NOW_S + 100,
        }
    }
    fn admitted() -> Auditor {
        Auditor {
            name: "Treuhand & Söhne".into(),
            public: PublicKey(key(1).public()),
            expires_ms: (NOW_S + 1_000) * 1000,
        }
    }
    fn decide(
        token: &AuditorToken,
        admitted: Option<&Auditor>,
        now_s: u64,
    ) -> Result<(), AuditorRefusal> {
        let shown = AuditorShown {
            deployment: &DEPLOYMENT,
            custodian: &ch(),
            admitted,
            now_ms: now_s * 1000,
        };
        decide_auditor(token, &shown)
    }

    #[test]
    fn every_reason_has_a_case_and_the_first_one_counts() {
        use AuditorRefusal as R;
        type Case = (R, fn(&mut AuditorClaims), fn(&mut Auditor), u64);
        let cases: &[Case] = &[
            (
                R::OtherDeployment,
                |c| c.deployment.0[0] ^= 1,
                |_| {},
                NOW_S,
            ),
            (
                R::OtherCustodian,
                |c| c.custodian = CustodianId::new("is").unwrap(),
                |_| {},
                NOW_S,
            ),
            (R::Unknown, |_| {}, |a| a.public.0 = key(2).public(), NOW_S),
            (R::Ended, |_| {}, |a| a.expires_ms = NOW_S * 1000, NOW_S),
            (R::NotYetValid, |_| {}, |_| {}, NOW_S - 101),
            (R::Expired, |_| {}, |_| {}, NOW_S + 100),
        ];
        for (why, claim, admit, now_s) in cases {
            let (mut c, mut a) = (claims(), admitted());
            claim(&mut c);
            admit(&mut a);
            let token = AuditorToken::sign(&key(1), c).unwrap();
            assert_eq!(decide(&token, Some(&a), *now_s), Err(*why));
        }
        let token = AuditorToken::sign(&key(1), claims()).unwrap();
        assert_eq!(decide(&token, Some(&admitted()), NOW_S), Ok(()));
        assert_eq!(decide(&token, None, NOW_S), Err(R::Unknown));
        let mut forged = token.clone();
        forged.signature[0] ^= 1;
        assert_eq!(decide(&forged, Some(&admitted()), NOW_S), Err(R::Signature));
        let read = AuditorToken::parse(token.compact()).unwrap();
        assert_eq!(read, token);
        let mut long = claims();
        long.expires_s = long.not_before_s + AUDITOR_LIFE_S_MAX + 1;
        assert_eq!(AuditorToken::sign(&key(1), long), Err(R::Malformed));
        assert_eq!(AuditorToken::parse("a.b.c"), Err(R::Malformed));
        assert_eq!(R::ALL.len(), cases.len() + 2);
    }

    #[test]
    fn a_token_of_another_kind_is_not_read() {
        let service = crate::authz::service::SERVICE_TYP;
        let (compact, _) = jws::sign(&key(1), service, &admitted().id(), &claims());
        assert_eq!(
            AuditorToken::parse(&compact),
            Err(AuditorRefusal::Malformed)
        );
        assert!(
            crate::authz::grant::Grant::parse(
                AuditorToken::sign(&key(1), claims()).unwrap().compact()
            )
            .is_err()
        );
    }

    #[test]
    fn an_admission_has_a_name_and_an_end() {
        let now_ms = NOW_S * 1000;
        assert_eq!(admitted().check(now_ms), Ok(()));
        let changes: [fn(&mut Auditor); 4] = [
            |a| a.name.clear(),
            |a| a.name = "x\n".into(),
            |a| a.expires_ms = NOW_S * 1000,
            |a| a.expires_ms = NOW_S * 1000 + ADMISSION_MS_MAX + 1,
        ];
        for change in changes {
            let mut a = admitted();
            change(&mut a);
            assert!(a.check(now_ms).is_err(), "{a:?}");
        }
    }
}
