//! Bodies: of every size up to the limit, and replaced while they are read.

use std::sync::Arc;

use bytes::Bytes;
use docket_store::{Batch, Expect, Record, Revision, Store, StoreErrorKind, Sync};
use tokio::task::JoinSet;

use super::{assert_absent, assert_conflict, assert_holds, body, commit, delete, put, read, record, write};

pub(crate) async fn all(open: &impl AsyncFn() -> Arc<dyn Store>) {
    bodies_of_every_size_come_back(&*open().await).await;
    a_body_is_replaced_by_one_of_any_other_size(&*open().await).await;
    a_body_over_the_limit_is_refused_by_name(&*open().await).await;
    a_body_is_never_read_half_replaced(&open().await).await;
}

const KIB: usize = 1024;

fn sizes(store: &dyn Store) -> Vec<usize> {
    let most = usize::try_from(store.abilities().max_body).unwrap_or(usize::MAX);
    let sizes =
        [0, 1, 1000, 32 * KIB, 32 * KIB + 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, KIB * KIB, 10 * KIB * KIB];
    sizes.into_iter().filter(|size| *size <= most).collect()
}

async fn bodies_of_every_size_come_back(store: &dyn Store) {
    assert!(store.abilities().max_body >= 1 << 20, "a store takes bodies of 1 MiB");
    for size in sizes(store) {
        let written = Record { body: body(size, 1), ..record(&format!("body/{size}"), 1) };
        let writes = vec![put(&written, Expect::Absent)];
        store.commit(Batch { writes, sync: Sync::Now }).await.unwrap();
        assert_holds(store, &written, &format!("{size} bytes")).await;
    }
    // All at once too, and bytes that compress to nothing or look like an end.
    let same = [0_u8, b'\n', 0xff]
        .map(|byte| Record { body: vec![byte; 100 * KIB].into(), ..record(&format!("body/same/{byte}"), 1) });
    write(store, same.iter().map(|record| put(record, Expect::Absent)).collect()).await;
    for written in &same {
        assert_holds(store, written, "the same byte again and again").await;
    }
    for size in sizes(store) {
        let gone = record(&format!("body/{size}"), 1);
        write(store, vec![delete(&gone, Expect::Revision(Revision(1)))]).await;
        assert_absent(store, &gone, "removed").await;
    }
}

async fn a_body_is_replaced_by_one_of_any_other_size(store: &dyn Store) {
    let sizes = [0, 200 * KIB, 10, 64 * KIB, KIB * KIB, 65 * KIB, 0, 33 * KIB];
    for (size, revision) in sizes.into_iter().zip(1_u64..) {
        let written = Record { body: body(size, revision), ..record("body", revision) };
        let expect = if revision == 1 { Expect::Absent } else { Expect::Revision(Revision(revision - 1)) };
        write(store, vec![put(&written, expect)]).await;
        assert_holds(store, &written, &format!("replaced by {size} bytes")).await;
        let refused = Record { body: body(size / 2, 99), ..record("body", 1000) };
        let answer = commit(store, vec![put(&refused, Expect::Revision(Revision(999)))]).await;
        assert_conflict(answer, "another revision");
        assert_holds(store, &written, "a refused body leaves nothing").await;
    }
    // The same revision again, because it is the writer who chooses.
    let last = Record { body: body(200 * KIB, 50), ..record("body", sizes.len() as u64) };
    for seed in 50..53 {
        let written = Record { body: body(200 * KIB, seed), ..last.clone() };
        write(store, vec![put(&written, Expect::Any)]).await;
        assert_holds(store, &written, "written again as the same revision").await;
    }
}

async fn a_body_over_the_limit_is_refused_by_name(store: &dyn Store) {
    let most = store.abilities().max_body;
    let Ok(len) = usize::try_from(most + 1) else { return };
    // Zeroed memory costs nothing before it is read, and nobody has to read it.
    let large = Record { body: Bytes::from(vec![0; len]), ..record("body/too-large", 1) };
    let small = record("body/beside", 1);
    let error =
        commit(store, vec![put(&small, Expect::Absent), put(&large, Expect::Absent)]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::TooLarge, "{error}");
    let message = error.to_string();
    assert!(message.contains("body/too-large"), "the record is named: {message}");
    assert!(message.contains(&most.to_string()), "the limit is named: {message}");
    assert_absent(store, &small, "beside a body that is too large").await;
    assert_absent(store, &large, "too large").await;
}

async fn a_body_is_never_read_half_replaced(store: &Arc<dyn Store>) {
    const ROUNDS: u64 = 60;
    // Every body says in each of its bytes which revision it belongs to.
    let version = |revision: u64| {
        let len = [150 * KIB, 64 * KIB + 1, 300 * KIB, 10][revision as usize % 4];
        let byte = u8::try_from(revision).unwrap();
        Record { body: vec![byte; len].into(), ..record("body/torn", revision) }
    };
    write(&**store, vec![put(&version(1), Expect::Absent)]).await;
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let store = Arc::clone(store);
        readers.spawn(async move {
            let mut last = Revision(0);
            while last < Revision(ROUNDS) {
                let found = read(&*store, &record("body/torn", 0)).await.expect("it is there all the time");
                assert!(found.revision >= last, "time went back from {last} to {}", found.revision);
                let whole = found == version(found.revision.0);
                assert!(
                    whole,
                    "revision {} was read with {} bytes of others",
                    found.revision,
                    found.body.len()
                );
                last = found.revision;
                tokio::task::yield_now().await;
            }
        });
    }
    for revision in 2..=ROUNDS {
        write(&**store, vec![put(&version(revision), Expect::Revision(Revision(revision - 1)))]).await;
    }
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
}
