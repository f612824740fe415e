//! Signed statements about accounts and chats, from authorities, homes and
//! other custodians; and what this custodian says of accounts and members.
//!
//! Signatures are looked at before anything is proposed, so that what nobody
//! signed leaves no entry in the log. Everything else `apply` decides.

use super::consensus::{SubmitError, view};
use super::service::{Answered, busy, invalid};
use super::{Custodian, RETRY_MS};
use crate::http::registry::{FromAuthority, RegistryApi, RegistryError, RegistryResult};
use futures::future::BoxFuture;
use quorate_engine::api::registry::{Account, AccountDevice, AccountHead, AccountRecovery};
use quorate_engine::audit::EntryRef;
use quorate_engine::authz::chain::{ChainId, Source};
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::identity::{AccountPayload, AccountState, DeviceRecord, account_id};
use quorate_engine::authz::membership::{ChatPayload, chat_id};
use quorate_engine::crypto::labels;
use quorate_engine::custody::protocol::{
    CHATS_PER_LOOKUP_MAX, ChainRequest, ChainTold, CustodianReply, LookupReply, LookupRequest,
    SignedHead, StatementRefused,
};
use quorate_engine::custody::{self, ChainHead, Chained, Command, Effect};
use quorate_engine::types::{AccountId, DeviceId, Outcome};

/// Longest code that is taken out of a refusal's words.
const CODE_BYTES_MAX: usize = 40;

/// Which kind of chain a statement belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Account,
    Chat,
}

impl Kind {
    pub(super) fn of(chain: &ChainId) -> Self {
        match chain {
            ChainId::Account(_) => Self::Account,
            ChainId::Chat(_) => Self::Chat,
        }
    }
    fn label(self) -> &'static str {
        match self {
            Self::Account => labels::SIGN_ACCOUNT,
            Self::Chat => labels::SIGN_MEMBERSHIP,
        }
    }
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Chat => "chat",
        }
    }
}

/// Place of a statement in its chain, as it says itself.
pub(super) struct Place {
    pub(super) chain: ChainId,
    pub(super) number: u64,
    pub(super) previous: Option<[u8; 32]>,
}

/// Reads where a statement belongs.
pub(super) fn place_of(kind: Kind, statement: &Envelope) -> Result<Place, String> {
    let words = |e: quorate_engine::authz::envelope::EnvelopeError| e.to_string();
    Ok(match kind {
        Kind::Account => match statement.read("account statement").map_err(words)? {
            AccountPayload::Genesis(_) => Place {
                chain: ChainId::Account(account_id(statement)),
                number: 0,
                previous: None,
            },
            AccountPayload::Statement(s) => Place {
                chain: ChainId::Account(s.account),
                number: s.number,
                previous: Some(s.previous.0),
            },
        },
        Kind::Chat => match statement.read("statement about a chat").map_err(words)? {
            ChatPayload::Genesis(_) => Place {
                chain: ChainId::Chat(chat_id(statement)),
                number: 0,
                previous: None,
            },
            ChatPayload::Statement(s) => Place {
                chain: ChainId::Chat(s.chat),
                number: s.number,
                previous: Some(s.previous.0),
            },
        },
    })
}

fn refused(code: &str, reason: impl Into<String>) -> StatementRefused {
    StatementRefused {
        code: code.into(),
        reason: reason.into(),
        have: None,
    }
}

/// The code that begins a refusal's words, `code: words`.
fn code_of(words: &str) -> &str {
    let code = words.split_once(": ").map_or("", |(code, _)| code);
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    match (1..=CODE_BYTES_MAX).contains(&code.len()) && code.chars().all(plain) {
        true => code,
        false => "refused",
    }
}

impl Custodian {
    /// Has `apply` decide about a statement; the head of its chain, signed, when it stands.
    pub(super) async fn take_statement(
        &self,
        kind: Kind,
        source: Source,
        statement: Envelope,
    ) -> Result<Result<SignedHead, StatementRefused>, SubmitError> {
        let place = match self.readable(kind, &statement) {
            Ok(place) => place,
            Err(refusal) => {
                self.count_statement(kind, Err(&refusal));
                return Ok(Err(refusal));
            }
        };
        let chained = Chained {
            source,
            envelope: statement,
        };
        let committed = self
            .submit(match kind {
                Kind::Account => Command::AccountStatement(chained),
                Kind::Chat => Command::ChatStatement(chained),
            })
            .await?;
        let term = committed.position().term;
        let applied = committed.into_value();
        let answer = match applied.effect {
            Effect::Chained {
                chain,
                number,
                hash,
            } => Ok(self.sign_head(chain, (number, hash.0), &applied.entry)),
            Effect::Unchanged => self.standing_head(&place.chain, &applied.entry),
            Effect::Behind { have, got } => Err(StatementRefused {
                have,
                ..refused(
                    "behind",
                    match have {
                        Some(n) => format!("statement {got} cannot follow {n}"),
                        None => format!("statement {got} of a chain that is not known here"),
                    },
                )
            }),
            Effect::Forked { marked: false } => Err(refused(
                "fork",
                "another statement has this number here; read the head and sign the change anew",
            )),
            Effect::Forked { marked: true } => Err(refused(
                "forked",
                "two statements of one number were signed: nothing changes in this chain until officers settled it",
            )),
            Effect::Refused { reason } => Err(refused(code_of(&reason), reason.as_str())),
            other => Err(refused("refused", format!("answered by {other:?}"))),
        };
        self.count_statement(kind, answer.as_ref().map(|_| ()));
        if answer.is_ok() {
            // A signed head may say that someone is out: no share for them leaves after it.
            self.0.gate.confirmed(term).await;
        }
        Ok(answer)
    }

    /// What can be seen without state: form, signatures.
    fn readable(&self, kind: Kind, statement: &Envelope) -> Result<Place, StatementRefused> {
        let place = place_of(kind, statement).map_err(|e| refused("malformed", e))?;
        let signed = statement.signers(kind.label(), &self.0.place.deployment);
        signed.map_err(|e| refused("envelope", e.to_string()))?;
        Ok(place)
    }

    fn count_statement(&self, kind: Kind, answer: Result<(), &StatementRefused>) {
        if let Err(refusal) = answer {
            tracing::warn!(
                chain = kind.as_str(),
                code = refusal.code,
                "a statement was refused: {}",
                refusal.reason
            );
        }
        let code = answer.map_or_else(|r| r.code.clone(), |()| "stands".into());
        self.0.figures.statement(kind.as_str(), code);
    }

    fn sign_head(&self, chain: ChainId, head: (u64, [u8; 32]), entry: &EntryRef) -> SignedHead {
        let (place, key) = (&self.0.place, &self.0.signing.log);
        SignedHead::sign(
            &place.deployment,
            place.custodian.clone(),
            chain,
            head,
            entry,
            key,
        )
    }

    fn standing_head(
        &self,
        chain: &ChainId,
        entry: &EntryRef,
    ) -> Result<SignedHead, StatementRefused> {
        let head = view(&*self.0.consensus, |kv| custody::chain_head(kv, chain));
        match head {
            Ok(Some(h)) => Ok(self.sign_head(h.chain, (h.number, h.hash.0), &found(&h, entry))),
            Ok(None) => Err(refused("refused", "the chain is not here")),
            Err(e) => Err(refused("refused", e.0)),
        }
    }

    /// Where a device and its account stand.
    pub(super) async fn lookup(&self, r: &LookupRequest) -> Answered<CustodianReply> {
        if r.chats.len() > CHATS_PER_LOOKUP_MAX {
            let n = r.chats.len();
            return Err(invalid(format!(
                "{n} chats, a lookup has at most {CHATS_PER_LOOKUP_MAX}"
            )));
        }
        self.0.consensus.read_index().await?;
        let now = self.now();
        let reply = view(&*self.0.consensus, |kv| {
            let chats = r.chats.iter().map(|c| custody::member(kv, c, &r.account));
            Ok(LookupReply {
                position: custody::feed(kv)?.position,
                device: custody::device(kv, &r.account, &r.device, now)?,
                chats: chats.collect::<Result<_, _>>()?,
            })
        });
        Ok(CustodianReply::Lookup(reply.map_err(|e| busy(e.0))?))
    }

    /// The end of an account's chain, signed, and its statements from a number on.
    pub(super) async fn account_chain(&self, r: &ChainRequest) -> Answered<CustodianReply> {
        self.0.consensus.read_index().await?;
        let chain = ChainId::Account(r.account);
        let read = view(&*self.0.consensus, |kv| {
            Ok((
                custody::chain_head(kv, &chain)?,
                custody::statements(kv, &chain, r.from)?,
            ))
        });
        let (head, statements) = read.map_err(|e| busy(e.0))?;
        let told = head.map(|h| {
            let entry = EntryRef {
                index: h.entry,
                time_ms: h.time_ms,
                leaf: [0; 32],
            };
            ChainTold {
                head: self.sign_head(h.chain, (h.number, h.hash.0), &entry),
                statements,
            }
        });
        Ok(CustodianReply::AccountChain(told))
    }

    async fn account_for(
        &self,
        by: &FromAuthority,
        id: AccountId,
    ) -> RegistryResult<(AccountState, ChainHead)> {
        self.0.consensus.read_index().await?;
        let chain = ChainId::Account(id);
        let found = view(&*self.0.consensus, |kv| {
            Ok((custody::account(kv, &id)?, custody::chain_head(kv, &chain)?))
        });
        let found = found.map_err(|e| SubmitError::Busy(e.0))?;
        match found {
            // To others the account is not there: which people an authority attests is its own.
            (Some(state), Some(head)) if state.authorities.contains(&by.authority) => {
                Ok((state, head))
            }
            _ => Err(RegistryError::NotFound(id)),
        }
    }
}

/// The entry at which the head was taken in; the leaf is not part of a signed head.
fn found(head: &ChainHead, now: &EntryRef) -> EntryRef {
    EntryRef {
        index: head.entry,
        time_ms: head.time_ms,
        leaf: now.leaf,
    }
}

impl From<SubmitError> for RegistryError {
    fn from(e: SubmitError) -> Self {
        let later = |detail, outcome| Self::Unavailable {
            detail,
            retry_ms: RETRY_MS,
            outcome,
        };
        match e {
            SubmitError::NotLeader { leader } => Self::NotLeader { leader },
            SubmitError::Busy(why) => later(why, Outcome::NotDone),
            SubmitError::Unknown(why) => later(why, Outcome::Unknown),
            SubmitError::Invalid(reason) => Self::Refused {
                code: "invalid".into(),
                reason,
            },
        }
    }
}

impl RegistryApi for Custodian {
    fn statement(
        &self,
        by: FromAuthority,
        account: Option<AccountId>,
        statement: Envelope,
    ) -> BoxFuture<'_, RegistryResult<AccountHead>> {
        Box::pin(async move {
            let no = |code: &str, reason: String| RegistryError::Refused {
                code: code.into(),
                reason,
            };
            let place = place_of(Kind::Account, &statement).map_err(|e| no("malformed", e))?;
            match account {
                None if place.number != 0 => {
                    let what = "this route takes the genesis of an account";
                    return Err(no("wrong_kind", what.into()));
                }
                Some(id) if place.chain != ChainId::Account(id) => {
                    let what = "the statement is about another account than the path names";
                    return Err(no("other_account", what.into()));
                }
                _ => {}
            }
            let head = self
                .take_statement(Kind::Account, Source::Client, statement)
                .await?
                .map_err(|r| no(&r.code, r.reason))?;
            tracing::info!(authority = %by.authority, number = head.number, "a statement about an account stands");
            let ChainId::Account(id) = place.chain else {
                return Err(no("wrong_kind", "not about an account".into()));
            };
            Ok(AccountHead {
                account: id.to_string(),
                custodian: head.custodian.to_string(),
                number: head.number,
                hash: hex::encode(head.hash),
                entry: head.entry,
                time_ms: head.time_ms,
                signature: hex::encode(&head.signature),
            })
        })
    }

    fn account(
        &self,
        by: FromAuthority,
        account: AccountId,
    ) -> BoxFuture<'_, RegistryResult<Account>> {
        Box::pin(async move {
            let (state, head) = self.account_for(&by, account).await?;
            let live = state.devices.iter().map(|(id, d)| (id, d, None));
            let gone = state.revoked.iter();
            let gone = gone.map(|(id, r)| (id, &r.record, Some(r.revoked_ms)));
            let device = |(id, d, revoked_ms): (&_, &DeviceRecord, Option<u64>)| AccountDevice {
                id: DeviceId::to_string(id),
                public: d.public.to_string(),
                added_ms: d.added_ms,
                expires_ms: d.expires_ms,
                revoked_ms,
            };
            Ok(Account {
                id: account.to_string(),
                number: head.number,
                hash: head.hash.to_string(),
                forked: head.forked,
                authorities: state.authorities.iter().map(ToString::to_string).collect(),
                devices: live.chain(gone).map(device).collect(),
                secret: state.secret.is_some(),
                recovery: state.recovery.map(|r| AccountRecovery {
                    public: r.public.to_string(),
                    begun_ms: r.begun_ms,
                }),
            })
        })
    }
}
