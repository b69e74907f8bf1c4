//! Opening a directory that is shared with a guest.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, fstat};

use crate::error::StorageError;
use crate::image::pin;
use crate::place::describe;
use crate::policy::PathPolicy;

/// An open directory.
#[derive(Debug)]
pub struct Shared {
    /// The directory, as a place only (`O_PATH`), close-on-exec.
    pub fd: OwnedFd,
    /// Where it really is, symbolic links resolved.
    pub path: PathBuf,
}

/// Opens a directory to be shared. Symbolic links in `path` are resolved once; the directory found then is judged and opened.
/// `own` is where maqet keeps its own files.
///
/// # Errors
/// [`StorageError::Denied`] as [`PathPolicy::check_tree`] has it; [`StorageError::NotADirectory`]; [`StorageError::File`]
/// when there is none or it may not be opened.
pub fn open(path: &Path, policy: &PathPolicy, own: &[PathBuf]) -> Result<Shared, StorageError> {
    let resolved = std::fs::canonicalize(path).map_err(|error| {
        let missing = StorageError::file("find directory", path)(error);
        // What is forbidden is told first, also where there is nothing.
        match policy.check_tree(path, own) {
            Err(denied) => denied.into(),
            Ok(()) => missing,
        }
    })?;
    let pinned = pin(&resolved).map_err(StorageError::file("open directory", &resolved))?;
    let stat = fstat(&pinned).map_err(StorageError::file("look at directory", &resolved))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::Directory {
        return Err(StorageError::NotADirectory {
            path: resolved,
            kind: describe(kind),
        });
    }
    policy.check_tree(&resolved, own)?;
    Ok(Shared {
        fd: pinned.into(),
        path: resolved,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{CWD, RenameFlags, renameat_with};

    use super::*;

    /// An attacker exchanges the directory and a link out of it all the time: what is opened is always the directory.
    #[test]
    fn an_exchanged_directory_is_never_followed_out() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let policy = PathPolicy::new(Some(root.join("home")), Vec::new(), Vec::new());
        let at = |name: &str| root.join("home").join(name);
        fs::create_dir_all(at("a/src")).unwrap();
        fs::create_dir_all(at(".ssh/src")).unwrap();
        symlink(at(".ssh"), at("b")).unwrap();
        let good = fs::metadata(at("a/src")).unwrap().ino();
        let over = AtomicBool::new(false);
        let inode = |shared: Shared| fstat(&shared.fd).unwrap().st_ino;
        let opened: Vec<Option<u64>> = std::thread::scope(|scope| {
            scope.spawn(|| exchange(&at("a"), &at("b"), &over));
            let rounds = 0..20_000;
            let opened = rounds.map(|_| open(&at("a/src"), &policy, &[]).ok().map(inode));
            let opened = opened.collect();
            over.store(true, Ordering::Relaxed);
            opened
        });
        assert!(opened.contains(&None) && opened.contains(&Some(good)));
        let strange = opened.iter().flatten().find(|inode| **inode != good);
        assert_eq!(strange, None);
    }

    /// Exchanges two names until it is over.
    fn exchange(one: &Path, other: &Path, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
        }
    }

    #[test]
    fn what_a_link_leads_to_is_judged() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let policy = PathPolicy::new(Some(root.clone()), Vec::new(), Vec::new());
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("src")).unwrap();
        fs::create_dir_all(at(".ssh")).unwrap();
        fs::create_dir_all(at("own/vms")).unwrap();
        fs::write(at("file"), "").unwrap();
        for (name, target) in [
            ("good", "src"),
            ("keys", ".ssh"),
            ("secrets", "own/vms"),
            ("etc", "/etc"),
        ] {
            symlink(target, at(name)).unwrap();
        }
        let own = [at("own")];
        assert_eq!(open(&at("good"), &policy, &own).unwrap().path, at("src"));
        for name in ["keys", ".ssh", "secrets", "etc", ""] {
            let denied = open(&at(name), &policy, &own);
            assert!(
                matches!(denied, Err(StorageError::Denied(_))),
                "{name}: {denied:?}"
            );
        }
        let file = open(&at("file"), &policy, &own);
        assert!(
            matches!(file, Err(StorageError::NotADirectory { .. })),
            "{file:?}"
        );
        assert!(open(&at("absent"), &policy, &own).unwrap_err().is_missing());
    }
}
