//! Deleting an image, and nothing else.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use maqet_process::identity::FileMark;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fsync, openat, unlinkat};
use rustix::io::Errno;

use super::look::told;
use crate::error::StorageError;
use crate::place::{Place, describe};
use crate::policy::PathPolicy;

/// What became of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The name is gone, durably.
    Deleted,
    /// There was nothing of that name.
    Missing,
    /// Another file has the name now; it was left alone.
    AnotherFile(FileMark),
    /// What has the name now is no file, for example "a symbolic link"; it was left alone.
    NoFile(&'static str),
}

/// Takes the name of an image away if it is the file on record, whatever the path leads to by then: the directory is pinned
/// first, and no step resolves the path again.
///
/// `same_boot` as in [`FileMark::is_file`]. The kernel can only unlink a name: a file that somebody gives this very name
/// between the last look and that, in the same directory, would lose it.
///
/// # Errors
/// [`StorageError::Denied`], [`StorageError::Link`]; [`StorageError::File`] when the kernel refuses.
pub fn delete(
    path: &Path,
    recorded: &FileMark,
    same_boot: bool,
    policy: &PathPolicy,
) -> Result<Deletion, StorageError> {
    let place = match Place::pin(path, policy) {
        Err(error) if error.is_missing() => return Ok(Deletion::Missing),
        pinned => pinned?,
    };
    let fail = |action| move |error: Errno| StorageError::file(action, path)(error);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match openat(&place.directory, &place.name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Deletion::Missing),
        opened => File::from(opened.map_err(fail("look at"))?),
    };
    let about = found.metadata().map_err(StorageError::file("look at", path))?;
    let kind = FileType::from_raw_mode(about.mode());
    if kind != FileType::RegularFile {
        return Ok(Deletion::NoFile(describe(kind)));
    }
    let file = FileMark::of_fd(found.as_fd()).map_err(told(path))?;
    if !recorded.is_file(&file, same_boot) {
        return Ok(Deletion::AnotherFile(file));
    }
    unlinkat(&place.directory, &place.name, AtFlags::empty()).map_err(fail("delete"))?;
    fsync(&place.directory).map_err(fail("make durable the deletion of"))?;
    Ok(Deletion::Deleted)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    struct Scene {
        _guard: tempfile::TempDir,
        root: PathBuf,
        policy: PathPolicy,
        mark: FileMark,
    }

    impl Scene {
        /// A directory with the image `disk` in it.
        fn new() -> Self {
            let guard = tempfile::tempdir().unwrap();
            let root = fs::canonicalize(guard.path()).unwrap();
            fs::create_dir(root.join("vm")).unwrap();
            fs::write(root.join("vm/disk"), "data").unwrap();
            let mark = FileMark::of_fd(File::open(root.join("vm/disk")).unwrap()).unwrap();
            Self {
                policy: PathPolicy::new(None, vec![root.clone()], Vec::new()),
                _guard: guard,
                root,
                mark,
            }
        }

        fn disk(&self) -> PathBuf {
            self.root.join("vm/disk")
        }

        fn delete(&self) -> Result<Deletion, StorageError> {
            delete(&self.disk(), &self.mark, true, &self.policy)
        }
    }

    #[test]
    fn the_file_on_record_goes_once() {
        let scene = Scene::new();
        assert_eq!(scene.delete().unwrap(), Deletion::Deleted);
        assert!(!scene.disk().exists());
        assert_eq!(scene.delete().unwrap(), Deletion::Missing);
        fs::remove_dir(scene.root.join("vm")).unwrap();
        assert_eq!(scene.delete().unwrap(), Deletion::Missing);
    }

    #[test]
    fn whatever_else_has_its_name_stays() {
        let scene = Scene::new();
        fs::rename(scene.disk(), scene.root.join("kept")).unwrap();
        fs::write(scene.disk(), "other").unwrap();
        assert!(matches!(scene.delete().unwrap(), Deletion::AnotherFile(_)));
        assert_eq!(fs::read_to_string(scene.disk()).unwrap(), "other");
        fs::remove_file(scene.disk()).unwrap();
        // A link to the very file: the name is not the one that was recorded.
        symlink(scene.root.join("kept"), scene.disk()).unwrap();
        assert_eq!(scene.delete().unwrap(), Deletion::NoFile("a symbolic link"));
        fs::remove_file(scene.disk()).unwrap();
        fs::create_dir(scene.disk()).unwrap();
        assert_eq!(scene.delete().unwrap(), Deletion::NoFile("a directory"));
        assert_eq!(fs::read_to_string(scene.root.join("kept")).unwrap(), "data");
    }

    #[test]
    fn a_directory_that_became_a_link_is_not_followed() {
        let scene = Scene::new();
        fs::rename(scene.root.join("vm"), scene.root.join("elsewhere")).unwrap();
        symlink("elsewhere", scene.root.join("vm")).unwrap();
        assert!(matches!(scene.delete(), Err(StorageError::Link { .. })));
        assert!(scene.root.join("elsewhere/disk").exists());
    }

    #[test]
    fn other_names_of_the_file_stay() {
        let scene = Scene::new();
        let other = scene.root.join("other-name");
        fs::hard_link(scene.disk(), &other).unwrap();
        assert_eq!(scene.delete().unwrap(), Deletion::Deleted);
        assert_eq!(fs::read_to_string(other).unwrap(), "data");
    }
}
