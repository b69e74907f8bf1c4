//! Whether it was the kernel that killed QEMU for want of memory, as far as its counters tell.
//!
//! A SIGKILL does not say who sent it, and the kernel's log is for root. What everybody may read is how many processes the
//! OOM killer has ended: of QEMU's memory control group, and on the whole host. They are read when QEMU is started and
//! compared when it was killed.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Counters at one moment; `None` where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kills {
    /// Processes of the control group.
    group: Option<u64>,
    /// Processes of the host.
    host: Option<u64>,
}

/// The counters as they were when QEMU was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// File with the counter of QEMU's control group.
    group: Option<PathBuf>,
    kills: Kills,
}

impl Baseline {
    /// The counters now. QEMU is in the control group of its runner.
    pub(crate) fn take() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group = group_file(&groups);
        let kills = Kills::read(group.as_ref());
        Self { group, kills }
    }

    /// What is to be said of a process that got SIGKILL from nobody we know.
    pub(crate) fn blame(&self) -> Option<&'static str> {
        self.kills.blame(Kills::read(self.group.as_ref()))
    }
}

impl Kills {
    fn read(group: Option<&PathBuf>) -> Self {
        let count = |text: std::io::Result<String>| text.ok().as_deref().and_then(oom_kill);
        Self {
            group: group.and_then(|file| count(fs::read_to_string(file))),
            host: count(fs::read_to_string("/proc/vmstat")),
        }
    }

    /// The group's counter decides; the host's only where the group has none.
    fn blame(self, now: Self) -> Option<&'static str> {
        let rose = |before: Option<u64>, now: Option<u64>| Some(now? > before?);
        match (rose(self.group, now.group), rose(self.host, now.host)) {
            (Some(true), _) => {
                Some("out of memory: the kernel's OOM killer has struck in its control group since the start")
            }
            (None, Some(true)) => {
                Some("perhaps out of memory: the kernel's OOM killer has struck on this host since the start")
            }
            (Some(false), _) | (None, Some(false) | None) => None,
        }
    }
}

/// The file with the counter of a group, from what `/proc/PID/cgroup` says: version 1 with a memory controller, else 2.
fn group_file(groups: &str) -> Option<PathBuf> {
    let lines = || {
        groups.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?, fields.next()?))
        })
    };
    let under = |place: &str, path: &str, file: &str| PathBuf::from(format!("{CGROUPS}{place}{path}/{file}"));
    let has_memory = |controllers: &str| controllers.split(',').any(|name| name == "memory");
    if let Some((_, path)) = lines().find(|(controllers, _)| has_memory(controllers)) {
        return Some(under("/memory", path, "memory.oom_control"));
    }
    let (_, path) = lines().find(|(controllers, _)| controllers.is_empty())?;
    Some(under("", path, "memory.events"))
}

/// The number behind the word `oom_kill`.
fn oom_kill(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kills(group: Option<u64>, host: Option<u64>) -> Kills {
        Kills { group, host }
    }

    #[test]
    fn the_group_is_asked_before_the_host() {
        let first_words =
            |before: Kills, now: Kills| before.blame(now).map(|words| words.split(':').next().unwrap());
        let both = kills(Some(1), Some(5));
        assert_eq!(first_words(both, both), None);
        assert_eq!(first_words(both, kills(Some(2), Some(6))), Some("out of memory"));
        // Somebody else's memory ran out.
        assert_eq!(first_words(both, kills(Some(1), Some(6))), None);
        let host = kills(None, Some(5));
        assert_eq!(
            first_words(host, kills(None, Some(6))),
            Some("perhaps out of memory")
        );
        assert_eq!(first_words(host, host), None);
        // A group that was gone when it was looked at again.
        assert_eq!(
            first_words(both, kills(None, Some(6))),
            Some("perhaps out of memory")
        );
        assert_eq!(first_words(kills(None, None), kills(Some(9), Some(9))), None);
    }

    #[test]
    fn both_versions_of_control_groups_are_found() {
        let file = |groups: &str| group_file(groups).map(|path| path.display().to_string());
        let hybrid = "9:name=systemd:/\n4:memory:/a:b\n0::/\n";
        assert_eq!(
            file(hybrid).as_deref(),
            Some("/sys/fs/cgroup/memory/a:b/memory.oom_control")
        );
        let unified = "0::/user.slice/maqet.service\n";
        assert_eq!(
            file(unified).as_deref(),
            Some("/sys/fs/cgroup/user.slice/maqet.service/memory.events")
        );
        assert_eq!(file(""), None);
    }

    #[test]
    fn the_counter_is_the_line_of_that_name() {
        assert_eq!(oom_kill("low 0\noom 3\noom_kill 2\noom_group_kill 1\n"), Some(2));
        assert_eq!(oom_kill("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(oom_kill("oom_kill_disable 1\n"), None);
    }

    #[test]
    fn this_kernel_is_asked_without_trouble() {
        let baseline = Baseline::take();
        assert!(baseline.kills.host.is_some() || !std::path::Path::new("/proc/vmstat").exists());
        let text = serde_json::to_string(&baseline).unwrap();
        assert_eq!(serde_json::from_str::<Baseline>(&text).unwrap(), baseline);
    }
}
