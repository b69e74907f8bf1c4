//! Directories shared by virtiofs: what a guest does there, and what becomes of who serves them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use maqet_process::{ProcessHandle, Sent, Signal};
use maqet_tests::{Guest, Sandbox, wait};

use crate::doctor::{check, doctor};
use crate::facts::{kinds, nothing_runs, one, qemu, runner, status, until_nothing_runs};
use crate::linux;
use crate::shares::{WALK, said, shared};

/// A guest with a share by virtiofs that never asks for it: the device is there and shook hands with its virtiofsd.
fn tiny(sandbox: &Sandbox) -> Guest {
    fs::create_dir(sandbox.home().join("src")).unwrap();
    Guest::tiny("web").line("shares: {src: {path: ./src, type: virtiofs}}")
}

/// The virtiofsd of a running VM.
fn virtiofsd(sandbox: &Sandbox, vm: &str) -> ProcessHandle {
    let pid = sandbox.status(vm)["shares"][0]["pid"].as_i64().unwrap();
    ProcessHandle::open(pid.try_into().unwrap()).unwrap().unwrap()
}

fn supervisor(sandbox: &Sandbox) -> ProcessHandle {
    let pid = sandbox.json(&["supervisor", "status"])["pid"].as_i64().unwrap();
    ProcessHandle::open(pid.try_into().unwrap()).unwrap().unwrap()
}

fn kill(process: &ProcessHandle) {
    assert_eq!(process.signal(Signal::Kill).unwrap(), Sent::Delivered);
}

fn end(process: &ProcessHandle) {
    kill(process);
    assert!(wait::exited(process, wait::PATIENCE));
}

fn freeze(process: &ProcessHandle) {
    assert_eq!(process.signal(Signal::Stop).unwrap(), Sent::Delivered);
}

/// Waits until `status` tells that the share is lost, and how.
fn until_lost(sandbox: &Sandbox) -> String {
    wait::until("the share is lost", wait::PATIENCE, || {
        let share = sandbox.status("web")["shares"][0].clone();
        let detail = share["lost"]["detail"].as_str().map(ToOwned::to_owned);
        detail.ok_or(share)
    })
}

/// Waits until it is in the journal, which is written a moment after.
fn until_told(sandbox: &Sandbox) {
    wait::until("the journal tells of it", wait::PATIENCE, || {
        let told = kinds(sandbox, "web");
        let lost = told.iter().any(|kind| kind == "vm.share-lost");
        if lost { Ok(()) } else { Err(told) }
    });
}

fn until_gone(process: &ProcessHandle) {
    assert!(wait::exited(process, wait::PATIENCE), "virtiofsd is still there");
}

#[test]
fn a_guest_reads_and_writes_and_stays_inside() {
    let sandbox = Sandbox::new();
    let directory = shared(
        &sandbox,
        &[
            WALK,
            "mknod null c 1 3 2>/dev/null || echo share: made no device\n\
         chown 12:34 deep/moved 2>/dev/null && echo share: owned $(stat -c %u:%g deep/moved)\n",
        ]
        .concat(),
    );
    let shares = "shares: {src: {path: ./src, tag: code, type: virtiofs}}\n";
    linux::start(&sandbox, "linux", "maqet.virtiofs=code", shares);
    let said = said(&sandbox);
    let mut expected = vec!["from the host", "wrote", "linked /etc/passwd", "made no device"];
    // An ordinary user's virtiofsd is root over that user's files, and gives none away.
    let is_root = rustix::process::geteuid().is_root();
    expected.extend(is_root.then_some("owned 12:34"));
    assert_eq!(said, expected);
    let moved = directory.join("deep/moved");
    assert_eq!(fs::read(&moved).unwrap(), b"from the guest\n");
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(
        fs::metadata(&moved).unwrap().uid(),
        if is_root { 12 } else { own }
    );
    assert!(!directory.join("hello").exists() && !directory.join("null").exists());
    // The link is one on the host as well: whoever follows it there does so at their own risk.
    assert_eq!(
        fs::read_link(directory.join("made")).unwrap(),
        Path::new("/etc/passwd")
    );
    let serving = virtiofsd(&sandbox, "linux");
    let stopped = sandbox.json(&["stop", "linux"]);
    assert_eq!(one(&stopped)["how"], "guest", "{stopped}");
    until_gone(&serving);
    nothing_runs(&sandbox);
    let events = kinds(&sandbox, "linux");
    assert!(!events.contains(&"vm.share-lost".to_owned()), "{events:?}");
}

#[test]
fn of_a_read_only_share_nothing_can_be_changed() {
    let sandbox = Sandbox::new();
    let directory = shared(
        &sandbox,
        "cd /share\n\
         echo share: $(cat hello)\n\
         try() { \"$@\" 2>/dev/null && echo share: DID \"$@\"; }\n\
         try touch hello; try chmod 777 hello; try chown 1:1 hello; try rm hello; try mkdir deep; try mv hello other\n\
         try ln hello hard; try ln -s hello soft; try truncate -s 0 hello; try mknod pipe p\n\
         echo x 2>/dev/null >file && echo share: DID make a file\n\
         echo x 2>/dev/null >>hello && echo share: DID write\n\
         echo share: tried\n",
    );
    let before = fs::metadata(directory.join("hello")).unwrap();
    let shares = "shares: {src: {path: ./src, readonly: true, type: virtiofs}}\n";
    linux::start(&sandbox, "linux", "maqet.virtiofs=src", shares);
    assert_eq!(said(&sandbox), ["from the host", "tried"]);
    let after = fs::metadata(directory.join("hello")).unwrap();
    assert_eq!(
        (before.mode(), before.uid(), before.len(), before.mtime()),
        (after.mode(), after.uid(), after.len(), after.mtime())
    );
    assert_eq!(fs::read_dir(directory).unwrap().count(), 5);
}

/// Whatever it does, it does not leave its share: this is what one that a guest has taken over could do.
#[test]
fn virtiofsd_is_confined_to_its_share() {
    let sandbox = Sandbox::new();
    let id = tiny(&sandbox).start(&sandbox);
    let process = virtiofsd(&sandbox, "web");
    let place = PathBuf::from(format!("/proc/{}", process.pid()));
    let status = fs::read_to_string(place.join("status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    // Its root is the share: what is open of files is below it, is its log, or leads nowhere.
    let open = fs::read_dir(place.join("fd"));
    let open = open.map(|open| open.map(|fd| fs::read_link(fd.unwrap().path()).unwrap()));
    let log = sandbox.data_dir();
    for path in open.into_iter().flatten() {
        let harmless = ["/dev/null", "/proc", "/sys", "/"]
            .iter()
            .any(|known| path == Path::new(known) || *known == "/proc" && path.starts_with(known));
        let shown = path.display().to_string();
        let nameless =
            shown.starts_with("socket:") || shown.starts_with("anon_inode:") || shown.starts_with("pipe:");
        assert!(harmless || nameless || path.starts_with(&log), "{shown}");
    }
    let line = fs::read_to_string(place.join("cmdline")).unwrap();
    assert!(!line.contains(&*sandbox.home().to_string_lossy()), "{line}");
    // Nobody else can connect to it: its socket has no name any more.
    let runtime = sandbox.runtime_dir().join("vms").join(&id);
    assert!(runtime.join("qmp0.sock").exists() && !runtime.join("virtiofsd.sock").exists());
}

#[test]
fn the_end_of_virtiofsd_is_told_and_the_guest_goes_on() {
    let sandbox = Sandbox::new();
    tiny(&sandbox).start(&sandbox);
    kill(&virtiofsd(&sandbox, "web"));
    let detail = until_lost(&sandbox);
    assert!(detail.contains("virtiofsd ended with signal 9"), "{detail}");
    assert_eq!(status(&sandbox, "web"), "running");
    assert!(sandbox.status("web")["shares"][0]["pid"].is_null());
    let shown = sandbox.maqet(&["status", "web"]).expect(0).stdout;
    assert!(
        shown.contains("lost, and the guest waits for it for ever"),
        "{shown}"
    );
    until_told(&sandbox);
    let why = sandbox.maqet(&["why", "web"]).expect(0).stdout;
    assert!(why.contains("share `src` was lost"), "{why}");
    let next = "next: maqet logs web --virtiofsd, then maqet restart web";
    assert!(why.contains(next), "{why}");
    // Told once, and known to whoever comes later.
    end(&supervisor(&sandbox));
    until_lost(&sandbox);
    end(&runner(&sandbox, "web"));
    end(&supervisor(&sandbox));
    until_lost(&sandbox);
    let events = kinds(&sandbox, "web");
    assert_eq!(
        events.iter().filter(|kind| *kind == "vm.share-lost").count(),
        1,
        "{events:?}"
    );
    sandbox.maqet(&["kill", "web"]).expect(0);
    nothing_runs(&sandbox);
    sandbox.maqet(&["start", "web"]).expect(0);
    assert!(sandbox.status("web")["shares"][0]["lost"].is_null());
}

#[test]
fn a_restart_mends_a_lost_share() {
    let sandbox = Sandbox::new();
    tiny(&sandbox).start(&sandbox);
    let lost = virtiofsd(&sandbox, "web");
    kill(&lost);
    until_lost(&sandbox);
    until_told(&sandbox);
    sandbox.maqet(&["restart", "web"]).expect(0);
    assert_eq!(status(&sandbox, "web"), "running");
    assert!(sandbox.status("web")["shares"][0]["lost"].is_null());
    assert_ne!(virtiofsd(&sandbox, "web").pid(), lost.pid());
    let why = sandbox.maqet(&["why", "web"]).expect(0).stdout;
    assert!(!why.contains("virtiofsd"), "{why}");
}

#[test]
fn virtiofsd_outlives_runner_and_supervisor_and_is_watched_again() {
    let sandbox = Sandbox::new();
    tiny(&sandbox).start(&sandbox);
    let serving = virtiofsd(&sandbox, "web");
    let old = runner(&sandbox, "web");
    kill(&supervisor(&sandbox));
    kill(&old);
    // Its number is known before it watches: what ends between is told as having ended while no runner was there.
    wait::until("another runner watches", wait::PATIENCE, || {
        let kinds = kinds(&sandbox, "web");
        let adopted = kinds.iter().any(|kind| kind == "runner.adopted");
        if adopted { Ok(()) } else { Err(kinds) }
    });
    assert_eq!(virtiofsd(&sandbox, "web").pid(), serving.pid());
    let leaks = sandbox.json(&["doctor", "--leaks"]);
    assert_eq!(leaks["leaks"].as_array().map(Vec::len), Some(0), "{leaks}");
    kill(&serving);
    let detail = until_lost(&sandbox);
    assert!(detail.contains("virtiofsd ended"), "{detail}");
    until_told(&sandbox);
}

/// One that is frozen does not see its connection closed: it is ended, by whoever is left.
#[test]
fn nothing_of_it_is_left_when_qemu_is_killed() {
    for (frozen, others) in [(false, false), (false, true), (true, false), (true, true)] {
        let sandbox = Sandbox::new();
        tiny(&sandbox).start(&sandbox);
        let serving = virtiofsd(&sandbox, "web");
        let (running, watching) = (qemu(&sandbox, "web"), runner(&sandbox, "web"));
        if frozen {
            freeze(&serving);
        }
        if others {
            kill(&supervisor(&sandbox));
            kill(&watching);
        }
        kill(&running);
        wait::until("its end is told", wait::PATIENCE, || {
            let status = status(&sandbox, "web");
            if status == "failed" { Ok(()) } else { Err(status) }
        });
        until_gone(&serving);
        until_nothing_runs(&sandbox);
        sandbox.maqet(&["start", "web"]).expect(0);
    }
}

#[test]
fn what_it_writes_is_followed() {
    let sandbox = Sandbox::new();
    let place = sandbox.home().join("virtiofsd");
    fs::write(&place, "#!/bin/sh\necho no such luck >&2\nexit 3\n").unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(
        sandbox.config(),
        format!("storage: {{virtiofsd: {}}}\n", place.display()),
    )
    .unwrap();
    tiny(&sandbox).add(&sandbox);
    assert_eq!(
        sandbox.maqet(&["logs", "web", "--virtiofsd"]).expect(0).stdout,
        ""
    );
    let follower = sandbox.spawn(&["logs", "web", "--virtiofsd", "--follow"]);
    for times in 1..=2 {
        sandbox.maqet(&["start", "web"]).expect(1);
        follower.says(&"no such luck\n".repeat(times));
    }
}

#[test]
fn doctor_looks_at_the_one_that_a_start_would_take() {
    let sandbox = Sandbox::new();
    let place = sandbox.home().join("virtiofsd");
    let config = format!("storage: {{virtiofsd: {}}}\n", place.display());
    fs::write(sandbox.config(), config).unwrap();
    let found = || check(&doctor(&sandbox, &[]).json(), "virtiofsd").clone();
    // Nobody needs it yet.
    let missing = found();
    assert_eq!(missing["outcome"], "warn", "{missing}");
    assert_eq!(missing["where"], place.to_str().unwrap());
    assert!(
        missing["hint"].as_str().unwrap().contains("storage.virtiofsd"),
        "{missing}"
    );
    fs::write(&place, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(found()["outcome"], "ok");
    tiny(&sandbox).add(&sandbox);
    fs::remove_file(&place).unwrap();
    let needed = found();
    assert_eq!(needed["outcome"], "fail", "{needed}");
    assert!(
        needed["what"].as_str().unwrap().ends_with("cannot start: web"),
        "{needed}"
    );
}

#[test]
fn without_virtiofsd_the_way_out_is_told_before_anything_is_made() {
    let sandbox = Sandbox::new();
    let absent = sandbox.home().join("virtiofsd");
    let config = format!("storage: {{virtiofsd: {}}}\n", absent.display());
    fs::write(sandbox.config(), config).unwrap();
    let yaml = tiny(&sandbox).yaml(&sandbox);
    let file = sandbox.write_vm("web", &yaml);
    let add = ["add", file.to_str().unwrap()];
    let refused = sandbox.maqet(&add);
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("share `src` needs virtiofsd"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("type: 9p"), "{}", refused.stderr);
    // One that goes away after the VM was added.
    fs::write(&absent, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&absent, fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.maqet(&add).expect(0);
    fs::remove_file(&absent).unwrap();
    let refused = sandbox.maqet(&["start", "web"]);
    assert!(
        refused.stderr.contains("share `src` needs virtiofsd"),
        "{}",
        refused.stderr
    );
    // One that ends at once: QEMU is not left waiting.
    fs::write(&absent, "#!/bin/sh\necho no such luck >&2\nexit 3\n").unwrap();
    fs::set_permissions(&absent, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = sandbox.maqet(&["start", "web"]).stderr;
    assert!(
        refused.contains("virtiofsd ended with exit code 3: no such luck"),
        "{refused}"
    );
    assert!(refused.contains("hint: maqet logs web --virtiofsd"), "{refused}");
    let said = sandbox.maqet(&["logs", "web", "--virtiofsd"]).expect(0).stdout;
    assert_eq!(said, "no such luck\n");
    until_nothing_runs(&sandbox);
}

/// Whoever is in the place of virtiofsd, taken over by a guest or not, has the share and nothing else of the user's.
#[test]
fn what_serves_a_share_touches_nothing_beside_it() {
    let sandbox = Sandbox::new();
    let place = sandbox.home().join("virtiofsd");
    let beside = sandbox.home().join("beside");
    fs::write(&beside, "secret").unwrap();
    let attempts = format!(
        "#!/bin/sh\nexec 2>/dev/null\ntry() {{ sh -c \"$1\" && echo \"could $1\"; }}\n\
         try 'echo x >/sys/made'; try 'mkdir /sys/deep'; try 'read x </sys/made'\n\
         try 'read x <{beside}'; try 'echo x >{beside}'; try 'read x </etc/passwd'; try 'read x <{data}/control.key'\n\
         try 'echo x >{beside}.new'; try 'mknod /sys/null c 1 3'; try 'ls /sys/kernel >/dev/null'\n\
         try \"kill -0 $PPID\"; try 'mount -t tmpfs none /mnt'\necho over\nexit 3\n",
        beside = beside.display(),
        data = sandbox.data_dir().display(),
    );
    fs::write(&place, attempts).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!("storage: {{virtiofsd: {}}}\n", place.display());
    fs::write(sandbox.config(), config).unwrap();
    let id = tiny(&sandbox).add(&sandbox);
    sandbox.maqet(&["start", "web"]).expect(1);
    let log = sandbox.data_dir().join("vms").join(id).join("virtiofsd.log");
    let said = fs::read_to_string(log).unwrap();
    let done: Vec<&str> = said.lines().collect();
    let inside = [
        "could echo x >/sys/made",
        "could mkdir /sys/deep",
        "could read x </sys/made",
    ];
    let (could, last) = done.split_at(inside.len().min(done.len()));
    assert_eq!(could, inside, "{said}");
    let abi = maqet_process::confine::Level::of_this_kernel().abi();
    // Signals can be kept from others since ABI 6.
    let confined = last
        .iter()
        .all(|line| *line == "over" || abi < Some(6) && line.starts_with("could kill -0"));
    assert!(confined || abi.is_none(), "{said}");
    assert!(sandbox.home().join("src/made").exists());
    assert_eq!(fs::read_to_string(beside).unwrap(), "secret");
}

#[test]
fn memory_is_not_kept_with_such_a_share() {
    let sandbox = Sandbox::new();
    let disk = "disks: {root: {path: ./root.qcow2, size: 1M, interface: ide}}";
    tiny(&sandbox).line(disk).start(&sandbox);
    let refused = sandbox
        .maqet(&["snapshot", "create", "web", "one", "--memory"])
        .expect(3);
    assert!(refused.stderr.contains("share by virtiofs"), "{}", refused.stderr);
    sandbox.maqet(&["snapshot", "create", "web", "one"]).expect(0);
    let refused = sandbox
        .maqet(&["snapshot", "load", "web", "one", "--memory"])
        .expect(3);
    assert!(refused.stderr.contains("share by virtiofs"), "{}", refused.stderr);
    sandbox.maqet(&["kill", "web"]).expect(0);
    sandbox.maqet(&["snapshot", "load", "web", "one"]).expect(0);
}
