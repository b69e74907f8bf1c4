//! `doctor` and `cleanup`: what is wrong is told, what works is shown, and nothing is left of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use maqet_process::{ProcessHandle, Signal};
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Output, Sandbox};
use serde_json::Value;

/// The check of that name in an answer of `doctor -o json`.
#[track_caller]
pub(crate) fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["check"] == name);
    found.unwrap_or_else(|| panic!("no check is named `{name}`: {report}"))
}

pub(crate) fn doctor(sandbox: &Sandbox, words: &[&str]) -> Output {
    let words: Vec<&str> = ["doctor", "-o", "json"].iter().chain(words).copied().collect();
    sandbox.maqet(&words)
}

#[test]
fn a_healthy_installation_has_no_failed_check() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let report = doctor(&sandbox, &[]).expect(0).json();
    for name in [
        "qemu",
        "tcg",
        "kvm",
        "qemu-img",
        "virtiofsd",
        "pidfs-inode",
        "landlock",
        "open-files",
        "data-dir",
        "data-space",
    ] {
        let check = check(&report, name);
        assert!(check["outcome"] == "ok" || check["outcome"] == "warn", "{check}");
    }
    for name in ["supervisor", "store", "vms", "leftovers", "control-key"] {
        assert_eq!(check(&report, name)["outcome"], "ok", "{report}");
    }
    assert_eq!(report["summary"]["fail"], 0, "{report}");
    let text = sandbox.maqet(&["doctor"]).expect(0).stdout;
    assert!(
        text.contains("QEMU emulator version") && text.contains(" 0 failed"),
        "{text}"
    );
}

#[test]
fn without_a_supervisor_it_says_so_and_checks_the_rest() {
    let sandbox = Sandbox::new();
    let output = doctor(&sandbox, &["--no-autostart"]).expect(1);
    assert_eq!(output.error()["message"], "one check failed");
    let report = output.json();
    let supervisor = check(&report, "supervisor");
    assert_eq!(supervisor["outcome"], "fail", "{supervisor}");
    assert!(
        supervisor["what"]
            .as_str()
            .unwrap()
            .contains("no supervisor listens"),
        "{supervisor}"
    );
    assert_eq!(check(&report, "tcg")["outcome"], "ok");
    assert!(!sandbox.data_dir().exists(), "looking makes nothing");
    sandbox.maqet(&["doctor", "--leaks", "--no-autostart"]).expect(6);
}

#[test]
fn a_directory_that_others_may_enter_is_a_failure_with_its_cure() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.data_dir()).unwrap();
    let mode = |mode| fs::set_permissions(sandbox.data_dir(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o755);
    let report = doctor(&sandbox, &[]).expect(1).json();
    let directory = check(&report, "data-dir");
    assert_eq!(directory["outcome"], "fail", "{directory}");
    assert_eq!(
        directory["hint"],
        format!("chmod go= {}", sandbox.data_dir().display())
    );
    mode(0o700);
    assert_eq!(
        check(&doctor(&sandbox, &[]).expect(0).json(), "data-dir")["outcome"],
        "ok"
    );
}

#[test]
fn a_failed_vm_is_a_warning_with_the_way_to_its_reason() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let pid = i32::try_from(sandbox.status("web")["pid"].as_i64().unwrap()).unwrap();
    let qemu = ProcessHandle::open(pid).unwrap().unwrap();
    qemu.signal(Signal::Kill).map(drop).unwrap();
    wait::until("the VM has failed", PATIENCE, || {
        let status = sandbox.status("web");
        if status["status"] == "failed" {
            Ok(())
        } else {
            Err(status)
        }
    });
    let report = doctor(&sandbox, &[]).expect(0).json();
    let failed = check(&report, "vm-failed");
    assert_eq!(
        (&failed["where"], &failed["hint"]),
        (&"web".into(), &"maqet why web".into()),
        "{failed}"
    );
    let what = "failed: QEMU was killed, and not by maqet (signal 9, SIGKILL)";
    assert_eq!(failed["what"], what);
}

/// Names of all VMs.
fn names(sandbox: &Sandbox) -> Vec<String> {
    let list = sandbox.json(&["ls"]);
    let names = list
        .as_array()
        .unwrap()
        .iter()
        .map(|vm| vm["name"].as_str().unwrap().to_owned());
    names.collect()
}

#[test]
fn a_boot_tells_what_works_and_how_fast_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let boots = sandbox.json(&["doctor", "--boot"]);
    let [tcg, kvm] = boots.as_array().unwrap().as_slice() else {
        panic!("{boots}");
    };
    assert_eq!(
        (&tcg["accel"], &tcg["works"], &tcg["how"]),
        (&"tcg".into(), &true.into(), &"guest".into()),
        "{tcg}"
    );
    for time in ["running_ms", "first_word_ms", "stopped_ms"] {
        assert!(tcg[time].is_u64(), "{tcg}");
    }
    assert!(
        tcg["first_word_ms"].as_u64() >= tcg["running_ms"].as_u64(),
        "{tcg}"
    );
    assert_eq!(kvm["accel"], "kvm");
    let reasons = kvm["why"].as_array().unwrap();
    assert_eq!(kvm["works"] == true, reasons.is_empty(), "{kvm}");
    // Both have run the same test guest, so they agree.
    let report = doctor(&sandbox, &[]).expect(0).json();
    assert_eq!(
        check(&report, "kvm")["outcome"] == "ok",
        kvm["works"] == true,
        "{report}"
    );
    assert!(names(&sandbox).is_empty());
    sandbox.maqet(&["doctor", "--leaks"]).expect(0);
}

#[test]
fn a_boot_that_was_killed_is_found_and_cleaned_up() {
    let sandbox = Sandbox::new();
    sandbox.maqet(&["ls"]).expect(0);
    for _attempt in 0..10 {
        let boot = sandbox.spawn(&["doctor", "--boot"]);
        wait::until("a VM of the boot", PATIENCE, || {
            let found = names(&sandbox);
            if !found.is_empty() || boot.handle().has_exited() {
                Ok(())
            } else {
                Err(found)
            }
        });
        boot.signal(Signal::Kill);
        boot.output();
        if !names(&sandbox).is_empty() {
            break;
        }
    }
    let left = names(&sandbox);
    assert!(
        !left.is_empty() && left.iter().all(|name| name.starts_with("maqet-boot-")),
        "{left:?}"
    );
    let report = doctor(&sandbox, &[]).expect(0).json();
    assert_eq!(check(&report, "vm-forsaken")["hint"], "maqet cleanup");

    let listed = sandbox.json(&["cleanup", "--dry-run"]);
    assert_eq!(listed["vms"], Value::from(left.clone()), "{listed}");
    let refused = sandbox.maqet(&["cleanup"]).expect(2);
    assert!(
        refused.stderr.contains("there is no terminal to ask on"),
        "{}",
        refused.stderr
    );
    assert_eq!(names(&sandbox), left);
    sandbox.maqet(&["cleanup", "--force"]).expect(0);
    assert!(names(&sandbox).is_empty());
    let nothing = sandbox.maqet(&["cleanup"]).expect(0);
    assert_eq!(nothing.stderr, "nothing to clean up\n");
}

#[test]
fn an_interrupted_boot_takes_its_vms_away() {
    let sandbox = Sandbox::new();
    sandbox.maqet(&["ls"]).expect(0);
    let boot = sandbox.spawn(&["doctor", "--boot"]);
    wait::until("a VM of the boot", PATIENCE, || {
        let found = names(&sandbox);
        if !found.is_empty() || boot.handle().has_exited() {
            Ok(())
        } else {
            Err(found)
        }
    });
    boot.signal(Signal::Int);
    let output = boot.output();
    assert!(output.code == 1 || output.code == 0, "{output:#?}");
    assert!(names(&sandbox).is_empty());
}

#[test]
fn logs_of_a_vm_that_is_not_stored_go_only_when_asked_for() {
    let sandbox = Sandbox::new();
    sandbox.maqet(&["ls"]).expect(0);
    let [logs, described, other] =
        ["1", "2", "3"].map(|digit| sandbox.data_dir().join("vms").join(digit.repeat(32)));
    for (directory, file) in [
        (&logs, "serial.log"),
        (&logs, "qemu.log.1"),
        (&described, "vm.json"),
        (&other, "disk"),
    ] {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join(file), "x").unwrap();
    }
    sandbox.maqet(&["doctor", "--leaks", "--fix"]).expect(1);
    assert!(logs.exists());
    let listed = sandbox.json(&["cleanup", "--dry-run"]);
    assert_eq!(listed["leaks"].as_array().unwrap().len(), 3, "{listed}");
    assert!(logs.exists());
    let left = sandbox.maqet(&["cleanup", "--force", "-o", "json"]).expect(1);
    assert_eq!(left.error()["message"], "2 things stay that nobody has");
    let done = left.json();
    assert_eq!(done["leaks"].as_array().unwrap().len(), 2, "{done}");
    assert!(!logs.exists() && described.join("vm.json").exists() && other.join("disk").exists());
}
