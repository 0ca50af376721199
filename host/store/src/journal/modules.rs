//! Owns the modules that are kept for whoever goes on with an execution, each by its digest and in pieces. Never knows which
//! execution needs which, and never gives one out that is not whole.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{Journal, base16};
use crate::error::StoreError;
use crate::record::{Facts, Kind, Record, RecordKey, Revision, Status};
use crate::steady;
use crate::store::{Batch, Expect, Sync, Write};

/// The bytes of one piece of a module: well below what any backend takes as one body.
const PIECE: usize = 1 << 20;

/// How old the record of a module may be for it to be counted on: well below the time for which an
/// unneeded one is spared. An older one is written again.
const MODULE_FRESH: Duration = Duration::from_secs(12 * 3600);

impl Journal {
    /// Keeps a module by its digest, unless it is kept already.
    ///
    /// # Errors
    /// Where the store cannot be read or written.
    pub async fn keep_module(&self, digest: &str, bytes: &Bytes) -> Result<(), StoreError> {
        // The first piece is written last, so that where it is, all are.
        let first = steady::get(&*self.store, Kind::Module, &piece_key(digest, 0)).await?;
        let fresh = |record: &Record| first.now.since(record.facts.created_at) < MODULE_FRESH;
        if first.record.as_ref().is_some_and(fresh) {
            return Ok(());
        }
        let pieces = bytes.len().div_ceil(PIECE).max(1);
        for piece in (0..pieces).rev() {
            let body = bytes.slice(piece * PIECE..bytes.len().min((piece + 1) * PIECE));
            let key = piece_key(digest, piece);
            let found = steady::get(&*self.store, Kind::Module, &key).await?;
            let facts = Facts {
                module: Some(digest.into()),
                owner: Some(Arc::clone(&self.owner)),
                detail: Some(format!(r#"{{"pieces":{pieces}}}"#).into()),
                ..Facts::new(Status::Done, "".into(), found.now)
            };
            let last = found.record.map(|record| record.revision);
            let revision = Revision::after(last, found.now);
            let record = Record { kind: Kind::Module, key, revision, facts, body };
            let writes = vec![Write::Put { record, expect: Expect::Any }];
            steady::commit(&*self.store, Batch { writes, sync: Sync::Later }).await?;
        }
        Ok(())
    }

    /// Returns a module by its digest, or `None` where it is not kept whole.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn module(&self, digest: &str) -> Result<Option<Bytes>, StoreError> {
        let mut bytes = Vec::new();
        for piece in 0.. {
            let found = steady::get(&*self.store, Kind::Module, &piece_key(digest, piece)).await?.record;
            let Some(record) = found else { break };
            bytes.extend_from_slice(&record.body);
            if record.body.len() < PIECE {
                break;
            }
        }
        let whole = base16(&Sha256::digest(&bytes)) == digest;
        Ok(whole.then(|| bytes.into()))
    }
}

fn piece_key(digest: &str, piece: usize) -> RecordKey {
    RecordKey::parse(&format!("{digest}/{piece}")).expect("a digest is hexadecimal digits")
}
