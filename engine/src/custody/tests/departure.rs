//! A confirmed restriction means that nothing released before it leaves.

use super::*;

/// A clock that reads the end of time does not pin entry time: the next sane one goes on.
#[test]
fn an_absurd_clock_does_not_pin_entry_time() {
    let log = Log::default();
    assert_eq!(log.time_for(u64::MAX), 0);
    assert_eq!(log.time_for(T0), T0);
    assert_eq!(log.time_for(audit::TIME_MS_MAX), audit::TIME_MS_MAX);
    assert_eq!(log.time_for(audit::TIME_MS_MAX + 1), 0);
}

/// A leader of term 3 that has led long enough by `now`.
fn settled(now: u64) -> Departures {
    let mut d = Departures::default();
    d.leads(3, now - SETTLED_MS);
    d
}

#[test]
fn a_restriction_waits_for_the_releases_before_it_and_for_no_later_ones() {
    let mut d = settled(10_000);
    let (first, second) = (d.begin(10_000), d.begin(10_100));
    let restricted = d.restricted(3, 10_150);
    let later = d.begin(10_200);
    let wait = |d: &Departures| d.confirmable_at(&restricted, 10_300);
    assert_eq!(wait(&d), Some(10_100 + SETTLED_MS));
    d.end(&second);
    assert_eq!(wait(&d), Some(10_000 + SETTLED_MS));
    d.end(&first);
    assert_eq!(wait(&d), None);
    d.end(&later);
    assert_eq!(wait(&d), None);
}

#[test]
fn a_release_that_never_ends_holds_a_restriction_up_until_it_may_not_leave() {
    let mut d = settled(10_000);
    let stuck = d.begin(10_000);
    let restricted = d.restricted(3, 10_001);
    for now in 10_000..10_000 + 2 * SETTLED_MS {
        let confirmed = d.confirmable_at(&restricted, now).is_none();
        assert!(!(confirmed && stuck.may_leave(now)), "at {now}");
    }
    assert!(stuck.may_leave(10_000 + DEPARTURE_MS_MAX - 1));
    assert!(!stuck.may_leave(stuck.until()));
    assert_eq!(
        d.confirmable_at(&restricted, 10_000 + SETTLED_MS),
        None,
        "bounded"
    );
}

#[test]
fn a_new_leader_waits_for_what_a_former_one_may_still_send() {
    // Proposed just before the election; committed by the successor.
    let mut old = settled(20_000);
    let flying = old.begin(20_000);
    let mut new = Departures::default();
    new.leads(4, 20_001);
    let restricted = new.restricted(4, 20_002);
    for now in 20_002..20_000 + 2 * SETTLED_MS {
        let confirmed = new.confirmable_at(&restricted, now).is_none();
        assert!(!(confirmed && flying.may_leave(now)), "at {now}");
    }
    // Seen again, the same term begins no new wait; another term does.
    new.leads(4, 30_000);
    let again = new.restricted(4, 30_000);
    assert_eq!(new.confirmable_at(&again, 30_000), None);
    let next = new.restricted(6, 30_000);
    assert_eq!(
        new.confirmable_at(&next, 30_000),
        Some(30_000 + SETTLED_MS),
        "a term first seen at the commit begins there"
    );
}
