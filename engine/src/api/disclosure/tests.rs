//! A result of two chats, and every way it could be changed on its way.

use super::*;
use crate::authz::officers::{DocumentHash, OfficerKey};
use crate::authz::orders::OrderScope;
use crate::crypto::disclosure::PartSender;
use crate::crypto::sign::SigningKey;
use crate::types::Secret;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

const D: DeploymentId = DeploymentId([1; 16]);
const FROM: WallMs = 1_000;
const TO: WallMs = 2_000;

fn recipient(n: u8) -> RecipientKey {
    RecipientKey::from_seed(&Secret::take(&mut [n; 32]))
}

fn clerk() -> SigningKey {
    SigningKey::from_seed(&Secret::take(&mut [9; 32]))
}

fn paper(recipient: &RecipientPublic) -> Envelope {
    let order = Order {
        issuer: "a court".into(),
        legal_basis: "file 1".into(),
        document_hash: DocumentHash([1; 32]),
        scope: OrderScope {
            chats: [ChatId([1; 32]), ChatId([2; 32])].into(),
            accounts: BTreeSet::new(),
            from_ms: FROM,
            to_ms: TO,
        },
        reason: "served".into(),
        submitted_by: OfficerKey(clerk().public()),
        expires_ms: 9_000,
        recipient: hex::encode(&recipient.0),
    };
    Envelope::sign(labels::SIGN_OFFICER, &D, &Signed::Order(order), &[&clerk()])
}

/// Messages of one chat, written at these times.
fn part(
    id: &OrderId,
    chat: u8,
    (from, next): (MessageId, Option<MessageId>),
    messages: &[(MessageId, WallMs)],
) -> Part {
    let rng = &mut ChaCha20Rng::seed_from_u64(from);
    let at = PartBinding {
        deployment: D,
        home: HomeId::new("ae").unwrap(),
        order: *id,
        chat: ChatId([chat; 32]),
        from,
    };
    let (sender, encapsulated) = PartSender::new(&recipient(1).public(), at.clone(), rng).unwrap();
    let (mut listed, mut records) = (Vec::new(), Vec::new());
    for (message, written_ms) in messages {
        let record = Disclosed {
            chat: at.chat,
            message: *message,
            revision: 0,
            sent_ms: *written_ms,
            edited_ms: None,
            device: "d".into(),
            content: Content::new(),
        };
        let nonce = [u8::try_from(*message).unwrap(); 24];
        let sealed = sender.seal(*message, 0, nonce, &serde_json::to_vec(&record).unwrap());
        listed.push(Listed {
            message: *message,
            revision: 0,
            epoch: 3,
            written_ms: *written_ms,
            sealed: HexBytes(hash(&sealed)),
        });
        records.push(STANDARD.encode(sealed));
    }
    let manifest = Manifest {
        deployment: D,
        home: at.home,
        order: *id,
        chat: at.chat,
        records_of: RecordsOf::Everybody,
        held: true,
        from,
        next,
        made_ms: 5_000,
        encapsulated: HexBytes(hash(&encapsulated)),
        opened: vec![OpenedEpoch {
            epoch: 3,
            key: KeyId([7; 16]),
            releases: vec![(CustodianId::new("ch").unwrap(), 4)],
        }],
        withheld: Vec::new(),
        records: listed,
    };
    Part {
        manifest: serde_json::to_string(&manifest).unwrap(),
        encapsulated: STANDARD.encode(encapsulated),
        records,
    }
}

fn whole(id: &OrderId) -> Vec<Part> {
    vec![
        part(id, 1, (0, Some(4)), &[(1, 1_000), (3, 1_500)]),
        part(id, 1, (4, None), &[(9, 1_999)]),
        part(id, 2, (0, None), &[]),
    ]
}

#[test]
fn a_result_opens_whole_and_in_its_order_or_not_at_all() {
    let paper = paper(&recipient(1).public());
    let (id, order, public) = read_order(&paper, &D).unwrap();
    assert_eq!(public, recipient(1).public());
    let open = |parts: &[Part], key: u8| open_result((&id, &order), &D, parts, &recipient(key));
    let (manifests, records) = open(&whole(&id), 1).unwrap();
    assert_eq!(manifests.len(), 3);
    let found: Vec<_> = records.iter().map(|r| (r.message, r.sent_ms)).collect();
    assert_eq!(found, [(1, 1_000), (3, 1_500), (9, 1_999)]);

    let changed = |change: &dyn Fn(&mut Vec<Part>)| {
        let mut parts = whole(&id);
        change(&mut parts);
        open(&parts, 1).unwrap_err()
    };
    let refused = |change: &dyn Fn(&mut Vec<Part>), why: &str| {
        let e = changed(change).to_string();
        assert!(e.contains(why), "{why} is not in: {e}");
    };
    refused(&|p| drop(p.remove(0)), "out of order");
    refused(&|p| drop(p.remove(1)), "out of order");
    refused(&|p| drop(p.remove(2)), "not whole");
    refused(&|p| p.truncate(1), "not whole");
    refused(&|p| p.swap(0, 1), "out of order");
    refused(&|p| p.push(p[2].clone()), "out of order");
    refused(&|p| p.push(part(&id, 3, (0, None), &[])), "out of order");
    refused(
        &|p| p[0].records.swap(0, 1),
        "not the record that was signed",
    );
    refused(&|p| drop(p[0].records.pop()), "1 records, 2 are listed");
    refused(
        &|p| p[1].encapsulated = p[0].encapsulated.clone(),
        "not the one that was signed",
    );
    refused(
        &|p| p[1] = part(&id, 1, (4, None), &[(9, 2_000)]),
        "outside the order's dates",
    );
    refused(
        &|p| p[1] = part(&id, 1, (4, None), &[(9, 999)]),
        "outside the order's dates",
    );
    refused(
        &|p| p[1] = part(&id, 1, (4, None), &[(3, 1_100)]),
        "listed out of order",
    );
    refused(
        &|p| {
            p[1].manifest = p[1]
                .manifest
                .replace("\"epoch\":3,\"key\"", "\"epoch\":4,\"key\"")
        },
        "not listed as opened",
    );
    refused(
        &|p| p[1].manifest = p[1].manifest.replace("\"revision\":0", "\"revision\":1"),
        "does not open",
    );
    refused(
        &|p| p[1].manifest = p[1].manifest.replace("1999", "1998"),
        "another place than the manifest",
    );
    let other = OrderId([8; 32]);
    refused(&|p| p[2] = part(&other, 2, (0, None), &[]), "is of order");
    let e = open(&whole(&id), 2).unwrap_err().to_string();
    assert!(e.contains("does not open"), "{e}");
}

#[test]
fn an_order_is_its_submitters_and_has_a_key_to_seal_to() {
    let good = paper(&recipient(1).public());
    let mut altered = good.clone();
    altered.payload = altered.payload.replace("file 1", "file 2");
    let refused = |paper: &Envelope| read_order(paper, &D).unwrap_err().to_string();
    assert!(refused(&altered).contains("signature"));
    assert!(read_order(&good, &DeploymentId([2; 16])).is_err());
    let mut stranger = good.clone();
    stranger.signatures.clear();
    stranger.add(
        labels::SIGN_OFFICER,
        &D,
        &SigningKey::from_seed(&Secret::take(&mut [8; 32])),
    );
    assert!(refused(&stranger).contains("submitter"));
    let unusable = paper(&RecipientPublic(vec![0xab; 32]));
    assert!(refused(&unusable).contains("recipient-key"));
}
