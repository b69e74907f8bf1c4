//! Processes of VMs that the store does not know: found by what is on their command lines, told of, never signalled.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use maqet_protocol::rebuild::Stray;
use maqet_state::id::VmId;

use crate::args::Places;

/// Runners and QEMUs whose command lines lead into our directories, to VMs that are not `known`.
pub(crate) fn find(places: &Places, known: &BTreeSet<VmId>) -> Vec<Stray> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut strays: Vec<Stray> = numbers
        .filter(|pid| *pid != own)
        .filter_map(|pid| stray(pid, places))
        .filter(|stray| !known.contains(&stray.vm))
        .collect();
    strays.sort_by_key(|stray| stray.pid);
    strays
}

/// Processes that end meanwhile, or are not ours, cannot be read.
fn stray(pid: i32, places: &Places) -> Option<Stray> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let what = role(&line)?;
    let vm = [&places.runtime, &places.data]
        .into_iter()
        .find_map(|directory| vm_below(&line, &directory.join("vms")))?;
    Some(Stray {
        pid,
        what: what.to_owned(),
        vm,
    })
}

fn role(line: &[u8]) -> Option<&'static str> {
    let has = |word: &str| {
        line.split(|byte| *byte == 0)
            .any(|found| found == word.as_bytes())
    };
    if has("--launch-id") && has("--runtime-dir") {
        Some("runner")
    } else if has("-chardev") && has("-mon") {
        Some("qemu")
    } else {
        None
    }
}

/// The id behind `directory/` on a command line.
fn vm_below(line: &[u8], directory: &Path) -> Option<VmId> {
    let mut wanted = directory.as_os_str().as_bytes().to_vec();
    wanted.push(b'/');
    let at = line.windows(wanted.len()).position(|window| window == wanted)?;
    let from = at + wanted.len();
    let digits = line.get(from..from + VmId::LENGTH)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_what_follows_the_directory() {
        let id = "0123456789abcdef0123456789abcdef";
        let line = format!("qemu\0-chardev\0socket,id=a,logfile=/data/vms/{id}/serial.log\0-mon\0x");
        let found = vm_below(line.as_bytes(), Path::new("/data/vms"));
        assert_eq!(found, Some(id.parse().unwrap()));
        assert_eq!(vm_below(line.as_bytes(), Path::new("/other/vms")), None);
        assert_eq!(vm_below(b"/data/vms/0123", Path::new("/data/vms")), None);
        assert_eq!(role(line.as_bytes()), Some("qemu"));
        let reader = format!("tail\0-f\0/data/vms/{id}/serial.log\0");
        assert_eq!(role(reader.as_bytes()), None);
    }
}
