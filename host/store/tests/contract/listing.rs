//! Listings: their order, their pages, each filter, and what has expired.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use docket_store::{Cursor, Expect, Filter, Kind, Query, Record, Revision, Status, Store, Timestamp};

use super::{body, delete, key, pause, put, record, renew, running, write};

pub(crate) async fn all(open: &impl AsyncFn() -> Arc<dyn Store>) {
    nothing_is_listed_of_nothing(&*open().await).await;
    the_newest_are_listed_first(&*open().await).await;
    pages_add_up_whatever_their_size(&*open().await).await;
    a_page_goes_on_where_its_cursor_was_even_if_that_is_gone(&*open().await).await;
    each_filter_is_held(&*open().await).await;
    words_of_a_filter_are_compared_to_the_byte(&*open().await).await;
    a_listing_follows_every_write(&*open().await).await;
    the_longest_expired_are_listed_first(&*open().await).await;
    what_expires_is_listed_from_then_on(&*open().await).await;
    removing_what_has_expired_is_the_way_on(&*open().await).await;
}

fn query(kind: Kind, filter: &Filter, after: Option<Cursor>) -> Query {
    Query::Newest { kind, filter: filter.clone(), after }
}

/// Returns every record that the query finds, page by page.
async fn list(store: &dyn Store, kind: Kind, filter: &Filter, limit: usize) -> Vec<Record> {
    let (mut records, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(&query(kind, filter, after.take()), limit).await.unwrap();
        assert!(page.records.len() <= limit, "{} on a page of {limit}", page.records.len());
        records.extend(page.records);
        match page.next {
            Some(next) => after = Some(next),
            None => return records,
        }
        assert!(records.len() < 10_000, "a listing comes to its end");
    }
}

fn keys(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.key.as_str()).collect()
}

/// What a listing of these must be.
fn expected(records: &[Record], kind: Kind, filter: &Filter) -> Vec<Record> {
    let mut fitting: Vec<Record> =
        records.iter().filter(|record| record.kind == kind && filter.fits(record)).cloned().collect();
    fitting.sort_by(|a, b| {
        b.facts
            .created_at
            .cmp(&a.facts.created_at)
            .then_with(|| a.key.as_str().as_bytes().cmp(b.key.as_str().as_bytes()))
    });
    fitting.iter_mut().for_each(|record| record.body.clear());
    fitting
}

async fn fill(store: &dyn Store, records: &[Record]) {
    for batch in records.chunks(50) {
        write(store, batch.iter().map(|record| put(record, Expect::Absent)).collect()).await;
    }
}

fn at(key_text: &str, created_at: u64) -> Record {
    let mut record = Record { body: body(20, created_at), ..record(key_text, 1) };
    record.facts.created_at = Timestamp(created_at);
    record
}

async fn nothing_is_listed_of_nothing(store: &dyn Store) {
    for kind in Kind::ALL {
        assert_eq!(list(store, kind, &Filter::default(), 10).await, []);
    }
    let page = store.scan(&Query::Expired, 10).await.unwrap();
    assert_eq!((page.records, page.next), (vec![], None));
}

async fn the_newest_are_listed_first(store: &dyn Store) {
    // Written in no order; several of one time; keys whose order differs between bytes and words.
    let mut records = vec![at("m", 20), at("a", 10), at("z", 30), at("b", 20), at("n", 0)];
    records.extend(
        ["B", "_", "a", "~", "!", "a/b", "aa", "A", "10", "9", "-", "0"]
            .map(|key| at(&format!("{key}.x"), 20)),
    );
    let mut other = at("other-kind", 25);
    other.kind = Kind::Execution;
    records.push(other);
    fill(store, &records).await;
    for kind in Kind::ALL {
        let expected = expected(&records, kind, &Filter::default());
        let found = list(store, kind, &Filter::default(), 100).await;
        assert_eq!(keys(&found), keys(&expected), "{kind:?}");
        assert_eq!(found, expected, "facts and revisions are listed, bodies are not");
    }
}

async fn pages_add_up_whatever_their_size(store: &dyn Store) {
    let records: Vec<Record> = (0..60).map(|n| at(&format!("page/{:02}", n * 7 % 60), 100 + n / 9)).collect();
    fill(store, &records).await;
    let expected = expected(&records, Kind::Result, &Filter::default());
    for limit in [1, 2, 7, 9, 30, 59, 60, 61, 1000] {
        let found = list(store, Kind::Result, &Filter::default(), limit).await;
        assert_eq!(keys(&found), keys(&expected), "pages of {limit}");
    }
    let page = store.scan(&query(Kind::Result, &Filter::default(), None), 60).await.unwrap();
    assert_eq!(page.next, None, "nothing follows a page that ends with the last record");
    let page = store.scan(&query(Kind::Result, &Filter::default(), None), 59).await.unwrap();
    let last = &expected[58];
    let cursor = Cursor { created_at: last.facts.created_at, key: last.key.clone() };
    assert_eq!(page.next, Some(cursor), "the cursor is the last record of the page");
}

async fn a_page_goes_on_where_its_cursor_was_even_if_that_is_gone(store: &dyn Store) {
    let records: Vec<Record> = (0..9).map(|n| at(&format!("gone/{n}"), 100 - n / 3)).collect();
    fill(store, &records).await;
    for (n, record) in records.iter().enumerate() {
        write(store, vec![delete(record, Expect::Any)]).await;
        let after = Cursor { created_at: record.facts.created_at, key: record.key.clone() };
        let page = store.scan(&query(Kind::Result, &Filter::default(), Some(after)), 100).await.unwrap();
        assert_eq!(keys(&page.records), keys(&records[n + 1..]), "behind {n}");
    }
    fill(store, &records).await;
    let between = Cursor { created_at: Timestamp(99), key: key("gone/zzz") };
    let page = store.scan(&query(Kind::Result, &Filter::default(), Some(between)), 100).await.unwrap();
    assert_eq!(keys(&page.records), keys(&records[6..]), "a cursor is a place, not a record");
}

async fn each_filter_is_held(store: &dyn Store) {
    let mut records = Vec::new();
    for n in 0..48_u64 {
        let mut record = at(&format!("filter/{:02}", n * 5 % 48), 100 + n / 4);
        record.kind = if n % 5 == 0 { Kind::Execution } else { Kind::Result };
        let facts = &mut record.facts;
        facts.tenant = ["acme", "umbra"][n as usize % 2].into();
        facts.step = [Some("Fetch"), None, Some("Enrich")][n as usize % 3].map(Into::into);
        facts.execution = [None, Some("e1"), Some("e2"), Some("e3")][n as usize / 3 % 4].map(Into::into);
        facts.status = Status::ALL[n as usize % Status::ALL.len()];
        records.push(record);
    }
    fill(store, &records).await;
    let of = |text: &str| Some(Arc::from(text));
    let none = Filter::default();
    let mut filters = vec![
        none.clone(),
        Filter { tenant: of("acme"), ..none.clone() },
        Filter { tenant: of("nobody"), ..none.clone() },
        Filter { step: of("Fetch"), ..none.clone() },
        Filter { step: of("Nothing"), ..none.clone() },
        Filter { execution: of("e2"), ..none.clone() },
        Filter { execution: of("e9"), ..none.clone() },
        Filter { tenant: of("umbra"), step: of("Enrich"), ..none.clone() },
        Filter { step: of("Fetch"), execution: of("e1"), ..none.clone() },
        Filter { execution: of("e3"), status: Some(Status::Done), ..none.clone() },
        Filter { step: of("Fetch"), created_before: Some(Timestamp(107)), ..none.clone() },
        Filter {
            tenant: of("acme"),
            step: of("Fetch"),
            execution: of("e1"),
            status: Some(Status::Running),
            created_before: Some(Timestamp(1000)),
        },
    ];
    filters.extend(Status::ALL.map(|status| Filter { status: Some(status), ..none.clone() }));
    let times = [0, 100, 101, 105, 111, 112, i64::MAX as u64];
    filters.extend(times.map(|time| Filter { created_before: Some(Timestamp(time)), ..none.clone() }));
    for filter in filters {
        for kind in [Kind::Result, Kind::Execution, Kind::Step] {
            let expected = expected(&records, kind, &filter);
            for limit in [1, 5, 1000] {
                let found = list(store, kind, &filter, limit).await;
                assert_eq!(keys(&found), keys(&expected), "{kind:?}, pages of {limit}, {filter:?}");
            }
        }
    }
}

async fn words_of_a_filter_are_compared_to_the_byte(store: &dyn Store) {
    let words = [
        "a",
        "A",
        "a ",
        " a",
        "",
        "é",
        "e\u{301}",
        "e",
        "ß",
        "ss",
        "%",
        "_",
        "a\0b".trim_end_matches("\0b"),
        "aa",
    ];
    let words: BTreeSet<&str> = words.into_iter().collect();
    let records: Vec<Record> = words
        .iter()
        .enumerate()
        .map(|(n, word)| {
            let mut record = at(&format!("word/{n}"), 100);
            record.facts.tenant = (*word).into();
            record.facts.step = Some((*word).into());
            record.facts.execution = Some((*word).into());
            record
        })
        .collect();
    fill(store, &records).await;
    for (word, record) in words.iter().zip(&records) {
        let word: Option<Arc<str>> = Some((*word).into());
        for filter in [
            Filter { tenant: word.clone(), ..Filter::default() },
            Filter { step: word.clone(), ..Filter::default() },
            Filter { execution: word.clone(), ..Filter::default() },
        ] {
            let found = list(store, Kind::Result, &filter, 10).await;
            assert_eq!(keys(&found), [record.key.as_str()], "{filter:?}");
        }
    }
}

async fn a_listing_follows_every_write(store: &dyn Store) {
    let mut record = at("follows", 100);
    record.facts.status = Status::Running;
    record.facts.step = Some("Old".into());
    record.facts.execution = Some("old".into());
    record.facts.lease_until = Some(Timestamp(1));
    let of = |step: &str, execution: &str| Filter {
        step: Some(step.into()),
        execution: Some(execution.into()),
        ..Filter::default()
    };
    let listed = async |filter: Filter| list(store, Kind::Result, &filter, 10).await;
    write(store, vec![put(&record, Expect::Absent)]).await;
    assert_eq!(
        listed(of("Old", "old")).await,
        expected(std::slice::from_ref(&record), Kind::Result, &Filter::default())
    );
    write(store, vec![renew(&record, Revision(1), Timestamp(77))]).await;
    assert_eq!(listed(of("Old", "old")).await[0].facts.lease_until, Some(Timestamp(77)));

    let mut moved = Record { revision: Revision(2), ..record.clone() };
    moved.facts.step = Some("New".into());
    moved.facts.execution = Some("new".into());
    moved.facts.created_at = Timestamp(50);
    moved.facts.status = Status::Done;
    write(store, vec![put(&moved, Expect::Revision(Revision(1)))]).await;
    assert_eq!(listed(of("Old", "old")).await, []);
    for filter in [
        of("New", "new"),
        Filter { step: Some("New".into()), ..Filter::default() },
        Filter { execution: Some("new".into()), ..Filter::default() },
        Filter::default(),
    ] {
        assert_eq!(
            listed(filter).await,
            expected(std::slice::from_ref(&moved), Kind::Result, &Filter::default())
        );
    }
    for gone in [
        Filter { step: Some("Old".into()), ..Filter::default() },
        Filter { execution: Some("old".into()), ..Filter::default() },
    ] {
        assert_eq!(listed(gone).await, []);
    }

    write(store, vec![delete(&moved, Expect::Revision(Revision(2)))]).await;
    for filter in
        [of("New", "new"), Filter { step: Some("New".into()), ..Filter::default() }, Filter::default()]
    {
        assert_eq!(listed(filter).await, []);
    }
}

fn expiring(key_text: &str, kind: Kind, expires_at: Option<u64>) -> Record {
    let mut record = Record { kind, body: body(20, 3), ..record(key_text, 1) };
    record.facts.expires_at = expires_at.map(Timestamp);
    record
}

async fn the_longest_expired_are_listed_first(store: &dyn Store) {
    let now = store.get(Kind::Result, &key("none")).await.unwrap().now.0;
    let records = [
        expiring("c", Kind::Result, Some(3000)),
        expiring("a", Kind::Execution, Some(1000)),
        expiring("d", Kind::Module, Some(now - 1)),
        expiring("never", Kind::Result, None),
        expiring("b", Kind::Step, Some(2000)),
        expiring("later", Kind::Result, Some(now + 3_600_000)),
        expiring("zero", Kind::Result, Some(0)),
        running("running", 1, Timestamp(5)),
    ];
    fill(store, &records).await;
    let page = store.scan(&Query::Expired, 100).await.unwrap();
    assert_eq!(keys(&page.records), ["zero", "a", "b", "c", "d"]);
    assert_eq!(page.next, None);
    let first = Record { body: bytes::Bytes::new(), ..records[1].clone() };
    assert_eq!(page.records[1], first, "facts are listed, bodies are not");
    let page = store.scan(&Query::Expired, 2).await.unwrap();
    assert_eq!((keys(&page.records), page.next), (vec!["zero", "a"], None), "no more than the limit");
}

async fn what_expires_is_listed_from_then_on(store: &dyn Store) {
    let now = store.get(Kind::Result, &key("none")).await.unwrap().now.0;
    let soon = expiring("soon", Kind::Result, Some(now + 1500));
    write(store, vec![put(&soon, Expect::Absent)]).await;
    let page = store.scan(&Query::Expired, 10).await.unwrap();
    assert!(page.now.0 >= now + 1500 || page.records.is_empty(), "it has not expired");
    let mut tries = 0;
    loop {
        let page = store.scan(&Query::Expired, 10).await.unwrap();
        assert_eq!(page.records.is_empty(), page.now.0 < now + 1500, "by the page's own time");
        if !page.records.is_empty() {
            return;
        }
        tries += 1;
        assert!(tries < 200, "it never expires");
        pause(Duration::from_millis(50)).await;
    }
}

async fn removing_what_has_expired_is_the_way_on(store: &dyn Store) {
    let records: Vec<Record> =
        (0..20).map(|n| expiring(&format!("expired/{n:02}"), Kind::Result, Some(1000 + n / 2))).collect();
    fill(store, &records).await;
    // A new end, none at all, and gone: each leaves the list.
    let kept =
        Record { revision: Revision(2), ..expiring("expired/00", Kind::Result, Some(i64::MAX as u64)) };
    let forever = Record { revision: Revision(2), ..expiring("expired/01", Kind::Result, None) };
    write(store, vec![put(&kept, Expect::Any), put(&forever, Expect::Any)]).await;
    let mut removed = BTreeSet::new();
    loop {
        let page = store.scan(&Query::Expired, 7).await.unwrap();
        if page.records.is_empty() {
            break;
        }
        for record in &page.records {
            assert!(removed.insert(record.key.clone()), "`{}` is listed after its removal", record.key);
        }
        write(
            store,
            page.records.iter().map(|record| delete(record, Expect::Revision(record.revision))).collect(),
        )
        .await;
    }
    let removed: Vec<&str> = removed.iter().map(|key| key.as_str()).collect();
    assert_eq!(removed, keys(&records[2..]));
    assert_eq!(list(store, Kind::Result, &Filter::default(), 100).await.len(), 2);
}
