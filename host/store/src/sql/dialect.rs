//! Owns what the databases want said differently, and makes each one's statements of it. Never talks
//! to a database.

use std::sync::Arc;

use sqlx::error::DatabaseError;

use crate::error::StoreErrorKind;
use crate::store::Filter;

/// What one database is told, and how it answers.
pub(super) struct Dialect {
    /// How a statement refers to its values.
    pub placeholder: Placeholder,
    /// The database's time, in milliseconds since the Unix epoch, in any time zone.
    pub now: &'static str,
    /// What an `INSERT` ends with, so that it leaves alone what is there.
    pub unless_there: &'static str,
    /// What an `INSERT` goes on with, so that it replaces what is there.
    pub replacing: &'static str,
    /// The value that such an `INSERT` came with, around the column's name.
    pub inserted: [&'static str; 2],
    /// Begins a transaction that sees what others commit meanwhile.
    pub begin: &'static str,
    /// Gives 1 once this process is the only one to migrate.
    pub lock: Lock,
    /// The steps from an empty database to the tables of today.
    pub migrations: &'static [&'static str],
    /// What an error's code says; none for those that no store should meet.
    pub reads: fn(&dyn DatabaseError) -> Option<Reading>,
}

/// How a statement refers to its values.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "each database has its own, and not all are compiled in")]
pub(super) enum Placeholder {
    /// `?`, in order.
    Mark,
    /// `$1`, `$2` and so on.
    Number,
}

/// How one process at a time migrates.
pub(super) struct Lock {
    /// Before it.
    pub begin: &'static str,
    /// Gives 1 where the lock was got.
    pub take: &'static str,
    /// After it, when it went well.
    pub end: &'static str,
    /// After it, when it failed.
    pub undo: &'static str,
}

/// What an error of a database means to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "a database that does one batch at a time has no use for `Again`")]
pub(super) enum Reading {
    /// Two transactions were in each other's way, and this one gave in: do it again.
    Again,
    /// A record of this key is there already.
    There,
    /// The database went away in the middle.
    Gone,
    /// It refuses; the fragment says what or why, after the database's name.
    Refused(StoreErrorKind, &'static str),
}

/// The columns of the table in the order in which they are bound and read; the first two are the key,
/// and the last is the only one that listings leave out.
pub(super) const COLUMNS: [&str; 18] = [
    "kind",
    "record_key",
    "revision",
    "status",
    "tenant",
    "scope",
    "step_name",
    "execution_id",
    "module_digest",
    "attempts",
    "owner",
    "lease_until",
    "expires_at",
    "created_at",
    "started_at",
    "finished_at",
    "detail",
    "body",
];

/// The statements of one database.
pub(super) struct Statements {
    pub dialect: &'static Dialect,
    /// The database's time.
    pub now: Arc<str>,
    /// The time, and a record or nulls. Values: the key.
    pub get: Arc<str>,
    /// Writes a record where there is none. Values: all columns.
    pub insert: Arc<str>,
    /// Writes a record, whatever is there. Values: all columns.
    pub replace: Arc<str>,
    /// Writes a record in the place of one. Values: all columns but the key, the key, the old revision.
    pub update: Arc<str>,
    /// Moves the end of a lease. Values: the end, the key, the revision.
    pub renew: Arc<str>,
    /// Removes a record. Values: the key.
    pub delete: Arc<str>,
    /// Removes a record of a revision. Values: the key, the revision.
    pub delete_revision: Arc<str>,
    /// Notes that a migration was done. Values: its number, the time.
    pub migrated: Arc<str>,
    /// The records that have expired. Values: the time, the number of records.
    pub expired: Arc<str>,
}

/// The condition on a record's key.
const KEY: &str = "kind = ? AND record_key = ?";

impl Statements {
    /// Returns what to say to this database.
    pub(super) fn of(dialect: &'static Dialect) -> Self {
        let Dialect { now, unless_there, replacing, inserted: [before, after], .. } = dialect;
        let facts = &COLUMNS[2..];
        let listed = |columns: &[&str], prefix: &str| {
            columns.iter().map(|column| format!("{prefix}{column}")).collect::<Vec<_>>().join(", ")
        };
        let set = |value: &dyn Fn(&str) -> String| {
            facts.iter().map(|column| format!("{column} = {}", value(column))).collect::<Vec<_>>().join(", ")
        };
        let marks = vec!["?"; COLUMNS.len()].join(", ");
        let insert = format!("INSERT INTO docket_record ({}) VALUES ({marks})", COLUMNS.join(", "));
        let replaced = set(&|column| format!("{before}{column}{after}"));
        let [listing, columns] = [listed(&COLUMNS[..COLUMNS.len() - 1], ""), listed(&COLUMNS, "r.")];
        let sql = |text: String| numbered(&text, dialect.placeholder);
        Self {
            dialect,
            now: sql(format!("SELECT {now}")),
            // A row comes back whether there is a record or not, because the time is asked for too.
            get: sql(format!(
                "SELECT {columns}, {now} FROM (SELECT 1 AS one) AS o LEFT JOIN docket_record AS r \
                 ON r.kind = ? AND r.record_key = ?"
            )),
            insert: sql(format!("{insert} {unless_there}")),
            replace: sql(format!("{insert} {replacing} {replaced}")),
            update: sql(format!(
                "UPDATE docket_record SET {} WHERE {KEY} AND revision = ?",
                set(&|_| "?".to_owned())
            )),
            renew: sql(format!(
                "UPDATE docket_record SET lease_until = ? WHERE {KEY} AND revision = ? AND status = 'running'"
            )),
            delete: sql(format!("DELETE FROM docket_record WHERE {KEY}")),
            delete_revision: sql(format!("DELETE FROM docket_record WHERE {KEY} AND revision = ?")),
            migrated: sql("INSERT INTO docket_migration (version, applied_at) VALUES (?, ?)".to_owned()),
            expired: sql(format!(
                "SELECT {listing} FROM docket_record WHERE expires_at <= ? ORDER BY expires_at LIMIT ?"
            )),
        }
    }

    /// Returns the listing of one kind, newest first, with no more conditions than the filter has, so
    /// that the database finds the index for it. Values: the kind; tenant, step, execution and time, as
    /// far as the filter names them; after a place, its time twice and its key; the number of records.
    pub(super) fn newest(&self, filter: &Filter, goes_on: bool) -> Arc<str> {
        let Filter { tenant, step, execution, status, created_before } = filter;
        let mut text =
            format!("SELECT {} FROM docket_record WHERE kind = ?", COLUMNS[..COLUMNS.len() - 1].join(", "));
        let conditions = [
            (tenant.is_some(), " AND tenant = ?"),
            (step.is_some(), " AND step_name = ?"),
            (execution.is_some(), " AND execution_id = ?"),
            (created_before.is_some(), " AND created_at < ?"),
            (goes_on, " AND created_at <= ? AND (created_at < ? OR record_key > ?)"),
        ];
        conditions.iter().filter(|(asked, _)| *asked).for_each(|(_, condition)| text.push_str(condition));
        if let Some(status) = status {
            // Said, not bound: a partial index is only used for a status that the statement names.
            text.push_str(&format!(" AND status = '{}'", status.as_str()));
        }
        text.push_str(" ORDER BY created_at DESC, record_key LIMIT ?");
        numbered(&text, self.dialect.placeholder)
    }
}

/// Returns the statement with its marks as the database reads them. No statement of ours has a question
/// mark that is none.
fn numbered(text: &str, placeholder: Placeholder) -> Arc<str> {
    match placeholder {
        Placeholder::Mark => text.into(),
        Placeholder::Number => {
            let mut parts = text.split('?');
            let mut numbered = parts.next().unwrap_or_default().to_owned();
            for (index, part) in parts.enumerate() {
                numbered.push_str(&format!("${}{part}", index + 1));
            }
            numbered.into()
        }
    }
}
