//! Owns what a guest may do with files: what was granted, counted. The work itself is done by
//! wasmtime-wasi, which also keeps paths below their directory. Never decides who gets a directory.
//!
//! Added to it here: how many files are open and how much is written are limited per attempt; what is
//! neither file nor directory cannot be opened, because opening a pipe may wait for ever; links that
//! lead upwards cannot be made, because whoever reads the directory later may follow them.

use std::collections::HashMap;
use std::path::{Component, Path};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream,
    ErrorCode, Filesize, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp,
    OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, FsError, FsResult, InputStream, OutputStream, Pollable, StreamError,
    StreamResult,
};

/// What a file, a directory or a link counts that is made, in bytes: about what its entry costs a file
/// system, so that a guest cannot fill a disk with names.
const ENTRY_BYTES: u64 = 4 << 10;

/// The error that stops a guest which has passed one of these limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMuch {
    #[error("the limit on open files was reached")]
    Open,
    #[error("the limit on what a step may write into directories was reached")]
    Written,
}

/// The files of one instance.
pub(crate) struct Files {
    quota: Arc<Quota>,
    /// What each of the guest's handles holds, by the handle's number. A directory that was granted
    /// holds nothing: it is open for the attempt.
    held: HashMap<u32, Arc<Slot>>,
}

struct Quota {
    most_open: u64,
    open: AtomicU64,
    most_written: u64,
    written: AtomicU64,
}

/// One of the files that may be open; given back when dropped.
struct Slot(Arc<Quota>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Files {
    pub(crate) fn new(most_open: u64, most_written: u64) -> Self {
        let (open, written) = Default::default();
        Self { quota: Arc::new(Quota { most_open, open, most_written, written }), held: HashMap::new() }
    }

    /// Counts for the instance's next attempt, which may write as much again. What is open stays open.
    pub(crate) fn begin_again(&self) {
        self.quota.written.store(0, Ordering::Relaxed);
    }
}

impl Quota {
    fn take(self: &Arc<Self>) -> Result<Arc<Slot>, TooMuch> {
        // Counted first: the slot gives back what it has taken, also where it was too much.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::new(Slot(Arc::clone(self)));
        if before < self.most_open { Ok(slot) } else { Err(TooMuch::Open) }
    }

    fn write(&self, bytes: u64) -> Result<(), TooMuch> {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.most_written { Ok(()) } else { Err(TooMuch::Written) }
    }
}

/// The view of a guest's state that the file interfaces need.
pub(crate) struct FilesView<'a> {
    pub(crate) files: &'a mut Files,
    pub(crate) wasi: WasiFilesystemCtxView<'a>,
}

impl HasData for Files {
    type Data<'a> = FilesView<'a>;
}

impl FilesView<'_> {
    fn count(&self, bytes: u64) -> FsResult<()> {
        self.files.quota.write(bytes).map_err(FsError::trap)
    }

    /// Counts what lies between the end of a file and where it is written next: it takes no room on most
    /// file systems, and as much as it says with whoever copies it.
    fn count_hole(&self, fd: &Resource<Descriptor>, offset: Filesize) -> FsResult<()> {
        let end = match self.wasi.table.get(fd)? {
            Descriptor::File(file) => file.file.metadata()?.len(),
            Descriptor::Dir(_) => return Ok(()),
        };
        self.count(offset.saturating_sub(end))
    }

    /// Returns a wrapped stream, which holds the file open for as long as it lives.
    fn counted_output(
        &mut self,
        fd: u32,
        stream: Resource<DynOutputStream>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let inner = self.wasi.table.delete(stream)?;
        let (slot, quota) = (self.files.held.get(&fd).cloned(), Arc::clone(&self.files.quota));
        let counted: DynOutputStream = Box::new(CountedOutput { inner, quota, _slot: slot });
        Ok(self.wasi.table.push(counted)?)
    }
}

impl types::Host for FilesView<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.wasi.convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.wasi.filesystem_error_code(error)
    }
}

impl HostDescriptor for FilesView<'_> {
    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let slot = self.files.quota.take().map_err(FsError::trap)?;
        let dir = Resource::new_borrow(fd.rep());
        let is_new = match self.wasi.stat_at(dir, path_flags, path.clone()).await {
            Ok(stat) => match stat.type_ {
                DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink => {
                    false
                }
                DescriptorType::Unknown
                | DescriptorType::BlockDevice
                | DescriptorType::CharacterDevice
                | DescriptorType::Fifo
                | DescriptorType::Socket => return Err(ErrorCode::NotPermitted.into()),
            },
            // Opening says better what is wrong.
            Err(_) => true,
        };
        let opened = self.wasi.open_at(fd, path_flags, path, open_flags, flags).await?;
        if is_new && open_flags.contains(OpenFlags::CREATE) {
            self.count(ENTRY_BYTES)?;
        }
        self.files.held.insert(opened.rep(), slot);
        Ok(opened)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        self.files.held.remove(&fd.rep());
        HostDescriptor::drop(&mut self.wasi, fd)
    }

    async fn write(
        &mut self,
        fd: Resource<Descriptor>,
        bytes: Vec<u8>,
        offset: Filesize,
    ) -> FsResult<Filesize> {
        self.count(bytes.len() as u64)?;
        self.count_hole(&fd, offset)?;
        self.wasi.write(fd, bytes, offset).await
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        self.count_hole(&fd, size)?;
        self.wasi.set_size(fd, size).await
    }

    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> FsResult<Resource<DynInputStream>> {
        let slot = self.files.held.get(&fd.rep()).cloned();
        let stream = self.wasi.read_via_stream(fd, offset)?;
        let inner = self.wasi.table.delete(stream)?;
        let held: DynInputStream = Box::new(HeldInput { inner, _slot: slot });
        Ok(self.wasi.table.push(held)?)
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        let number = fd.rep();
        self.count_hole(&fd, offset)?;
        let stream = self.wasi.write_via_stream(fd, offset)?;
        self.counted_output(number, stream)
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        let number = fd.rep();
        let stream = self.wasi.append_via_stream(fd)?;
        self.counted_output(number, stream)
    }

    async fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.count(ENTRY_BYTES)?;
        self.wasi.create_directory_at(fd, path).await
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path_flags: PathFlags,
        old_path: String,
        new_descriptor: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.count(ENTRY_BYTES)?;
        self.wasi.link_at(fd, old_path_flags, old_path, new_descriptor, new_path).await
    }

    async fn symlink_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path: String,
        new_path: String,
    ) -> FsResult<()> {
        let downwards = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if !Path::new(&old_path).components().all(downwards) {
            return Err(ErrorCode::NotPermitted.into());
        }
        self.count(ENTRY_BYTES)?;
        self.wasi.symlink_at(fd, old_path, new_path).await
    }

    /// A listing is read whole when it is asked for, so that it counts as an open file.
    async fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        let slot = self.files.quota.take().map_err(FsError::trap)?;
        let stream = self.wasi.read_directory(fd).await?;
        self.files.held.insert(stream.rep(), slot);
        Ok(stream)
    }

    // From here on nothing is added.

    async fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        offset: Filesize,
        len: Filesize,
        advice: Advice,
    ) -> FsResult<()> {
        self.wasi.advise(fd, offset, len, advice).await
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.wasi.sync_data(fd).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        self.wasi.get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.wasi.get_type(fd).await
    }

    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        atime: NewTimestamp,
        mtime: NewTimestamp,
    ) -> FsResult<()> {
        self.wasi.set_times(fd, atime, mtime).await
    }

    async fn read(
        &mut self,
        fd: Resource<Descriptor>,
        len: Filesize,
        offset: Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        self.wasi.read(fd, len, offset).await
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.wasi.sync(fd).await
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        self.wasi.stat(fd).await
    }

    async fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        self.wasi.stat_at(fd, path_flags, path).await
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        atime: NewTimestamp,
        mtime: NewTimestamp,
    ) -> FsResult<()> {
        self.wasi.set_times_at(fd, path_flags, path, atime, mtime).await
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.wasi.readlink_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.wasi.remove_directory_at(fd, path).await
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.wasi.rename_at(fd, old_path, new_fd, new_path).await
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.wasi.unlink_file_at(fd, path).await
    }

    async fn is_same_object(
        &mut self,
        fd: Resource<Descriptor>,
        other: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        self.wasi.is_same_object(fd, other).await
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        self.wasi.metadata_hash(fd).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.wasi.metadata_hash_at(fd, path_flags, path).await
    }
}

impl HostDirectoryEntryStream for FilesView<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.wasi.read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.files.held.remove(&stream.rep());
        HostDirectoryEntryStream::drop(&mut self.wasi, stream)
    }
}

/// A stream out of a file, which stays open with it.
struct HeldInput {
    inner: DynInputStream,
    _slot: Option<Arc<Slot>>,
}

#[async_trait]
impl Pollable for HeldInput {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait]
impl InputStream for HeldInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.blocking_read(size).await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

/// A stream into a file, which stays open with it; what is written is counted.
struct CountedOutput {
    inner: DynOutputStream,
    quota: Arc<Quota>,
    _slot: Option<Arc<Slot>>,
}

impl CountedOutput {
    fn count(&self, bytes: usize) -> StreamResult<()> {
        self.quota.write(bytes as u64).map_err(|error| StreamError::Trap(error.into()))
    }
}

#[async_trait]
impl Pollable for CountedOutput {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait]
impl OutputStream for CountedOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.count(bytes.len())?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.count(bytes.len())?;
        self.inner.blocking_write_and_flush(bytes).await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}
