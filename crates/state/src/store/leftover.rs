//! What work on the store leaves when it is killed, and nobody needs any more.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::daily;

/// Letters of the random part of a name that a file has for want of none.
const RANDOM_LETTERS: usize = 16;

/// Takes away what interrupted work left beside the store at `path` and among its daily copies: drafts, copies without
/// their name, and a second name of the present file, which was to be set aside. Only for whoever holds the data directory.
///
/// # Errors
/// When a directory cannot be read, or something of it cannot be taken away.
pub fn sweep(path: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let store = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let inode = fs::symlink_metadata(path)
        .ok()
        .map(|about| (about.dev(), about.ino()));
    let mut gone = take(directory, |entry, name| {
        let suffix = name.strip_prefix(store).unwrap_or_default();
        is_unfinished(suffix) || (suffix.starts_with(".set-aside-") && inode_of(entry) == inode)
    })?;
    let copies = take(&directory.join("backups"), |_, name| {
        let copy = unnamed(name).unwrap_or_default();
        daily::moment(copy).is_some()
    });
    match copies {
        Ok(copies) => gone.extend(copies),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(gone)
}

/// Behind the store's name: a draft and what belongs to it, a copy that was to replace another, a file without its name.
fn is_unfinished(suffix: &str) -> bool {
    let is_draft = suffix == ".draft" || suffix.starts_with(".draft.");
    let is_bak = suffix.starts_with(".v") && suffix.ends_with(".bak.tmp");
    is_draft
        || is_bak
        || unnamed(suffix).is_some_and(|rest| rest.is_empty() || rest.strip_suffix(".bak").is_some())
}

/// The name that the file `NAME.RANDOM.new` was to have.
fn unnamed(name: &str) -> Option<&str> {
    let (name, random) = name.strip_suffix(".new")?.rsplit_once('.')?;
    let is_random = random.len() == RANDOM_LETTERS && random.bytes().all(|letter| letter.is_ascii_hexdigit());
    is_random.then_some(name)
}

fn inode_of(path: &Path) -> Option<(u64, u64)> {
    let about = fs::symlink_metadata(path).ok()?;
    Some((about.dev(), about.ino()))
}

fn take(directory: &Path, unwanted: impl Fn(&Path, &str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut gone = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let path = entry.path();
        if name.to_str().is_some_and(|name| unwanted(&path, name)) {
            fs::remove_file(&path)?;
            gone.push(path);
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_interrupted_goes() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("backups")).unwrap();
        let kept = [
            "backups/mine.redb.0123456789abcdef.new",
            "backups/state-20260131T235959Z.redb",
            "state.redb",
            "state.redb.set-aside-1",
            "state.redb.v1.bak",
            "state.redb.what.new",
            "vm.draft",
        ];
        let unwanted = [
            "backups/state-20260131T235959Z.redb.0123456789abcdef.new",
            "state.redb.0123456789abcdef.new",
            "state.redb.draft",
            "state.redb.draft.v1.bak",
            "state.redb.v1.bak.0123456789abcdef.new",
            "state.redb.v1.bak.tmp",
        ];
        for name in kept.iter().chain(&unwanted) {
            fs::write(at(name), name).unwrap();
        }
        fs::hard_link(at("state.redb"), at("state.redb.set-aside-2")).unwrap();
        let mut gone = sweep(&at("state.redb")).unwrap();
        gone.sort();
        let mut wanted: Vec<PathBuf> = unwanted.iter().map(|name| at(name)).collect();
        wanted.push(at("state.redb.set-aside-2"));
        wanted.sort();
        assert_eq!(gone, wanted);
        for name in kept {
            assert_eq!(fs::read_to_string(at(name)).unwrap(), name);
        }
        assert_eq!(sweep(&at("state.redb")).unwrap(), Vec::<PathBuf>::new());
        fs::remove_dir_all(at("backups")).unwrap();
        fs::remove_file(at("state.redb")).unwrap();
        // Without a store nothing is its second name.
        assert_eq!(sweep(&at("state.redb")).unwrap(), Vec::<PathBuf>::new());
    }
}
