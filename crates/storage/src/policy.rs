//! Where nobody may write: one policy for everything that maqet or QEMU writes on behalf of a spec.
//!
//! Judged in this order, the first match decides: credentials, login scripts and sockets of other programs are refused;
//! maqet's own directories, configured roots and the user's own home are allowed; kernel and network file systems are
//! refused; other users' homes and system trees are refused; [`places::SCRATCH`] is allowed; everything else is refused,
//! and can be made a root. The lists are data, see [`places`].
//!
//! A policy judges names. What a name leads to is settled by opening it first and judging the result again, as
//! [`crate::image`] does.

mod mounts;
pub mod places;
#[cfg(test)]
mod tests;
mod tree;

use std::path::{Component, Path, PathBuf};

use maqet_spec::yaml::word as yaml_word;
pub use mounts::Mount;
use places::{CREDENTIALS, FILE_SYSTEMS, HOMES, LOGIN_SCRIPTS, SCRATCH, SOCKETS, SYSTEM_TREES};

use crate::error::StorageError;

/// Which paths are off limits for one user on one host.
#[derive(Clone, Debug)]
pub struct PathPolicy {
    home: Option<PathBuf>,
    roots: Vec<PathBuf>,
    mounts: Vec<Mount>,
}

/// Why a path is off limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Not absolute, or with `..` in it.
    Form,
    /// Keys, tokens, settings of other programs.
    Credentials,
    /// Files that a shell or a login executes.
    LoginScripts,
    /// Where other programs keep their sockets.
    Sockets,
    /// File systems of the kernel, of other hosts, or removable.
    Mount,
    /// Homes of other users.
    OthersHome,
    /// Trees that belong to the system.
    System,
    /// None of the places where maqet writes.
    Elsewhere,
    /// maqet's own files.
    Own,
}

/// A path that is off limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is off limits: {}", path.display(), self.reason())]
pub struct Denied {
    /// The path.
    pub path: PathBuf,
    /// The rule it breaks.
    pub rule: Rule,
    /// The entry of the list, for example `/etc` or `.ssh`.
    pub entry: String,
}

impl Denied {
    /// A path in a directory where maqet keeps its own files.
    pub fn own(path: &Path, own: &Path) -> Self {
        Self {
            path: path.to_owned(),
            rule: Rule::Own,
            entry: own.display().to_string(),
        }
    }

    fn reason(&self) -> String {
        match self.rule {
            Rule::Form if self.path.is_absolute() => "where the `..` in it leads is not known".to_owned(),
            Rule::Form => "it is not an absolute path".to_owned(),
            Rule::Credentials => format!("`{}` holds credentials or settings", self.entry),
            Rule::LoginScripts => format!("`{}` is run at login", self.entry),
            Rule::Sockets => format!("`{}` is where other programs meet", self.entry),
            Rule::OthersHome => "it is in somebody else's home".to_owned(),
            Rule::Own => format!("maqet keeps its own files in `{}`", self.entry),
            Rule::Elsewhere => "it is in none of the places where maqet writes".to_owned(),
            Rule::Mount => format!("it is on a mounted {} file system", self.entry),
            Rule::System => format!("`{}` belongs to the system", self.entry),
        }
    }

    /// Whether no configuration allows it.
    pub fn is_final(&self) -> bool {
        matches!(
            self.rule,
            Rule::Form | Rule::Credentials | Rule::LoginScripts | Rule::Sockets
        )
    }

    /// What a person can do about it.
    pub fn hint(&self) -> String {
        match self.rule {
            Rule::Form => "write the path out in full".to_owned(),
            Rule::Credentials | Rule::LoginScripts | Rule::Sockets | Rule::Own => {
                "choose a directory of its own".to_owned()
            }
            Rule::Mount | Rule::OthersHome | Rule::System | Rule::Elsewhere => {
                let elsewhere = "choose a place in your home or in /tmp";
                match self.path.parent().filter(|directory| may_be_root(directory)) {
                    Some(directory) => format!(
                        "{elsewhere}; or allow this one in the supervisor's configuration: `storage: {{roots: [{}]}}`",
                        yaml_word(directory)
                    ),
                    None => elsewhere.to_owned(),
                }
            }
        }
    }
}

/// Whether a person may want to have images in a directory: not in all there is, nor where the kernel shows itself.
fn may_be_root(directory: &Path) -> bool {
    let kernel = ["/dev", "/proc", "/sys"];
    directory.parent().is_some() && !kernel.iter().any(|tree| directory.starts_with(tree))
}

impl PathPolicy {
    /// A policy from its parts. `roots` (maqet's own directories, and what is configured) are allowed whatever tree they are in; `home` is, unless it holds
    /// or is a system tree: service users often live in `/`.
    pub fn new(home: Option<PathBuf>, roots: Vec<PathBuf>, mounts: Vec<Mount>) -> Self {
        let owns_system = |home: &Path| SYSTEM_TREES.iter().any(|tree| Path::new(tree).starts_with(home));
        Self {
            home: home.filter(|home| home.is_absolute() && !owns_system(home)),
            roots: roots
                .into_iter()
                .filter(|root| root.is_absolute() && root.parent().is_some())
                .collect(),
            mounts,
        }
    }

    /// The policy for this host: `$HOME`, what is mounted now, and the given roots.
    ///
    /// # Errors
    /// [`StorageError::File`] when `/proc/self/mountinfo` cannot be read.
    pub fn for_host(roots: Vec<PathBuf>) -> Result<Self, StorageError> {
        Ok(Self::new(std::env::home_dir(), roots, mounts::current()?))
    }

    /// Whether the path may be written to.
    ///
    /// # Errors
    /// [`Denied`] with the rule it breaks.
    pub fn check(&self, path: &Path) -> Result<(), Denied> {
        let denied = |rule, entry: &str| {
            let (path, entry) = (path.to_owned(), entry.to_owned());
            Err(Denied { path, rule, entry })
        };
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return denied(Rule::Form, "");
        }
        if let Some(entry) = self.listed(CREDENTIALS, path) {
            return denied(Rule::Credentials, entry);
        }
        if let Some(entry) = self.listed(LOGIN_SCRIPTS, path) {
            return denied(Rule::LoginScripts, entry);
        }
        if let Some(entry) = first(SOCKETS, path) {
            return denied(Rule::Sockets, entry);
        }
        if self.root_of(path).is_some() || self.home.as_ref().is_some_and(|home| path.starts_with(home)) {
            return Ok(());
        }
        if let Some(kind) = self.foreign_mount(path) {
            return denied(Rule::Mount, kind);
        }
        if let Some(homes) = first(HOMES, path) {
            return denied(Rule::OthersHome, homes);
        }
        if let Some(tree) = first(SYSTEM_TREES, path) {
            return denied(Rule::System, tree);
        }
        match first(SCRATCH, path) {
            Some(_) => Ok(()),
            None => denied(Rule::Elsewhere, "/"),
        }
    }

    /// The innermost configured root that the path is in. Below a root no symbolic link is followed.
    pub fn root_of(&self, path: &Path) -> Option<&Path> {
        let around = self
            .roots
            .iter()
            .filter(|root| path.starts_with(root) && path != root.as_path());
        around
            .max_by_key(|root| root.components().count())
            .map(PathBuf::as_path)
    }

    /// Entries are relative to any home; those that start with `**/` match anywhere.
    fn listed(&self, list: &'static [&'static str], path: &Path) -> Option<&'static str> {
        list.iter()
            .copied()
            .find(|entry| match entry.strip_prefix("**/") {
                Some(name) => path.components().any(|part| part.as_os_str() == name),
                None => self
                    .below_home(path)
                    .is_some_and(|below| below.starts_with(entry)),
            })
    }

    /// The path relative to the home it is in: our own, root's, or anybody's in `/home`.
    fn below_home<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        let own = self.home.as_ref().and_then(|home| path.strip_prefix(home).ok());
        own.or_else(|| path.strip_prefix("/root").ok()).or_else(|| {
            let mut parts = path.strip_prefix("/home").ok()?.components();
            parts.next()?;
            Some(parts.as_path())
        })
    }

    /// File system type of the innermost mount, when that is one nobody should write images to.
    fn foreign_mount(&self, path: &Path) -> Option<&str> {
        // Later mounts hide earlier ones at the same point.
        let around = self.mounts.iter().filter(|mount| path.starts_with(&mount.point));
        let mount = around.max_by_key(|mount| mount.point.components().count())?;
        // The root file system is where everything else is; in containers it may be of any type.
        let foreign = mount.point.parent().is_some()
            && FILE_SYSTEMS.iter().any(|name| match name.strip_suffix('*') {
                Some(start) => mount.kind.starts_with(start),
                None => mount.kind == *name,
            });
        foreign.then_some(mount.kind.as_str())
    }
}

/// The first entry that the path is in. `*` ends a prefix of a name.
fn first(list: &'static [&'static str], path: &Path) -> Option<&'static str> {
    list.iter().copied().find(|entry| match entry.strip_suffix('*') {
        Some(start) => path.as_os_str().as_encoded_bytes().starts_with(start.as_bytes()),
        None => path.starts_with(entry),
    })
}
