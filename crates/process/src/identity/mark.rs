//! A file that is to be known again.

use std::fmt;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags, statx};
use serde::{Deserialize, Serialize};

use super::FileId;
use crate::error::ProcessError;

/// A file that is to be known again: its device and inode, and when it was made, where its file system keeps that.
/// A file system gives the inode number of a deleted file to the next one; the moment tells both apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    /// Device and inode.
    #[serde(flatten)]
    pub id: FileId,
    /// When it was made, nanoseconds since 1970; `None` when nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born_ns: Option<u64>,
}

impl FileMark {
    /// The mark of an open file.
    ///
    /// # Errors
    /// [`ProcessError::Call`] when the kernel does not tell.
    pub fn of_fd(fd: impl AsFd) -> Result<Self, ProcessError> {
        let id = FileId::of_fd(&fd)?;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        // Kernels and file systems without it are no failure: device and inode are there.
        let told = statx(&fd, "", AtFlags::EMPTY_PATH, wanted)
            .ok()
            .filter(|told| StatxFlags::from_bits_retain(told.stx_mask).contains(StatxFlags::BTIME));
        let born_ns = told.and_then(|told| {
            let seconds = u64::try_from(told.stx_btime.tv_sec).ok()?;
            let nanos = u64::from(told.stx_btime.tv_nsec);
            seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
        });
        Ok(Self { id, born_ns })
    }

    /// Whether both are one file. Device numbers may change when the host boots: they count within one boot only.
    pub fn is_file(&self, other: &Self, same_boot: bool) -> bool {
        let born = match (self.born_ns, other.born_ns) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        };
        let device = !same_boot || self.id.dev == other.id.dev;
        self.id.inode == other.id.inode && device && born
    }
}

impl fmt::Display for FileMark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "inode {} on device {}", self.id.inode, self.id.dev)?;
        match self.born_ns {
            Some(born) => {
                let (seconds, nanos) = (born / 1_000_000_000, born % 1_000_000_000);
                write!(formatter, ", made at {seconds}.{nanos:09}")
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(dev: u64, inode: u64, born_ns: Option<u64>) -> FileMark {
        let id = FileId { dev, inode };
        FileMark { id, born_ns }
    }

    #[test]
    fn one_file_is_one_file_whatever_becomes_of_its_device_number() {
        let file = mark(1, 2, Some(3));
        for (other, same_boot, one) in [
            (mark(1, 2, Some(3)), true, true),
            (mark(1, 2, None), true, true),
            (mark(9, 2, Some(3)), true, false),
            (mark(9, 2, Some(3)), false, true),
            (mark(1, 9, Some(3)), false, false),
            // The number of a deleted file, given to another.
            (mark(1, 2, Some(9)), true, false),
            (mark(9, 2, Some(9)), false, false),
        ] {
            assert_eq!(file.is_file(&other, same_boot), one, "{other:?} {same_boot}");
            assert_eq!(other.is_file(&file, same_boot), one, "{other:?} {same_boot}");
        }
    }

    #[test]
    fn a_file_keeps_its_mark_when_it_is_written_and_renamed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("one");
        std::fs::write(&path, "1").unwrap();
        let of = |path: &std::path::Path| FileMark::of_fd(std::fs::File::open(path).unwrap()).unwrap();
        let before = of(&path);
        std::fs::write(&path, "22").unwrap();
        std::fs::rename(&path, root.path().join("two")).unwrap();
        assert_eq!(of(&root.path().join("two")), before);
        std::fs::write(&path, "1").unwrap();
        assert!(!of(&path).is_file(&before, true));
    }
}
