//! What a home asks, answered on the leader.

use super::chains::Kind;
use super::consensus::{SubmitError, view};
use super::departure::Leaving;
use super::pool::INLINE_SHARES_MAX;
use super::{Custodian, RETRY_MS, cache, figures};
use crate::config::ClusterRole;
use crate::peer::{Answer, PeerIdentity, Service, ServiceError};
use bytes::Bytes;
use fail::fail_point;
use futures::future::BoxFuture;
use quorate_engine::audit::Log;
use quorate_engine::authz::chain::Source;
use quorate_engine::authz::deletion::Mandate;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::{Authorised, Claimed, HomePeer, authorise_peer};
use quorate_engine::crypto::seal::{Receiver, RecipientPublic};
use quorate_engine::custody::protocol::{
    AbandonRequest, CustodianReply, CustodianRequest, FEED_HOLD_MS, PROTOCOL_VERSION, ReleaseReply,
    ReleaseRequest, SealSession, ShareResult, StoreOutcome, StoreRequest,
};
use quorate_engine::custody::{
    self, Applied, Command, Committed, Effect, KeyKind, LeaseSender, PreparedStore, RequestError,
    StoreDecision, WrappingKeys, check_store, finish_release, open_session, prepare_abandon,
    prepare_mandate_release, prepare_order_release, prepare_release, prepare_store,
};
use quorate_engine::types::{AccountId, DeploymentId, DeviceId, HomeId, NodeId, codec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a store is wrapped again because the wrapping version changed under it.
const WRAP_AGAIN_MAX: usize = 3;

/// What a locked leader answers to everything.
const LOCKED: &str =
    "locked: the keys of this custodian's node are not loaded; its own people must unlock it";

/// The service homes call.
pub struct HomeService(pub(super) Custodian);

impl Service for HomeService {
    fn call(
        &self,
        from: PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Vec<u8>, ServiceError>> {
        let answer = self.answer(from, body);
        Box::pin(async move { Ok(answer.await?.body) })
    }

    fn answer(
        &self,
        from: PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Answer, ServiceError>> {
        Box::pin(async move {
            let request = codec::decode("request to a custodian", PROTOCOL_VERSION, &body)
                .map_err(|e| ServiceError::Invalid(e.to_string()))?;
            let (reply, leaving) = self.0.answer_held(&from, request).await;
            Ok(Answer {
                body: codec::encode(PROTOCOL_VERSION, &reply),
                departing: leaving.map(Leaving::departing),
            })
        })
    }
}

pub(super) fn busy(reason: impl Into<String>) -> Box<CustodianReply> {
    Box::new(CustodianReply::Busy {
        reason: reason.into(),
        retry_ms: RETRY_MS,
    })
}

pub(super) fn invalid(e: impl std::fmt::Display) -> Box<CustodianReply> {
    Box::new(CustodianReply::Invalid {
        reason: e.to_string(),
    })
}

impl From<SubmitError> for Box<CustodianReply> {
    fn from(e: SubmitError) -> Self {
        Box::new(match e {
            SubmitError::NotLeader { leader } => CustodianReply::NotLeader {
                leader,
                address: None,
            },
            SubmitError::Busy(reason) => return busy(reason),
            SubmitError::Invalid(reason) => CustodianReply::Invalid { reason },
            SubmitError::Unknown(reason) => CustodianReply::Unknown { reason },
        })
    }
}

/// Why a release is not proposed.
enum NotPrepared {
    Request(RequestError),
    Instead(Box<CustodianReply>),
}

impl From<RequestError> for NotPrepared {
    fn from(e: RequestError) -> Self {
        Self::Request(e)
    }
}

impl From<NotPrepared> for Box<CustodianReply> {
    fn from(e: NotPrepared) -> Self {
        match e {
            NotPrepared::Request(e) => invalid(e),
            NotPrepared::Instead(reply) => reply,
        }
    }
}

/// One line a reason: which chats and people it was about stands in the log's openings alone.
fn warn_of_refusals(who: &Authorised, reply: &ReleaseReply) {
    let mut reasons = BTreeMap::<String, usize>::new();
    for share in &reply.shares {
        if let ShareResult::Refused(why) = share {
            *reasons.entry(figures::code(why)).or_default() += 1;
        }
    }
    for (reason, keys) in reasons {
        let (home, node, entry) = (who.home(), who.node(), reply.receipt.entry);
        tracing::warn!(%home, node, entry, reason, keys, "shares were refused");
    }
}

/// A reply, or the reply that says why not.
pub(super) type Answered<T> = Result<T, Box<CustodianReply>>;

impl Custodian {
    /// Answers one request of a home whose certificate said `from`. The answer counts as out
    /// when this returns: a service that sends it must go through [`HomeService`].
    pub async fn answer(&self, from: &PeerIdentity, request: CustodianRequest) -> CustodianReply {
        self.answer_held(from, request).await.0
    }

    /// An answer with shares comes with what holds restrictions' confirmations until it is out.
    async fn answer_held(
        &self,
        from: &PeerIdentity,
        request: CustodianRequest,
    ) -> (CustodianReply, Option<Leaving>) {
        let kind = match &request {
            CustodianRequest::SealingKey => "sealing_key",
            CustodianRequest::Store(_) => "store",
            CustodianRequest::Release(_) => "release",
            CustodianRequest::Abandon(_) => "abandon",
            CustodianRequest::Feed { .. } => "feed",
            CustodianRequest::ChatStatement(_) => "chat_statement",
            CustodianRequest::AccountStatement(_) => "account_statement",
            CustodianRequest::Lookup(_) => "lookup",
            CustodianRequest::OrderRelease(_) => "order_release",
            CustodianRequest::MandateRelease(_) => "mandate_release",
            CustodianRequest::AccountChain(_) => "account_chain",
            CustodianRequest::OrderAccounts(_) => "order_accounts",
        };
        let (mut reply, leaving) = match self.0.requests.try_acquire() {
            Err(_) => {
                let max = super::REQUESTS_MAX;
                (*busy(format!("{max} requests are in work")), None)
            }
            Ok(_permit) => self
                .route(from, request)
                .await
                .unwrap_or_else(|instead| (*instead, None)),
        };
        if let CustodianReply::NotLeader {
            leader: Some(leader),
            address,
        } = &mut reply
        {
            *address = self.0.consensus.address(*leader);
        }
        let result = match &reply {
            CustodianReply::NotLeader { .. } => "not_leader",
            CustodianReply::Busy { .. } => "busy",
            CustodianReply::Unknown { .. } => "unknown",
            CustodianReply::Invalid { reason } => {
                tracing::warn!(%from, kind, "a request that is never answered: {reason}");
                "invalid"
            }
            _ => "answered",
        };
        self.0.figures.request(kind, result);
        fail_point!("custodian-before-reply");
        (reply, leaving)
    }

    async fn route(
        &self,
        from: &PeerIdentity,
        request: CustodianRequest,
    ) -> Answered<(CustodianReply, Option<Leaving>)> {
        self.ready()?;
        let reply = match request {
            CustodianRequest::SealingKey => self.sealing_key(),
            CustodianRequest::Store(r) => {
                let who = self.authorise(from, &r.home, r.deployment, None)?;
                self.store(&who, r).await
            }
            CustodianRequest::Release(r) => {
                let who = self.authorise(from, &r.home, r.deployment, Some(r.node))?;
                let (reply, leaving) = self.release(&who, r).await?;
                return Ok((reply, Some(leaving)));
            }
            CustodianRequest::OrderRelease(r) => {
                let who = self.authorise(from, &r.home, r.deployment, Some(r.node))?;
                let command = prepare_order_release(&self.0.place, &who, &r).map_err(invalid)?;
                let (reply, leaving) = self.let_out(&who, r.lease_key, command).await?;
                return Ok((reply, Some(leaving)));
            }
            CustodianRequest::MandateRelease(r) => {
                let who = self.authorise(from, &r.home, r.deployment, Some(r.node))?;
                let chats = r.keys.iter().map(|k| k.chat);
                let account = Mandate::read(&r.statement).map(|m| m.deletion().account);
                if let Some(why) = self.behind(chats, account.ok()) {
                    return Err(busy(why));
                }
                let command = prepare_mandate_release(&self.0.place, &who, &r).map_err(invalid)?;
                let (reply, leaving) = self.let_out(&who, r.lease_key, command).await?;
                return Ok((reply, Some(leaving)));
            }
            CustodianRequest::Abandon(r) => {
                let who = self.authorise(from, &r.home, r.deployment, None)?;
                self.abandon(&who, &r).await
            }
            CustodianRequest::Feed { since } => self.feed(since).await,
            CustodianRequest::ChatStatement(r) => {
                self.authorise(from, &r.home, r.deployment, None)?;
                self.pass_statement(Kind::Chat, r.statement).await
            }
            CustodianRequest::AccountStatement(r) => {
                self.authorise(from, &r.home, r.deployment, None)?;
                self.pass_statement(Kind::Account, r.statement).await
            }
            CustodianRequest::Lookup(r) => {
                self.authorise(from, &r.home, r.deployment, None)?;
                self.lookup(&r).await
            }
            CustodianRequest::AccountChain(r) => {
                self.authorise(from, &r.home, r.deployment, None)?;
                self.account_chain(&r).await
            }
            CustodianRequest::OrderAccounts(r) => {
                self.authorise(from, &r.home, r.deployment, None)?;
                self.0.consensus.read_index().await?;
                let told = self.order_told(&r.order).map_err(busy)?;
                Ok(CustodianReply::OrderAccounts(told))
            }
        };
        Ok((reply?, None))
    }

    async fn pass_statement(&self, kind: Kind, statement: Envelope) -> Answered<CustodianReply> {
        let answer = self.take_statement(kind, Source::Client, statement).await?;
        Ok(CustodianReply::Statement(answer))
    }

    /// Whether this node may answer: it leads, and holds every live key version.
    fn ready(&self) -> Answered<()> {
        let lead = self.0.consensus.lead();
        if !lead.is_leader {
            let leader = lead.leader;
            let address = None;
            return Err(Box::new(CustodianReply::NotLeader { leader, address }));
        }
        if !self.unlocked() {
            return Err(busy(LOCKED));
        }
        if self.0.ready_term.load(Ordering::Acquire) != lead.term {
            return Err(busy("the new leader is making sure of its keys"));
        }
        Ok(())
    }

    fn authorise(
        &self,
        from: &PeerIdentity,
        home: &HomeId,
        deployment: DeploymentId,
        node: Option<NodeId>,
    ) -> Answered<Authorised> {
        if from.role != ClusterRole::Home {
            return Err(invalid(format!("{from} is no home")));
        }
        // A certificate is accepted only under the CA of the cluster it names,
        // whose descriptor is of this deployment.
        let peer = HomePeer {
            deployment: self.0.place.deployment,
            home: HomeId::new(&from.cluster).map_err(invalid)?,
            node: from.node,
        };
        let claimed = Claimed {
            deployment,
            home: home.clone(),
            node,
        };
        let known = (self.0.homes)();
        authorise_peer(&self.0.place.deployment, &known, &peer, &claimed).map_err(invalid)
    }

    /// Proposes a command and waits for its commit. Commands that must not wait
    /// for a clock to be mended travel without one: entry time stays where it is.
    pub(super) async fn submit(&self, command: Command) -> Result<Committed<Applied>, SubmitError> {
        let lead = self.0.consensus.lead();
        if !lead.is_leader {
            return Err(SubmitError::NotLeader {
                leader: lead.leader,
            });
        }
        let waits = !matches!(command, Command::Freeze(_));
        let state = match waits {
            true => Some(self.clock_in(lead.term).await),
            false => self.clock_known(lead.term),
        };
        let clock_ms = match state {
            Some(state) if !state.out() => self.now(),
            Some(state) if waits => {
                let off = state.off_ms;
                return Err(SubmitError::Busy(format!(
                    "the leader's clock is {off} ms off its peers' median"
                )));
            }
            _ => 0,
        };
        let told = matches!(command, Command::Freeze(_) | Command::Thaw(_));
        let committed = self.0.batcher.submit(command, clock_ms).await;
        if told {
            self.0.restrictions.send_modify(|n| *n += 1);
        }
        committed
    }

    fn sealing_key(&self) -> Answered<CustodianReply> {
        let statement =
            view(&*self.0.consensus, |kv| custody::sealing_statement(kv)).map_err(|e| busy(e.0))?;
        match statement.filter(|s| s.expires_ms > self.now()) {
            Some(statement) => Ok(CustodianReply::SealingKey(statement)),
            None => Err(busy("no sealing key is in use yet")),
        }
    }

    /// The feed; when it holds no news, the next restriction or a while is waited for first.
    async fn feed(&self, since: u64) -> Answered<CustodianReply> {
        let read = || view(&*self.0.consensus, |kv| custody::feed(kv)).map_err(|e| busy(e.0));
        // Before looking, so that no restriction in between is missed.
        let mut restrictions = self.0.restrictions.subscribe();
        if let Ok(_held) = self.0.feeds_held.try_acquire()
            && !read()?.news_since(since)
        {
            let hold = Duration::from_millis(FEED_HOLD_MS);
            let _ = tokio::time::timeout(hold, restrictions.changed()).await;
        }
        self.0.consensus.read_index().await?;
        Ok(CustodianReply::Feed(read()?))
    }

    async fn store(&self, who: &Authorised, request: StoreRequest) -> Answered<CustodianReply> {
        check_store(&self.0.place, who, &request).map_err(invalid)?;
        let request = Arc::new(request);
        for _ in 0..WRAP_AGAIN_MAX {
            let prepared = self.prepare_store(&request).await?;
            let Some(command) = prepared.command.clone() else {
                let outcomes = prepared.early_outcomes().unwrap_or_default();
                self.0.figures.stored(&outcomes);
                return Ok(CustodianReply::Store(outcomes));
            };
            fail_point!("custodian-store-before-propose");
            let committed = self.submit(command).await?;
            fail_point!("custodian-store-after-commit");
            match prepared.decide(&committed) {
                StoreDecision::Outcomes(outcomes) => {
                    self.0.figures.stored(&outcomes);
                    return Ok(CustodianReply::Store(outcomes));
                }
                StoreDecision::Again => {}
                StoreDecision::Refused(reason) => return Err(invalid(reason)),
            }
        }
        Err(busy("the wrapping key changes; ask again"))
    }

    async fn prepare_store(&self, request: &Arc<StoreRequest>) -> Answered<PreparedStore> {
        let in_use = view(&*self.0.consensus, |kv| {
            custody::version_in_use(kv, KeyKind::Wrapping)
        });
        let version = in_use
            .map_err(|e| busy(e.0))?
            .ok_or_else(|| busy("no wrapping key is in use yet"))?;
        let digest = cache::session_digest(&request.session);
        // Of a version whose private part is gone nothing opens any more, remembered or not.
        let held = self.ring().sealing(request.session.version).is_some();
        let cached = self.0.cache.session(&digest).filter(|_| held);
        let small = cached.is_some() && request.items.len() <= INLINE_SHARES_MAX;
        let (this, request) = (self.clone(), request.clone());
        let work = move || {
            let receiver = match cached.map_or_else(|| this.decapsulate(&request.session), Ok) {
                Ok(receiver) => receiver,
                Err(outcome) => return Ok(PreparedStore::all(outcome, request.items.len())),
            };
            let ring = this.ring();
            let Some(key) = ring.wrapping_key(version) else {
                return Err(busy(format!(
                    "wrapping version {version} is not loaded here yet"
                )));
            };
            let rng = &mut rand::rng();
            Ok(prepare_store(
                &this.0.place,
                &receiver,
                (version, key),
                &request,
                rng,
            ))
        };
        self.0.pool.run(small, work).await.map_err(busy)?
    }

    /// Opens a seal session and remembers it.
    fn decapsulate(&self, session: &SealSession) -> Result<Arc<Receiver>, StoreOutcome> {
        let ring = self.ring();
        let key = ring.sealing(session.version).map(Arc::as_ref);
        let receiver = Arc::new(open_session(&self.0.place, key, session, self.now())?);
        let digest = cache::session_digest(session);
        self.0
            .cache
            .put_session(digest, session.version, receiver.clone());
        // Destroyed meanwhile: whoever did that may have looked before this was remembered.
        if self.ring().sealing(session.version).is_none() {
            self.0.cache.forget_sealing(session.version);
        }
        Ok(receiver)
    }

    async fn release(
        &self,
        who: &Authorised,
        request: ReleaseRequest,
    ) -> Answered<(CustodianReply, Leaving)> {
        let chats = request.keys.iter().map(|k| k.chat);
        if let Some(why) = self.behind(chats, None) {
            return Err(busy(why));
        }
        // The signature is looked at here, once a grant; device, member, epoch, ceiling and time in `apply`.
        let device = |account: &AccountId, device: &DeviceId| {
            if let Some(why) = self.behind([], Some(*account)) {
                return Err(NotPrepared::Instead(busy(why)));
            }
            let read = view(&*self.0.consensus, |kv| {
                // As entry time will be: a clock that is behind the log does not revive a device.
                let now = Log::load(kv)?.time_for(self.now());
                custody::device(kv, account, device, now)
            });
            read.map_err(|e| NotPrepared::Instead(busy(e.0)))
        };
        // An encapsulation was made to it, which takes a key.
        let checked = |hash: &[u8; 32]| self.0.cache.lease(hash, Instant::now()).is_some();
        let command = prepare_release(
            &self.0.place,
            who,
            &request,
            &self.0.grants,
            checked,
            device,
        )?;
        self.let_out(who, request.lease_key, command).await
    }

    /// Records a release and seals what it grants, in time or never.
    async fn let_out(
        &self,
        who: &Authorised,
        lease_key: RecipientPublic,
        command: Command,
    ) -> Answered<(CustodianReply, Leaving)> {
        let leaving = self.0.gate.begin();
        fail_point!("custodian-release-before-propose");
        let committed = self.submit(command).await?;
        fail_point!("custodian-release-after-commit");
        let granted = match committed.granted() {
            Ok(granted) => granted,
            Err(other) => {
                let effect = &other.value().effect;
                return Err(invalid(format!("the release was answered by {effect:?}")));
            }
        };
        if !leaving.may_leave() {
            let reason = "the release was committed too late to be sent; ask again".into();
            return Err(Box::new(CustodianReply::Unknown { reason }));
        }
        let cached = self
            .0
            .cache
            .lease(&granted.value().lease_key, Instant::now());
        let small = cached.is_some() && granted.value().results.len() <= INLINE_SHARES_MAX;
        let this = self.clone();
        let work = move || {
            let rng = &mut rand::rng();
            let lease = match cached {
                Some(lease) => lease,
                None => {
                    let made = LeaseSender::new(&this.0.place, &lease_key, rng);
                    let made = Arc::new(made.map_err(invalid)?);
                    this.0.cache.put_lease(made.clone(), Instant::now());
                    made
                }
            };
            let (place, log) = (&this.0.place, &this.0.signing.log);
            Ok::<ReleaseReply, Box<CustodianReply>>(finish_release(
                place,
                &*this.ring(),
                &granted,
                &lease,
                log,
                rng,
            ))
        };
        let reply = self.0.pool.run(small, work).await.map_err(busy)??;
        self.0.figures.released(&reply);
        warn_of_refusals(who, &reply);
        Ok((CustodianReply::Release(reply), leaving))
    }

    async fn abandon(
        &self,
        who: &Authorised,
        request: &AbandonRequest,
    ) -> Answered<CustodianReply> {
        let command = prepare_abandon(&self.0.place, who, request).map_err(invalid)?;
        match self.submit(command).await?.into_value().effect {
            Effect::Abandoned(outcomes) => Ok(CustodianReply::Abandon(outcomes)),
            Effect::OverBudget { retry_ms } => Err(Box::new(CustodianReply::Busy {
                reason: "the budget for abandoned keys is spent".into(),
                retry_ms,
            })),
            other => Err(invalid(format!("the abandon was answered by {other:?}"))),
        }
    }
}
