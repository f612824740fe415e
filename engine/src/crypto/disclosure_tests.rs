//! Records sealed to a recipient: opened in their place, and nowhere else.

use super::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

fn place() -> PartBinding {
    PartBinding {
        deployment: DeploymentId([0x11; 16]),
        home: HomeId::new("ae").unwrap(),
        order: OrderId([0x22; 32]),
        chat: ChatId([0x33; 32]),
        from: 7,
    }
}

fn key(byte: u8) -> RecipientKey {
    RecipientKey::from_seed(&Secret::take(&mut [byte; 32]))
}

#[test]
fn a_record_opens_for_its_recipient_in_its_place_and_nowhere_else() {
    let (sender, encapsulated) = PartSender::new(
        &key(1).public(),
        place(),
        &mut ChaCha20Rng::seed_from_u64(5),
    )
    .unwrap();
    let sealed = sender.seal(8, 2, [9; 24], b"said");
    let open = |k: u8, at: PartBinding, message, revision, sealed: &[u8]| {
        let receiver = PartReceiver::new(&key(k), at, &encapsulated).unwrap();
        receiver.open(message, revision, sealed)
    };
    assert_eq!(&**open(1, place(), 8, 2, &sealed).unwrap(), b"said");
    let bad = Err(SealError::DoesNotOpen);
    assert_eq!(open(2, place(), 8, 2, &sealed), bad);
    assert_eq!(open(1, place(), 9, 2, &sealed), bad);
    assert_eq!(open(1, place(), 8, 3, &sealed), bad);
    let mut others = vec![place(); 5];
    others[0].deployment.0[0] ^= 1;
    others[1].home = HomeId::new("af").unwrap();
    others[2].order.0[31] ^= 1;
    others[3].chat.0[0] ^= 1;
    others[4].from = 8;
    for other in others {
        assert_eq!(open(1, other, 8, 2, &sealed), bad);
    }
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        assert_eq!(open(1, place(), 8, 2, &altered), bad);
    }
    assert!(PartReceiver::new(&key(1), place(), &encapsulated[1..]).is_err());
    let short = RecipientPublic(vec![0xab; 32]);
    assert!(PartSender::new(&short, place(), &mut ChaCha20Rng::seed_from_u64(5)).is_err());
}

#[test]
fn frozen_vectors() {
    let (sender, encapsulated) = PartSender::new(
        &key(0x44).public(),
        place(),
        &mut ChaCha20Rng::seed_from_u64(0x55),
    )
    .unwrap();
    let found = [
        place().record(8, 2),
        hash(&encapsulated).to_vec(),
        sender.seal(8, 2, [0x66; 24], b"hello"),
        hash(b"hello").to_vec(),
    ]
    .map(hex::encode);
    assert_eq!(
        found,
        [
            "1b00000071756f726174652f646973636c6f737572652f7265636f72642f3110000000111111111111111111111111111111110200000061652000000022222222222222222222222222222222222222222222222222222222222222222000000033333333333333333333333333333333333333333333333333333333333333330800000007000000000000000800000008000000000000000400000002000000",
            "6cd1ed8e4e9a496599ce2958c50b076398367ff094338949e5da935bcbc2dfa7",
            "666666666666666666666666666666666666666666666666802857bb46554118ed981f268321e37871dd6ae73d",
            "840cebb1787d4217dc5720f3bdcd7af84c8a17ddf638d15b7b99fc4054d1bf83",
        ]
    );
}
