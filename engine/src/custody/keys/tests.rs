//! Trees, slots, ceremonies: who opens what, and what is refused.

use super::*;
use crate::custody::Place;
use crate::types::{CustodianId, DeploymentId, RootKey};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use subtle::ConstantTimeEq;

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}
fn id(name: &str) -> CustodianId {
    CustodianId::new(name).unwrap()
}
fn place() -> Place {
    Place {
        deployment: DeploymentId([1; 16]),
        custodian: id("ch"),
    }
}
fn secret(byte: u8) -> Secret<32> {
    Secret::take(&mut [byte; 32])
}

/// A finished ceremony: the slot and what each holder keeps.
fn dealt(tree: &str, seed: u64) -> (SlotPublic, Vec<HeldShare>) {
    let mut r = Rekey::begin(id("main"), tree.parse().unwrap(), 0, &mut rng(seed)).unwrap();
    let ceremony = *r.ceremony();
    let holders: Vec<_> = r.tree().holders().into_iter().cloned().collect();
    let mut held = Vec::new();
    for (n, h) in holders.iter().enumerate() {
        assert!(matches!(r.finished(), Err(CeremonyError::Unconfirmed(_))));
        let share = r.collect(&place(), &ceremony, h).unwrap();
        let all = r
            .confirm(&ceremony, h, &share.prove(r.challenge()))
            .unwrap();
        assert_eq!(all, n + 1 == holders.len());
        held.push(share);
    }
    (r.finished().unwrap(), held)
}

fn copy(h: &HeldShare) -> HeldShare {
    HeldShare::parse(&h.to_text()).unwrap()
}

#[test]
fn trees_are_read_written_and_refused() {
    for good in ["2 of (anna, bo, cy)", "2 of (anna, bo, 1 of (cy, di))"] {
        assert_eq!(good.parse::<HolderTree>().unwrap().to_string(), good);
    }
    let deep = format!("{}a, b{}", "2 of (x, ".repeat(3000), ")".repeat(3000));
    let wide: Vec<_> = (0..40).map(|n| format!("h{n}")).collect();
    let wide = format!("2 of ({})", wide.join(","));
    for bad in [
        "",
        "anna",
        "1 of (anna, bo)",
        "0 of (anna, bo)",
        "3 of (anna, bo)",
        "2 of (anna, anna)",
        "2 of (anna, bo",
        "2 of anna",
        "2 of (anna, bo) x",
        "2 of (Anna, bo)",
        "1 of (1 of (a, b), c)",
        "999 of (a, b)",
        &deep[..4000],
        &deep,
        &wide,
    ] {
        assert!(bad.parse::<HolderTree>().is_err(), "{bad:.60}");
    }
}

#[test]
fn every_set_of_holders_opens_exactly_when_the_tree_says_so() {
    let tree: HolderTree = "2 of (anna, bo, 2 of (cy, di))".parse().unwrap();
    let (slot, held) = dealt("2 of (anna, bo, 2 of (cy, di))", 1);
    let root = RootKey(secret(9));
    let table = SlotTable::seal(
        &place(),
        1,
        1,
        std::slice::from_ref(&slot),
        &root,
        &mut rng(2),
    )
    .unwrap();
    for set in 1..16u32 {
        let mut g = Gathering::begin(&slot, 0, &mut rng(3)).unwrap();
        let nonce = *g.nonce();
        let chosen: Vec<_> = held
            .iter()
            .enumerate()
            .filter(|(n, _)| set & (1 << n) != 0)
            .map(|(_, h)| h)
            .collect();
        let mut key = None;
        for h in &chosen {
            if let Gathered::Complete(k) = g.add(&place(), &nonce, copy(h), 0).unwrap() {
                key = Some(k);
            }
        }
        let names: Vec<_> = chosen.iter().map(|h| &h.holder).collect();
        assert_eq!(key.is_some(), tree.satisfied(&names), "{names:?}");
        if let Some(key) = key {
            assert!(bool::from(
                table.open(&place(), 1, "main", &key).unwrap().ct_eq(&root)
            ));
        }
    }
}

#[test]
fn a_rekey_counts_only_when_every_holder_has_proved_possession() {
    let mut r = Rekey::begin(
        id("main"),
        "2 of (anna, bo, cy)".parse().unwrap(),
        0,
        &mut rng(4),
    )
    .unwrap();
    let ceremony = *r.ceremony();
    let anna = r.collect(&place(), &ceremony, &id("anna")).unwrap();
    let bo = r.collect(&place(), &ceremony, &id("bo")).unwrap();
    assert!(matches!(
        r.collect(&place(), &ceremony, &id("bo")),
        Err(CeremonyError::Collected(_))
    ));
    assert!(matches!(
        r.collect(&place(), &[0; 16], &id("cy")),
        Err(CeremonyError::OtherCeremony { .. })
    ));
    assert!(matches!(
        r.collect(&place(), &ceremony, &id("eve")),
        Err(CeremonyError::NoHolder { .. })
    ));
    let proof = |h: &HeldShare, c: &[u8; 32]| h.prove(c);
    let challenge = *r.challenge();
    assert!(matches!(
        r.confirm(&ceremony, &id("bo"), &proof(&anna, &challenge)),
        Err(CeremonyError::WrongShare(_))
    ));
    assert!(matches!(
        r.confirm(&ceremony, &id("anna"), &proof(&anna, &[0; 32])),
        Err(CeremonyError::WrongShare(_))
    ));
    assert!(matches!(
        r.confirm(&ceremony, &id("cy"), &[0; 32]),
        Err(CeremonyError::NotCollected(_))
    ));
    assert!(
        !r.confirm(&ceremony, &id("anna"), &proof(&anna, &challenge))
            .unwrap()
    );
    assert!(
        !r.confirm(&ceremony, &id("anna"), &proof(&anna, &challenge))
            .unwrap(),
        "twice counts once"
    );
    assert!(
        !r.confirm(&ceremony, &id("bo"), &proof(&bo, &challenge))
            .unwrap()
    );
    let e = r.finished().unwrap_err();
    assert_eq!(
        e,
        CeremonyError::Unconfirmed("cy".into()),
        "enough to open is not enough to count"
    );
    assert!(!r.expired(REKEY_MS_MAX - 1) && r.expired(REKEY_MS_MAX));
}

#[test]
fn shares_of_another_ceremony_holder_or_place_are_named_and_refused() {
    let (slot, held) = dealt("2 of (anna, bo, cy)", 5);
    let (_, older) = dealt("2 of (anna, bo, cy)", 6);
    let mut g = Gathering::begin(&slot, 0, &mut rng(7)).unwrap();
    let nonce = *g.nonce();
    let mut other = copy(&older[0]);
    assert!(matches!(
        g.add(&place(), &nonce, copy(&other), 0),
        Err(CeremonyError::OtherShare {
            what: "ceremony",
            ..
        })
    ));
    other.ceremony = held[0].ceremony;
    assert!(matches!(
        g.add(&place(), &nonce, other, 0),
        Err(CeremonyError::WrongShare(_))
    ));
    let mut renamed = copy(&held[0]);
    renamed.holder = id("bo");
    assert!(matches!(
        g.add(&place(), &nonce, renamed, 0),
        Err(CeremonyError::WrongShare(_))
    ));
    let mut elsewhere = copy(&held[0]);
    elsewhere.custodian = id("is");
    assert!(matches!(
        g.add(&place(), &nonce, elsewhere, 0),
        Err(CeremonyError::OtherShare {
            what: "custodian",
            ..
        })
    ));
    assert!(matches!(
        g.add(&place(), &[0; 16], copy(&held[0]), 0),
        Err(CeremonyError::OtherCeremony { .. })
    ));
    assert!(g.have().is_empty(), "nothing refused was kept");
    assert!(matches!(
        g.add(&place(), &nonce, copy(&held[0]), 5).unwrap(),
        Gathered::Waiting
    ));
    assert!(
        matches!(
            g.add(&place(), &nonce, copy(&held[0]), 5).unwrap(),
            Gathered::Waiting
        ),
        "one holder twice is one holder"
    );
    assert!(!g.idle(CEREMONY_IDLE_MS_MAX) && g.idle(CEREMONY_IDLE_MS_MAX + 5));
    assert!(matches!(
        g.add(&place(), &nonce, copy(&held[2]), 5).unwrap(),
        Gathered::Complete(_)
    ));
}

#[test]
fn a_new_root_opens_through_every_slot_and_an_altered_table_does_not() {
    let (file, pass) = (secret(3), secret(4));
    let slots = [
        SlotPublic::new(id("main"), Provider::KeyFile, &file),
        SlotPublic::new(
            id("emergency"),
            Provider::Passphrase(PassphraseParams {
                salt: [5; 16],
                memory_kib: 19 << 10,
                passes: 2,
                lanes: 1,
            }),
            &pass,
        ),
    ];
    let (old, new) = (RootKey(secret(8)), RootKey(secret(9)));
    let first = SlotTable::seal(&place(), 1, 1, &slots, &old, &mut rng(1)).unwrap();
    let second = SlotTable::seal(&place(), 1, 2, &slots, &new, &mut rng(2)).unwrap();
    for (name, key) in [("main", &file), ("emergency", &pass)] {
        assert_eq!(
            first.open(&place(), 1, name, key).unwrap().expose(),
            &[8; 32]
        );
        assert_eq!(
            second.open(&place(), 1, name, key).unwrap().expose(),
            &[9; 32]
        );
    }
    assert!(second.open(&place(), 1, "main", &pass).is_err());
    assert!(
        second.open(&place(), 2, "main", &file).is_err(),
        "another node's table"
    );
    assert!(matches!(
        second.open(&place(), 1, "x", &file),
        Err(SlotError::NoSlot { .. })
    ));
    // Somebody with the disk puts a public half of his own into a slot.
    let own = secret(0x66);
    let forged = [
        slots[0].clone(),
        SlotPublic::new(id("emergency"), slots[1].provider.clone(), &own),
    ];
    let forged = SlotTable::seal(&place(), 1, 2, &forged, &new, &mut rng(2)).unwrap();
    let mixed = second.with_slot_of(&forged, "emergency");
    assert_eq!(
        mixed.open(&place(), 1, "main", &file).unwrap_err(),
        SlotError::Altered
    );
    let twice = [slots[0].clone(), slots[0].clone()];
    assert!(SlotTable::seal(&place(), 1, 1, &twice, &old, &mut rng(1)).is_err());
    assert!(SlotTable::seal(&place(), 1, 1, &[], &old, &mut rng(1)).is_err());
}

#[test]
fn frozen_table() {
    let slots = [SlotPublic::new(id("main"), Provider::KeyFile, &secret(3))];
    let table = SlotTable::seal(&place(), 1, 1, &slots, &RootKey(secret(8)), &mut rng(1)).unwrap();
    let bytes = table.encode();
    assert_eq!(bytes.len(), 2456);
    assert_eq!(
        blake3::hash(&bytes).to_hex().as_str(),
        "8807a01f6d85a4656076efb0efdd095d5832736133829da342530649eb0d8ad2"
    );
    let (_, held) = dealt("2 of (anna, bo)", 1);
    assert_eq!(
        held[0].to_text().as_str(),
        concat!(
            "quorate share 1\ndeployment 01010101010101010101010101010101\ncustodian ch\nslot main\n",
            "ceremony 9a3744504560639ec670b7a17d492b27\nholder anna\n",
            "share 8882d191e47ab4e4c61d85cd23a096d2ec4b5ed5c1b5a4e0fc29d5f6f78e4d53\ncheck ce021a15\n",
        )
    );
    assert_eq!(format!("{:?}", held[0]), "HeldShare(anna of main at ch)");
}

proptest! {
    #[test]
    fn hostile_tables_and_share_files_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..400), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let _ = SlotTable::decode(&bytes);
        let _ = SlotPublic::decode(&bytes);
        let _ = HeldShare::parse(&String::from_utf8_lossy(&bytes));
        let (slot, held) = dealt("2 of (anna, bo, cy)", 1);
        let table = SlotTable::seal(&place(), 1, 1, std::slice::from_ref(&slot), &RootKey(secret(9)), &mut rng(2)).unwrap();
        let mut altered = table.encode();
        altered[at.index(table.encode().len())] ^= 1 << bit;
        let key = {
            let mut g = Gathering::begin(&slot, 0, &mut rng(3)).unwrap();
            let nonce = *g.nonce();
            g.add(&place(), &nonce, copy(&held[0]), 0).unwrap();
            match g.add(&place(), &nonce, copy(&held[1]), 0).unwrap() { Gathered::Complete(k) => k, Gathered::Waiting => unreachable!() }
        };
        let opened = SlotTable::decode(&altered).ok().and_then(|t| t.open(&place(), 1, "main", &key).ok());
        prop_assert!(opened.is_none(), "one bit of the table was changed");
        let mut text = held[0].to_text().as_bytes().to_vec();
        let n = at.index(text.len());
        text[n] ^= 1 << bit;
        if let Ok(again) = HeldShare::parse(&String::from_utf8_lossy(&text)) {
            prop_assert_eq!(again.share.expose(), held[0].share.expose());
            prop_assert_eq!(again.holder, held[0].holder.clone());
        }
    }
}
