//! Directories shared with a guest: what it reads and writes there, and what it never gets at.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use maqet_tests::monitor::Monitor;
use maqet_tests::{Guest, Sandbox};
use serde_json::json;

use crate::facts::{one, status, until_serial};
use crate::linux;

/// What a guest tries in a share, in the words of its shell: to read, to write, and to get out.
pub(crate) const WALK: &str = "cd /share\n\
    echo share: $(cat hello)\n\
    mkdir deep && echo from the guest >deep/file && mv deep/file deep/moved && rm hello && echo share: wrote\n\
    ln -s /etc/passwd made && echo share: linked $(readlink made)\n\
    cat planted 2>/dev/null | grep root && echo share: ESCAPED by a link\n\
    cat up/../../secret 2>/dev/null && echo share: ESCAPED by dots\n\
    cat away/secret 2>/dev/null && echo share: ESCAPED by a directory\n";

/// A directory with a script that the guest runs, and what the host has put there to lead it astray.
pub(crate) fn shared(sandbox: &Sandbox, script: &str) -> PathBuf {
    let directory = sandbox.home().join("src");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("run.sh"), script).unwrap();
    fs::write(directory.join("hello"), "from the host\n").unwrap();
    fs::write(sandbox.home().join("secret"), "root\n").unwrap();
    symlink("/etc/passwd", directory.join("planted")).unwrap();
    symlink("..", directory.join("up")).unwrap();
    symlink(sandbox.home(), directory.join("away")).unwrap();
    directory
}

/// What the guest's script said, without its prefix.
pub(crate) fn said(sandbox: &Sandbox) -> Vec<String> {
    until_serial(sandbox, "linux", "maqet linux guest ready");
    let log = sandbox.maqet(&["logs", "linux"]).expect(0).stdout;
    let lines = log.lines().filter_map(|line| line.trim().strip_prefix("share: "));
    lines.map(ToOwned::to_owned).collect()
}

fn names(directory: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn a_guest_reads_and_writes_and_stays_inside() {
    let sandbox = Sandbox::new();
    let directory = shared(
        &sandbox,
        &[
            WALK,
            "chown 12:34 deep/moved && echo share: owned $(stat -c %u:%g deep/moved)\n\
         mknod null c 1 3 && echo share: made a device\n",
        ]
        .concat(),
    );
    linux::start(
        &sandbox,
        "linux",
        "maqet.share=code",
        "shares: {src: {path: ./src, tag: code}}\n",
    );
    let said = said(&sandbox);
    assert_eq!(
        said,
        [
            "from the host",
            "wrote",
            "linked /etc/passwd",
            "owned 12:34",
            "made a device"
        ]
    );
    assert_eq!(
        fs::read(directory.join("deep/moved")).unwrap(),
        b"from the guest\n"
    );
    assert!(!directory.join("hello").exists());
    // Mapped: on the host these are plain files of ours, which lead nowhere.
    for made in ["made", "null"] {
        let metadata = fs::symlink_metadata(directory.join(made)).unwrap();
        assert!(metadata.is_file(), "{made}: {metadata:?}");
    }
    let stopped = sandbox.json(&["stop", "linux"]);
    assert_eq!(one(&stopped)["how"], "guest", "{stopped}");
}

#[test]
fn a_read_only_share_refuses_every_change() {
    let sandbox = Sandbox::new();
    let directory = shared(
        &sandbox,
        "cd /share\n\
         echo share: $(cat hello)\n\
         echo x >file || echo share: no file\n\
         echo x >>hello || echo share: no change\n\
         rm hello || echo share: no removal\n\
         mkdir deep || echo share: no directory\n",
    );
    let before = names(&directory);
    linux::start(
        &sandbox,
        "linux",
        "maqet.share=src",
        "shares: {src: {path: ./src, readonly: true}}\n",
    );
    let expected = [
        "from the host",
        "no file",
        "no change",
        "no removal",
        "no directory",
    ];
    assert_eq!(said(&sandbox), expected);
    assert_eq!(names(&directory), before);
}

#[test]
fn a_qemu_taken_over_has_the_shared_directory_and_nothing_beside() {
    let sandbox = Sandbox::new();
    let directory = shared(&sandbox, "");
    let outside = sandbox.home().join("outside");
    fs::write(&outside, "secret").unwrap();
    let shares = "shares: {src: {path: ./src, readonly: true}}";
    let id = Guest::tiny("web").line(shares).start(&sandbox);
    let mut monitor = Monitor::of(&sandbox, &id);
    let confined = maqet_process::confine::Level::of_this_kernel().abi().is_some();
    for (path, readonly, allowed) in [
        (directory.join("hello"), true, true),
        (directory.join("hello"), false, false),
        (outside, true, false),
    ] {
        let node = json!({"driver": "file", "node-name": "probe", "filename": path, "read-only": readonly});
        let added = monitor.run("blockdev-add", &node);
        assert_eq!(added.is_ok(), allowed || !confined, "{node}: {added:?}");
        if added.is_ok() {
            monitor
                .run("blockdev-del", &json!({"node-name": "probe"}))
                .unwrap();
        }
    }
    assert_eq!(status(&sandbox, "web"), "running");
}

#[test]
fn what_is_off_limits_is_not_shared() {
    let sandbox = Sandbox::new();
    let home = sandbox.home();
    fs::create_dir_all(home.join(".ssh")).unwrap();
    symlink("/etc", home.join("innocent")).unwrap();
    symlink(sandbox.data_dir(), home.join("data")).unwrap();
    for (path, why) in [
        ("/", "maqet keeps its own files"),
        ("/etc", "belongs to the system"),
        ("./innocent", "belongs to the system"),
        ("./data", "maqet keeps its own files"),
        ("/tmp", "maqet keeps its own files"),
        ("./.ssh", "credentials"),
        (".", "credentials"),
        ("./absent", "cannot look at"),
        ("./file", "is not a directory"),
    ] {
        fs::write(home.join("file"), "").unwrap();
        for readonly in [false, true] {
            let yaml = Guest::tiny("web")
                .line(&format!(
                    "shares: {{src: {{path: {path}, readonly: {readonly}}}}}"
                ))
                .yaml(&sandbox);
            let file = sandbox.write_vm("web", &yaml);
            let refused = sandbox.maqet(&["add", file.to_str().unwrap()]);
            assert_ne!(refused.code, 0, "{path}");
            // Some are refused before the policy is asked: the VM's own firmware is in there, or this user may not write.
            let before = ["tiny.bin", "Permission denied"];
            let before = before.iter().any(|words| refused.stderr.contains(words));
            let told = refused.stderr.contains(why) || !readonly && before;
            assert!(told, "{path}: {}", refused.stderr);
        }
    }
}

#[test]
fn a_directory_exchanged_for_a_link_after_the_check_is_refused_at_the_start() {
    let sandbox = Sandbox::new();
    let directory = shared(&sandbox, "");
    Guest::tiny("web").line("shares: {src: ./src}").add(&sandbox);
    fs::rename(&directory, sandbox.home().join("moved")).unwrap();
    symlink("/etc", &directory).unwrap();
    let refused = sandbox.maqet(&["start", "web"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("share `src`"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("belongs to the system"),
        "{}",
        refused.stderr
    );
}

#[test]
fn no_image_is_used_that_another_guest_can_write_to() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.home().join("vms/deep")).unwrap();
    symlink("vms", sandbox.home().join("same")).unwrap();
    let disk = "disks: {root: {path: ./vms/deep/db.raw, size: 1M, format: raw, interface: ide}}";
    Guest::tiny("db").line(disk).add(&sandbox);
    Guest::tiny("reads")
        .line("shares: {all: {path: ./same, readonly: true}}")
        .start(&sandbox);
    Guest::tiny("web").line("shares: {all: ./same}").start(&sandbox);
    let refused = sandbox.maqet(&["start", "db"]).expect(5).stderr;
    assert!(
        refused.contains("share `all` of `web` holds an image of `db`"),
        "{refused}"
    );
    sandbox.maqet(&["kill", "web"]).expect(0);
    sandbox.maqet(&["start", "db"]).expect(0);
    let refused = sandbox.maqet(&["start", "web"]).expect(5).stderr;
    assert!(
        refused.contains("share `all` of `web` holds an image of `db`"),
        "{refused}"
    );

    sandbox.maqet(&["kill", "db"]).expect(0);

    // By a link, the VM's own image lies in its own share.
    fs::write(sandbox.home().join("vms/own.raw"), vec![0; 1 << 20]).unwrap();
    Guest::tiny("self")
        .line("disks: {root: {path: ./same/own.raw, format: raw, interface: ide}}")
        .line("shares: {all: ./vms}")
        .add(&sandbox);
    let refused = sandbox.maqet(&["start", "self"]).expect(5).stderr;
    assert!(
        refused.contains("share `all` of `self` holds an image of `self`"),
        "{refused}"
    );
}
