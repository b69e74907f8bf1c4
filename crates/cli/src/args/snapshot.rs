//! Arguments of `maqet snapshot`.

use clap::Args;

use crate::error::CliError;

/// `maqet snapshot create|load|delete|list VM [NAME]`; the Python tool's `snapshot VM ACTION DRIVE --name NAME` is taken
/// too.
#[derive(Clone, Debug, Default, Args)]
#[command(
    override_usage = "maqet snapshot create|load|delete|list VM [NAME] [OPTIONS]\n       \
                      maqet snapshot VM create|load|delete|list DRIVE --name NAME [OPTIONS]"
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one flag of the command line"
)]
pub(crate) struct SnapshotArgs {
    /// What to do with which VM: `create`, `load`, `delete` or `list`, then the VM and the snapshot's name
    #[arg(value_name = "WORD", num_args = 2..=3, required = true)]
    pub(crate) words: Vec<String>,
    /// Name of the snapshot
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Only this disk
    #[arg(long, value_name = "DISK")]
    pub(crate) disk: Option<String>,
    /// Keep or load the memory of a running VM too
    #[arg(long)]
    pub(crate) memory: bool,
    /// Replace a snapshot of that name; without, that is an error
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// As a file of its own: the image stays as it is, and a new one on top of it takes what is written
    #[arg(long)]
    pub(crate) external: bool,
    /// The Python tool's word for --memory on all disks
    #[arg(long, hide = true)]
    pub(crate) live: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make one.
    Create,
    /// Go back to one.
    Load,
    /// Delete one.
    Delete,
    /// Show all.
    List,
}

/// What the words come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// What.
    pub(crate) action: Action,
    /// The VM.
    pub(crate) vm: String,
    /// Name of the snapshot; empty for a list.
    pub(crate) name: String,
    /// Only this disk.
    pub(crate) disk: Option<String>,
    /// With memory.
    pub(crate) memory: bool,
}

impl Action {
    fn of(word: &str) -> Option<Self> {
        match word {
            "create" => Some(Self::Create),
            "load" => Some(Self::Load),
            "delete" => Some(Self::Delete),
            "list" => Some(Self::List),
            _ => None,
        }
    }
}

impl SnapshotArgs {
    /// Tells both orders of words apart: the first word that can be an action is one.
    ///
    /// # Errors
    /// A usage error: no action, no name, or both orders at once.
    pub(crate) fn request(&self) -> Result<Request, CliError> {
        let word = |place: usize| self.words.get(place).map(String::as_str).unwrap_or_default();
        let third = self.words.get(2).cloned();
        let (action, vm, name, drive) = match (Action::of(word(0)), Action::of(word(1))) {
            (Some(action), _) => (action, word(1), third, None),
            (None, Some(action)) => (action, word(0), None, third),
            (None, None) => {
                let message = format!("`{}` is not one of create, load, delete, list", word(0));
                return Err(CliError::usage(&message, Some("maqet snapshot --help")));
            }
        };
        let name = match (name, &self.name) {
            (Some(name), None) => name,
            (None, Some(name)) => name.clone(),
            (None, None) if action == Action::List => String::new(),
            (None, None) => {
                let hint = format!(
                    "maqet snapshot {} {vm} NAME",
                    self.words.first().map_or("create", String::as_str)
                );
                return Err(CliError::usage("the snapshot needs a name", Some(&hint)));
            }
            (Some(_), Some(_)) => {
                return Err(CliError::usage(
                    "the snapshot has two names",
                    Some("leave out --name"),
                ));
            }
        };
        let disk = self.disk.clone().or(drive);
        Ok(Request {
            action,
            vm: vm.to_owned(),
            name,
            disk: disk.filter(|_| !self.live),
            memory: self.memory || self.live,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str) -> Result<Request, CliError> {
        let mut args = SnapshotArgs::default();
        let mut words = line.split(' ');
        while let Some(word) = words.next() {
            match word {
                "--name" => args.name = words.next().map(str::to_owned),
                "--disk" => args.disk = words.next().map(str::to_owned),
                "--live" => args.live = true,
                _ => args.words.push(word.to_owned()),
            }
        }
        args.request()
    }

    fn expected(action: Action, name: &str, disk: Option<&str>, memory: bool) -> Request {
        let (name, disk) = (name.to_owned(), disk.map(str::to_owned));
        Request {
            action,
            vm: "web".to_owned(),
            name,
            disk,
            memory,
        }
    }

    #[test]
    fn both_orders_of_words_are_understood() {
        for (line, wanted) in [
            (
                "create web before",
                expected(Action::Create, "before", None, false),
            ),
            (
                "load web --name before --disk root",
                expected(Action::Load, "before", Some("root"), false),
            ),
            ("list web", expected(Action::List, "", None, false)),
            (
                "web create hdd --name before",
                expected(Action::Create, "before", Some("hdd"), false),
            ),
            (
                "web create hdd --name before --live",
                expected(Action::Create, "before", None, true),
            ),
            ("web list hdd", expected(Action::List, "", Some("hdd"), false)),
            ("delete web load", expected(Action::Delete, "load", None, false)),
        ] {
            assert_eq!(request(line).unwrap(), wanted, "{line}");
        }
        for line in [
            "web before",
            "create web",
            "web create hdd",
            "create web a --name b",
        ] {
            assert!(request(line).is_err(), "{line}");
        }
    }
}
