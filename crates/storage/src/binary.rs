//! Programs of this host, looked up once.
//!
//! Every lookup costs one `stat` of the file found before; only when that file has become another one, as after
//! an upgrade, is PATH searched again. Readers never wait for each other; searches are made one at a time, so
//! that many simultaneous callers cause exactly one. Failures are not remembered.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use maqet_process::identity::FileId;
use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use crate::error::StorageError;

/// Where programs are when PATH is not set.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// A program found on this host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Binary {
    /// Absolute path.
    pub path: PathBuf,
    /// Version of the file behind it, symbolic links followed.
    pub version: FileVersion,
}

/// Tells a file from its successor of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileVersion {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub inode: u64,
    /// Time of the last change of its content, nanoseconds since 1970.
    pub modified_ns: i128,
}

impl FileVersion {
    /// Device and inode, as identities of processes record them.
    pub fn file_id(&self) -> FileId {
        FileId {
            dev: self.dev,
            inode: self.inode,
        }
    }

    fn of(path: &Path) -> std::io::Result<(Self, bool)> {
        let metadata = std::fs::metadata(path)?;
        let version = Self {
            dev: metadata.dev(),
            inode: metadata.ino(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        };
        Ok((version, metadata.is_file()))
    }
}

impl Binary {
    /// The program at a path; `None` when there is no file that we may execute.
    fn at(path: PathBuf) -> Option<Self> {
        let (version, is_file) = FileVersion::of(&path).ok()?;
        (is_file && access(&path, Access::EXEC_OK).is_ok()).then_some(Self { path, version })
    }

    fn is_current(&self) -> bool {
        FileVersion::of(&self.path).is_ok_and(|(version, _)| version == self.version)
    }
}

/// The programs found so far. Share one per process.
#[derive(Debug, Default)]
pub struct Binaries {
    /// Grows at the end only, so it can be read while it grows; the last node of a name counts.
    first: Link,
    searching: Mutex<()>,
    searches: AtomicU64,
    path: Option<OsString>,
}

type Link = OnceLock<Box<Node>>;

#[derive(Debug)]
struct Node {
    name: String,
    binary: Binary,
    next: Link,
}

impl Binaries {
    /// Nothing found yet; PATH is read from the environment at each search.
    pub fn new() -> Self {
        Self::default()
    }

    /// Searches these directories, written as PATH is, instead of the environment's.
    pub fn with_path(path: impl Into<OsString>) -> Self {
        Self {
            path: Some(path.into()),
            ..Self::default()
        }
    }

    /// Finds a program by its bare name or its absolute path.
    ///
    /// # Errors
    /// [`StorageError::NoBinary`], [`StorageError::NotAProgram`] or [`StorageError::RelativeBinary`].
    pub fn lookup(&self, name: &str) -> Result<Binary, StorageError> {
        if let Some(binary) = self.known(name) {
            return Ok(binary);
        }
        let _turn = self.searching.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever had the turn before may have found it.
        if let Some(binary) = self.known(name) {
            return Ok(binary);
        }
        self.searches.fetch_add(1, Ordering::Relaxed);
        let binary = self.search(name)?;
        self.append(name, binary.clone());
        Ok(binary)
    }

    /// How often PATH was searched, failures included.
    pub fn searches(&self) -> u64 {
        self.searches.load(Ordering::Relaxed)
    }

    fn known(&self, name: &str) -> Option<Binary> {
        let mut found = None;
        let mut link = &self.first;
        while let Some(node) = link.get() {
            if node.name == name {
                found = Some(&node.binary);
            }
            link = &node.next;
        }
        found.filter(|binary| binary.is_current()).cloned()
    }

    /// Adds a node at the end. Only called by whoever has the turn.
    fn append(&self, name: &str, binary: Binary) {
        let mut node = Box::new(Node {
            name: name.to_owned(),
            binary,
            next: Link::new(),
        });
        let mut link = &self.first;
        while let Err(rejected) = link.set(node) {
            node = rejected;
            match link.get() {
                Some(taken) => link = &taken.next,
                None => return,
            }
        }
    }

    fn search(&self, name: &str) -> Result<Binary, StorageError> {
        if name.starts_with('/') {
            let path = PathBuf::from(name);
            return Binary::at(path.clone()).ok_or(StorageError::NotAProgram { path });
        }
        if name.is_empty() || name.contains('/') {
            return Err(StorageError::RelativeBinary {
                name: name.to_owned(),
            });
        }
        let path = self.path.clone().or_else(|| std::env::var_os("PATH"));
        let path = path.unwrap_or_else(|| PATH_DEFAULT.into());
        std::env::split_paths(&path)
            .filter(|directory| directory.is_absolute())
            .find_map(|directory| Binary::at(directory.join(name)))
            .ok_or_else(|| StorageError::NoBinary {
                name: name.to_owned(),
                searched: OsStr::to_string_lossy(&path).into_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Barrier};

    use super::*;

    fn write_program(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn sixty_four_threads_cause_one_search() {
        let directory = tempfile::tempdir().unwrap();
        write_program(&directory.path().join("tool"), "");
        let binaries = Arc::new(Binaries::with_path(directory.path()));
        let barrier = Arc::new(Barrier::new(64));
        let threads: Vec<_> = (0..64)
            .map(|_| {
                let (binaries, barrier) = (Arc::clone(&binaries), Arc::clone(&barrier));
                std::thread::spawn(move || {
                    barrier.wait();
                    binaries.lookup("tool").unwrap()
                })
            })
            .collect();
        let found: Vec<Binary> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(binaries.searches(), 1);
    }

    #[test]
    fn failures_are_not_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let binaries = Binaries::with_path(directory.path());
        for _ in 0..3 {
            let error = binaries.lookup("qemu-img").unwrap_err();
            assert!(matches!(error, StorageError::NoBinary { .. }), "{error:?}");
            assert!(error.hint().is_some_and(|hint| hint.contains("qemu-utils")));
        }
        write_program(&directory.path().join("qemu-img"), "");
        assert!(binaries.lookup("qemu-img").is_ok());
        assert_eq!(binaries.searches(), 4);
        assert!(binaries.lookup("qemu-img").is_ok());
        assert_eq!(binaries.searches(), 4);
    }

    #[test]
    fn an_upgrade_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tool");
        write_program(&path, "old");
        let binaries = Binaries::with_path(directory.path());
        let old = binaries.lookup("tool").unwrap();
        // As package managers do: a new file renamed over the old one.
        write_program(&directory.path().join("new"), "new");
        fs::rename(directory.path().join("new"), &path).unwrap();
        let new = binaries.lookup("tool").unwrap();
        assert_ne!(old.version, new.version);
        assert_eq!((new.path, binaries.searches()), (path.clone(), 2));
        fs::remove_file(&path).unwrap();
        assert!(binaries.lookup("tool").is_err());
    }

    #[test]
    fn only_executable_files_count() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        fs::create_dir_all(first.join("tool")).unwrap();
        fs::create_dir(&second).unwrap();
        fs::write(first.join("plain"), "").unwrap();
        write_program(&second.join("tool"), "");
        let path = std::env::join_paths([&first, &second]).unwrap();
        let binaries = Binaries::with_path(path);
        assert_eq!(binaries.lookup("tool").unwrap().path, second.join("tool"));
        assert!(matches!(
            binaries.lookup("plain"),
            Err(StorageError::NoBinary { .. })
        ));
        let full = second.join("tool");
        assert_eq!(binaries.lookup(full.to_str().unwrap()).unwrap().path, full);
        assert!(matches!(
            binaries.lookup("/nonexistent"),
            Err(StorageError::NotAProgram { .. })
        ));
        for name in ["", "./tool", "b/tool"] {
            assert!(
                matches!(binaries.lookup(name), Err(StorageError::RelativeBinary { .. })),
                "{name}"
            );
        }
    }
}
