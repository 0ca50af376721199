//! Many at once: of those who expect the same, one is served; nothing is lost, nothing half done.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use docket_store::{
    Batch, Expect, Facts, Kind, Record, Revision, Status, Store, StoreError, StoreErrorKind, Sync, Write,
};
use tokio::task::JoinSet;

use super::{assert_holds, body, commit, key, pause, put, read, record, renew, write};

pub(crate) async fn all(open: &impl AsyncFn() -> Arc<dyn Store>) {
    between(&[open().await]).await;
}

/// The races, with tasks spread over these handles on one store.
pub(crate) async fn between(stores: &[Arc<dyn Store>]) {
    one_of_many_who_expect_the_same_is_served(stores).await;
    no_update_is_lost(stores).await;
    everybody_reads_what_they_wrote(stores).await;
    crossing_batches_never_mix(stores).await;
    a_dropped_commit_is_done_whole_or_not_at_all(stores).await;
    no_zombie_overwrites(stores).await;
}

/// Returns whether a batch was done; any refusal but a conflict is a failure of the store.
fn was_done(answer: Result<(), StoreError>) -> bool {
    match answer {
        Ok(()) => true,
        Err(error) if error.kind() == StoreErrorKind::Conflict => false,
        Err(error) => panic!("a race is no reason for `{error}` ({:?})", error.kind()),
    }
}

async fn join<T: 'static>(mut tasks: JoinSet<T>) -> Vec<T> {
    let mut answers = Vec::new();
    while let Some(answer) = tasks.join_next().await {
        answers.push(answer.unwrap());
    }
    answers
}

async fn one_of_many_who_expect_the_same_is_served(stores: &[Arc<dyn Store>]) {
    const ROUNDS: u64 = 200;
    const TASKS: usize = 64;
    let version =
        |revision: u64, task: usize| Record { body: task.to_string().into(), ..record("race", revision) };
    for round in 0..ROUNDS {
        let expect = if round == 0 { Expect::Absent } else { Expect::Revision(Revision(round)) };
        let mut tasks = JoinSet::new();
        for (task, store) in (0..TASKS).zip(stores.iter().cycle()) {
            let (store, next) = (Arc::clone(store), version(round + 1, task));
            tasks.spawn(
                async move { was_done(commit(&*store, vec![put(&next, expect)]).await).then_some(task) },
            );
        }
        let winners: Vec<usize> = join(tasks).await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round} has the winners {winners:?}");
        assert_holds(&*stores[0], &version(round + 1, winners[0]), "the winner's is there").await;
    }
}

async fn no_update_is_lost(stores: &[Arc<dyn Store>]) {
    const TASKS: usize = 16;
    const UPDATES: usize = 12;
    write(&*stores[0], vec![put(&record("counter", 1), Expect::Absent)]).await;
    let mut tasks = JoinSet::new();
    for (_, store) in (0..TASKS).zip(stores.iter().cycle()) {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            for _ in 0..UPDATES {
                loop {
                    let found = read(&*store, &record("counter", 0)).await.unwrap();
                    let mut next = Record { revision: Revision(found.revision.0 + 1), ..found.clone() };
                    next.facts.attempts += 1;
                    if was_done(commit(&*store, vec![put(&next, Expect::Revision(found.revision))]).await) {
                        break;
                    }
                }
            }
        });
    }
    join(tasks).await;
    let last = read(&*stores[0], &record("counter", 0)).await.unwrap();
    assert_eq!(last.facts.attempts as usize, TASKS * UPDATES);
}

async fn everybody_reads_what_they_wrote(stores: &[Arc<dyn Store>]) {
    let mut tasks = JoinSet::new();
    for (task, (store, other)) in (0..32_u64).zip(stores.iter().cycle().zip(stores.iter().rev().cycle())) {
        let (store, other) = (Arc::clone(store), Arc::clone(other));
        tasks.spawn(async move {
            for n in 1..=10 {
                let written = Record { body: body(100, task * 100 + n), ..record(&format!("own/{task}"), n) };
                let sync = if n % 5 == 0 { Sync::Now } else { Sync::Later };
                store.commit(Batch { writes: vec![put(&written, Expect::Any)], sync }).await.unwrap();
                assert_holds(&*store, &written, "read by the writer").await;
                assert_holds(&*other, &written, "read by anyone").await;
            }
        });
    }
    join(tasks).await;
}

/// Batches that write the same records in other orders, all from one state: one of each is done.
async fn crossing_batches_never_mix(stores: &[Arc<dyn Store>]) {
    const RECORDS: usize = 6;
    let name = |n: usize| format!("crossing/{n}");
    let first = (0..RECORDS).map(|n| put(&record(&name(n), 1), Expect::Absent)).collect();
    write(&*stores[0], first).await;
    for round in 1..=20_u64 {
        let mut tasks = JoinSet::new();
        for (task, store) in (0..16_usize).zip(stores.iter().cycle()) {
            let store = Arc::clone(store);
            tasks.spawn(async move {
                let mut writes: Vec<Write> = (0..RECORDS)
                    .map(|n| {
                        let mut next = record(&name((n + task) % RECORDS), round + 1);
                        next.facts.owner = Some(task.to_string().into());
                        put(&next, Expect::Revision(Revision(round)))
                    })
                    .collect();
                if task % 2 == 1 {
                    writes.reverse();
                }
                was_done(commit(&*store, writes).await)
            });
        }
        let done = join(tasks).await.into_iter().filter(|done| *done).count();
        assert_eq!(done, 1, "round {round}");
        let mut owners = Vec::new();
        for n in 0..RECORDS {
            owners.push(read(&*stores[0], &record(&name(n), 0)).await.unwrap().facts.owner);
        }
        assert!(
            owners.iter().all(|owner| *owner == owners[0]),
            "one batch is mixed with another: {owners:?}"
        );
    }
}

async fn a_dropped_commit_is_done_whole_or_not_at_all(stores: &[Arc<dyn Store>]) {
    const RECORDS: u64 = 5;
    let store = &stores[0];
    let name = |round: u64, n: u64| format!("dropped/{round}/{n}");
    for round in 0..40_u64 {
        let size = if round % 4 == 0 { 100_000 } else { 10 };
        let of = |n| Record { body: body(size, n), ..record(&name(round, n), 1) };
        let writes = (0..RECORDS).map(|n| put(&of(n), Expect::Absent)).collect();
        let patience = Duration::from_micros(round * 40);
        let answer = tokio::time::timeout(patience, commit(&**store, writes)).await;
        if let Ok(answer) = answer {
            answer.unwrap();
        }
    }
    // A write behind them, and time, so that whatever is still under way has come to its end.
    write(&**store, vec![put(&record("dropped/end", 1), Expect::Absent)]).await;
    pause(Duration::from_millis(500)).await;
    for round in 0..40_u64 {
        let mut there = 0;
        for n in 0..RECORDS {
            there += u64::from(read(&**store, &record(&name(round, n), 0)).await.is_some());
        }
        assert!(there == 0 || there == RECORDS, "{there} of {RECORDS} records of round {round}");
    }
}

/// How long the claims of the protocol hold: short, so that many lapse.
const LEASE: Duration = Duration::from_millis(150);

/// A claim protocol in small: claim, work, complete where the claim still stands. Some holders sleep
/// through their lease and complete all the same.
pub(crate) async fn no_zombie_overwrites(stores: &[Arc<dyn Store>]) {
    const KEYS: usize = 12;
    const TASKS: usize = 8;
    let mut tasks = JoinSet::new();
    for (task, store) in (0..TASKS).zip(stores.iter().cycle()) {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let mut accepted = Vec::new();
            for n in 0..KEYS {
                accepted.extend(settle(&*store, task, (n + task / 2) % KEYS).await);
            }
            accepted
        });
    }
    let mut accepted: HashMap<usize, Vec<Bytes>> = HashMap::new();
    for (n, value) in join(tasks).await.into_iter().flatten() {
        accepted.entry(n).or_default().push(value);
    }
    for n in 0..KEYS {
        let found = read(&*stores[0], &record(&format!("claim/{n}"), 0)).await.expect("somebody took over");
        assert_eq!(found.facts.status, Status::Done);
        assert_eq!(accepted.get(&n), Some(&vec![found.body]), "one is accepted, and it is what is there");
    }
}

/// Sees to it that this key is done; returns what this task was told is accepted.
async fn settle(store: &dyn Store, task: usize, n: usize) -> Option<(usize, Bytes)> {
    let claim_key = key(&format!("claim/{n}"));
    loop {
        let found = store.get(Kind::Result, &claim_key).await.unwrap();
        let expect = match &found.record {
            None => Expect::Absent,
            Some(record) if record.facts.status == Status::Done => return None,
            Some(record) if record.facts.is_leased(found.now) => {
                store.changed(Kind::Result, &claim_key, Duration::from_millis(20)).await;
                continue;
            }
            Some(record) => Expect::Revision(record.revision),
        };
        let attempts = found.record.as_ref().map_or(0, |record| record.facts.attempts) + 1;
        let mut claim = Record {
            revision: Revision::after(found.record.as_ref().map(|record| record.revision), found.now),
            facts: Facts::new(Status::Running, "acme".into(), found.now),
            ..record(claim_key.as_str(), 0)
        };
        claim.facts.attempts = attempts;
        claim.facts.owner = Some(task.to_string().into());
        claim.facts.lease_until = Some(found.now.plus(LEASE));
        if !was_done(commit(store, vec![put(&claim, expect)]).await) {
            continue;
        }
        // The first holder of every other key sleeps through its lease.
        if n.is_multiple_of(2) && attempts == 1 {
            pause(LEASE * 2).await;
        } else {
            pause(Duration::from_millis(5)).await;
            let renewal = renew(&claim, claim.revision, found.now.plus(LEASE * 2));
            was_done(commit(store, vec![renewal]).await);
        }
        let mut done = claim.clone();
        done.revision = Revision(claim.revision.0 + 1);
        done.facts.status = Status::Done;
        done.facts.lease_until = None;
        done.body = format!("{task}/{attempts}").into();
        let writes = vec![put(&done, Expect::Revision(claim.revision))];
        if was_done(store.commit(Batch { writes, sync: Sync::Now }).await) {
            return Some((n, done.body));
        }
    }
}
