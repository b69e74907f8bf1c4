//! Every code `maqet` ends with; `docs/guide/exit-codes.md` shows the same list and a test holds both together.

use std::process::ExitCode;

/// How a run of `maqet` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or already so.
    Done,
    /// Failed.
    Failed,
    /// The command line was wrong.
    Usage,
    /// The VM is in the wrong state for this.
    WrongState,
    /// There is no such VM, snapshot or disk.
    NotFound,
    /// Busy or in conflict; trying again may help.
    Busy,
    /// The supervisor cannot be reached.
    Unreachable,
    /// Authentication or permission.
    Denied,
    /// Another supervisor serves this data directory.
    SecondSupervisor,
    /// The configuration is invalid.
    InvalidConfig,
    /// A deadline passed.
    Deadline,
}

impl Exit {
    /// All of them, by rising code.
    pub(crate) const ALL: [Self; 11] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::WrongState,
        Self::NotFound,
        Self::Busy,
        Self::Unreachable,
        Self::Denied,
        Self::SecondSupervisor,
        Self::InvalidConfig,
        Self::Deadline,
    ];

    /// The number the shell sees.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::WrongState => 3,
            Self::NotFound => 4,
            Self::Busy => 5,
            Self::Unreachable => 6,
            Self::Denied => 7,
            Self::SecondSupervisor => 75,
            Self::InvalidConfig => 78,
            Self::Deadline => 124,
        }
    }

    /// What the number means, for people.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done (also: already so; `--strict` makes that 3)",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::WrongState => "wrong state for this",
            Self::NotFound => "no such VM, snapshot, disk",
            Self::Busy => "busy or conflict, try again",
            Self::Unreachable => "supervisor unreachable",
            Self::Denied => "authentication or permission",
            Self::SecondSupervisor => "a second supervisor on the same data directory",
            Self::InvalidConfig => "the configuration is invalid",
            Self::Deadline => "deadline passed",
        }
    }

    /// The exit of that number; a number that is not in the list is a plain failure.
    pub(crate) fn of_code(code: u8) -> Self {
        Self::ALL
            .into_iter()
            .find(|exit| exit.code() == code)
            .unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The list as a section of help and man page.
pub(crate) fn section() -> String {
    let lines = Exit::ALL.map(|exit| format!("  {:<4} {}", exit.code(), exit.meaning()));
    format!("Exit codes:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use maqet_protocol::refusal::RefusalCode;

    use super::Exit;

    #[test]
    fn guide_shows_the_same_list() {
        let guide = include_str!("../../../docs/guide/exit-codes.md");
        let shown: Vec<&str> = guide
            .lines()
            .filter(|line| line.starts_with("| ") && !line.starts_with("| exit"))
            .collect();
        let ours: Vec<String> = Exit::ALL
            .iter()
            .map(|exit| format!("| {} | {} |", exit.code(), exit.meaning()))
            .collect();
        assert_eq!(shown, ours);
    }

    #[test]
    fn codes_rise() {
        let codes = Exit::ALL.map(Exit::code);
        assert!(codes.is_sorted_by(|left, right| left < right), "{codes:?}");
    }

    #[test]
    fn every_refusal_ends_with_a_listed_code() {
        for code in [
            RefusalCode::VmNotFound,
            RefusalCode::DiskNotFound,
            RefusalCode::SnapshotNotFound,
            RefusalCode::ImageNotFound,
            RefusalCode::ImageRefused,
            RefusalCode::VmAmbiguous,
            RefusalCode::NameTaken,
            RefusalCode::WrongState,
            RefusalCode::DiskDamaged,
            RefusalCode::Busy,
            RefusalCode::Conflict,
            RefusalCode::InvalidSpec,
            RefusalCode::Timeout,
            RefusalCode::StartFailed,
            RefusalCode::QmpFailed,
            RefusalCode::NotAnswering,
            RefusalCode::AuthenticationFailed,
            RefusalCode::StoreFailed,
            RefusalCode::StorageFailed,
            RefusalCode::InvalidCall,
            RefusalCode::Internal,
        ] {
            assert_eq!(Exit::of_code(code.exit()).code(), code.exit(), "{code:?}");
        }
    }
}
