//! Many VMs: what they cost at rest, and how soon a new supervisor knows all of them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use maqet_process::ProcessHandle;
use maqet_tests::wait;
use serde_json::Value;

use crate::programs::{Programs, kill};

/// Time in which wakeups are counted.
const REST: Duration = Duration::from_secs(10);

/// Times that the supervisor of one crowd is killed.
const DEATHS: usize = 5;

fn running(programs: &Programs) -> Result<Vec<Value>> {
    let listed = programs.json(&["ls", "--status", "running"])?;
    Ok(listed.as_array().context("no list")?.clone())
}

fn pid_of(value: &Value) -> Result<i32> {
    Ok(i32::try_from(value.as_i64().context("no pid")?)?)
}

fn supervisor(programs: &Programs) -> Result<i32> {
    pid_of(&programs.json(&["supervisor", "status"])?["pid"])
}

/// Adds and starts VMs until so many run.
pub(crate) fn grow(programs: &Programs, count: usize) -> Result<()> {
    let have = running(programs)?.len();
    let names: Vec<String> = (have..count).map(|number| format!("crowd-{number:03}")).collect();
    for name in &names {
        programs.add(name)?;
    }
    let words: Vec<&str> = std::iter::once("start")
        .chain(names.iter().map(String::as_str))
        .collect();
    programs.maqet(&words)?;
    ensure!(running(programs)?.len() == count, "not all of {count} VMs run");
    Ok(())
}

/// One line about a crowd of this size.
pub(crate) fn row(programs: &Programs, count: usize) -> Result<String> {
    let before = running(programs)?;
    let mut took = Vec::new();
    for _ in 0..DEATHS {
        kill(supervisor(programs)?)?;
        let begun = Instant::now();
        let after = running(programs)?;
        took.push(begun.elapsed());
        let pids = |vms: &[Value]| vms.iter().map(|vm| vm["pid"].clone()).collect::<Vec<_>>();
        ensure!(pids(&after) == pids(&before), "the first answer was wrong");
    }
    took.sort_unstable();
    let pid = supervisor(programs)?;
    let pss = pss_kib(pid)?;
    let wakeups = wakeups(pid, &before)?;
    let (median, worst) = (took[DEATHS / 2], took[DEATHS - 1]);
    Ok(format!(
        "{count:>4} VMs: killed supervisor to the next one's first answer, right: median {median:.1?}, worst {worst:.1?} of {DEATHS}; \
         supervisor {pss} KiB PSS; {wakeups} wakeups of supervisor and all runners in {REST:?}"
    ))
}

/// Proportional share of memory, KiB.
fn pss_kib(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .context("no Pss")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// How often they had something to do while nobody wanted anything.
fn wakeups(supervisor: i32, vms: &[Value]) -> Result<u64> {
    let mut pids = vec![supervisor];
    for vm in vms {
        pids.push(pid_of(&vm["runner_pid"])?);
    }
    let process = ProcessHandle::open(supervisor)?.context("no supervisor")?;
    // What the last question left to do.
    ensure!(
        !wait::exited(&process, Duration::from_secs(2)),
        "the supervisor ended"
    );
    let before = switches(&pids)?;
    ensure!(!wait::exited(&process, REST), "the supervisor ended");
    Ok(switches(&pids)?.saturating_sub(before))
}

/// Voluntary context switches so far, of all threads.
fn switches(pids: &[i32]) -> Result<u64> {
    let mut sum = 0_u64;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = fs::read_to_string(task?.path().join("status"))?;
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            sum = sum.saturating_add(count.context("no count of switches")?.trim().parse()?);
        }
    }
    Ok(sum)
}
