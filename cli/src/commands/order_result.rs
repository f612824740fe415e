//! `quorate order recipient-key|execute|open-result`: a disclosure order's
//! result, from the home to whom the order names.
//!
//! The home's operator gets sealed records and signed manifests. The recipient
//! opens them all, or none: a result that anybody changed is refused whole.

use super::Context;
use super::officer_papers::{deployment_id, load, wrong};
use crate::exit::{CommandResult, Exit, Failure};
use crate::output::{plain, time};
use crate::private_file;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_engine::api::disclosure::{
    Disclosed, DisclosureError, ExecuteOrder, Manifest, PART_JSON_BYTES_MAX, Part, SignedBy,
    SignedPart, Withheld, open_result as opened, read_listing, read_order, signed_bytes,
};
use quorate_engine::api::keys::SecretText;
use quorate_engine::authz::orders::Order;
use quorate_engine::crypto::seal::RecipientKey;
use quorate_engine::types::{OrderId, Secret};
use quorate_node::pki::Descriptor;
use quorate_node::pki::attest::{Attestation, attested_by};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What a recipient's key file says it is.
const KEY_KIND: &str = "quorate recipient key 1";
/// The order, in a result's directory.
const PAPER: &str = "order.json";
/// Most parts of one result.
const PARTS_MAX: usize = 100_000;

#[derive(Debug, clap::Args)]
pub(super) struct MakeKey {
    /// The new key file; its public half is written beside it, with .pub
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct Execute {
    /// The order, as `order open --out` wrote it
    order: PathBuf,
    /// A new directory for the result
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(super) struct OpenResult {
    /// The result, as `order execute` wrote it
    dir: PathBuf,
    /// The recipient's key file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The home's descriptor; compare its fingerprint with the home by telephone
    #[arg(long, value_name = "FILE")]
    home: PathBuf,
    /// The new file with what is in it [default: DIR/records.json]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    kind: String,
    public: String,
    seed: SecretText,
}

/// Draws the key pair that an order's results are sealed to.
pub(super) fn make_key(args: &MakeKey, context: &Context) -> CommandResult {
    let key = RecipientKey::generate(&mut rand::rng());
    let public = hex::encode(&key.public().0);
    let file = KeyFile {
        kind: KEY_KIND.into(),
        public: public.clone(),
        seed: SecretText(hex::encode(key.seed().expose())),
    };
    let text = Zeroizing::new(serde_json::to_vec_pretty(&file).map_err(wrong)?);
    private_file::create(&args.out, &text, "write the recipient's key to")?;
    let mut beside = args.out.clone().into_os_string();
    beside.push(".pub");
    let beside = PathBuf::from(beside);
    std::fs::write(&beside, &public).map_err(|e| Failure::file("write", &beside, &e))?;
    let value = serde_json::json!({"key": args.out, "public_file": beside, "public": public});
    context.output.show(&value, || {
        format!(
            "{}: the recipient's key, to be read by nobody else\n{}: its public half, for `order open --recipient`",
            args.out.display(),
            beside.display()
        )
    })?;
    Ok(Exit::Ok)
}

fn read_key(path: &Path) -> Result<RecipientKey, Failure> {
    let bytes = private_file::read(path, "read the recipient's key")?;
    let no_key =
        |e: &dyn std::fmt::Display| wrong(format!("{} is no recipient's key: {e}", path.display()));
    let file: KeyFile = serde_json::from_slice(&bytes).map_err(|e| no_key(&e))?;
    let seed =
        Zeroizing::new(hex::decode(&file.seed.0).map_err(|_| no_key(&"its seed is not hex"))?);
    let seed =
        Secret::<32>::from_slice(&seed).ok_or_else(|| no_key(&"its seed has not 32 bytes"))?;
    let key = RecipientKey::from_seed(&seed);
    if file.kind != KEY_KIND || hex::encode(&key.public().0) != file.public {
        return Err(no_key(&"its parts do not belong together"));
    }
    Ok(key)
}

/// A recipient's public key: hex, or a file that has it.
pub(super) fn recipient(text: &str) -> Result<String, Failure> {
    let usable = |hex_text: &str| {
        let bytes = hex::decode(hex_text).ok()?;
        let public = quorate_engine::crypto::seal::RecipientPublic(bytes);
        public.validate().is_ok().then(|| hex_text.to_owned())
    };
    if let Some(public) = usable(text) {
        return Ok(public);
    }
    let held = std::fs::read_to_string(text).ok();
    held.and_then(|held| usable(held.trim())).ok_or_else(|| {
        Failure::usage(
            "--recipient is no key that results can be sealed to, and no file with one",
            "the recipient makes a key pair with `quorate order recipient-key --out FILE` and hands over FILE.pub",
        )
    })
}

fn part_name(n: usize) -> String {
    format!("part-{n:06}.json")
}

/// Has the home execute the order, chat by chat, and keeps the result.
pub(super) async fn execute(args: &Execute, context: &Context) -> CommandResult {
    let paper = load(&args.order)?;
    let deployment = deployment_id(context)?;
    let (id, order, _) = read_order(&paper, &deployment).map_err(wrong)?;
    if args.out.exists() {
        return Err(wrong(format!("{} is there already", args.out.display())));
    }
    // Complete or not there: what was fetched of a result that then failed is dropped.
    let mut partial = args.out.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let failed = |e: &std::io::Error| Failure::file("make the directory", &partial, e);
    let mut builder = std::fs::DirBuilder::new();
    builder
        .mode(0o700)
        .create(&partial)
        .map_err(|e| failed(&e))?;
    let kept = fetch(context, &partial, &paper, (&id, &order)).await;
    let (parts, records, withheld) = match kept {
        Ok(kept) => kept,
        Err(e) => {
            // Nothing more can be done about a directory that cannot be removed.
            let _ = std::fs::remove_dir_all(&partial);
            return Err(e);
        }
    };
    std::fs::rename(&partial, &args.out).map_err(|e| Failure::file("write", &args.out, &e))?;
    let value = serde_json::json!({
        "order": id, "dir": args.out, "parts": parts, "records": records, "withheld": withheld,
    });
    context.output.show(&value, || {
        format!(
            "order {id}: {records} records in {parts} parts, sealed to the recipient, in {}\n  {withheld} records of its dates are withheld; the manifests say why",
            args.out.display()
        )
    })?;
    Ok(Exit::Ok)
}

async fn fetch(
    context: &Context,
    dir: &Path,
    paper: &quorate_engine::authz::envelope::Envelope,
    (id, order): (&OrderId, &Order),
) -> Result<(usize, usize, usize), Failure> {
    let deployment = context.deployment()?;
    let client = deployment.operator(&deployment.file.home)?;
    let path = format!("/v1/orders/{id}/execute");
    let text = serde_json::to_vec_pretty(paper).map_err(wrong)?;
    private_file::create(&dir.join(PAPER), &text, "write the result to")?;
    let (mut parts, mut records, mut withheld) = (0, 0, 0);
    let keep = |n: usize, part: &SignedPart| {
        let text = serde_json::to_vec(part).map_err(wrong)?;
        private_file::create(&dir.join(part_name(n)), &text, "write the result to")
    };
    let mut chats = order.scope.chats.clone();
    if !order.scope.accounts.is_empty() {
        let body = ExecuteOrder {
            statement: paper.into(),
            chat: None,
            from: 0,
        };
        let part: SignedPart = client.post(&path, &body).await?;
        let listing = read_listing(id, &deployment_id(context)?, &part.part).map_err(wrong)?;
        chats.extend(listing.chats);
        parts += 1;
        keep(parts, &part)?;
    }
    for chat in &chats {
        let mut from = Some(0);
        while let Some(at) = from {
            let body = ExecuteOrder {
                statement: paper.into(),
                chat: Some(*chat),
                from: at,
            };
            let part: SignedPart = client.post(&path, &body).await?;
            let manifest: Manifest = serde_json::from_str(&part.part.manifest).map_err(wrong)?;
            if manifest.next.is_some_and(|next| next <= at) || parts >= PARTS_MAX {
                return Err(wrong("the home's answer does not come to an end"));
            }
            parts += 1;
            records += manifest.records.len();
            withheld += manifest.withheld.iter().map(|w| w.records).sum::<usize>();
            keep(parts, &part)?;
            from = manifest.next;
        }
    }
    Ok((parts, records, withheld))
}

/// A result that is not to be believed. Nothing of it was written.
fn altered(why: impl std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        "result",
        format!("the result is refused: {why}"),
        "nothing was opened; ask the home for the whole result again, and tell the court that this one was altered or is damaged",
    )
}

#[derive(Serialize)]
struct Opened<'a> {
    order: String,
    home: &'a str,
    home_fingerprint: String,
    records: &'a [Disclosed],
    /// What was looked at and opened for it.
    manifests: &'a [Manifest],
}

/// Opens a result with the recipient's key, whole or not at all.
pub(super) fn open_result(args: &OpenResult, context: &Context) -> CommandResult {
    let key = read_key(&args.key)?;
    let home = Descriptor::load(&args.home).map_err(wrong)?;
    let paper = load(&args.dir.join(PAPER))?;
    let (id, order, public) = read_order(&paper, &home.deployment).map_err(altered)?;
    if public != key.public() {
        return Err(wrong(format!(
            "order {id} is sealed to another recipient than the key of {}",
            args.key.display()
        )));
    }
    let mut parts = Vec::new();
    while let Some(part) = read_part(&args.dir.join(part_name(parts.len() + 1)))? {
        let n = parts.len() + 1;
        parts.push(signed(&home, n, part).map_err(altered)?);
    }
    let (manifests, records) =
        opened((&id, &order), &home.deployment, &parts, &key).map_err(altered)?;
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| args.dir.join("records.json"));
    let shown = Opened {
        order: id.to_string(),
        home: &home.id,
        home_fingerprint: home.fingerprint(),
        records: &records,
        manifests: &manifests,
    };
    let text = Zeroizing::new(serde_json::to_vec_pretty(&shown).map_err(wrong)?);
    private_file::create(&out, &text, "write the records to")?;
    let value = serde_json::json!({
        "order": id, "home": home.id, "home_fingerprint": shown.home_fingerprint,
        "records": records.len(), "out": out,
    });
    context.output.show(&value, || {
        let mut text = format!(
            "order {id}\n  signed by home {}, fingerprint {}: compare it with the home\n  {} records in {}",
            plain(&home.id),
            shown.home_fingerprint,
            records.len(),
            out.display()
        );
        for m in &manifests {
            text.push_str(&not_disclosed(m));
        }
        text
    })?;
    Ok(Exit::Ok)
}

fn not_disclosed(m: &Manifest) -> String {
    let mut out = String::new();
    if !m.held {
        let _ = write!(out, "\n  chat {}: not at this home", m.chat);
    }
    for w in &m.withheld {
        let why = match w.why {
            Withheld::StillWritten => {
                "still being written; released once the chat's next epoch is stored"
            }
            Withheld::Destroyed => "too many custodians destroyed their share",
            Withheld::OutsideThere => {
                "by the custodians' clocks not of the order's dates, or not over; or no chat of its accounts to them"
            }
        };
        let _ = write!(
            out,
            "\n  chat {}, epoch {}: {} records withheld at {}: {why}",
            m.chat,
            w.epoch,
            w.records,
            time(m.made_ms)
        );
    }
    out
}

/// The part, if the home's node that says so signed it.
fn signed(home: &Descriptor, n: usize, part: SignedPart) -> Result<Part, DisclosureError> {
    let wrong = |why: String| DisclosureError::Part { part: n, why };
    let by: SignedBy = serde_json::from_str(&part.part.manifest)
        .map_err(|e| wrong(format!("the manifest cannot be read: {e}")))?;
    let decoded = |text: &str| STANDARD.decode(text).map_err(|e| wrong(e.to_string()));
    let attestation = Attestation {
        certificate: decoded(&part.certificate)?,
        signature: decoded(&part.signature)?,
    };
    let bytes = signed_bytes(&home.deployment, &part.part.manifest);
    let who = attested_by(home, by.made_ms, &bytes, &attestation);
    let who = who.map_err(|e| wrong(e.to_string()))?;
    if who.cluster != by.home.as_str() {
        return Err(wrong(format!("{who} signed for home {}", by.home)));
    }
    Ok(part.part)
}

fn read_part(path: &Path) -> Result<Option<SignedPart>, Failure> {
    let failed = |e: &std::io::Error| Failure::file("read", path, e);
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(&e)),
    };
    let mut bytes = Vec::new();
    let most = PART_JSON_BYTES_MAX as u64;
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(&e))?;
    if bytes.len() as u64 > most {
        return Err(altered(format!("{} is too long", path.display())));
    }
    let part = serde_json::from_slice(&bytes);
    let part = part.map_err(|e| altered(format!("{}: {e}", path.display())))?;
    Ok(Some(part))
}
