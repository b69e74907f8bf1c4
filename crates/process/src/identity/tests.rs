//! Identities of real processes, with and without what newer kernels offer.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use super::{Abilities, FileId, Liveness, ProcessIdentity, Role};
use crate::pidfd::{ExitStatus, ProcessHandle};
use crate::signal::{Sent, Signal};
use crate::spawn::Spawn;

/// Every way verification can go: by file handle, by inode, by witnesses only.
const OFFERS: [Abilities; 3] = [Abilities::ALL, Abilities::INODES, Abilities::NONE];

const WITNESSES: Abilities = Abilities::NONE;

/// A process that lives until it is told to end, or until the test does.
struct Waiting {
    handle: ProcessHandle,
    leash: OwnedFd,
}

impl Waiting {
    fn start(launch_id: &str) -> Self {
        let (read, leash) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut spawn = Spawn::new("/bin/sh");
        spawn.args = ["-c", "read line <&3; exit 0", launch_id]
            .map(OsString::from)
            .to_vec();
        spawn.fds = vec![(read, 3)];
        let handle = spawn.spawn().unwrap().handle;
        Self { handle, leash }
    }

    fn identity(&self, launch_id: &str) -> ProcessIdentity {
        let shell = FileId::of_path("/bin/sh".as_ref()).unwrap();
        ProcessIdentity::take(&self.handle, Role::Helper, launch_id, 1, vec![shell]).unwrap()
    }

    /// Ends it and waits until it is a zombie.
    fn end(self) -> ProcessHandle {
        drop(self.leash);
        wait_for_exit(&self.handle);
        self.handle
    }
}

fn wait_for_exit(handle: &ProcessHandle) {
    let mut fds = [rustix::event::PollFd::new(handle, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    assert_eq!(
        rustix::event::poll(&mut fds, Some(&limit)),
        Ok(1),
        "the process did not end"
    );
}

fn is_alive(identity: &ProcessIdentity, offer: Abilities) -> bool {
    match identity.verify_with(offer) {
        Liveness::Alive(handle) => {
            assert_eq!(handle.pid(), identity.pid);
            true
        }
        Liveness::Dead => false,
        Liveness::Unknown(reason) => panic!("unknown with {offer:?}: {reason}"),
    }
}

#[test]
fn a_living_process_is_found_again() {
    let process = Waiting::start("launch-a");
    let identity = process.identity("launch-a");
    for offer in OFFERS {
        assert!(is_alive(&identity, offer), "{offer:?}");
        assert!(identity.matches_with(&process.handle, offer), "{offer:?}");
    }
    assert!(matches!(identity.verify(), Liveness::Alive(_)));
    assert!(identity.matches_handle(&process.handle));
}

#[test]
fn an_ended_process_is_dead_before_and_after_it_is_reaped() {
    let process = Waiting::start("launch-b");
    let identity = process.identity("launch-b");
    let handle = process.end();
    for offer in OFFERS {
        assert!(!is_alive(&identity, offer), "zombie, {offer:?}");
    }
    assert_eq!(handle.exit_status(), Some(ExitStatus::Code(0)));
    for offer in OFFERS {
        assert!(!is_alive(&identity, offer), "reaped, {offer:?}");
        assert!(!identity.matches_with(&handle, WITNESSES));
    }
}

#[test]
fn taking_the_identity_of_a_reaped_process_fails() {
    let handle = Waiting::start("launch-c").end();
    assert!(handle.exit_status().is_some());
    let taken = ProcessIdentity::take(&handle, Role::Runner, "launch-c", 1, Vec::new());
    assert!(
        matches!(taken, Err(crate::ProcessError::Gone { .. })),
        "{taken:?}"
    );
}

#[test]
fn a_number_that_belongs_to_another_process_now_is_not_mistaken() {
    let process = Waiting::start("launch-d");
    let identity = process.identity("launch-d");
    let other = Waiting::start("launch-e");
    let forged = ProcessIdentity {
        pid: other.handle.pid(),
        ..identity.clone()
    };
    // The handle still leads to the living original, under another number: somebody edited the record.
    let liveness = forged.verify_with(Abilities::ALL);
    assert!(
        matches!(&liveness, Liveness::Unknown(reason) if reason.contains("contradicts itself")),
        "{liveness:?}"
    );
    assert!(!is_alive(&forged, OFFERS[1]));
    assert!(!forged.matches_handle(&other.handle));
    process.end().exit_status();
    assert!(!is_alive(&forged, Abilities::ALL));
    assert!(!is_alive(&forged, OFFERS[1]));
    assert!(!other.handle.has_exited());
}

#[test]
fn witnesses_tell_processes_apart() {
    let process = Waiting::start("launch-f");
    let identity = process.identity("launch-f");
    let later = ProcessIdentity {
        start_ticks: identity.start_ticks + 1,
        ..identity.clone()
    };
    assert!(!is_alive(&later, WITNESSES));
    let stranger = ProcessIdentity {
        launch_id: "launch-g".to_owned(),
        executables: Vec::new(),
        ..identity.clone()
    };
    assert!(!is_alive(&stranger, WITNESSES));
    let half = ProcessIdentity {
        launch_id: "launch-g".to_owned(),
        ..identity.clone()
    };
    assert!(matches!(half.verify_with(WITNESSES), Liveness::Unknown(_)));
    assert!(!half.matches_with(&process.handle, WITNESSES));
    // With inodes the witnesses do not matter.
    assert!(is_alive(&half, Abilities::ALL));
}

#[test]
fn another_boot_is_dead_and_another_pid_namespace_unknown() {
    let process = Waiting::start("launch-h");
    let identity = process.identity("launch-h");
    let other_boot = ProcessIdentity {
        boot_id: "00000000-0000-0000-0000-000000000000".to_owned(),
        ..identity.clone()
    };
    let other_space = ProcessIdentity {
        pidns_inode: identity.pidns_inode + 1,
        ..identity
    };
    for offer in OFFERS {
        assert!(!is_alive(&other_boot, offer));
        assert!(!other_boot.matches_with(&process.handle, offer));
        assert!(matches!(other_space.verify_with(offer), Liveness::Unknown(_)));
    }
}

#[test]
fn a_damaged_handle_falls_back_to_the_number() {
    let process = Waiting::start("launch-i");
    let mut identity = process.identity("launch-i");
    for bytes in ["zz", "abc", "", "é!"] {
        let Some(handle) = identity.pidfs_handle.as_mut() else {
            return;
        };
        bytes.clone_into(&mut handle.bytes);
        assert!(is_alive(&identity, Abilities::ALL), "{bytes}");
    }
}

#[test]
fn an_exec_changes_neither_number_nor_inode() {
    let (read, leash) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut spawn = Spawn::new("/bin/sh");
    spawn.args = ["-c", "exec cat <&3", "launch-j"].map(OsString::from).to_vec();
    spawn.fds = vec![(read, 3)];
    let handle = spawn.spawn().unwrap().handle;
    let identity = ProcessIdentity::take(&handle, Role::Qemu, "launch-j", 1, Vec::new()).unwrap();
    // It may or may not have exec'd by now; the answer is the same.
    assert!(is_alive(&identity, Abilities::ALL));
    assert!(is_alive(&identity, OFFERS[1]));
    drop(leash);
    wait_for_exit(&handle);
    assert_eq!(handle.exit_status(), Some(ExitStatus::Code(0)));
}

const IN_NAMESPACE: &str = "MAQET_TEST_IN_PID_NAMESPACE";

/// Makes the kernel hand out the number of a dead process again, which takes a PID namespace of one's own.
#[test]
fn a_reused_number_never_leads_to_the_innocent() {
    if std::env::var_os(IN_NAMESPACE).is_some() {
        return reuse_numbers();
    }
    let unshare = |program: &std::path::Path| {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--pid", "--fork", "--mount-proc", "--"])
            .arg(program);
        command
    };
    let allowed = unshare("/bin/true".as_ref()).stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("not tested here: a PID namespace of our own is not allowed");
        return;
    }
    let output = unshare(&std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg("identity::tests::a_reused_number_never_leads_to_the_innocent")
        .env(IN_NAMESPACE, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

fn reuse_numbers() {
    for _ in 0..50 {
        let process = Waiting::start("launch-k");
        let identity = process.identity("launch-k");
        let old = process.end();
        assert_eq!(old.exit_status(), Some(ExitStatus::Code(0)));
        std::fs::write("/proc/sys/kernel/ns_last_pid", (identity.pid - 1).to_string()).unwrap();
        let innocent = Waiting::start("launch-l");
        assert_eq!(innocent.handle.pid(), identity.pid);
        assert_not_mistaken(&identity);
        assert_eq!(old.signal(Signal::Kill).unwrap(), Sent::AlreadyGone);
        assert!(!innocent.handle.has_exited());
        assert!(innocent.end().exit_status().is_some());
    }
}

fn assert_not_mistaken(identity: &ProcessIdentity) {
    assert!(!is_alive(identity, OFFERS[0]));
    assert!(!is_alive(identity, OFFERS[1]));
    // Started in the same clock tick it is "unknown", otherwise "dead"; never "alive".
    assert!(!matches!(identity.verify_with(WITNESSES), Liveness::Alive(_)));
}
