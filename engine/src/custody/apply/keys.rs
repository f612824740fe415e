//! Key versions: attested by nodes, put into use by a majority, dropped when
//! nothing lives under them.

use super::super::command::{
    AttestKey, DropVersion, KeyEvent, KeyEventKind, KeyKind, Operator, UseVersion, Voters,
};
use super::super::protocol::SealingKeyStatement;
use super::super::reply::Effect;
use super::super::rows::{self, VOTERS, VersionRow, VersionState};
use super::super::statement::SEALING_LIFE_MS_MAX;
use super::super::{HANDOVER_MS_MIN, VOTERS_MAX, view};
use super::{Draft, Run};
use crate::audit::HexBytes;
use crate::types::kv::KvError;
use crate::types::{NodeId, WallMs, codec};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

fn about(draft: &mut Draft<'_>, kind: KeyKind, version: u32) {
    draft.entry.key_kind = Some(kind.as_str().to_owned());
    draft.entry.version = Some(version);
}

impl Run<'_> {
    /// Records what happened to a node's keys, and decides on a handover: it is recorded first.
    pub(super) fn key_event(
        &mut self,
        draft: &mut Draft<'_>,
        c: &KeyEvent,
    ) -> Result<Effect, KvError> {
        draft.entry.node = Some(c.node);
        draft.entry.operator = c.operator.as_ref().map(Operator::mark);
        draft.entry.reason = Some(c.reason.clone());
        if c.what != KeyEventKind::HandedOver {
            return Ok(Effect::Done);
        }
        let key = rows::handover_key(c.node);
        let last: Option<WallMs> = rows::get(self.kv, &key)?;
        let now = draft.time_ms();
        if last.is_some_and(|at| at.saturating_add(HANDOVER_MS_MIN) > now) {
            return Ok(draft.refuse(
                "keys were handed to this node a short while ago; its people must unlock it",
            ));
        }
        rows::put(self.kv, &key, &now)?;
        Ok(Effect::Done)
    }

    pub(super) fn attest_key(
        &mut self,
        draft: &mut Draft<'_>,
        c: &AttestKey,
    ) -> Result<Effect, KvError> {
        about(draft, c.kind, c.version);
        draft.entry.node = Some(c.node);
        let key = rows::version_key(c.kind, c.version);
        let mut row = match rows::get::<VersionRow, _>(self.kv, &key)? {
            Some(row) => row,
            None => VersionRow {
                fingerprint: c.fingerprint,
                state: VersionState::Attesting,
                attested: BTreeSet::new(),
                since_ms: draft.time_ms(),
                statement: None,
            },
        };
        if row.fingerprint != c.fingerprint {
            return Ok(draft.refuse("another key stands under this version; draw the next one"));
        }
        if row.state == VersionState::Dropped {
            return Ok(draft.refuse("the version was dropped"));
        }
        if row.attested.len() >= VOTERS_MAX && !row.attested.contains(&c.node) {
            return Ok(draft.refuse(format!("{VOTERS_MAX} nodes attested it already")));
        }
        if !row.attested.insert(c.node) {
            return Ok(Effect::Unchanged);
        }
        rows::put(self.kv, &key, &row)?;
        Ok(Effect::Done)
    }

    pub(super) fn use_version(
        &mut self,
        draft: &mut Draft<'_>,
        c: &UseVersion,
    ) -> Result<Effect, KvError> {
        about(draft, c.kind, c.version);
        if let Some(statement) = &c.statement {
            let bytes = codec::encode(1, statement);
            draft.entry.statement = Some(HexBytes(Sha256::digest(bytes).into()));
        }
        let key = rows::version_key(c.kind, c.version);
        let Some(mut row) = rows::get::<VersionRow, _>(self.kv, &key)? else {
            return Ok(draft.refuse("no node attested this version"));
        };
        if row.fingerprint != c.fingerprint {
            return Ok(draft.refuse("another key stands under this version"));
        }
        match row.state {
            VersionState::InUse => return Ok(Effect::Unchanged),
            VersionState::Dropped => return Ok(draft.refuse("the version was dropped")),
            VersionState::Attesting => {}
        }
        let current = view::version_in_use(self.kv, c.kind)?;
        if let Some(current) = current.filter(|v| *v >= c.version) {
            return Ok(draft.refuse(format!("version {current} is in use already")));
        }
        let voters = view::voters(self.kv)?;
        let have = row.attested.intersection(&voters).count();
        if voters.is_empty() || have * 2 <= voters.len() {
            let all = voters.len();
            return Ok(draft.refuse(format!(
                "{have} of {all} voters attested it, a majority is needed"
            )));
        }
        if let Err(reason) = self.check_statement(draft, c) {
            return Ok(draft.refuse(reason));
        }
        row.state = VersionState::InUse;
        row.since_ms = draft.time_ms();
        row.statement = c.statement.clone();
        rows::put(self.kv, &key, &row)?;
        rows::put(self.kv, &rows::current_key(c.kind), &c.version)?;
        Ok(Effect::Done)
    }

    fn check_statement(&self, draft: &Draft<'_>, c: &UseVersion) -> Result<(), String> {
        let statement: &SealingKeyStatement = match (c.kind, &c.statement) {
            (KeyKind::Wrapping, None) => return Ok(()),
            (KeyKind::Wrapping, Some(_)) => {
                return Err("a wrapping version has no public statement".into());
            }
            (KeyKind::Sealing, None) => {
                return Err("a sealing version needs its signed statement".into());
            }
            (KeyKind::Sealing, Some(statement)) => statement,
        };
        if statement.custodian != self.custody.custodian || statement.version != c.version {
            return Err("the statement speaks for another custodian or version".into());
        }
        if statement.public.hash() != c.fingerprint {
            return Err("the statement names another key than was attested".into());
        }
        let left = statement.expires_ms.saturating_sub(draft.time_ms());
        if left == 0 || left > SEALING_LIFE_MS_MAX {
            return Err("the statement must expire within the next seven days".into());
        }
        Ok(())
    }

    pub(super) fn drop_version(
        &mut self,
        draft: &mut Draft<'_>,
        c: DropVersion,
    ) -> Result<Effect, KvError> {
        about(draft, c.kind, c.version);
        let key = rows::version_key(c.kind, c.version);
        let Some(mut row) = rows::get::<VersionRow, _>(self.kv, &key)? else {
            return Ok(draft.refuse("no such version"));
        };
        if row.state == VersionState::Dropped {
            return Ok(Effect::Unchanged);
        }
        let current = view::version_in_use(self.kv, c.kind)?;
        if let Some(reason) = self.still_needed(draft, c, &row, current)? {
            return Ok(draft.refuse(reason));
        }
        row.state = VersionState::Dropped;
        row.since_ms = draft.time_ms();
        row.statement = None;
        rows::put(self.kv, &key, &row)?;
        if current == Some(c.version) {
            self.kv.delete(&rows::current_key(c.kind))?;
        }
        Ok(Effect::Done)
    }

    fn still_needed(
        &self,
        draft: &Draft<'_>,
        c: DropVersion,
        row: &VersionRow,
        current: Option<u32>,
    ) -> Result<Option<String>, KvError> {
        if row.state == VersionState::Attesting {
            return Ok(None);
        }
        Ok(match c.kind {
            KeyKind::Wrapping => {
                let live: u64 = rows::get(self.kv, &rows::live_key(c.version))?.unwrap_or(0);
                if live > 0 {
                    Some(format!("{live} shares live under it"))
                } else if current == Some(c.version) {
                    Some("it is the version in use; put its successor into use first".into())
                } else {
                    self.lacking_successor(current)?
                }
            }
            KeyKind::Sealing => row
                .statement
                .as_ref()
                .filter(|s| s.expires_ms > draft.time_ms())
                .map(|_| "homes may seal to it until it expires".into()),
        })
    }

    /// The old key may go only when no voter would be left without the new one.
    fn lacking_successor(&self, current: Option<u32>) -> Result<Option<String>, KvError> {
        let lacking = view::lacking(self.kv, KeyKind::Wrapping, current)?;
        let names: Vec<_> = lacking.iter().map(NodeId::to_string).collect();
        Ok((!names.is_empty()).then(|| {
            format!(
                "voters {} have not attested its successor yet",
                names.join(", ")
            )
        }))
    }

    pub(super) fn voters(&mut self, draft: &mut Draft<'_>, c: &Voters) -> Result<Effect, KvError> {
        draft.entry.voters = c.voters.iter().copied().collect();
        if view::voters(self.kv)? == c.voters {
            return Ok(Effect::Unchanged);
        }
        rows::put(self.kv, &[VOTERS], &c.voters)?;
        Ok(Effect::Done)
    }
}
