//! Ciphertext from a hostile disk or peer: nothing but the original opens.

use super::codec::name;
use super::mutate::{Dice, Kind};
use super::run::Target;
use quorate_engine::crypto::blob::{self, BlobKey, Manifest};
use quorate_engine::crypto::message::{self, RecordBinding, RecordKind};
use quorate_engine::crypto::seal::{
    ENCAPSULATED_LEN, PUBLIC_LEN, Receiver, RecipientKey, RecipientPublic, Sender, ShareBinding,
};
use quorate_engine::crypto::subkeys::Subkeys;
use quorate_engine::crypto::{sign, vault, wrap};
use quorate_engine::types::*;

fn binding() -> ShareBinding {
    ShareBinding {
        deployment: DeploymentId([1; 16]),
        custodian: name("ch"),
        chat: ChatId([2; 32]),
        key_id: KeyId([3; 16]),
        policy: PolicyId([4; 32]),
    }
}

/// Every kind of sealed bytes we store or send, tried at every reader.
pub(crate) fn sealed_bytes() -> Target {
    let mut dice = Dice::new(0, "sealed", 0);
    let b = binding();
    let keys = Subkeys::derive(&DataKey::generate(dice.rng()));
    let record = RecordBinding {
        deployment: b.deployment,
        chat: b.chat,
        message: 1,
        revision: 0,
        key_id: b.key_id,
        kind: RecordKind::Message,
    };
    let share = Share::generate(dice.rng());
    let recipient = RecipientKey::generate(dice.rng());
    let (sender, encapsulated) = Sender::new(&recipient.public(), b"i", dice.rng()).expect("a key");
    let receiver = Receiver::new(&recipient, &encapsulated, b"i").expect("an encapsulation");
    let wrapping = WrappingKey::generate(dice.rng());
    let root = RootKey::generate(dice.rng());
    let blob_key = BlobKey::generate(dice.rng());
    let id = BlobId([5; 16]);
    let chunk = blob::seal_chunk(&blob_key, &id, 0, true, [6; 24], b"chunk");
    let manifest =
        Manifest::new(5, 16, vec![blob::chunk_tag(&chunk).expect("a tag")]).expect("adds up");
    let signing = sign::SigningKey::generate(dice.rng());
    let originals = vec![
        message::seal(&keys, &record, [7; 24], b"a record"),
        sender.seal(&b, None, [8; 24], &share),
        wrap::wrap(&wrapping, 1, &b, [9; 24], &share).to_vec(),
        vault::lock(&root, "wrapping/1/ch", [10; 24], &share.0),
        manifest.seal(&blob_key, &id, [11; 24]),
        chunk,
        signing.sign(b"statement").to_vec(),
    ];
    let corpus = originals.clone();
    let check = move |bytes: &[u8]| {
        let opened = [
            message::open(&keys, &record, bytes).is_ok(),
            receiver.open(&b, None, bytes).is_ok(),
            wrap::unwrap(&wrapping, 1, &b, bytes).is_ok(),
            vault::unlock(&root, "wrapping/1/ch", bytes).is_ok(),
            Manifest::open(&blob_key, &id, bytes).is_ok(),
            manifest.open_chunk(&blob_key, &id, 0, bytes).is_ok(),
            sign::verify(&signing.public(), b"statement", bytes).is_ok(),
        ];
        for (opened, original) in opened.iter().zip(&originals) {
            assert_eq!(
                *opened,
                bytes == original,
                "opened what it should not, or not what it should"
            );
        }
        opened.contains(&true)
    };
    Target {
        corpus,
        kind: Kind::Binary,
        iterations: 25_000,
        allocation_bytes_max: 1 << 20,
        check: Box::new(check),
    }
}

/// Public keys and encapsulations of a peer: errors, or a session in which only
/// the true recipient's share opens.
pub(crate) fn recipient_keys() -> Target {
    let mut dice = Dice::new(0, "sealed", 1);
    let recipient = RecipientKey::generate(dice.rng());
    let (sender, encapsulated) = Sender::new(&recipient.public(), b"i", dice.rng()).expect("a key");
    let share = Share::generate(dice.rng());
    let sealed = sender.seal(&binding(), None, [1; 24], &share);
    let corpus = vec![recipient.public().0, encapsulated.clone()];
    let check = move |bytes: &[u8]| {
        let mut accepted = false;
        if bytes.len() == PUBLIC_LEN {
            let to = RecipientPublic(bytes.to_vec());
            let valid = to.validate().is_ok();
            let mut rng = Dice::new(1, "sealed", 2);
            assert_eq!(Sender::new(&to, b"i", rng.rng()).is_ok(), valid);
            accepted |= valid;
        } else {
            assert!(RecipientPublic(bytes.to_vec()).validate().is_err());
        }
        match Receiver::new(&recipient, bytes, b"i") {
            Ok(receiver) => {
                assert_eq!(bytes.len(), ENCAPSULATED_LEN);
                let opens = receiver.open(&binding(), None, &sealed).is_ok();
                assert_eq!(opens, bytes == encapsulated);
                accepted |= opens;
            }
            Err(_) => assert_ne!(bytes.len(), ENCAPSULATED_LEN),
        }
        accepted
    };
    Target {
        corpus,
        kind: Kind::Binary,
        iterations: 6_000,
        allocation_bytes_max: 1 << 20,
        check: Box::new(check),
    }
}
