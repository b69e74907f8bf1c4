//! Paths that people wrote: absolute, whatever was written.

use std::path::{Component, Path, PathBuf};

/// Makes a written path absolute: `~/` is the home directory, anything relative refers to `directory`. `.` and
/// doubled slashes go. `..` at the beginning is the directory above `directory`, wherever the links on the way there lead;
/// elsewhere it stays, since only the kernel knows where it leads.
///
/// # Errors
/// A message when the path cannot be made absolute.
pub(crate) fn absolute(written: &str, directory: &Path, home: Option<&Path>) -> Result<PathBuf, String> {
    if written.is_empty() {
        return Err("the path is empty".to_owned());
    }
    let joined = match written.strip_prefix('~') {
        Some("") => home.ok_or_else(no_home)?.to_path_buf(),
        Some(rest) if rest.starts_with('/') => home.ok_or_else(no_home)?.join(rest.trim_start_matches('/')),
        Some(_) if !written.contains('/') => directory.join(written),
        Some(_) => {
            return Err(format!(
                "`{written}`: only `~/` is understood, not other users' homes"
            ));
        }
        None => joined(directory, Path::new(written)),
    };
    let clean: PathBuf = joined.components().collect();
    if clean.to_str().is_none() {
        return Err(format!("`{}` is not UTF-8", clean.display()));
    }
    Ok(clean)
}

/// A written path, relative to a directory. `..` at the beginning is the directory above that, wherever the links on the way
/// there lead.
pub fn joined(directory: &Path, written: &Path) -> PathBuf {
    let mut rest = written.components().peekable();
    rest.next_if_eq(&Component::CurDir);
    if rest.peek() != Some(&Component::ParentDir) {
        return directory.join(written);
    }
    let mut from = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    while rest.next_if_eq(&Component::ParentDir).is_some() {
        from.pop();
    }
    from.extend(rest);
    from
}

fn no_home() -> String {
    "`~` cannot be expanded: the home directory is not known".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute() {
        let home = Path::new("/home/u");
        for (written, expected) in [
            ("./a.img", "/d/a.img"),
            ("a//b/./c", "/d/a/b/c"),
            ("/x/y", "/x/y"),
            ("~/k", "/home/u/k"),
            ("~", "/home/u"),
            ("../a", "/a"),
            ("./../../a/b", "/a/b"),
            ("..", "/"),
            ("x/../a", "/d/x/../a"),
            ("/x/../a", "/x/../a"),
            ("~backup", "/d/~backup"),
        ] {
            assert_eq!(
                absolute(written, Path::new("/d"), Some(home)),
                Ok(PathBuf::from(expected)),
                "{written}"
            );
        }
        let place = tempfile::tempdir().unwrap();
        let real = place.path().canonicalize().unwrap();
        std::fs::create_dir_all(real.join("a/b")).unwrap();
        std::os::unix::fs::symlink("a/b", real.join("link")).unwrap();
        assert_eq!(absolute("../x", &real.join("link"), None), Ok(real.join("a/x")));
        assert!(absolute("~/k", Path::new("/d"), None).is_err());
        assert!(absolute("~bob/k", Path::new("/d"), Some(home)).is_err());
        assert!(absolute("", Path::new("/d"), Some(home)).is_err());
    }
}
