//! Whether a guest may be handed a whole directory.

use std::path::{Path, PathBuf};

use super::places::{CREDENTIALS, LOGIN_SCRIPTS, SOCKETS};
use super::{Denied, PathPolicy, Rule};

impl PathPolicy {
    /// Whether a guest may be handed a directory with all that is in it: the directory must be where writing is allowed, and no
    /// place that is off limits may be below it. The same holds for reading alone: a guest that reads keys has them. `own`
    /// are the directories where maqet keeps its secrets and its record; neither they nor anything in them is handed out.
    ///
    /// # Errors
    /// [`Denied`] for the directory, or for what is below it.
    pub fn check_tree(&self, directory: &Path, own: &[PathBuf]) -> Result<(), Denied> {
        let denied = |path: PathBuf, rule, entry: String| Err(Denied { path, rule, entry });
        let mut mine = own.iter();
        if let Some(own) = mine.find(|own| directory.starts_with(own) || own.starts_with(directory)) {
            return Err(Denied::own(directory, own));
        }
        self.check(directory)?;
        for (list, rule) in [
            (CREDENTIALS, Rule::Credentials),
            (LOGIN_SCRIPTS, Rule::LoginScripts),
        ] {
            if let Some((path, entry)) = self.below(list, directory) {
                return denied(path, rule, entry.to_owned());
            }
        }
        if let Some(entry) = SOCKETS.iter().find(|entry| plain(entry).starts_with(directory)) {
            return denied(plain(entry).to_owned(), Rule::Sockets, (*entry).to_owned());
        }
        let mut mounts = self
            .mounts
            .iter()
            .filter(|mount| mount.point.starts_with(directory));
        match mounts.find_map(|mount| Some((&mount.point, self.foreign_mount(&mount.point)?))) {
            Some((point, kind)) => denied(point.clone(), Rule::Mount, kind.to_owned()),
            None => Ok(()),
        }
    }

    /// The first entry of a list that is in the user's home and in a directory.
    fn below(&self, list: &'static [&'static str], directory: &Path) -> Option<(PathBuf, &'static str)> {
        let home = self.home.as_ref()?;
        list.iter()
            .map(|entry| (home.join(entry.trim_start_matches("**/")), *entry))
            .find(|(path, _)| path.starts_with(directory))
    }
}

fn plain(entry: &str) -> &Path {
    Path::new(entry.trim_end_matches('*'))
}

#[cfg(test)]
mod tests {
    use super::super::Mount;
    use super::*;

    fn rule_of(directory: &str) -> Option<Rule> {
        let mounts = [("/home/ann/nfs", "nfs4"), ("/home/ann/disk", "ext4")]
            .map(|(point, kind)| Mount {
                point: point.into(),
                kind: kind.into(),
            })
            .to_vec();
        let policy = PathPolicy::new(Some("/home/ann".into()), vec!["/srv/vm".into()], mounts);
        let own = ["/home/ann/.local/share/maqet".into(), "/tmp/run-maqet".into()];
        let checked = policy.check_tree(Path::new(directory), &own);
        checked.err().map(|denied| denied.rule)
    }

    #[test]
    fn a_directory_of_its_own_is_handed_out() {
        for directory in [
            "/home/ann/src",
            "/home/ann/src/deep",
            "/home/ann/disk",
            "/tmp/share",
            "/srv/vm/share",
            "/home/ann/.local/share/other",
        ] {
            assert_eq!(rule_of(directory), None, "{directory}");
        }
    }

    #[test]
    fn one_that_holds_something_off_limits_is_not() {
        for (directory, rule) in [
            ("/", Rule::Own),
            ("/home/ann", Rule::Own),
            ("/home/ann/.local", Rule::Own),
            ("/home/ann/.local/share/maqet", Rule::Own),
            ("/home/ann/.local/share/maqet/vms/x", Rule::Own),
            ("/tmp", Rule::Own),
            ("/tmp/run-maqet/x", Rule::Own),
            ("/home/ann/.cargo", Rule::Credentials),
            ("/home/ann/.ssh", Rule::Credentials),
            ("/home/ann/src/.git", Rule::Credentials),
            ("/home/ann/.vim", Rule::LoginScripts),
            ("/home/ann/nfs", Rule::Mount),
            ("/home", Rule::Own),
            ("/home/bob", Rule::OthersHome),
            ("/etc", Rule::System),
            ("/usr/share/doc", Rule::System),
            ("/srv/vm", Rule::System),
            ("/data", Rule::Elsewhere),
            ("src", Rule::Form),
        ] {
            assert_eq!(rule_of(directory), Some(rule), "{directory}");
        }
    }

    #[test]
    fn every_entry_of_the_lists_is_seen_from_above() {
        let policy = PathPolicy::new(Some("/home/ann".into()), Vec::new(), Vec::new());
        for entry in CREDENTIALS.iter().chain(LOGIN_SCRIPTS) {
            let path = Path::new("/home/ann").join(entry.trim_start_matches("**/"));
            for directory in path.ancestors().take_while(|path| path.starts_with("/home/ann")) {
                assert!(
                    policy.check_tree(directory, &[]).is_err(),
                    "{}",
                    directory.display()
                );
            }
        }
        let denied = policy.check_tree(Path::new("/tmp"), &[]).unwrap_err();
        assert_eq!(denied.rule, Rule::Sockets);
    }
}
