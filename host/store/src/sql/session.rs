//! Owns the one difference between sqlx's databases that cannot be said in a table: their types.
//! Everything else talks to a [`Session`].

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use sqlx::{AssertSqlSafe, Connection};

/// A value of a statement.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Number(Option<i64>),
    Text(Option<Arc<str>>),
    Bytes(Bytes),
}

/// A connection to a database.
pub(super) trait Session: Connection {
    type Row: Row;

    /// Runs a statement and returns how many records it has written or removed.
    fn execute(
        &mut self,
        sql: &Arc<str>,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// Runs a query and returns its rows.
    fn rows(
        &mut self,
        sql: &Arc<str>,
        values: Vec<Value>,
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send;

    /// Runs statements without values.
    fn run(&mut self, sql: &str) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// A row of an answer, by the place of the column.
pub(super) trait Row: Send {
    fn number(&self, column: usize) -> Result<Option<i64>, sqlx::Error>;
    fn text(&self, column: usize) -> Result<Option<String>, sqlx::Error>;
    fn bytes(&self, column: usize) -> Result<Option<Vec<u8>>, sqlx::Error>;
}

/// The same words for each database; sqlx's traits would need more lines of bounds than this has.
macro_rules! session {
    ($feature:literal, $connection:ty, $row:ty) => {
        #[cfg(feature = $feature)]
        impl Session for $connection {
            type Row = $row;

            async fn execute(&mut self, sql: &Arc<str>, values: Vec<Value>) -> Result<u64, sqlx::Error> {
                let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
                for value in values {
                    query = match value {
                        Value::Number(number) => query.bind(number),
                        Value::Text(text) => query.bind(text),
                        Value::Bytes(bytes) => query.bind(Vec::from(bytes)),
                    };
                }
                Ok(query.execute(self).await?.rows_affected())
            }

            async fn rows(&mut self, sql: &Arc<str>, values: Vec<Value>) -> Result<Vec<$row>, sqlx::Error> {
                let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
                for value in values {
                    query = match value {
                        Value::Number(number) => query.bind(number),
                        Value::Text(text) => query.bind(text),
                        Value::Bytes(bytes) => query.bind(Vec::from(bytes)),
                    };
                }
                query.fetch_all(self).await
            }

            async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(self).await.map(drop)
            }
        }

        #[cfg(feature = $feature)]
        impl Row for $row {
            fn number(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
                sqlx::Row::try_get(self, column)
            }

            fn text(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
                sqlx::Row::try_get(self, column)
            }

            fn bytes(&self, column: usize) -> Result<Option<Vec<u8>>, sqlx::Error> {
                sqlx::Row::try_get(self, column)
            }
        }
    };
}

session!("sqlite", sqlx::SqliteConnection, sqlx::sqlite::SqliteRow);
session!("postgres", sqlx::PgConnection, sqlx::postgres::PgRow);
session!("mysql", sqlx::MySqlConnection, sqlx::mysql::MySqlRow);
