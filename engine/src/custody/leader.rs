//! What a custodian's leader does around a proposal: pure functions over the
//! secrets it holds. Nothing here is proposed, sent or kept.

use super::command::{
    Abandon, Command, MandateRelease, OrderRelease, Release, RewrapItem, StoreItem, StoreShares,
    Wrapped,
};
use super::protocol::{
    AbandonRequest, KEYS_PER_REQUEST_MAX, KeyRef, MandateReleaseRequest, OrderReleaseRequest,
    Receipt, Refusal, ReleaseReply, ReleaseRequest, SealSession, SealedItem, ShareResult,
    StoreOutcome, StoreRequest,
};
use super::reply::{Applied, Committed, Effect, Granted, ReleaseGranted};
use super::rows::ShareRow;
use crate::authz::Authorised;
use crate::authz::grant::{GRANT_BYTES_MAX, GrantHash, KnownGrants};
use crate::authz::standing::DeviceStanding;
use crate::crypto::labels;
use crate::crypto::seal::{
    ENCAPSULATED_LEN, Receiver, RecipientKey, RecipientPublic, ReleaseBinding, SEALED_LEN,
    SealError, Sender, ShareBinding, deal_info, release_info,
};
use crate::crypto::sign::SigningKey;
use crate::crypto::wrap::{unwrap, wrap};
use crate::sharing::commitment_holds;
use crate::types::{
    AccountId, ChatId, CustodianId, DeploymentId, DeviceId, HomeId, KeyId, NodeId, PolicyId,
    WallMs, WrappingKey,
};
use rand_core::CryptoRng;
use std::collections::BTreeSet;

/// Which custodian of which deployment this is; bound into everything it seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The deployment.
    pub deployment: DeploymentId,
    /// The custodian.
    pub custodian: CustodianId,
}

impl Place {
    /// What a share of this custodian is bound to.
    pub fn binding(&self, chat: ChatId, key_id: KeyId, policy: PolicyId) -> ShareBinding {
        ShareBinding {
            deployment: self.deployment,
            custodian: self.custodian.clone(),
            chat,
            key_id,
            policy,
        }
    }
}

/// The wrapping key versions a node has loaded.
pub trait WrappingKeys {
    /// The key of `version`, if this node has it.
    fn wrapping_key(&self, version: u32) -> Option<&WrappingKey>;
}

/// A request that will never succeed, whatever the state: nothing is proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// None, or too many.
    #[error("{0} keys in one request, 1 to {KEYS_PER_REQUEST_MAX} are allowed; split it")]
    Count(usize),
    /// One key named twice.
    #[error("key {0} stands twice in one request")]
    Twice(KeyId),
    /// Meant for another custodian.
    #[error("the request is for custodian {got}, this is {expected}")]
    OtherCustodian {
        /// Named.
        got: CustodianId,
        /// This one.
        expected: CustodianId,
    },
    /// A field of the wrong length.
    #[error("{what} of {got} bytes, {expected} expected")]
    Length {
        /// Which field.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The right length.
        expected: usize,
    },
    /// A grant that nobody would read.
    #[error("a grant of {0} bytes, 1 to {GRANT_BYTES_MAX} are allowed")]
    GrantLength(usize),
    /// The lease key is no key.
    #[error("the lease key cannot be used: {0}")]
    LeaseKey(#[from] SealError),
    /// The request speaks for another home or node than was authorised.
    #[error("the request is not the one that was authorised")]
    NotTheAuthorised,
}

fn distinct<'a>(keys: impl ExactSizeIterator<Item = &'a KeyId>) -> Result<(), RequestError> {
    if !(1..=KEYS_PER_REQUEST_MAX).contains(&keys.len()) {
        return Err(RequestError::Count(keys.len()));
    }
    let mut seen = BTreeSet::new();
    for key in keys {
        if !seen.insert(key) {
            return Err(RequestError::Twice(*key));
        }
    }
    Ok(())
}

fn length(what: &'static str, got: usize, expected: usize) -> Result<(), RequestError> {
    if got == expected {
        Ok(())
    } else {
        Err(RequestError::Length {
            what,
            got,
            expected,
        })
    }
}

/// Checks the shape of a store before any cryptography is spent on it.
///
/// # Errors
/// [`RequestError`].
pub fn check_store(
    place: &Place,
    authorised: &Authorised,
    request: &StoreRequest,
) -> Result<(), RequestError> {
    if *authorised.home() != request.home || place.deployment != request.deployment {
        return Err(RequestError::NotTheAuthorised);
    }
    if request.session.custodian != place.custodian {
        return Err(RequestError::OtherCustodian {
            got: request.session.custodian.clone(),
            expected: place.custodian.clone(),
        });
    }
    distinct(request.items.iter().map(|i| &i.key_id))?;
    length(
        "encapsulation",
        request.session.encapsulated.len(),
        ENCAPSULATED_LEN,
    )?;
    for item in &request.items {
        length("sealed share", item.sealed.len(), SEALED_LEN)?;
    }
    Ok(())
}

/// Decapsulates a session with the private part of its sealing version.
/// Costly: keep the result by session id, bounded, and only as long as the version lives.
///
/// # Errors
/// [`StoreOutcome::SealingKeyGone`] when the version is not here or has
/// expired, [`StoreOutcome::BadShare`] when the encapsulation is none.
pub fn open_session(
    place: &Place,
    key: Option<&RecipientKey>,
    session: &SealSession,
    now_ms: WallMs,
) -> Result<Receiver, StoreOutcome> {
    let key = key
        .filter(|_| session.expires_ms > now_ms)
        .ok_or(StoreOutcome::SealingKeyGone)?;
    let info = deal_info(&place.deployment, &place.custodian, session.version);
    Receiver::new(key, &session.encapsulated, &info).map_err(|_| StoreOutcome::BadShare)
}

/// A store ready to be proposed, and what is known about it already.
#[derive(Debug)]
pub struct PreparedStore {
    /// What to propose; `None` when no item got that far.
    pub command: Option<Command>,
    early: Vec<Option<StoreOutcome>>,
}

/// What a committed store means for the request it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreDecision {
    /// One outcome per item of the request, in order.
    Outcomes(Vec<StoreOutcome>),
    /// The wrapping version went out of use meanwhile: prepare again.
    Again,
    /// Not done, and recorded as refused.
    Refused(String),
}

impl PreparedStore {
    /// All items refused alike, nothing to propose.
    pub fn all(outcome: StoreOutcome, items: usize) -> Self {
        Self {
            command: None,
            early: vec![Some(outcome); items],
        }
    }

    /// The outcomes, when there was nothing to propose.
    pub fn early_outcomes(&self) -> Option<Vec<StoreOutcome>> {
        self.early.iter().copied().collect()
    }

    /// Puts committed outcomes between the early ones.
    pub fn decide(&self, committed: &Committed<Applied>) -> StoreDecision {
        let outcomes = match &committed.value().effect {
            Effect::Stored(outcomes) => outcomes,
            Effect::WrapAgain { .. } => return StoreDecision::Again,
            Effect::Refused { reason } => return StoreDecision::Refused(reason.clone()),
            other => {
                return StoreDecision::Refused(format!("a store was answered by {other:?}"));
            }
        };
        let mut committed = outcomes.iter();
        let merged: Option<Vec<_>> = self
            .early
            .iter()
            .map(|e| e.or_else(|| committed.next().copied()))
            .collect();
        merged.map_or_else(
            || StoreDecision::Refused("fewer outcomes than items were committed".into()),
            StoreDecision::Outcomes,
        )
    }
}

/// Opens each sealed share, checks its commitment, wraps it and forgets it.
/// Shares that do not open or do not match are refused here and not proposed.
pub fn prepare_store<R: CryptoRng + ?Sized>(
    place: &Place,
    receiver: &Receiver,
    wrapping: (u32, &WrappingKey),
    request: &StoreRequest,
    rng: &mut R,
) -> PreparedStore {
    let (version, key) = wrapping;
    let mut items = Vec::with_capacity(request.items.len());
    let mut early = Vec::with_capacity(request.items.len());
    for item in &request.items {
        let wrapped = rewrap(place, receiver, (version, key), item, rng);
        early.push(wrapped.is_none().then_some(StoreOutcome::BadShare));
        items.extend(wrapped);
    }
    let command = (!items.is_empty()).then(|| {
        Command::StoreShares(StoreShares {
            home: request.home.clone(),
            version,
            items,
        })
    });
    PreparedStore { command, early }
}

fn rewrap<R: CryptoRng + ?Sized>(
    place: &Place,
    receiver: &Receiver,
    (version, key): (u32, &WrappingKey),
    item: &SealedItem,
    rng: &mut R,
) -> Option<StoreItem> {
    let binding = place.binding(item.chat, item.key_id, item.policy);
    let share = receiver.open(&binding, None, &item.sealed).ok()?;
    if !commitment_holds(&item.key_id, &place.custodian, &share, &item.commitment) {
        return None;
    }
    let wrapped = wrap(key, version, &binding, nonce(rng), &share);
    Some(StoreItem {
        chat: item.chat,
        epoch: item.epoch,
        key_id: item.key_id,
        policy: item.policy,
        commitment: item.commitment,
        wrapped: Wrapped(wrapped.to_vec()),
        expires_ms: item.expires_ms,
    })
}

/// Checks the shape of a release and the signature of its grant, and makes its
/// command. `device` is where the grant's device stands in this node's applied
/// state, by [`Standings`](super::Standings); `known` are grants looked at before, and `checked`
/// says of the hash of a lease key that it was found to be a key before.
///
/// A grant that is malformed, or that its device did not sign, is proposed too:
/// `apply` refuses it, and the log has it.
///
/// # Errors
/// [`RequestError`]; what `device` says.
pub fn prepare_release<E: From<RequestError>>(
    place: &Place,
    authorised: &Authorised,
    request: &ReleaseRequest,
    known: &dyn KnownGrants,
    checked: impl FnOnce(&[u8; 32]) -> bool,
    device: impl FnOnce(&AccountId, &DeviceId) -> Result<DeviceStanding, E>,
) -> Result<Command, E> {
    let asked = (&request.home, request.node, request.deployment);
    release_shape(place, authorised, asked, &request.keys)?;
    let lease_key = request.lease_key.hash();
    if !checked(&lease_key) {
        let valid = request.lease_key.validate();
        valid.map_err(RequestError::from)?;
    }
    if request.grant.is_empty() || request.grant.len() > GRANT_BYTES_MAX {
        return Err(RequestError::GrantLength(request.grant.len()).into());
    }
    let hash = GrantHash::of(&request.grant);
    let signature_holds = match known.read(&request.grant, &hash) {
        Ok(grant) => device(&grant.claims().account, grant.device())?
            .live()
            .is_some_and(|public| known.verify(&grant, public).is_ok()),
        Err(_) => false,
    };
    Ok(Command::Release(Release {
        request: request.request,
        home: request.home.clone(),
        node: request.node,
        grant: request.grant.clone(),
        signature_holds,
        lease_key,
        reason: request.reason,
        keys: request.keys.clone(),
    }))
}

/// What every release has to keep; the lease key is for the caller to check.
fn release_shape(
    place: &Place,
    authorised: &Authorised,
    asked: (&HomeId, NodeId, DeploymentId),
    keys: &[KeyRef],
) -> Result<(), RequestError> {
    let may = (authorised.home(), authorised.node(), place.deployment);
    if asked != may {
        return Err(RequestError::NotTheAuthorised);
    }
    distinct(keys.iter().map(|k| &k.key_id))?;
    Ok(())
}

/// Checks the shape of a release under a disclosure order and makes its command. Whether the
/// order is in force and covers the keys is decided in `apply`.
///
/// # Errors
/// [`RequestError`].
pub fn prepare_order_release(
    place: &Place,
    authorised: &Authorised,
    request: &OrderReleaseRequest,
) -> Result<Command, RequestError> {
    let asked = (&request.home, request.node, request.deployment);
    release_shape(place, authorised, asked, &request.keys)?;
    request.lease_key.validate()?;
    Ok(Command::OrderRelease(OrderRelease {
        order: request.order,
        request: request.request,
        home: request.home.clone(),
        node: request.node,
        lease_key: request.lease_key.hash(),
        keys: request.keys.clone(),
    }))
}

/// Checks the shape of a release under a deletion's mandate and makes its command. Whether the
/// statement is signed, and what it allows, is decided in `apply`.
///
/// # Errors
/// [`RequestError`].
pub fn prepare_mandate_release(
    place: &Place,
    authorised: &Authorised,
    request: &MandateReleaseRequest,
) -> Result<Command, RequestError> {
    let asked = (&request.home, request.node, request.deployment);
    release_shape(place, authorised, asked, &request.keys)?;
    request.lease_key.validate()?;
    Ok(Command::MandateRelease(MandateRelease {
        statement: request.statement.clone(),
        request: request.request,
        home: request.home.clone(),
        node: request.node,
        lease_key: request.lease_key.hash(),
        keys: request.keys.clone(),
    }))
}

/// Checks the shape of an abandon and makes its command.
///
/// # Errors
/// [`RequestError`].
pub fn prepare_abandon(
    place: &Place,
    authorised: &Authorised,
    request: &AbandonRequest,
) -> Result<Command, RequestError> {
    if *authorised.home() != request.home || place.deployment != request.deployment {
        return Err(RequestError::NotTheAuthorised);
    }
    distinct(request.keys.iter().map(|k: &KeyRef| &k.key_id))?;
    Ok(Command::Abandon(Abandon {
        home: request.home.clone(),
        keys: request.keys.clone(),
    }))
}

/// One encapsulation to a lease key; serves many releases to it.
#[derive(Debug)]
pub struct LeaseSender {
    sender: Sender,
    encapsulated: Vec<u8>,
    lease_key: [u8; 32],
}

impl LeaseSender {
    /// Encapsulates. Costly: keep it by lease key, bounded in number and age.
    ///
    /// # Errors
    /// [`SealError`] when the lease key is no key.
    pub fn new<R: CryptoRng + ?Sized>(
        place: &Place,
        lease_key: &RecipientPublic,
        rng: &mut R,
    ) -> Result<Self, SealError> {
        let info = release_info(&place.deployment, &place.custodian);
        let (sender, encapsulated) = Sender::new(lease_key, &info, rng)?;
        Ok(Self {
            sender,
            encapsulated,
            lease_key: lease_key.hash(),
        })
    }

    /// Hash of the lease key it seals to.
    pub fn lease_key(&self) -> &[u8; 32] {
        &self.lease_key
    }
}

/// Opens what a *committed* entry granted, seals it to the lease key and signs the receipt.
///
/// A share whose wrapping does not open here, or that does not match its
/// commitment, is answered as damaged. `lease` must be for the lease key the
/// entry names; otherwise nothing is opened and every grant is answered as
/// [`Refusal::RequestMismatch`].
pub fn finish_release<R: CryptoRng + ?Sized>(
    place: &Place,
    keys: &dyn WrappingKeys,
    committed: &Committed<ReleaseGranted>,
    lease: &LeaseSender,
    log_key: &SigningKey,
    rng: &mut R,
) -> ReleaseReply {
    let granted = committed.value();
    let context = ReleaseBinding {
        authority: granted.authority,
        node: granted.node,
        lease_key: granted.lease_key,
    };
    let same_lease = lease.lease_key == granted.lease_key;
    let seal = |g: &Granted, rng: &mut R| {
        if !same_lease {
            return Err(Refusal::RequestMismatch);
        }
        seal_one(place, keys, lease, &context, g, rng).ok_or(Refusal::Damaged)
    };
    let shares: Vec<ShareResult> = granted
        .results
        .iter()
        .map(
            |r| match r.as_ref().map_err(|e| *e).and_then(|g| seal(g, rng)) {
                Ok(sealed) => ShareResult::Share { sealed },
                Err(refusal) => ShareResult::Refused(refusal),
            },
        )
        .collect();
    let any = shares
        .iter()
        .any(|s| matches!(s, ShareResult::Share { .. }));
    ReleaseReply {
        receipt: Receipt::sign(
            &place.deployment,
            place.custodian.clone(),
            &granted.entry,
            granted.request,
            log_key,
        ),
        encapsulated: if any {
            lease.encapsulated.clone()
        } else {
            Vec::new()
        },
        shares,
    }
}

/// Wraps shares anew under version `to`: opened under their old version and checked against
/// their commitment, one after the other. How many did not open, besides.
pub fn wrap_anew<R: CryptoRng + ?Sized>(
    place: &Place,
    keys: &dyn WrappingKeys,
    to: u32,
    shares: &[(KeyId, ShareRow)],
    rng: &mut R,
) -> (Vec<RewrapItem>, usize) {
    let mut out = Vec::with_capacity(shares.len());
    for (key_id, row) in shares {
        let binding = place.binding(row.chat, *key_id, row.policy);
        let opened = keys
            .wrapping_key(row.version)
            .zip(keys.wrapping_key(to))
            .and_then(|(old, new)| {
                let share = unwrap(old, row.version, &binding, &row.wrapped.0).ok()?;
                Some((new, share))
            })
            .filter(|(_, share)| {
                commitment_holds(key_id, &place.custodian, share, &row.commitment)
            });
        if let Some((new, share)) = opened {
            let wrapped = wrap(new, to, &binding, nonce(rng), &share);
            out.push(RewrapItem {
                key_id: *key_id,
                from: row.version,
                wrapped: Wrapped(wrapped.to_vec()),
            });
        }
    }
    let damaged = shares.len() - out.len();
    (out, damaged)
}

fn seal_one<R: CryptoRng + ?Sized>(
    place: &Place,
    keys: &dyn WrappingKeys,
    lease: &LeaseSender,
    context: &ReleaseBinding,
    g: &Granted,
    rng: &mut R,
) -> Option<Vec<u8>> {
    let binding = place.binding(g.chat, g.key_id, g.policy);
    let key = keys.wrapping_key(g.version)?;
    let share = unwrap(key, g.version, &binding, &g.wrapped.0).ok()?;
    if !commitment_holds(&g.key_id, &place.custodian, &share, &g.commitment) {
        return None;
    }
    Some(
        lease
            .sender
            .seal(&binding, Some(context), nonce(rng), &share),
    )
}

fn nonce<R: CryptoRng + ?Sized>(rng: &mut R) -> [u8; 24] {
    let mut out = [0; 24];
    rng.fill_bytes(&mut out);
    out
}

/// Names a wrapping key in attestations: two draws under one version number
/// differ here. A one-way function of 32 random bytes tells nothing of them.
pub fn wrapping_fingerprint(key: &WrappingKey) -> [u8; 32] {
    blake3::derive_key(labels::WRAPPING_FINGERPRINT, key.expose())
}
