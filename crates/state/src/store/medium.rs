//! The file as redb sees it: written through, or only read, with what redb would write kept in memory.
//!
//! redb writes when it opens a database (a repair, a header, the result of its check), which a disk that takes nothing
//! refuses. Over a medium that keeps those writes to itself, the very same checks run and the same data is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

#[cfg(any(test, feature = "faults"))]
pub mod faults;

/// Unit in which unwritten bytes are kept, bytes.
const BLOCK_BYTES: usize = 4096;

/// The same, as a distance in the file.
const BLOCK: u64 = 4096;

/// A database file.
#[derive(Debug)]
pub(crate) struct Medium {
    file: FileBackend,
    /// What is not written to the file; `None` when everything is.
    kept: Option<Mutex<Kept>>,
    /// The file was opened for reading only, which takes no exclusive lock.
    shared: bool,
    #[cfg(any(test, feature = "faults"))]
    faults: Option<faults::Faults>,
}

/// What a database that is only read believes to have written.
#[derive(Debug)]
struct Kept {
    /// Length of the file itself, bytes.
    below: u64,
    /// Length as redb sees it, bytes.
    length: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Medium {
    /// A file that is written.
    pub(crate) fn written(file: File) -> Result<Self, DatabaseError> {
        Ok(Self {
            #[cfg(any(test, feature = "faults"))]
            faults: faults::of(&file),
            file: FileBackend::new(file)?,
            kept: None,
            shared: false,
        })
    }

    /// A file that is left as it is. `shared` when its descriptor cannot write.
    pub(crate) fn only_read(file: File, shared: bool) -> Result<Self, DatabaseError> {
        let length = file.metadata()?.len();
        let kept = Kept {
            below: length,
            length,
            blocks: BTreeMap::new(),
        };
        Ok(Self {
            kept: Some(Mutex::new(kept)),
            shared,
            ..Self::written(file)?
        })
    }

    fn kept(&self) -> Option<MutexGuard<'_, Kept>> {
        let kept = self.kept.as_ref()?;
        Some(kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// In tests, a fault that is due.
    #[cfg(any(test, feature = "faults"))]
    fn strike(&self) -> io::Result<()> {
        self.faults.as_ref().map_or(Ok(()), faults::Faults::strike)
    }

    #[cfg(not(any(test, feature = "faults")))]
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "only tests have faults"
    )]
    const fn strike(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn read(&self, file: &FileBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check_end(offset, out)?;
        for (at, part) in blocks(offset, out) {
            let start = within(at);
            let block = self.blocks.get(&(at / BLOCK));
            match block.and_then(|block| block.get(start..start + part.len())) {
                Some(kept) => part.copy_from_slice(kept),
                None => self.read_below(file, at, part)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, file: &FileBackend, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_end(offset, data)?;
        for (at, part) in blocks(offset, &mut data.to_vec()) {
            let number = at / BLOCK;
            let mut block = match self.blocks.remove(&number) {
                Some(block) => block,
                None => self.block_below(file, number)?,
            };
            let start = within(at);
            if let Some(place) = block.get_mut(start..start + part.len()) {
                place.copy_from_slice(part);
            }
            self.blocks.insert(number, block);
        }
        Ok(())
    }

    fn check_end(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset.saturating_add(length_of(bytes)) > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn block_below(&self, file: &FileBackend, number: u64) -> io::Result<Vec<u8>> {
        let mut block = vec![0; BLOCK_BYTES];
        self.read_below(file, number * BLOCK, &mut block)?;
        Ok(block)
    }

    /// Reads from the file; what lies behind its end is zero.
    fn read_below(&self, file: &FileBackend, at: u64, part: &mut [u8]) -> io::Result<()> {
        part.fill(0);
        let there = self.below.saturating_sub(at).min(length_of(part));
        let there = usize::try_from(there).map_err(io::Error::other)?;
        match part.get_mut(..there) {
            Some(there) if !there.is_empty() => file.read(at, there),
            Some(_) | None => Ok(()),
        }
    }

    /// Cut bytes are zero when the length grows again.
    fn set_length(&mut self, length: u64) {
        self.below = self.below.min(length);
        self.length = length;
        self.blocks.retain(|number, _| number * BLOCK < length);
        if let Some(block) = self.blocks.get_mut(&(length / BLOCK))
            && let Some(cut) = block.get_mut(within(length)..)
        {
            cut.fill(0);
        }
    }
}

/// A stretch of bytes in parts that lie in one block each, with where each begins.
fn blocks(offset: u64, bytes: &mut [u8]) -> impl Iterator<Item = (u64, &mut [u8])> {
    let room = usize::try_from(BLOCK - offset % BLOCK).unwrap_or(usize::MAX);
    let (first, rest) = bytes.split_at_mut(room.min(bytes.len()));
    let parts = std::iter::once(first).chain(rest.chunks_mut(BLOCK_BYTES));
    parts.scan(offset, |next, part| {
        let at = *next;
        *next += length_of(part);
        Some((at, part))
    })
}

/// Where an offset lies in its block.
fn within(at: u64) -> usize {
    usize::try_from(at % BLOCK).unwrap_or_default()
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        match self.kept() {
            Some(kept) => Ok(kept.length),
            None => self.file.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.kept() {
            Some(kept) => kept.read(&self.file, offset, out),
            None => self.file.read(offset, out),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if let Some(mut kept) = self.kept() {
            kept.set_length(length);
            return Ok(());
        }
        self.strike()?;
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.kept.is_some() {
            return Ok(());
        }
        self.strike()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(mut kept) = self.kept() {
            return kept.write(&self.file, offset, data);
        }
        self.strike()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if self.shared {
            return self.file.try_lock_shared_range(start, end);
        }
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        if self.shared {
            return self.file.lock_shared_range(start, end);
        }
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests;
