//! Lists in a database of their own, beside sorted sets.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn place(list: &[u8], entry: u16) -> Place {
    // Long enough for pages of a few entries.
    let entry = [&entry.to_be_bytes()[..], &[b'.'; 124]].concat();
    Place { list: list.to_vec(), entry }
}

fn apply(tree: &sled::Tree, mut draft: Draft<'_>, tails: &mut Tails) {
    tails.settle(&mut draft);
    tree.apply_batch(draft.into_changes()).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16),
    Remove(u16),
    Applied,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..60_u16).prop_map(Step::Insert),
        3 => (0..60_u16).prop_map(Step::Remove),
        1 => Just(Step::Applied),
    ]
}

#[track_caller]
fn check(tree: &sled::Tree, list: &[u8], expected: &BTreeSet<u16>) {
    let entries = |entries: Vec<Vec<u8>>| -> Vec<u16> {
        entries.iter().map(|entry| u16::from_be_bytes([entry[0], entry[1]])).collect()
    };
    let all = backwards(tree, list, None, usize::MAX).unwrap();
    assert_eq!(entries(all), expected.iter().rev().copied().collect::<Vec<_>>());
    for end in [0, 7, 30, 59] {
        let end_entry = place(list, end).entry;
        let found = backwards(tree, list, Some(&end_entry), usize::MAX).unwrap();
        assert_eq!(entries(found), expected.range(..end).rev().copied().collect::<Vec<_>>(), "below {end}");
        let found = backwards(tree, list, Some(&end_entry), 2).unwrap();
        assert!(found.len() >= 2.min(expected.range(..end).count()));
        let top = place(list, u16::MAX).entry;
        let found = forwards(tree, list, Some(&end_entry), &top, usize::MAX).unwrap();
        assert_eq!(entries(found), expected.range(end + 1..).copied().collect::<Vec<_>>(), "behind {end}");
        let found = forwards(tree, list, None, &end_entry, usize::MAX).unwrap();
        assert_eq!(entries(found), expected.range(..end).copied().collect::<Vec<_>>(), "up to {end}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_list_is_a_sorted_set(steps in proptest::collection::vec(step(), 0..120)) {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let mut expected = BTreeSet::new();
        let mut tails = Tails::default();
        let mut draft = Draft::on(&db);
        // Neighbours on both sides, so that no list takes a page of another.
        for neighbour in [b"k", b"m"] {
            insert(&mut draft, &mut tails, &place(neighbour, 30)).unwrap();
        }
        apply(&db, std::mem::replace(&mut draft, Draft::on(&db)), &mut tails);
        for step in steps {
            match step {
                Step::Insert(n) => {
                    insert(&mut draft, &mut tails, &place(b"l", n)).unwrap();
                    expected.insert(n);
                }
                Step::Remove(n) => {
                    remove(&mut draft, &mut tails, &place(b"l", n)).unwrap();
                    expected.remove(&n);
                }
                Step::Applied => {
                    apply(&db, std::mem::replace(&mut draft, Draft::on(&db)), &mut tails);
                    check(&db, b"l", &expected);
                }
            }
        }
        apply(&db, draft, &mut tails);
        check(&db, b"l", &expected);
        check(&db, b"k", &BTreeSet::from([30]));
        check(&db, b"m", &BTreeSet::from([30]));
    }
}

fn pages(entries: impl Iterator<Item = u16>) -> usize {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let (mut draft, mut tails) = (Draft::on(&db), Tails::default());
    for entry in entries {
        insert(&mut draft, &mut tails, &place(b"l", entry)).unwrap();
    }
    apply(&db, draft, &mut tails);
    db.len()
}

#[test]
fn what_comes_in_order_fills_pages() {
    // Eight entries of 128 bytes fit a page.
    assert_eq!(pages(0..80), 10);
    assert_eq!(pages((0..80).rev()), 10);
    assert!(pages((0..80).map(|n| n * 37 % 80)) <= 20);
}

#[test]
fn what_comes_at_once_fills_pages_in_whatever_order() {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let (mut draft, mut tails) = (Draft::on(&db), Tails::default());
    let moves = (0..80).map(|n| Move::to_place(place(b"l", n * 37 % 80))).collect();
    super::draft(&mut draft, &mut tails, moves).unwrap();
    apply(&db, std::mem::replace(&mut draft, Draft::on(&db)), &mut tails);
    assert_eq!((db.len(), count(&db, b"l").unwrap()), (10, 80));
    let moves = (0..80).map(|n| Move::from_place(place(b"l", n * 53 % 80))).collect();
    super::draft(&mut draft, &mut tails, moves).unwrap();
    apply(&db, draft, &mut tails);
    assert_eq!((db.len(), count(&db, b"l").unwrap()), (0, 0));
}

#[test]
fn what_comes_a_little_late_leaves_the_last_page_where_it_is_remembered() {
    let db = sled::Config::new().temporary(true).open().unwrap();
    let (mut draft, mut tails) = (Draft::on(&db), Tails::default());
    let mut put = |entry| {
        insert(&mut draft, &mut tails, &place(b"l", entry)).unwrap();
        tails.0.get(&b"l"[..]).unwrap().page.key.clone()
    };
    (0..18).for_each(|n| drop(put(10 * n)));
    let tail = put(180);
    for late in [155, 5, 75, 1] {
        assert_eq!(put(late), tail, "after {late}");
    }
    apply(&db, draft, &mut tails);
    check(&db, b"l", &(0..=18).map(|n| 10 * n).chain([155, 5, 75, 1]).collect());
}
