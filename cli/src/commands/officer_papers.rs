//! What officers' commands share: keys in files, statements read in words,
//! signed here and handed in.
//!
//! A statement is signed as it was read here. What a node says beside it is
//! shown, never signed.

use super::Context;
use crate::deployment::read_limited;
use crate::exit::{Exit, Failure};
use crate::output::{plain, remark, time};
use crate::private_file;
use quorate_engine::api::keys::SecretText;
use quorate_engine::api::officers::{HandIn, OfficersView};
use quorate_engine::api::operator::OperatorDone;
use quorate_engine::authz::envelope::Envelope;
use quorate_engine::authz::officers::{Act, Floor, OfficerKey, Statement, ThawScope, Waits};
use quorate_engine::authz::orders::Order;
use quorate_engine::crypto::labels;
use quorate_engine::crypto::sign::SigningKey;
use quorate_engine::policy::Policy;
use quorate_engine::types::{CustodianId, DeploymentId, OfficerId, Secret, Structure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::Path;
use zeroize::Zeroizing;

/// What an officer's key file says it is.
const KEY_KIND: &str = "quorate officer key 1";

/// An officer's key, as its file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    kind: String,
    officer: OfficerId,
    public: OfficerKey,
    seed: SecretText,
}

pub(super) fn wrong(e: impl std::fmt::Display) -> Failure {
    Failure::usage(e.to_string(), "docs/lawful-access.md shows the commands")
}

/// Draws an officer's key and keeps it in a new file that only its owner reads.
pub(super) fn make_key(path: &Path) -> Result<SigningKey, Failure> {
    let key = SigningKey::generate(&mut rand::rng());
    let public = OfficerKey(key.public());
    let file = KeyFile {
        kind: KEY_KIND.into(),
        officer: public.id(),
        public,
        seed: SecretText(hex::encode(key.seed().expose())),
    };
    let text = Zeroizing::new(serde_json::to_vec_pretty(&file).map_err(wrong)?);
    private_file::create(path, &text, "write the officer's key to")?;
    Ok(key)
}

/// The officer's key in `path`.
pub(super) fn read_key(path: &Path) -> Result<SigningKey, Failure> {
    let bytes = private_file::read(path, "read the officer's key")?;
    let no_key =
        |e: &dyn std::fmt::Display| wrong(format!("{} is no officer's key: {e}", path.display()));
    let file: KeyFile = serde_json::from_slice(&bytes).map_err(|e| no_key(&e))?;
    let seed =
        Zeroizing::new(hex::decode(&file.seed.0).map_err(|_| no_key(&"its seed is not hex"))?);
    let seed =
        Secret::<32>::from_slice(&seed).ok_or_else(|| no_key(&"its seed has not 32 bytes"))?;
    let key = SigningKey::from_seed(&seed);
    if file.kind != KEY_KIND || key.public() != file.public.0 || file.public.id() != file.officer {
        return Err(no_key(&"its parts do not belong together"));
    }
    Ok(key)
}

pub(super) fn officer_of(key: &SigningKey) -> OfficerId {
    OfficerKey(key.public()).id()
}

pub(super) fn custodian_id(name: &str) -> Result<CustodianId, Failure> {
    CustodianId::new(name).map_err(wrong)
}

/// The deployment that statements are signed for, as this client's own file names it.
pub(super) fn deployment_id(context: &Context) -> Result<DeploymentId, Failure> {
    let deployment = context.deployment()?;
    deployment.file.deployment.parse().map_err(|_| {
        Failure::usage(
            format!("{} does not name its deployment", deployment.dir.join("client.toml").display()),
            "write deployment = \"…\" there: the id that `quorate status` shows, compared with your colleagues",
        )
    })
}

/// Asks every node of `custodian` and takes the answer that includes most of its log.
pub(super) async fn newest<T: DeserializeOwned>(
    context: &Context,
    custodian: &str,
    path: &str,
    position: impl Fn(&T) -> u64,
) -> Result<T, Failure> {
    let clients = context.deployment()?.operator_of_each(custodian)?;
    let asked = clients.iter().map(|node| node.get::<T>(path));
    let (mut best, mut failure): (Option<T>, Option<Failure>) = (None, None);
    for answer in futures::future::join_all(asked).await {
        match answer {
            Ok(view) if best.as_ref().is_none_or(|b| position(b) < position(&view)) => {
                best = Some(view)
            }
            Ok(_) => {}
            Err(e) => {
                failure.get_or_insert(e.into());
            }
        }
    }
    let nobody = || wrong(format!("no node of {custodian} is known here"));
    best.ok_or_else(|| failure.unwrap_or_else(nobody))
}

pub(super) async fn officers(context: &Context, custodian: &str) -> Result<OfficersView, Failure> {
    newest(context, custodian, "/v1/officers", |v: &OfficersView| {
        v.position
    })
    .await
}

/// An officer's name, where the roster has it.
pub(super) fn name_of(view: &OfficersView, id: &str) -> String {
    let all = view.roster.iter().flat_map(|r| &r.officers);
    let found = all.into_iter().find(|o| o.id == id);
    found.map_or_else(|| id.get(..16).unwrap_or(id).to_owned(), |o| plain(&o.name))
}

/// The officer of this name or id.
pub(super) fn find_officer(view: &OfficersView, text: &str) -> Result<OfficerId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let all = view.roster.iter().flat_map(|r| &r.officers);
    let found = all.into_iter().find(|o| o.name == text);
    let id = found.and_then(|o| o.id.parse().ok());
    id.ok_or_else(|| wrong(format!("{} has no officer {text:?}", view.custodian)))
}

/// Adds one officer's signature to `paper`.
pub(super) fn sign(
    paper: &mut Envelope,
    deployment: &DeploymentId,
    key: &SigningKey,
) -> Result<(), Failure> {
    let public = hex::encode(key.public());
    if paper.signatures.iter().any(|s| s.key == public) {
        return Err(wrong(format!(
            "officer {} has signed this already",
            officer_of(key)
        )));
    }
    paper.add(labels::SIGN_OFFICER, deployment, key);
    Ok(())
}

/// A new statement with nobody's signature yet.
pub(super) fn unsigned(statement: &Statement, deployment: &DeploymentId) -> Envelope {
    Envelope::sign(labels::SIGN_OFFICER, deployment, statement, &[])
}

/// Keeps `paper` in a file, for the next signature or another custodian.
pub(super) fn save(paper: &Envelope, path: &Path) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(paper).map_err(wrong)?;
    std::fs::write(path, text).map_err(|e| Failure::file("write", path, &e))
}

pub(super) fn load(path: &Path) -> Result<Envelope, Failure> {
    let bytes = read_limited(path).map_err(|e| Failure::file("read", path, &e))?;
    let odd = |e| {
        wrong(format!(
            "{} is no statement of officers: {e}",
            path.display()
        ))
    };
    serde_json::from_slice(&bytes).map_err(odd)
}

/// Hands `paper` in at `custodian`.
pub(super) async fn hand_in(
    context: &Context,
    custodian: &str,
    paper: &Envelope,
) -> Result<OperatorDone, Failure> {
    let body = HandIn {
        statement: paper.into(),
    };
    let client = context.deployment()?.operator(custodian)?;
    Ok(client.post("/v1/officers/statements", &body).await?)
}

/// Hands it in and shows what came of it.
pub(super) async fn hand_in_and_show(
    context: &Context,
    custodian: &str,
    paper: &Envelope,
) -> crate::exit::CommandResult {
    let done = hand_in(context, custodian, paper).await?;
    context.output.show(&done, || match done.entry {
        Some(entry) => format!(
            "{}: {} (log entry {entry})",
            plain(custodian),
            plain(&done.detail)
        ),
        None => format!("{}: {}", plain(custodian), plain(&done.detail)),
    })?;
    Ok(Exit::Ok)
}

/// Shows what is about to be signed, and stops unless that was said to be meant.
pub(super) fn agreed(what: &str, yes: bool) -> Result<(), Failure> {
    remark(&what);
    if yes {
        return Ok(());
    }
    Err(Failure::usage(
        "nothing was signed",
        "read the above; if it is what you mean, run the command again with --yes",
    ))
}

/// What `paper` says, in words. It may lack signatures.
pub(super) fn words(paper: &Envelope, view: Option<&OfficersView>) -> Result<String, Failure> {
    let statement: Statement = serde_json::from_str(&paper.payload)
        .map_err(|e| wrong(format!("this is no statement of officers: {e}")))?;
    let name = |id: &OfficerId| match view {
        Some(view) => name_of(view, &id.to_string()),
        None => id.to_string(),
    };
    Ok(match statement {
        Statement::Bootstrap(b) => {
            let mut out = format!(
                "the first officers of {}, {} of whom must agree:",
                b.custodian, b.quorum
            );
            for o in &b.officers {
                let _ = write!(out, "\n  {} {}", o.public.id(), plain(&o.name));
            }
            if let Some(floor) = &b.floor {
                let _ = write!(out, "\n  {}", floor_words(floor));
            }
            if let Some(waits) = &b.waits {
                let _ = write!(out, "\n  {}", waits_words(waits));
            }
            out
        }
        Statement::Proposal(p) => format!(
            "officers of {}: {}\n  because: {}\n  proposed by {}, to be decided before {}",
            p.custodian,
            act_words(&p.act, &name)?,
            plain(&p.reason),
            name(&p.by),
            time(p.expires_ms)
        ),
        Statement::Decision(d) => format!(
            "officer {} at {}: {:?} {:?}, because: {}",
            name(&d.officer),
            d.custodian,
            d.verdict,
            d.subject,
            plain(&d.reason)
        ),
        Statement::Order(order) => order_words(&order),
    })
}

pub(super) fn order_words(order: &Order) -> String {
    let mut out = format!(
        "disclosure order\n  issuer: {}\n  legal basis: {}\n  document: BLAKE3 {}\n  reason: {}\n  records from {} to {}",
        plain(&order.issuer),
        plain(&order.legal_basis),
        order.document_hash,
        plain(&order.reason),
        time(order.scope.from_ms),
        time(order.scope.to_ms)
    );
    for chat in &order.scope.chats {
        let _ = write!(out, "\n  chat {chat}");
    }
    for account in &order.scope.accounts {
        let _ = write!(out, "\n  account {account}");
    }
    let _ = write!(
        out,
        "\n  submitted by {}\n  expires {}\n  results sealed to {}",
        order.submitted_by.id(),
        time(order.expires_ms),
        plain(&order.recipient)
    );
    out
}

fn floor_words(floor: &Floor) -> String {
    format!(
        "raise the floor of policies to {} custodians, {} entities, {} independent groups, for ever",
        floor.threshold, floor.entities, floor.blocs
    )
}

fn waits_words(waits: &Waits) -> String {
    let mut parts = Vec::new();
    if let Some(ms) = waits.cool_off_ms {
        parts.push(format!("approved orders wait {} minutes", ms / 60_000));
    }
    if let Some(ms) = waits.recovery_ms {
        let hours = ms / 3_600_000;
        parts.push(format!(
            "recoveries that begin from now on wait {hours} hours"
        ));
    }
    parts.join("; ")
}

fn act_words(act: &Act, name: &dyn Fn(&OfficerId) -> String) -> Result<String, Failure> {
    Ok(match act {
        Act::AddOfficer { officer } => {
            format!("let {} join (key {})", plain(&officer.name), officer.public)
        }
        Act::RemoveOfficer { officer } => format!("let {} go", name(officer)),
        Act::ReplaceKey { officer, public } => {
            format!("replace the key of {} by {public}", name(officer))
        }
        Act::SetQuorum { quorum } => format!("from now on {quorum} officers must agree"),
        Act::RaiseFloor { floor } => floor_words(floor),
        Act::SetWaits { waits } => waits_words(waits),
        Act::ApprovePolicy { canonical, members } => {
            let bytes = hex::decode(canonical).map_err(wrong)?;
            let policy = Policy::from_canonical(&bytes).map_err(wrong)?;
            let mut out = format!(
                "deal under policy {}: {}",
                policy.id(),
                structure(policy.structure())
            );
            for (id, d) in members {
                let blocs: Vec<_> = d.blocs.iter().map(|b| plain(b)).collect();
                let blocs = match blocs.as_slice() {
                    [] => "none".to_owned(),
                    some => some.join(", "),
                };
                let _ = write!(out, "\n    {id}: of {}, blocs: {blocs}", plain(&d.entity));
            }
            out
        }
        Act::Thaw {
            scope: ThawScope::All,
        } => "end the freeze of everything".into(),
        Act::Thaw {
            scope: ThawScope::Chat(chat),
        } => format!("end the freeze of chat {chat}"),
        Act::Shred { keys } => {
            let mut out = String::from("destroy, for ever, the shares of");
            for k in keys {
                let _ = write!(out, "\n    chat {} key {}", k.chat, k.key);
            }
            out
        }
        Act::AdmitAuditor { auditor } => format!(
            "let {} read the log's entries and openings until {} (key {})",
            plain(&auditor.name),
            crate::output::time(auditor.expires_ms),
            auditor.public
        ),
        Act::DismissAuditor { auditor } => format!("let auditor {auditor} read the log no more"),
    })
}

fn structure(s: &Structure) -> String {
    match s {
        Structure::Leaf(id) => id.to_string(),
        Structure::Gate {
            threshold,
            children,
        } => {
            let all: Vec<_> = children.iter().map(structure).collect();
            format!("any {threshold} of ({})", all.join(", "))
        }
    }
}

/// Unix milliseconds now.
pub(super) fn now_ms() -> u64 {
    (quorate_node::custodian::system_clock())()
}

/// A moment: Unix milliseconds, `2026-11-21` or `2026-11-21T02:15:00Z`.
pub(super) fn moment(text: &str) -> Result<u64, String> {
    let bad = || {
        format!(
            "{text:?} is no moment: write 2026-11-21, 2026-11-21T02:15:00Z or Unix milliseconds"
        )
    };
    if text.len() > 10 && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| bad());
    }
    let (date, clock) = match text.split_once(['T', ' ']) {
        Some((date, clock)) => (date, clock.strip_suffix('Z').ok_or_else(bad)?),
        None => (text, "00:00:00"),
    };
    let number = |s: &str, digits: usize| {
        let fits = s.len() == digits && s.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| s.parse::<u64>().ok())
            .flatten()
            .ok_or_else(bad)
    };
    let parts: Vec<&str> = date.split('-').collect();
    let clock: Vec<&str> = clock.split(':').collect();
    let ([y, m, d], [h, min, s]) = (parts.as_slice(), clock.as_slice()) else {
        return Err(bad());
    };
    let (year, month, day) = (number(y, 4)?, number(m, 2)?, number(d, 2)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
        return Err(bad());
    }
    // Days from civil (H. Hinnant), from March on.
    let y = if month <= 2 { year - 1 } else { year };
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day.max(1) - 1;
    let days = (era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy).saturating_sub(719_468);
    let ms = ((days * 24 + number(h, 2)?) * 60 + number(min, 2)?) * 60_000 + number(s, 2)? * 1000;
    // What does not come back the same was no such day or hour.
    let again = time(ms);
    let meant = format!("{date} {}:{}:{}Z", clock[0], clock[1], clock[2]);
    if again == meant { Ok(ms) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn moments_are_read_and_impossible_ones_refused() {
        assert_eq!(moment("1970-01-01"), Ok(0));
        assert_eq!(moment("2000-02-29T12:34:56Z"), Ok(951_827_696_000));
        assert_eq!(moment("2004-11-15 12:18:00Z"), Ok(1_100_521_080_000));
        assert_eq!(moment("951827696000"), Ok(951_827_696_000));
        for bad in [
            "",
            "2026",
            "2026-02-30",
            "2026-13-01",
            "2026-00-10",
            "2026-01-00",
            "1969-12-31",
            "2026-01-01T24:00:00Z",
            "2026-01-01T10:60:00Z",
            "2026-01-01T10:00:00",
            "26-01-01",
            "2026-1-1",
            "99999999999999999999999",
        ] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_is_for_its_owner_only_and_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anna.key");
        let made = make_key(&path).unwrap();
        assert_eq!(read_key(&path).unwrap().public(), made.public());
        assert!(make_key(&path).is_err(), "what is there is not overwritten");
        let mode = |m| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(m)).unwrap();
        mode(0o640);
        assert!(
            read_key(&path)
                .unwrap_err()
                .what
                .contains("others may read")
        );
        mode(0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let other = hex::encode([7; 32]);
        let seed = hex::encode(made.seed().expose());
        std::fs::write(&path, text.replace(&seed, &other)).unwrap();
        let e = read_key(&path).unwrap_err();
        assert!(
            e.what.contains("belong together") && !e.what.contains(&other),
            "{e}"
        );
    }

    #[test]
    fn an_officer_signs_once() {
        let (deployment, key) = (
            DeploymentId([1; 16]),
            SigningKey::from_seed(&Secret::from_slice(&[1; 32]).unwrap()),
        );
        let mut paper = Envelope {
            payload: "{}".into(),
            signatures: Vec::new(),
        };
        sign(&mut paper, &deployment, &key).unwrap();
        assert!(
            sign(&mut paper, &deployment, &key)
                .unwrap_err()
                .what
                .contains("already")
        );
        assert_eq!(paper.signatures.len(), 1);
    }
}
