//! Owns the stores in SQL databases: one table for people and for [`Store`](crate::Store), written and
//! read the same way in SQLite, PostgreSQL and MySQL. What the databases want said differently stands
//! in one [`dialect::Dialect`] each. Never says what a record means.

mod dialect;
mod session;
mod columns;
mod fault;
mod work;
mod migrate;
mod pool;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod server;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "mysql")]
mod mysql;

#[cfg(feature = "mysql")]
pub use mysql::MysqlStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
