//! Planted bugs that the fuzzer must find: a fuzzer that finds nothing anywhere
//! proves nothing.

use super::mutate::Kind;
use super::run::{Failure, Target, once};

/// Iterations within which every planted bug must be found.
const FIND_WITHIN: u64 = 20_000;

fn find(name: &'static str, target: &Target) -> Option<Failure> {
    (0..FIND_WITHIN).find_map(|i| once(name, target, 1, i).err())
}

/// `length (4 bytes) body`, read by someone who trusts the length.
fn framed(check: impl Fn(&[u8]) -> bool + 'static) -> Target {
    Target {
        corpus: vec![
            [&5u32.to_le_bytes()[..], b"hello"].concat(),
            vec![0, 0, 0, 0],
        ],
        kind: Kind::Binary,
        iterations: 0,
        allocation_bytes_max: 1 << 20,
        check: Box::new(check),
    }
}

#[test]
fn an_allocation_by_a_hostile_length_is_found() {
    let target = framed(|bytes| {
        let Some((head, body)) = bytes.split_first_chunk::<4>() else {
            return false;
        };
        let len = u32::from_le_bytes(*head) as usize;
        // As a reader does that allocates first; capped so that the test stays small.
        let mut out = Vec::<u8>::with_capacity(len.min(8 << 20));
        out.extend_from_slice(body);
        out.len() == len
    });
    let failure = find("planted_allocation", &target).expect("not found");
    assert!(
        failure.contains("bytes at once") && failure.contains("QUORATE_FUZZ_SEED=1"),
        "{failure}"
    );
}

#[test]
fn a_slice_by_a_hostile_length_is_found() {
    let target = framed(|bytes| {
        let Some((head, body)) = bytes.split_first_chunk::<4>() else {
            return false;
        };
        !body[..u32::from_le_bytes(*head) as usize].is_empty()
    });
    assert!(
        find("planted_slice", &target)
            .expect("not found")
            .contains("panicked")
    );
}

#[test]
fn a_correct_reader_is_not_blamed() {
    let target = framed(|bytes| {
        let Some((head, body)) = bytes.split_first_chunk::<4>() else {
            return false;
        };
        body.len() == u32::from_le_bytes(*head) as usize
    });
    assert_eq!(find("planted_nothing", &target), None);
}

#[test]
fn recursion_and_numbers_in_text_are_reached() {
    let target = Target {
        corpus: vec![b"threshold = 3\nmembers = [\"ch\"]\n".to_vec()],
        kind: Kind::Text,
        iterations: 0,
        allocation_bytes_max: 1 << 20,
        check: Box::new(|bytes| {
            assert!(
                !bytes.windows(64).any(|w| w.iter().all(|b| *b == b'[')),
                "deep"
            );
            true
        }),
    };
    assert!(
        find("planted_deep", &target)
            .expect("not found")
            .contains("deep")
    );
    let target = Target {
        check: Box::new(|bytes| {
            assert!(
                !String::from_utf8_lossy(bytes).contains("threshold = 0\n"),
                "zero"
            );
            true
        }),
        ..target
    };
    assert!(
        find("planted_zero", &target)
            .expect("not found")
            .contains("zero")
    );
}
