//! What happens to nodes' own keys stands in the log; handovers are decided there.

use super::*;
use crate::audit::EntryKind;

fn event(what: KeyEventKind, node: NodeId, operator: Option<Operator>) -> Command {
    Command::KeyEvent(KeyEvent {
        node,
        operator,
        what,
        reason: "a drill".into(),
    })
}

#[test]
fn what_happens_to_keys_is_recorded_with_who_and_why() {
    let mut b = Bench::ready();
    for (what, kind) in [
        (KeyEventKind::Unlocked, EntryKind::NodeUnlocked),
        (KeyEventKind::Locked, EntryKind::NodeLocked),
        (KeyEventKind::Slots, EntryKind::KeySlots),
    ] {
        assert_eq!(b.effect(event(what, 2, Some(operator()))), Effect::Done);
        let entry = b.last_entry();
        assert_eq!((entry.kind, entry.node), (kind, Some(2)));
        assert_eq!(entry.operator.unwrap().name, "olga");
        assert_eq!(entry.reason.unwrap(), "a drill");
    }
    let long = Command::KeyEvent(KeyEvent {
        node: 1,
        operator: None,
        what: KeyEventKind::Locked,
        reason: "x".repeat(REASON_BYTES_MAX + 1),
    });
    assert!(matches!(b.effect(long), Effect::Refused { .. }));
}

#[test]
fn keys_are_handed_to_a_restarted_node_once_in_fifteen_minutes() {
    let mut b = Bench::ready();
    let over = |node| event(KeyEventKind::HandedOver, node, None);
    assert_eq!(b.effect(over(2)), Effect::Done);
    assert_eq!(b.last_entry().kind, EntryKind::KeyHandover);
    b.clock += HANDOVER_MS_MIN - 1;
    assert!(matches!(b.effect(over(2)), Effect::Refused { .. }));
    assert!(!b.last_entry().done, "the refusal is recorded, too");
    assert_eq!(
        b.effect(over(3)),
        Effect::Done,
        "another node is another matter"
    );
    // A clock that was set back opens no second window.
    b.clock -= 10 * HANDOVER_MS_MIN;
    assert!(matches!(b.effect(over(2)), Effect::Refused { .. }));
    b.clock += 10 * HANDOVER_MS_MIN + 1;
    assert_eq!(b.effect(over(2)), Effect::Done);
    assert!(matches!(b.effect(over(2)), Effect::Refused { .. }));
}
