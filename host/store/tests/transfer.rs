//! Records move between stores and through lines of JSON without a loss, again where it was cut off,
//! and damage is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod contract;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use docket_store::{
    Abilities, Batch, Expect, Facts, Filter, Found, Kind, MemoryStore, Moved, Page, Query, Record, RecordKey,
    Revision, Scope, Status, Store, StoreError, StoreErrorKind, Timestamp, TransferError, check, export,
    import, migrate,
};

/// Returns records of every kind, status and scope, with every fact, odd texts and bodies of all sizes.
fn records() -> Vec<Record> {
    let mut records = Vec::new();
    for kind in Kind::ALL {
        for (n, status) in Status::ALL.into_iter().enumerate() {
            let full = Facts {
                scope: Some(Scope::ALL[n % 2]),
                step: Some("Stück \"1\"\n".into()),
                execution: Some("e\u{0}-1".into()),
                module: Some("ab".repeat(32).into()),
                attempts: u32::MAX,
                owner: Some("o\\".into()),
                lease_until: Some(Timestamp(1)),
                expires_at: Some(Timestamp(i64::MAX as u64)),
                started_at: Some(Timestamp(0)),
                finished_at: Some(Timestamp(3)),
                detail: Some(r#"{"a":"\u00e9 🦀"}"#.into()),
                ..Facts::new(status, "".into(), Timestamp(n as u64))
            };
            let bare = Facts::new(status, "acme".into(), contract::CREATED);
            for (name, facts) in [("full", full), ("bare", bare)] {
                let body = contract::body([0, 1, 2, 3, 1000, 3 << 20][n], n as u64);
                let key = contract::key(&format!("!~{name}-{n}"));
                records.push(Record {
                    kind,
                    key,
                    revision: Revision(u64::from(u32::MAX) << 20 | 1),
                    facts,
                    body,
                });
            }
        }
    }
    records
}

async fn filled() -> MemoryStore {
    let store = MemoryStore::new();
    for record in records() {
        contract::write(&store, vec![contract::put(&record, Expect::Absent)]).await;
    }
    store
}

/// Returns the record as it arrives.
fn arrived(mut record: Record) -> Record {
    if record.facts.status == Status::Running {
        let execution = record.kind == Kind::Execution;
        record.facts.status = if execution { Status::Interrupted } else { Status::Released };
        record.facts.owner = None;
        record.facts.lease_until = None;
    }
    record
}

async fn assert_arrived(to: &dyn Store) {
    for record in records() {
        contract::assert_holds(to, &arrived(record), "moved").await;
    }
    let mut count = 0;
    for kind in Kind::ALL {
        let query = Query::Newest { kind, filter: Filter::default(), after: None };
        count += to.scan(&query, 1000).await.unwrap().records.len();
    }
    assert_eq!(count, records().len(), "nothing else is there");
}

fn all() -> Moved {
    let body_bytes = records().iter().map(|record| record.body.len() as u64).sum();
    Moved { records: 48, already: 0, released: 8, body_bytes }
}

#[tokio::test]
async fn every_record_moves_and_claims_stay_behind() {
    let (from, to) = (filled().await, MemoryStore::new());
    assert_eq!(migrate(&from, &to).await.unwrap(), all());
    assert_arrived(&to).await;
    contract::assert_holds(&from, &records()[0], "the source stays as it is").await;
    // Again: everything is there.
    assert_eq!(migrate(&from, &to).await.unwrap(), Moved { records: 0, already: 48, ..all() });
}

#[cfg(all(feature = "sled", feature = "sqlite"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_moves_from_sled_to_sqlite_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let sled = docket_store::SledStore::open(&dir.path().join("a")).unwrap();
    let sqlite = docket_store::SqliteStore::open(&dir.path().join("b.db")).await.unwrap();
    let back = docket_store::SledStore::open(&dir.path().join("c")).unwrap();
    migrate(&filled().await, &sled).await.unwrap();
    assert_eq!(migrate(&sled, &sqlite).await.unwrap(), Moved { released: 0, ..all() });
    migrate(&sqlite, &back).await.unwrap();
    assert_arrived(&sqlite).await;
    assert_arrived(&back).await;
    assert_eq!(check(&sqlite).await.unwrap(), []);
    assert_eq!(check(&back).await.unwrap(), []);
}

#[tokio::test]
async fn a_target_with_records_of_its_own_is_left_alone() {
    let (from, to) = (filled().await, MemoryStore::new());
    let foreign = contract::record("foreign", 1);
    contract::write(&to, vec![contract::put(&foreign, Expect::Absent)]).await;
    let error = migrate(&from, &to).await.unwrap_err();
    assert!(matches!(&error, TransferError::Foreign { key, .. } if *key == foreign.key), "{error}");

    let (to, mut other) = (MemoryStore::new(), arrived(records()[9].clone()));
    other.body = contract::body(other.body.len(), 77);
    contract::write(&to, vec![contract::put(&other, Expect::Absent)]).await;
    let error = migrate(&from, &to).await.unwrap_err();
    assert!(matches!(&error, TransferError::Differs { key, .. } if *key == other.key), "{error}");
    let query = Query::Newest { kind: other.kind, filter: Filter::default(), after: None };
    assert_eq!(to.scan(&query, 10).await.unwrap().records.len(), 1, "nothing was written");
}

/// Passes on, but what the numbers of calls say.
struct Spoiled {
    inner: MemoryStore,
    commits: AtomicU32,
    /// The commit that is done, but whose answer is lost.
    lose: u32,
    /// The commit from which on the store is away.
    away: u32,
    /// What is told instead of a record: nothing, or a fault.
    damaged: Option<RecordKey>,
}

impl Spoiled {
    fn new(inner: MemoryStore) -> Self {
        Self { inner, commits: AtomicU32::new(0), lose: u32::MAX, away: u32::MAX, damaged: None }
    }
}

#[async_trait::async_trait]
impl Store for Spoiled {
    fn abilities(&self) -> Abilities {
        self.inner.abilities()
    }
    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        match &self.damaged {
            Some(damaged) if damaged == key => {
                Err(StoreError::new(StoreErrorKind::Corrupt, "bytes are missing"))
            }
            Some(_) | None => self.inner.get(kind, key).await,
        }
    }
    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let number = self.commits.fetch_add(1, Ordering::SeqCst);
        if number >= self.away {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "away"));
        }
        self.inner.commit(batch).await?;
        if number == self.lose { Err(StoreError::new(StoreErrorKind::Unknown, "lost")) } else { Ok(()) }
    }
    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        match (&self.damaged, query) {
            (Some(_), Query::Newest { kind: Kind::Module, .. }) => {
                Err(StoreError::new(StoreErrorKind::Corrupt, "the list is torn"))
            }
            _ => self.inner.scan(query, limit).await,
        }
    }
    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.inner.changed(kind, key, most).await;
    }
    async fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

#[tokio::test]
async fn a_move_that_was_cut_off_goes_on_and_a_lost_answer_is_looked_after() {
    let (from, there) = (filled().await, MemoryStore::new());
    let cut = Spoiled { away: 2, ..Spoiled::new(there.clone()) };
    let error = migrate(&from, &cut).await.unwrap_err();
    assert!(
        matches!(&error, TransferError::Store(error) if error.kind() == StoreErrorKind::Unavailable),
        "{error}"
    );
    let moved = migrate(&from, &there).await.unwrap();
    assert_eq!(moved.records + moved.already, 48);
    assert!(moved.already > 0, "{moved:?}");
    assert_arrived(&there).await;

    // The first batch is written, but nobody is told.
    let there = MemoryStore::new();
    let moved = migrate(&from, &Spoiled { lose: 0, ..Spoiled::new(there.clone()) }).await.unwrap();
    assert_eq!(moved.records + moved.already, 48);
    assert!(moved.already > 0, "{moved:?}");
    assert_arrived(&there).await;
}

#[tokio::test]
async fn an_export_is_lines_that_can_be_imported_anywhere() {
    let mut lines = Vec::new();
    assert_eq!(export(&filled().await, &mut lines).await.unwrap(), 48);
    let text = std::str::from_utf8(&lines).unwrap();
    assert_eq!(text.lines().count(), 50);
    assert!(text.starts_with(r#"{"docket_export":1,"scheme":"memory","exported_at":"#), "{}", &text[..80]);
    assert!(text.ends_with("{\"end\":true,\"records\":48}\n"));
    assert!(text.contains(r#""body":"""#), "an empty body");

    let to = MemoryStore::new();
    assert_eq!(import(&to, &lines[..]).await.unwrap(), all());
    assert_arrived(&to).await;
    assert_eq!(import(&to, &lines[..]).await.unwrap(), Moved { records: 0, already: 48, ..all() });

    // Whatever is cut off its end, it is told.
    let whole = lines.len();
    for end in [whole - 1, whole - 20, whole - 1000, whole / 2, 30, 0] {
        let error = import(&MemoryStore::new(), &lines[..end]).await.unwrap_err();
        assert!(matches!(error, TransferError::CutShort { .. }), "{end}: {error}");
    }
}

/// One record as a line of version 1, as it was first written.
const SAMPLE: &str = concat!(
    r#"{"docket_export":1,"scheme":"sled","exported_at":1795000000000}"#,
    "\n",
    r#"{"kind":"result","key":"k-1","revision":1795000000000001,"status":"done","tenant":"acme","scope":"global","#,
    r#""step":"S","execution":"e-1","module":"00ff","attempts":2,"owner":"o","lease_until":1,"expires_at":2,"#,
    r#""created_at":1795000000000,"started_at":3,"finished_at":4,"detail":"{}","body":"AAEC/w=="}"#,
    "\n",
    r#"{"end":true,"records":1}"#,
    "\n",
);

#[tokio::test]
async fn an_export_of_version_1_can_be_read() {
    let store = MemoryStore::new();
    import(&store, SAMPLE.as_bytes()).await.unwrap();
    let found = store.get(Kind::Result, &contract::key("k-1")).await.unwrap().record.unwrap();
    assert_eq!((found.revision, &*found.body), (Revision(1_795_000_000_000_001), &[0, 1, 2, 255][..]));
    assert_eq!((found.facts.scope, found.facts.attempts), (Some(Scope::Global), 2));
    let mut lines = Vec::new();
    export(&store, &mut lines).await.unwrap();
    let text = String::from_utf8(lines).unwrap();
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), SAMPLE.lines().skip(1).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_line_that_is_none_is_named() {
    for (old, new, says) in [
        (r#""docket_export":1"#, r#""docket_export":2"#, "line 1 is none of an export: it has version 2"),
        (r#"{"docket_export":1"#, r#"{"x":1"#, "line 1 is none of an export: it does not begin with"),
        (
            r#""kind":"result""#,
            r#""kind":"rezult""#,
            "line 2 is none of an export: there is no kind `rezult`",
        ),
        (r#""key":"k-1""#, r#""key":"k 1""#, "line 2 is none of an export: a record key must have"),
        (r#""status":"done""#, r#""status":"doing""#, "there is no status `doing`"),
        (r#""scope":"global""#, r#""scope":"glob""#, "there is no scope `glob`"),
        (r#""attempts":2"#, r#""attempts":-2"#, "line 2 is none of an export: invalid value"),
        (r#""owner":"o""#, r#""oner":"o""#, "unknown field `oner`"),
        ("AAEC/w==", "AAEC/w", "its body is no base64"),
        (r#""records":1"#, r#""records":2"#, "line 3 is none of an export: it tells of 2 records after 1"),
    ] {
        let lines = SAMPLE.replacen(old, new, 1);
        let error = import(&MemoryStore::new(), lines.as_bytes()).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    // A file without an end of line is not read into memory whole.
    let error = import(&Small(MemoryStore::new()), std::io::BufReader::new(std::io::repeat(b'x'))).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("line 1 is none of an export: it is longer than"), "{error}");
}

/// A store that takes small bodies only.
struct Small(MemoryStore);

#[async_trait::async_trait]
impl Store for Small {
    fn abilities(&self) -> Abilities {
        Abilities { max_body: 1 << 10, ..self.0.abilities() }
    }
    async fn get(&self, kind: Kind, key: &RecordKey) -> Result<Found, StoreError> {
        self.0.get(kind, key).await
    }
    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.0.commit(batch).await
    }
    async fn scan(&self, query: &Query, limit: usize) -> Result<Page, StoreError> {
        self.0.scan(query, limit).await
    }
    async fn changed(&self, kind: Kind, key: &RecordKey, most: Duration) {
        self.0.changed(kind, key, most).await;
    }
    async fn sync(&self) -> Result<(), StoreError> {
        self.0.sync().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.0.close().await
    }
}

#[tokio::test]
async fn a_check_tells_every_fault_sorted() {
    let store = filled().await;
    assert_eq!(check(&store).await.unwrap(), []);
    for (name, detail) in [("z", "{"), ("b", "[1]"), ("a", "{}")] {
        let mut record = contract::record(name, 1);
        record.facts.detail = Some(detail.into());
        contract::write(&store, vec![contract::put(&record, Expect::Absent)]).await;
    }
    let damaged = Spoiled { damaged: Some(contract::key("a")), ..Spoiled::new(store) };
    let damages: Vec<String> = check(&damaged).await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(damages.len(), 4, "{damages:?}");
    assert_eq!(damages[0], "result/a: bytes are missing");
    assert!(damages[1].starts_with("result/b: its detail is no JSON object: "), "{damages:?}");
    assert!(damages[2].starts_with("result/z: its detail is no JSON object: "), "{damages:?}");
    assert_eq!(damages[3], "module: the list is torn");
    let away: Arc<dyn Store> = Arc::new(MemoryStore::new());
    away.close().await.unwrap();
    assert_eq!(check(&*away).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
}
