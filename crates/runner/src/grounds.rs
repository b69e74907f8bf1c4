//! Where QEMU may be told to write, as far as the runner knows: learned with the order to start or to take over.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_storage::policy::Denied;
use maqet_storage::{PathPolicy, StorageError};

/// What is known, shared between the session that learns it and the connections that ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grounds(Arc<Mutex<Known>>);

#[derive(Clone, Debug, Default)]
struct Known {
    roots: Vec<PathBuf>,
    own: Vec<PathBuf>,
}

impl Grounds {
    /// `roots` are allowed whatever tree they are in; `own` is where maqet keeps its own files.
    pub(crate) fn learn(&self, roots: &[PathBuf], own: &[PathBuf]) {
        let known = Known {
            roots: roots.to_vec(),
            own: own.to_vec(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Refuses a command that would have QEMU write to a place that is off limits.
    ///
    /// # Errors
    /// `invalid-call` with the rule and how to allow the place.
    pub(crate) fn check(&self, command: &str, files: &[PathBuf]) -> Result<(), Refusal> {
        files.iter().try_for_each(|file| {
            self.judge(file).map_err(|error| {
                let words = format!("QMP command `{}` is refused", command.escape_default());
                let refusal = Refusal::new(RefusalCode::InvalidCall, words);
                let refusal = refusal.cause(format!("QEMU would write to a file: {error}"));
                match error.hint() {
                    Some(hint) => refusal.hint(hint),
                    None => refusal,
                }
            })
        })
    }

    /// Where images may be.
    ///
    /// # Errors
    /// As for [`PathPolicy::for_host`].
    pub(crate) fn policy(&self) -> Result<PathPolicy, StorageError> {
        PathPolicy::for_host(self.known().roots)
    }

    fn known(&self) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn judge(&self, file: &Path) -> Result<(), StorageError> {
        let known = self.known();
        let policy = PathPolicy::for_host(known.roots)?;
        policy.check(file)?;
        let real = real(file);
        if let Some(own) = known.own.iter().find(|own| real.starts_with(own)) {
            return Err(Denied::own(file, own).into());
        }
        Ok(policy.check(&real)?)
    }
}

/// Where a path leads, as far as it is there.
fn real(file: &Path) -> PathBuf {
    if let Ok(real) = file.canonicalize() {
        return real;
    }
    let parent = file.parent().and_then(|parent| parent.canonicalize().ok());
    match (parent, file.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        (_, _) => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_off_limits_is_refused_wherever_its_name_is() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        fs::create_dir(root.join("own")).unwrap();
        symlink("/etc", root.join("etc")).unwrap();
        symlink(root.join("own"), root.join("link")).unwrap();
        let grounds = Grounds::default();
        grounds.learn(&[root.join("roots"), root.join("own")], &[root.join("own")]);
        let check = |path: PathBuf| grounds.check("screendump", &[path]);
        assert!(check(root.join("screen.ppm")).is_ok());
        for (path, why) in [
            ("/etc/screen.ppm".into(), "`/etc` belongs to the system"),
            (root.join("etc/screen.ppm"), "`/etc` belongs to the system"),
            (root.join("own/key"), "maqet keeps its own files"),
            (root.join("link/key"), "maqet keeps its own files"),
            ("screen.ppm".into(), "is not an absolute path"),
            ("/sys/x".into(), "off limits"),
        ] {
            let refusal = check(path).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::InvalidCall);
            assert!(refusal.causes[0].contains(why), "{why}: {refusal:?}");
            assert!(refusal.hint.is_some());
        }
    }
}
