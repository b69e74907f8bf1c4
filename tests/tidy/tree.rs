//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// Root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// A text file of the repository.
#[derive(Debug)]
pub(crate) struct TextFile {
    /// Path below the root, with slashes.
    pub(crate) path: String,
    /// What it says.
    pub(crate) text: String,
}

/// All files below `dir` (relative to the root) whose name ends so, sorted; build output and hidden places left out.
pub(crate) fn files(dir: &str, suffix: &str) -> Vec<TextFile> {
    let mut pending = vec![root().join(dir)];
    let mut found = Vec::new();
    while let Some(place) = pending.pop() {
        for entry in fs::read_dir(place).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                _ if name.starts_with('.') || name == "target" => (),
                true => pending.push(path),
                false if name.ends_with(suffix) => found.push(read(&path)),
                false => (),
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn read(path: &Path) -> TextFile {
    let below = path.strip_prefix(root()).unwrap();
    TextFile {
        path: below.display().to_string(),
        text: fs::read_to_string(path).unwrap(),
    }
}

/// Fails the test with everything that is wrong.
#[track_caller]
pub(crate) fn none(rule: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
}
