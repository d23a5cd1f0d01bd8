//! Tests of the decisions about snapshots: which kind comes next, and how large its pieces are.

use super::*;
use crate::checkpoint::{StateFile, StateTable};

fn snapshot(at: i64, kind: StateKind, bytes: u64) -> Snapshot {
    let file =
        StateFile { table: StateTable::Rows, path: String::new(), bytes, sha256: String::new(), rows: 1, batches: 1 };
    let files = if bytes == 0 { Vec::new() } else { vec![file] };
    let operators =
        BTreeMap::from([("a.1".to_owned(), OperatorState { fingerprint: String::new(), keys: Vec::new(), files })]);
    Snapshot {
        offset: Offset::new(at).unwrap(),
        watermark: Watermark::NONE,
        seen: SeenPositions::default(),
        kind,
        operators,
    }
}

#[test]
fn a_full_snapshot_comes_first_and_deltas_follow_it() {
    assert_eq!(next_kind(&[], false), StateKind::Full);
    let full = snapshot(1, StateKind::Full, 100);
    assert_eq!(next_kind(std::slice::from_ref(&full), true), StateKind::Delta);
    // Taken by another process, or followed by one that failed: what changed since is not known.
    assert_eq!(next_kind(std::slice::from_ref(&full), false), StateKind::Full);
    // Nothing is no base.
    assert_eq!(next_kind(&[snapshot(0, StateKind::Full, 0)], true), StateKind::Full);
}

#[test]
fn many_deltas_or_large_ones_are_followed_by_a_full_snapshot() {
    let mut usable = vec![snapshot(1, StateKind::Full, 100), snapshot(2, StateKind::Delta, 60)];
    assert_eq!(next_kind(&usable, true), StateKind::Delta);
    usable.push(snapshot(3, StateKind::Delta, 40));
    assert_eq!(next_kind(&usable, true), StateKind::Full);
    let mut usable = vec![snapshot(0, StateKind::Full, 100)];
    for at in 1..=DELTAS_MAX as i64 {
        assert_eq!(next_kind(&usable, true), StateKind::Delta);
        usable.push(snapshot(at, StateKind::Delta, 1));
    }
    assert_eq!(next_kind(&usable, true), StateKind::Full);
    usable.push(snapshot(99, StateKind::Full, 100));
    assert_eq!(next_kind(&usable, true), StateKind::Delta);
}

#[test]
fn pieces_shrink_and_grow_with_the_time_that_they_take() {
    assert_eq!(next_piece_rows(1024, Duration::from_millis(4)), 512);
    assert_eq!(next_piece_rows(1024, Duration::from_millis(1)), 1024);
    assert_eq!(next_piece_rows(1024, Duration::from_micros(100)), 2048);
    assert_eq!(next_piece_rows(PIECE_ROWS_MIN, Duration::from_secs(1)), PIECE_ROWS_MIN);
    assert_eq!(next_piece_rows(PIECE_ROWS_MAX, Duration::ZERO), PIECE_ROWS_MAX);
}
