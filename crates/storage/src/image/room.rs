//! Room for an image to grow.

use std::path::Path;

use rustix::fs::statvfs;

use crate::error::StorageError;

/// Room that a guest which was halted because its host's disk is full needs to get any further, bytes: a few clusters.
pub const ROOM_BYTES: u64 = 1 << 20;

/// Bytes that are free for us where an image is, or was.
///
/// # Errors
/// [`StorageError::File`] when neither it nor its directory can be asked.
pub fn free_bytes(path: &Path) -> Result<u64, StorageError> {
    let place = statvfs(path).or_else(|_gone| statvfs(path.parent().unwrap_or(path)));
    let vfs = place.map_err(StorageError::file("ask for free space beside", path))?;
    Ok(vfs.f_bavail.saturating_mul(vfs.f_frsize))
}

/// The same failure; where it says that the disk is full, with the bytes that are needed and those that are free by now beside
/// `path`. A file system that has room, and refuses all the same, keeps its own words.
pub(crate) fn counted(error: StorageError, needed: u64, path: &Path) -> StorageError {
    if !error.is_full() {
        return error;
    }
    match free_bytes(path) {
        Ok(free) if free < needed => StorageError::NoSpace {
            directory: path.parent().unwrap_or(path).to_owned(),
            needed,
            free,
        },
        Ok(_) | Err(_) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_the_place_of_one_have_the_same_room() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("disk");
        assert!(free_bytes(&path).unwrap() > 0);
        std::fs::write(&path, "x").unwrap();
        assert!(free_bytes(&path).unwrap() > 0);
        assert!(free_bytes(&root.path().join("missing/disk")).is_err());
    }
}
