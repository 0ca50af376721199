//! Owns the ways in which a store can fail, with who must act.

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
}

/// Who must act on a [`StoreError`], and what is known of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// A batch expected something else of a record than what there is: nothing was written. Read again.
    Conflict,
    /// Nothing was written, and the same may succeed later: a server is away, a lock is held.
    Unavailable,
    /// The answer was lost: the batch was written whole or not at all. Read to learn which.
    Unknown,
    /// A body is larger than the store takes: nothing was written.
    TooLarge,
    /// Another process holds the store.
    InUse,
    /// What is stored cannot be read: damaged, or written by another version.
    Corrupt,
    /// The store cannot be used as it is: a wrong address, no permission, no space, settings that lose
    /// data. The operator must act.
    Unusable,
    /// A write or an fsync failed, so that what is stored is no longer known. The store refuses
    /// everything until it is opened anew.
    Poisoned,
}

impl StoreError {
    /// Returns an error of this kind; the message is a lower-case fragment that names the store or the
    /// record.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Returns the error of a batch that expected something else.
    pub fn conflict(record: impl std::fmt::Display) -> Self {
        Self::new(StoreErrorKind::Conflict, format!("the record `{record}` has changed meanwhile"))
    }

    /// Returns the kind.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}
