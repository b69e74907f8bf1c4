//! Directories: whose they are, who may enter, and how much room is left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use maqet_spec::shell::word;
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;

use super::{Check, Outcome};
use crate::render::units;
use crate::settings::{KEY_FILE, Settings};

/// Below this the store may soon not be written; bytes.
const FREE_LOW: u64 = 256 << 20;

/// Below this nothing can be relied on; bytes.
const FREE_NONE: u64 = 8 << 20;

/// The data and the runtime directory, the key, the room.
pub(super) fn directories(settings: &Settings) -> Vec<Check> {
    let mut checks = vec![
        private("data-dir", &settings.data_dir),
        private("runtime-dir", &settings.runtime_dir),
    ];
    let key = settings.data_dir.join(KEY_FILE);
    if key.exists() {
        checks.push(private("control-key", &key));
    }
    checks.extend(room("data-space", &settings.data_dir));
    checks.extend(room("runtime-space", &settings.runtime_dir));
    checks
}

/// Ours, and closed to everybody else.
fn private(name: &'static str, path: &Path) -> Check {
    let about = match fs::symlink_metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Check::new(name, Outcome::Ok, "not there yet; made when needed").at(&path.display());
        }
        Err(error) => return Check::new(name, Outcome::Fail, error.to_string()).at(&path.display()),
    };
    let mode = about.mode() & 0o7777;
    let check = |outcome, what: String| Check::new(name, outcome, what).at(&path.display());
    if about.file_type().is_symlink() {
        return check(Outcome::Fail, "it is a symbolic link".to_owned());
    }
    if about.uid() != geteuid().as_raw() {
        return check(Outcome::Fail, format!("it belongs to uid {}", about.uid()));
    }
    if mode & 0o077 != 0 {
        let hint = format!("chmod go= {}", word(path));
        return check(Outcome::Fail, format!("others may use it (mode {mode:04o})")).hint(hint);
    }
    check(Outcome::Ok, format!("ours alone (mode {mode:04o})"))
}

/// Room in the file system of a directory, or of the nearest one above it that is there.
fn room(name: &'static str, path: &Path) -> Option<Check> {
    let there = path.ancestors().find(|path| path.exists())?;
    let free = match statvfs(there) {
        Ok(about) => about.blocks_available().saturating_mul(about.fragment_size()),
        Err(error) => return Some(Check::new(name, Outcome::Warn, error.to_string()).at(&there.display())),
    };
    let outcome = match free {
        ..FREE_NONE => Outcome::Fail,
        FREE_NONE..FREE_LOW => Outcome::Warn,
        FREE_LOW.. => Outcome::Ok,
    };
    let check = Check::new(name, outcome, format!("{} free", units::size(free))).at(&there.display());
    Some(if outcome == Outcome::Ok {
        check
    } else {
        check.hint(format!("df -h {}", word(there)))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_may_enter_fails() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = |mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            private("data-dir", dir.path()).outcome
        };
        assert_eq!(outcome(0o750), Outcome::Fail);
        assert_eq!(outcome(0o700), Outcome::Ok);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert_eq!(private("data-dir", &link).outcome, Outcome::Fail);
        let missing = private("data-dir", &dir.path().join("missing"));
        assert_eq!(missing.outcome, Outcome::Ok);
        assert!(
            room("data-space", &dir.path().join("missing"))
                .unwrap()
                .what
                .ends_with(" free")
        );
    }
}
