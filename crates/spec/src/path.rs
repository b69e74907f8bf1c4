//! Paths of a spec: absolute, whatever was written.

use std::path::{Path, PathBuf};

/// Makes a written path absolute: `~/` is the home directory, anything relative refers to `directory`. `.` and
/// doubled slashes go; `..` stays, since only the kernel knows where it leads.
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
        None => directory.join(written),
    };
    let clean: PathBuf = joined.components().collect();
    if clean.to_str().is_none() {
        return Err(format!("`{}` is not UTF-8", clean.display()));
    }
    Ok(clean)
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
            ("../a", "/d/../a"),
            ("~backup", "/d/~backup"),
        ] {
            assert_eq!(
                absolute(written, Path::new("/d"), Some(home)),
                Ok(PathBuf::from(expected)),
                "{written}"
            );
        }
        assert!(absolute("~/k", Path::new("/d"), None).is_err());
        assert!(absolute("~bob/k", Path::new("/d"), Some(home)).is_err());
        assert!(absolute("", Path::new("/d"), Some(home)).is_err());
    }
}
