//! Owns the reading of a database's errors: what became of the operation, and a sentence that names
//! the database. Never shows a password: addresses are made of host and port, not of the URL.

use super::dialect::{Dialect, Reading};
use crate::error::{StoreError, StoreErrorKind};

/// Which database this is, for its errors.
pub(super) struct Site {
    pub dialect: &'static Dialect,
    /// As in "the PostgreSQL server at `db:5432`".
    pub name: String,
}

/// What may have been done when an error came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Nothing: it was read, or the transaction was open, or there is no connection.
    Before,
    /// The batch: its end had been sent.
    Committing,
}

impl Site {
    /// Returns what the error says of a batch or a reading.
    pub(super) fn error(&self, error: &sqlx::Error, moment: Moment) -> StoreError {
        let name = &self.name;
        match self.reading(error) {
            Some(Reading::Refused(kind, what)) => {
                let said = error.as_database_error().map_or("", |error| error.message());
                let line = said.lines().next().unwrap_or_default();
                StoreError::new(kind, format!("{name} {what}: {line}"))
            }
            Some(Reading::Again) => {
                let message = format!("{name} is too busy with others' writes of the same records");
                StoreError::new(StoreErrorKind::Unavailable, message)
            }
            // A batch never asks for a record twice, so only a racing writer can be first.
            Some(Reading::There) => StoreError::conflict("of this batch"),
            Some(Reading::Gone) => self.gone(&cause(error), moment),
            None => match error {
                sqlx::Error::Database(error) => {
                    let line = error.message().lines().next().unwrap_or_default();
                    let message = format!("{name} refuses: {line}");
                    StoreError::new(StoreErrorKind::Unusable, message)
                }
                sqlx::Error::Configuration(error) => {
                    StoreError::new(StoreErrorKind::Unusable, format!("{name} has a wrong URL: {error}"))
                }
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                    StoreError::new(StoreErrorKind::Corrupt, format!("{name} cannot be read: {error}"))
                }
                sqlx::Error::PoolClosed => closed(),
                error => self.gone(&cause(error), moment),
            },
        }
    }

    /// Returns whether the error says that the connection is of no use any more.
    pub(super) fn is_lost(&self, error: &sqlx::Error) -> bool {
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => true,
            error => self.reading(error) == Some(Reading::Gone),
        }
    }

    /// Returns what the database's code says.
    pub(super) fn reading(&self, error: &sqlx::Error) -> Option<Reading> {
        let database = error.as_database_error()?;
        if database.is_unique_violation() {
            return Some(Reading::There);
        }
        (self.dialect.reads)(database)
    }

    /// Returns the error of a database that went away, or never answered.
    pub(super) fn gone(&self, cause: &str, moment: Moment) -> StoreError {
        let name = &self.name;
        match moment {
            Moment::Before => {
                StoreError::new(StoreErrorKind::Unavailable, format!("{name} cannot be reached: {cause}"))
            }
            Moment::Committing => {
                let message = format!("{name} went away before it confirmed a batch: {cause}");
                StoreError::new(StoreErrorKind::Unknown, message)
            }
        }
    }
}

/// Returns the error of a store that was closed.
pub(super) fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the store is closed")
}

/// Returns the innermost cause: sqlx's own words around it say no more.
fn cause(error: &sqlx::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
