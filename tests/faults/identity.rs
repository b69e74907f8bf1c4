//! Whom nobody can tell: each way in which a process on record is neither surely alive nor surely dead.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use maqet_process::identity::{Abilities, FileId};
use maqet_process::{Liveness, ProcessHandle, ProcessIdentity, Role};
use maqet_tests::namespace::inside_pid_namespace;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Does, Numbered, Running};

use crate::scene::say;

/// Every kernel there may be below us.
const KERNELS: [Abilities; 3] = [Abilities::ALL, Abilities::INODES, Abilities::NONE];

/// Carries a record to the process that is to judge it.
const RECORD: &str = "MAQET_TEST_RECORD";

/// Id of a launch; a test that judges its own forks has it on its command line, where it is the name of the test.
const LAUNCH: &str = "identity::a_fork_that_has_not_become_a_program_yet_is_not_taken_for_its_parent";

fn record_of(handle: &ProcessHandle, launch: &str) -> ProcessIdentity {
    let shown = FileId::of_path(Path::new(&format!("/proc/{}/exe", handle.pid()))).unwrap();
    let own = FileId::of_path(Path::new("/proc/self/exe")).unwrap();
    ProcessIdentity::take(handle, Role::Qemu, launch, 1, vec![own, shown]).unwrap()
}

/// A process that waits, with the launch on its command line.
fn waiting(launch: &str) -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", "read line", launch]);
    Running::start(command)
}

#[track_caller]
fn why(liveness: Liveness) -> String {
    match liveness {
        Liveness::Unknown(why) => why,
        known @ (Liveness::Alive(_) | Liveness::Dead) => panic!("{known:?}"),
    }
}

/// What a test in another world says of the record: `alive`, `dead`, `unknown: …` for each of [`KERNELS`].
fn judge() -> Option<()> {
    let record: ProcessIdentity = serde_json::from_str(&std::env::var(RECORD).ok()?).unwrap();
    for abilities in KERNELS {
        let verdict = match record.verify_with(abilities) {
            Liveness::Alive(_) => "alive".to_owned(),
            Liveness::Dead => "dead".to_owned(),
            Liveness::Unknown(why) => format!("unknown: {why}"),
        };
        std::io::stdout()
            .write_all(format!("verdict: {verdict}\n").as_bytes())
            .unwrap();
    }
    Some(())
}

/// Verdicts of this test, run again behind these words of a shell.
fn judged(test: &str, shell: &str, record: &ProcessIdentity) -> Option<Vec<String>> {
    if !rustix::process::geteuid().is_root() {
        say(&format!("LEFT OUT: {test}: takes root"));
        return None;
    }
    let script = format!("{shell} \"$0\" --exact --nocapture --test-threads=1 {test}");
    // Where everybody may run it.
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("judge");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-e", "-c", &script])
        .arg(&program)
        .env(RECORD, serde_json::to_string(record).unwrap())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}: {stdout}", output.status);
    let verdicts = stdout.lines().filter_map(|line| line.split_once("verdict: "));
    Some(verdicts.map(|(_, verdict)| verdict.to_owned()).collect())
}

#[test]
fn a_leader_that_ended_before_its_threads_is_not_dead() {
    let mut command = Command::new("python3");
    command.args([
        "-c",
        "import ctypes, os, threading\n\
         threading.Thread(target=lambda: (print('thread', flush=True), os.read(0, 1))).start()\n\
         ctypes.CDLL(None).syscall(int(os.environ['SYS_EXIT']), 0)",
        "launch-leader",
    ]);
    command.env("SYS_EXIT", nix::libc::SYS_exit.to_string());
    let mut process = Running::start(command);
    let record = record_of(process.handle(), "launch-leader");
    process.says("thread");
    let stat = format!("/proc/{}/stat", process.handle().pid());
    wait::until("its leader is a zombie", PATIENCE, || {
        let text = std::fs::read_to_string(&stat).unwrap();
        if text.contains(") Z ") { Ok(()) } else { Err(text) }
    });
    for abilities in [Abilities::ALL, Abilities::INODES] {
        let liveness = record.verify_with(abilities);
        assert!(
            matches!(liveness, Liveness::Alive(_)),
            "{abilities:?}: {liveness:?}"
        );
    }
    // Without inodes its image would have to tell, and a zombie shows none.
    let words = why(record.verify_with(Abilities::NONE));
    assert!(words.contains("exe"), "{words}");
    assert!(!record.matches_with(process.handle(), Abilities::NONE));
    process.close_stdin();
    assert!(wait::exited(process.handle(), PATIENCE));
    for abilities in KERNELS {
        assert!(
            matches!(record.verify_with(abilities), Liveness::Dead),
            "{abilities:?}"
        );
    }
}

#[test]
fn a_fork_that_has_not_become_a_program_yet_is_not_taken_for_its_parent() {
    inside_pid_namespace(LAUNCH, || {
        let record = {
            let old = Numbered::start(None, Does::Run("/bin/sleep", &[LAUNCH, "600"])).unwrap();
            record_of(old.handle(), LAUNCH)
        };
        // Image and launch id are ours, and both are on record; so is the start, since the record is adjusted to it.
        let fork = Numbered::start(Some(record.pid), Does::Stay).unwrap();
        let start_ticks = record_of(fork.handle(), LAUNCH).start_ticks;
        let record = ProcessIdentity {
            start_ticks,
            ..record
        };
        let words = why(record.verify_with(Abilities::NONE));
        assert!(words.contains("has not exec'd"), "{words}");
        assert!(!record.matches_with(fork.handle(), Abilities::NONE));
        for abilities in [Abilities::ALL, Abilities::INODES] {
            assert!(
                matches!(record.verify_with(abilities), Liveness::Dead),
                "{abilities:?}"
            );
        }
    });
}

#[test]
fn what_cannot_be_read_of_a_process_proves_nothing() {
    const TEST: &str = "identity::what_cannot_be_read_of_a_process_proves_nothing";
    if judge().is_some() {
        return;
    }
    let process = waiting("launch-unread");
    let record = record_of(process.handle(), "launch-unread");
    // No /proc at all: not even the boot is known.
    let Some(without) = judged(TEST, "mount -t tmpfs none /proc;", &record) else {
        return;
    };
    assert_eq!(without.len(), KERNELS.len(), "{without:?}");
    for verdict in &without {
        assert!(
            verdict.starts_with("unknown: ") && verdict.contains("boot_id"),
            "{verdict}"
        );
    }
    // A /proc that hides other people's processes: the handle and the inode still tell, the number does not.
    let hidden = "mount -t proc -o hidepid=2 proc /proc; exec setpriv --reuid 65534 --clear-groups";
    let verdicts = judged(TEST, hidden, &record).unwrap();
    assert_eq!(&verdicts[..2], ["alive", "alive"], "{verdicts:?}");
    assert!(
        verdicts[2].starts_with("unknown: ") && verdicts[2].contains("/proc/"),
        "{verdicts:?}"
    );
    assert!(!process.handle().has_exited());
}

#[test]
fn a_process_of_another_pid_namespace_is_not_judged() {
    const TEST: &str = "identity::a_process_of_another_pid_namespace_is_not_judged";
    if judge().is_some() {
        return;
    }
    let process = waiting("launch-elsewhere");
    let record = record_of(process.handle(), "launch-elsewhere");
    let inside = "exec unshare --pid --fork --mount-proc --kill-child";
    let Some(verdicts) = judged(TEST, inside, &record) else {
        return;
    };
    assert_eq!(verdicts, ["unknown: it was recorded in another PID namespace"; 3]);
    assert!(!process.handle().has_exited());
}
