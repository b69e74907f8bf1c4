//! virtiofsd: where distributions put it, which is not on PATH.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::binary::{Binaries, Binary};
use crate::error::StorageError;

/// Its name.
const NAME: &str = "virtiofsd";
/// Where it is: in its own package, in QEMU's up to version 7, on Arch.
const PLACES: [&str; 3] = [
    "/usr/libexec/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/lib/virtiofsd",
];
/// Where packages say what programs they have for QEMU, the administrator's word first. Fixed by QEMU's
/// `docs/interop/vhost-user.json`.
const DESCRIPTIONS: [&str; 2] = ["/etc/qemu/vhost-user", "/usr/share/qemu/vhost-user"];

/// One of those files.
#[derive(Debug, Deserialize)]
struct Description {
    #[serde(rename = "type")]
    kind: String,
    binary: PathBuf,
}

/// Finds virtiofsd: the one that is `configured`, else on PATH, in the usual places, or where a package says it is.
///
/// # Errors
/// [`StorageError::NotAProgram`] for a configured one that is none; [`StorageError::NoBinary`].
pub fn find(binaries: &Binaries, configured: Option<&Path>) -> Result<Binary, StorageError> {
    if let Some(path) = configured {
        return binaries.lookup(&path.to_string_lossy());
    }
    if let Ok(found) = binaries.lookup(NAME) {
        return Ok(found);
    }
    let places = PLACES.iter().map(PathBuf::from);
    places
        .chain(described(&DESCRIPTIONS.map(Path::new)))
        .find_map(|place| binaries.lookup(&place.to_string_lossy()).ok())
        .ok_or_else(|| StorageError::NoBinary {
            name: NAME.to_owned(),
            searched: format!("PATH, {}, {}", PLACES.join(", "), DESCRIPTIONS.join(", ")),
        })
}

/// Programs for shares that files in these directories name, by name of the file. What cannot be read names none.
fn described(directories: &[&Path]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in directories {
        let files = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = files.map(|file| file.path()).collect();
        files.retain(|file| file.extension() == Some(OsStr::new("json")));
        files.sort();
        found.extend(files.iter().filter_map(|file| program(file)));
    }
    found
}

fn program(file: &Path) -> Option<PathBuf> {
    let description: Description = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    (description.kind == "fs").then_some(description.binary)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn packages_say_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "50-gpu.json",
                r#"{"description": "", "type": "gpu", "binary": "/gpu"}"#,
            ),
            (
                "60-b.json",
                r#"{"description": "", "type": "fs", "binary": "/b"}"#,
            ),
            (
                "50-a.json",
                r#"{"description": "", "type": "fs", "binary": "/a", "tags": []}"#,
            ),
            ("40-broken.json", "{"),
            (
                "30-no.txt",
                r#"{"description": "", "type": "fs", "binary": "/c"}"#,
            ),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let absent = directory.path().join("absent");
        let found = described(&[&absent, directory.path()]);
        assert_eq!(found, [Path::new("/a"), Path::new("/b")]);
    }

    #[test]
    fn what_is_configured_counts_alone() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("own");
        let binaries = Binaries::with_path(directory.path());
        let missing = find(&binaries, Some(&own)).unwrap_err();
        assert!(matches!(missing, StorageError::NotAProgram { .. }), "{missing:?}");
        for path in [&own, &directory.path().join(NAME)] {
            fs::write(path, "").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(find(&binaries, Some(&own)).unwrap().path, own);
        assert_eq!(find(&binaries, None).unwrap().path, directory.path().join(NAME));
    }
}
