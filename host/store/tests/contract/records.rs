//! Records one at a time and in batches: what is written is read, expectations are held, a batch is
//! all or nothing.

use std::sync::Arc;

use docket_store::{
    Batch, Expect, Facts, Kind, Record, RecordKey, Revision, Scope, Status, Store, Sync, Timestamp, Write,
};

use super::{
    CREATED, assert_absent, assert_conflict, assert_holds, body, commit, delete, key, put, record, renew,
    running, write,
};

pub(crate) async fn all(open: &impl AsyncFn() -> Arc<dyn Store>) {
    what_is_not_there_is_not_found(&*open().await).await;
    every_fact_is_read_as_it_was_written(&*open().await).await;
    text_is_kept_to_the_byte(&*open().await).await;
    numbers_are_kept_to_the_last_digit(&*open().await).await;
    keys_may_be_long_and_hold_every_visible_character(&*open().await).await;
    kinds_have_their_own_keys(&*open().await).await;
    a_put_replaces_everything(&*open().await).await;
    writes_hold_to_what_they_expect(&*open().await).await;
    a_batch_with_a_conflict_anywhere_writes_nothing(&*open().await).await;
    a_batch_writes_everything(&*open().await).await;
    a_repeated_batch_of_puts_is_a_conflict(&*open().await).await;
    a_lease_is_renewed_only_by_whoever_runs(&*open().await).await;
    a_renewal_changes_nothing_else(&*open().await).await;
    what_has_expired_stays_readable(&*open().await).await;
}

async fn what_is_not_there_is_not_found(store: &dyn Store) {
    for kind in Kind::ALL {
        assert_eq!(store.get(kind, &key("nothing")).await.unwrap().record, None);
    }
}

async fn every_fact_is_read_as_it_was_written(store: &dyn Store) {
    let full = Facts {
        scope: Some(Scope::Global),
        step: Some("FetchProfile".into()),
        execution: Some("0198c0de".into()),
        module: Some("c0ffee".into()),
        attempts: 3,
        owner: Some("host-1".into()),
        lease_until: Some(Timestamp(1_790_000_030_001)),
        expires_at: Some(Timestamp(4_000_000_000_002)),
        started_at: Some(Timestamp(1_790_000_000_003)),
        finished_at: Some(Timestamp(1_790_000_000_004)),
        detail: Some(r#"{"b":1,"a":[1.0,2]}"#.into()),
        ..Facts::new(Status::Done, "acme".into(), CREATED)
    };
    let mut facts = vec![full.clone(), Facts::new(Status::Released, "".into(), CREATED)];
    facts.extend(Status::ALL.map(|status| Facts { status, ..full.clone() }));
    facts.extend(Scope::ALL.map(|scope| Facts { scope: Some(scope), ..full.clone() }));
    facts.extend([
        Facts { scope: None, ..full.clone() },
        Facts { step: None, ..full.clone() },
        Facts { execution: None, ..full.clone() },
        Facts { module: None, ..full.clone() },
        Facts { owner: None, ..full.clone() },
        Facts { lease_until: None, ..full.clone() },
        Facts { expires_at: None, ..full.clone() },
        Facts { started_at: None, ..full.clone() },
        Facts { finished_at: None, ..full.clone() },
        Facts { detail: None, ..full },
    ]);
    for (n, facts) in facts.into_iter().enumerate() {
        let written = Record { facts, body: body(n, 1), ..record(&format!("facts/{n}"), 7) };
        write(store, vec![put(&written, Expect::Absent)]).await;
        assert_holds(store, &written, "each fact").await;
    }
}

async fn text_is_kept_to_the_byte(store: &dyn Store) {
    let long = "ö".repeat(100);
    let texts = [
        "",
        " ",
        "a ",
        " a",
        "A",
        "'",
        "''",
        "\"",
        "`",
        "\\",
        "\\n",
        "\n",
        "\r\n\t",
        "%_*?[a]",
        "$1 {0} :a @b #c --",
        ";",
        "é",
        "e\u{301}",
        "ß",
        "日本語",
        "🦀",
        "\u{202e}",
        "\u{feff}",
        "NULL",
        "null",
        "0",
        "1e3",
        long.as_str(),
    ];
    for (n, text) in texts.into_iter().enumerate() {
        let mut written = record(&format!("text/{n}"), 7);
        let facts = &mut written.facts;
        facts.tenant = text.into();
        facts.step = Some(text.into());
        facts.execution = Some(text.into());
        facts.module = Some(text.into());
        facts.owner = Some(text.into());
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let escaped = escaped.replace('\r', "\\r").replace('\t', "\\t");
        facts.detail = Some(format!("{{ \"z\": \"{escaped}\",\n  \"a\" : 1.50, \"z\":0 }}").into());
        write(store, vec![put(&written, Expect::Absent)]).await;
        assert_holds(store, &written, &format!("the text {text:?}")).await;
    }
    let mut written = record("text/detail", 7);
    written.facts.detail = Some(format!("{{\"failure\":\"{}\"}}", "x".repeat(20_000)).into());
    write(store, vec![put(&written, Expect::Absent)]).await;
    assert_holds(store, &written, "a long detail").await;
}

async fn numbers_are_kept_to_the_last_digit(store: &dyn Store) {
    const EXACT_AS_FLOAT: u64 = 1 << 53;
    for number in [0, 1, EXACT_AS_FLOAT, EXACT_AS_FLOAT + 1, i64::MAX as u64 - 1, i64::MAX as u64] {
        let mut written = record(&format!("number/{number}"), number);
        let facts = &mut written.facts;
        facts.attempts = u32::try_from(number).unwrap_or(u32::MAX);
        facts.lease_until = Some(Timestamp(number));
        facts.expires_at = Some(Timestamp(number));
        facts.started_at = Some(Timestamp(number));
        facts.finished_at = Some(Timestamp(number));
        write(store, vec![put(&written, Expect::Absent)]).await;
        assert_holds(store, &written, &format!("the number {number}")).await;
        // Neighbours are told apart, also by whoever counts in floating point.
        let other = Revision(if number == 0 { 1 } else { number - 1 });
        let next = Record { revision: Revision(number + 1), ..written.clone() };
        if number < i64::MAX as u64 {
            let answer = commit(store, vec![put(&next, Expect::Revision(other))]).await;
            assert_conflict(answer, &format!("{other} is not {number}"));
            write(store, vec![put(&next, Expect::Revision(Revision(number)))]).await;
            assert_holds(store, &next, "the next revision").await;
        }
    }
}

async fn keys_may_be_long_and_hold_every_visible_character(store: &dyn Store) {
    let visible: String = ('!'..='~').collect();
    let longest = "k".repeat(RecordKey::LONGEST);
    let nearly = format!("{}l", "k".repeat(RecordKey::LONGEST - 1));
    let mut keys = vec![visible, longest, nearly];
    keys.extend(('!'..='~').map(String::from));
    // Beginnings of each other, other cases of each other, patterns of each other.
    keys.extend(
        ["a/", "a/b", "aa", "AA", "Aa", "a%", "a_", "a*", "a/b/c", "0/", "00", "1e1", "10"].map(String::from),
    );
    let written: Vec<Record> =
        keys.iter().zip(1..).map(|(key, n)| Record { body: body(n, 5), ..record(key, n as u64) }).collect();
    for record in &written {
        write(store, vec![put(record, Expect::Absent)]).await;
    }
    for record in &written {
        assert_holds(store, record, "each key has its own record").await;
    }
    let (gone, kept) = written.split_at(written.len() / 2);
    for record in gone {
        write(store, vec![delete(record, Expect::Revision(record.revision))]).await;
    }
    for record in gone {
        assert_absent(store, record, "removed").await;
    }
    for record in kept {
        assert_holds(store, record, "another key was removed").await;
    }
}

async fn kinds_have_their_own_keys(store: &dyn Store) {
    let of = |kind: Kind, n: u64| Record { kind, body: body(8, n), ..record("same", n) };
    for (n, kind) in Kind::ALL.into_iter().enumerate() {
        write(store, vec![put(&of(kind, n as u64), Expect::Absent)]).await;
    }
    for (n, kind) in Kind::ALL.into_iter().enumerate() {
        assert_holds(store, &of(kind, n as u64), kind.as_str()).await;
    }
    write(store, vec![delete(&of(Kind::Execution, 1), Expect::Revision(Revision(1)))]).await;
    assert_absent(store, &of(Kind::Execution, 1), "removed").await;
    assert_holds(store, &of(Kind::Step, 2), "another kind was removed").await;
}

async fn a_put_replaces_everything(store: &dyn Store) {
    let mut first = Record { body: body(100, 1), ..running("replaced", 1, Timestamp(5)) };
    first.facts.step = Some("Old".into());
    first.facts.execution = Some("old".into());
    first.facts.expires_at = Some(Timestamp(6));
    let second = Record { body: body(7, 2), ..record("replaced", 2) };
    for expect in [Expect::Revision(Revision(1)), Expect::Any] {
        write(store, vec![put(&first, Expect::Any)]).await;
        write(store, vec![put(&second, expect)]).await;
        assert_holds(store, &second, "nothing is left of what was there").await;
    }
}

/// Each kind of write, with each expectation, on each state: whether it is done.
async fn writes_hold_to_what_they_expect(store: &dyn Store) {
    let there = Record { body: body(9, 1), ..record("there", 5) };
    let new = Record { body: body(9, 2), ..record("there", 6) };
    let expectations = [
        (Expect::Absent, false, true),
        (Expect::Any, true, true),
        (Expect::Revision(Revision(5)), true, false),
        (Expect::Revision(Revision(4)), false, false),
        (Expect::Revision(Revision(6)), false, false),
        (Expect::Revision(Revision(0)), false, false),
    ];
    for sync in [Sync::Later, Sync::Now] {
        for (expect, if_there, if_absent) in expectations {
            for (is_there, fits) in [(true, if_there), (false, if_absent)] {
                for what in [put(&new, expect), delete(&there, expect)] {
                    let setup = if is_there { put(&there, Expect::Any) } else { delete(&there, Expect::Any) };
                    write(store, vec![setup]).await;
                    let puts = matches!(what, Write::Put { .. });
                    let why = format!("put: {puts}, {expect:?}, there: {is_there}");
                    let answer = store.commit(Batch { writes: vec![what], sync }).await;
                    if fits {
                        answer.unwrap_or_else(|error| panic!("{why}: {error}"));
                    } else {
                        assert_conflict(answer, &why);
                    }
                    match (fits, puts, is_there) {
                        (true, true, _) => assert_holds(store, &new, &why).await,
                        (true, false, _) | (false, _, false) => assert_absent(store, &there, &why).await,
                        (false, _, true) => assert_holds(store, &there, &why).await,
                    }
                }
            }
        }
    }
}

/// Records of all kinds of writes that succeed together.
fn before() -> Vec<Record> {
    vec![
        Record { body: body(10, 1), ..record("batch/put", 1) },
        running("batch/renewed", 1, Timestamp(100)),
        Record { body: body(10, 2), ..record("batch/removed", 1) },
        Record { kind: Kind::Execution, ..running("batch/execution", 1, Timestamp(100)) },
    ]
}

fn after() -> Vec<Record> {
    let mut renewed = running("batch/renewed", 1, Timestamp(100));
    renewed.facts.lease_until = Some(Timestamp(200));
    vec![
        Record { body: body(20, 3), ..record("batch/put", 2) },
        renewed,
        Record { kind: Kind::Execution, body: body(20, 4), ..record("batch/execution", 2) },
        Record { kind: Kind::Step, body: body(20, 5), ..record("batch/new", 1) },
    ]
}

fn good_batch() -> Vec<Write> {
    let (old, new) = (before(), after());
    vec![
        put(&new[0], Expect::Revision(Revision(1))),
        renew(&old[1], Revision(1), Timestamp(200)),
        delete(&old[2], Expect::Revision(Revision(1))),
        put(&new[2], Expect::Any),
        put(&new[3], Expect::Absent),
    ]
}

async fn a_batch_writes_everything(store: &dyn Store) {
    for sync in [Sync::Later, Sync::Now] {
        for record in before().into_iter().chain(after()) {
            write(store, vec![delete(&record, Expect::Any)]).await;
        }
        write(store, before().iter().map(|record| put(record, Expect::Absent)).collect()).await;
        store.commit(Batch { writes: good_batch(), sync }).await.unwrap();
        for record in after() {
            assert_holds(store, &record, "written by a batch").await;
        }
        assert_absent(store, &before()[2], "removed by a batch").await;
    }
    write(store, vec![]).await;
}

async fn a_batch_with_a_conflict_anywhere_writes_nothing(store: &dyn Store) {
    let stray = record("batch/stray", 1);
    let old = before();
    write(store, old.iter().chain([&stray]).map(|record| put(record, Expect::Absent)).collect()).await;
    let changed = Record { revision: Revision(9), ..stray.clone() };
    let mut conflicts = vec![
        put(&changed, Expect::Absent),
        put(&changed, Expect::Revision(Revision(7))),
        delete(&stray, Expect::Absent),
        delete(&stray, Expect::Revision(Revision(7))),
        renew(&stray, Revision(1), Timestamp(300)),
    ];
    conflicts.push(delete(&record("batch/nothing", 1), Expect::Revision(Revision(1))));
    conflicts.push(put(&record("batch/nothing", 2), Expect::Revision(Revision(1))));
    for conflict in conflicts {
        for position in 0..=good_batch().len() {
            let mut writes = good_batch();
            writes.insert(position, conflict.clone());
            let why = format!("{conflict:?} at {position}");
            assert_conflict(commit(store, writes).await, &why);
            for record in old.iter().chain([&stray]) {
                assert_holds(store, record, &why).await;
            }
            assert_absent(store, &after()[3], &why).await;
            assert_absent(store, &record("batch/nothing", 1), &why).await;
        }
    }
}

async fn a_repeated_batch_of_puts_is_a_conflict(store: &dyn Store) {
    let first = record("repeated/a", 1);
    write(store, vec![put(&first, Expect::Absent)]).await;
    let second = Record { revision: Revision(2), ..first };
    let other = record("repeated/b", 2);
    let writes = vec![put(&second, Expect::Revision(Revision(1))), put(&other, Expect::Absent)];
    write(store, writes.clone()).await;
    assert_conflict(commit(store, writes).await, "the same again");
    assert_holds(store, &second, "the same again").await;
}

async fn a_lease_is_renewed_only_by_whoever_runs(store: &dyn Store) {
    let held = running("renewed", 5, Timestamp(100));
    write(store, vec![put(&held, Expect::Absent)]).await;
    for revision in [4, 6, 0] {
        let answer = commit(store, vec![renew(&held, Revision(revision), Timestamp(900))]).await;
        assert_conflict(answer, &format!("renewed as {revision}"));
    }
    let nothing = record("renewed/nothing", 5);
    assert_conflict(commit(store, vec![renew(&nothing, Revision(5), Timestamp(900))]).await, "nothing there");
    assert_absent(store, &nothing, "renewed").await;
    assert_holds(store, &held, "refused renewals").await;
    for status in Status::ALL.into_iter().filter(|status| *status != Status::Running) {
        let mut ended = held.clone();
        ended.facts.status = status;
        write(store, vec![put(&ended, Expect::Any)]).await;
        let answer = commit(store, vec![renew(&ended, Revision(5), Timestamp(900))]).await;
        assert_conflict(answer, &format!("renewed when {}", status.as_str()));
        assert_holds(store, &ended, "refused renewals").await;
    }
}

async fn a_renewal_changes_nothing_else(store: &dyn Store) {
    for len in [0, 10, 200_000] {
        let mut held = Record { body: body(len, 1), ..running("renewal", 5, Timestamp(100)) };
        held.facts.step = Some("Fetch".into());
        held.facts.expires_at = Some(Timestamp(i64::MAX as u64));
        write(store, vec![put(&held, Expect::Any)]).await;
        // Also to an earlier time, and where there was none.
        for end in [Timestamp(200), Timestamp(150), Timestamp(i64::MAX as u64)] {
            write(store, vec![renew(&held, held.revision, end)]).await;
            held.facts.lease_until = Some(end);
            assert_holds(store, &held, "renewed").await;
        }
        held.facts.lease_until = None;
        held.revision = Revision(6);
        write(store, vec![put(&held, Expect::Revision(Revision(5)))]).await;
        write(store, vec![renew(&held, Revision(6), Timestamp(7))]).await;
        held.facts.lease_until = Some(Timestamp(7));
        assert_holds(store, &held, "renewed from nothing").await;
        let next = Record { revision: Revision(8), ..held.clone() };
        write(store, vec![put(&next, Expect::Revision(Revision(6)))]).await;
        assert_holds(store, &next, "the revision stayed what it was").await;
    }
}

async fn what_has_expired_stays_readable(store: &dyn Store) {
    let mut expired = Record { body: body(10, 1), ..record("expired", 1) };
    expired.facts.expires_at = Some(Timestamp(1));
    write(store, vec![put(&expired, Expect::Absent)]).await;
    assert_holds(store, &expired, "expired").await;
    assert_conflict(commit(store, vec![put(&expired, Expect::Absent)]).await, "an expired record is there");
    write(store, vec![delete(&expired, Expect::Revision(Revision(1)))]).await;
    assert_absent(store, &expired, "removed").await;
}
