//! The few fields of `/proc` that identify a process.
//!
//! Everything here is about a number; callers hold a pidfd and check afterwards that the number was not reused.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::ProcessError;
use crate::identity::FileId;

/// Id of this boot.
pub(crate) fn boot_id() -> Result<String, ProcessError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(ProcessError::file("read", path))?;
    Ok(text.trim_end().to_owned())
}

/// Inode of the PID namespace of this process.
pub(crate) fn pidns_inode() -> Result<u64, ProcessError> {
    let path = Path::new("/proc/self/ns/pid");
    let metadata = fs::metadata(path).map_err(ProcessError::file("read", path))?;
    Ok(metadata.ino())
}

/// Number of the process behind a pidfd: -1 when it was reaped, 0 when it is not visible in our PID namespace.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> Result<i32, ProcessError> {
    let path = PathBuf::from(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let text = fs::read_to_string(&path).map_err(ProcessError::file("read", &path))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|value| value.trim().parse().ok())
        .ok_or(ProcessError::Malformed { path, field: "Pid" })
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// State letter; `Z` also means a process whose first thread ended while others live.
    pub(crate) state: char,
    /// It has exec'd since it was forked (field 9, without `PF_FORKNOEXEC`): what it runs is its own choice.
    pub(crate) has_execed: bool,
    /// Start, clock ticks since boot (field 22).
    pub(crate) start_ticks: u64,
    /// Wait status of a zombie (field 52); 0 where the kernel hides it.
    pub(crate) wait_status: i32,
}

/// Lines of `/proc/PID/status` about memory that a process holds, each in KiB.
const HELD: [&str; 3] = ["VmRSS:", "VmSwap:", "HugetlbPages:"];

/// Memory that a process holds, bytes: in RAM, swapped out, and in huge pages.
pub(crate) fn memory_bytes(pid: i32) -> Result<u64, ProcessError> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = fs::read_to_string(&path).map_err(ProcessError::file("read", &path))?;
    parse_memory(&text).ok_or(ProcessError::Malformed { path, field: "VmRSS" })
}

/// The sum of those lines; `None` without the first, as for a process that is ending.
fn parse_memory(text: &str) -> Option<u64> {
    let held = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    held(HELD[0])?;
    Some(HELD.iter().filter_map(|name| held(name)).sum())
}

/// `PF_FORKNOEXEC` of the kernel's `linux/sched.h`: forked, and not exec'd since.
const PF_FORKNOEXEC: u64 = 0x40;

/// Reads `/proc/PID/stat`.
pub(crate) fn stat(pid: i32) -> Result<Stat, ProcessError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = fs::read(&path).map_err(ProcessError::file("read", &path))?;
    parse_stat(&String::from_utf8_lossy(&text)).map_err(|field| ProcessError::Malformed { path, field })
}

/// The name in field 2 may hold spaces and parentheses, so fields are counted from its last one.
fn parse_stat(text: &str) -> Result<Stat, &'static str> {
    let (_, tail) = text.rsplit_once(')').ok_or("comm")?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // `fields[0]` is field 3.
    let field = |number: usize| fields.get(number - 3).copied();
    Ok(Stat {
        state: field(3).and_then(|text| text.chars().next()).ok_or("state")?,
        has_execed: field(9)
            .and_then(|text| text.parse::<u64>().ok())
            .map(|flags| flags & PF_FORKNOEXEC == 0)
            .ok_or("flags")?,
        start_ticks: field(22).and_then(|text| text.parse().ok()).ok_or("starttime")?,
        wait_status: field(52).and_then(|text| text.parse().ok()).unwrap_or(0),
    })
}

/// Whether the kernel shows us the guarded fields of a process; works on zombies too.
pub(crate) fn may_inspect(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok()
}

/// The image a process runs.
pub(crate) fn executable(pid: i32) -> Result<FileId, ProcessError> {
    let path = PathBuf::from(format!("/proc/{pid}/exe"));
    let metadata = fs::metadata(&path).map_err(ProcessError::file("read", &path))?;
    Ok(FileId::of(&metadata))
}

/// The command line of a process, words separated by NUL.
pub(crate) fn command_line(pid: i32) -> Result<Vec<u8>, ProcessError> {
    let path = PathBuf::from(format!("/proc/{pid}/cmdline"));
    fs::read(&path).map_err(ProcessError::file("read", &path))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn memory_is_what_is_in_ram_swapped_out_and_in_huge_pages() {
        let text =
            "Name:\tcat\nVmPeak:\t 9 kB\nVmRSS:\t     3 kB\nVmSwap:\t  1 kB\nHugetlbPages:\t 2048 kB\n";
        assert_eq!(parse_memory(text), Some(2052 << 10));
        assert_eq!(parse_memory("VmRSS:\t3 kB\n"), Some(3 << 10));
        for ending in ["", "VmSwap:\t1 kB\n", "VmRSS:\tmuch\n"] {
            assert_eq!(parse_memory(ending), None);
        }
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(memory_bytes(own).unwrap() > 1 << 16);
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let mut text = "42 (a b) c) S 1".to_owned();
        for number in 5..=52 {
            write!(text, " {number}").unwrap();
        }
        let stat = parse_stat(&text).unwrap();
        assert_eq!(
            stat,
            Stat {
                state: 'S',
                has_execed: true,
                start_ticks: 22,
                wait_status: 52
            }
        );
    }

    #[test]
    fn a_short_line_names_the_missing_field() {
        assert_eq!(parse_stat("42 (a) S 1 2"), Err("flags"));
        assert_eq!(parse_stat("42 (a) S 1 2 3 4 5 64 7"), Err("starttime"));
        assert_eq!(parse_stat("42"), Err("comm"));
    }

    #[test]
    fn our_own_fields_are_readable() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(stat(pid).unwrap().start_ticks > 0);
        assert!(!command_line(pid).unwrap().is_empty());
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(pidns_inode().unwrap() > 0);
    }
}
