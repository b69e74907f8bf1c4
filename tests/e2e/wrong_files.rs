//! VM files and disks that are wrong: each is told in maqet's own words, with the place, and nothing is lost.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use maqet_tests::{Guest, Sandbox, qemu_img};

use crate::facts::nothing_runs;

/// A file, the line of the mistake, and what is told of it.
const FILES: &[(&str, usize, &str)] = &[
    ("", 0, "the VM has no name"),
    ("- a", 1, "expected a VM as a map, found a list"),
    ("hello", 1, "expected a VM as a map, found `hello`"),
    ("name: a\n\tmemory: 1G", 2, "found a tab character"),
    ("name: a\nmemory: 1G\nmemory: 2G", 3, "duplicate key `memory`"),
    (
        "name: a\ndisks: {b: {path: x, size: 1G}, b: {path: y}}",
        2,
        "duplicate key `b`",
    ),
    ("name: a\ndisks: &d {b: {path: x}}\nx: *d", 3, "unknown field `x`"),
    (
        "name: a\nstop:\n  <<: {timeout: 1s}",
        3,
        "merge keys (`<<`) are not supported",
    ),
    ("name: a\ndisks: {b: {path: ./x", 2, "not YAML"),
    ("name: a\n---\nname: b", 2, "more than one YAML document"),
    ("name: !b a", 1, "YAML tags (`!…`) are not supported"),
    ("name: Foo Bar", 1, "is not a VM name"),
    ("name: deadbeef", 1, "read as an id"),
    ("name: a\nmemroy: 1G", 2, "did you mean `memory`?"),
    ("name: a\ndisks: {b: {pth: ./a}}", 2, "did you mean `path`?"),
    ("name: a\nmemory: 1GB", 2, "ambiguous"),
    ("name: a\nmemory: -5", 2, "`-5` is not a size"),
    ("name: a\nmemory: 0", 2, "memory must be 1M to 16T"),
    ("name: a\nmemory: 1.5G", 2, "has a fraction"),
    ("name: a\nmemory: [1G]", 2, "expected a text, found a list"),
    ("name: a\ncpus: two", 2, "`two` is not a number of CPUs"),
    ("name: a\ncpus: 0", 2, "must be 1 to 1024, not 0"),
    ("name: a\ndisks: {b: {path: ./a, size: 10GB}}", 2, "ambiguous"),
    (
        "name: a\ndisks: {b: {path: ./a, size: -1G}}",
        2,
        "`-1G` is not a size",
    ),
    ("name: a\ndisks: {b: {path: ./a, size: 10}}", 2, "has no unit"),
    (
        "name: a\ndisks: {b: {path: ./a, size: 1000B}}",
        2,
        "a multiple of 512 bytes",
    ),
    (
        "name: a\ndisks: {b: {path: ./a, size: 2048T}}",
        2,
        "a disk has at most 1024T, not 2048T",
    ),
    ("name: a\ndisks: {b: {size: 1G}}", 2, "disk `b` has no `path`"),
    ("name: a\ndisks: {b: ./a}", 2, "expected a disk as a map"),
    (
        "name: a\ndisks: {b: {path: ./a, format: vmdk}}",
        2,
        "`vmdk` is not an image format",
    ),
    (
        "name: a\ndisks: {b: {path: ./a, interface: virtoi}}",
        2,
        "did you mean `virtio`?",
    ),
    (
        "name: a\ndisks: {\"b c\": {path: ./a}}",
        2,
        "`b c` is not a disk name",
    ),
    (
        "name: a\ndisks: {b: {path: ./a, size: 1G}, c: {path: ./a, size: 1G}}",
        2,
        "disk `b` already uses",
    ),
    ("name: a\ndisks: {b: {path: \"\"}}", 2, "found an empty one"),
    ("name: a\ndisks: {b: {path: \"x\\0y\"}}", 2, "a control character"),
    (
        "name: a\ndisks: {b: {path: ~other/x}}",
        2,
        "only `~/` is understood",
    ),
    ("name: a\ndisks: {b: {path: ./none}}", 2, "does not exist"),
    (
        "name: a\ndisks: {b: {path: ./directory}}",
        2,
        "is not a regular file",
    ),
    (
        "name: a\ndisks: {b: {path: ./fifo, format: raw}}",
        2,
        "is not a regular file",
    ),
    (
        "name: a\ndisks: {b: {path: /dev/null, format: raw}}",
        2,
        "is not a regular file",
    ),
    ("name: a\ndisks: {b: {path: ./text}}", 2, "is not a qcow2 image"),
    (
        "name: a\ndisks: {b: {path: ./one.qcow2, format: raw}}",
        2,
        "is a qcow2 image, not a raw one",
    ),
    (
        "name: a\ndisks: {b: {path: ./one.qcow2}, c: {path: ./link}}",
        2,
        "is the file of disk `b` as well",
    ),
    (
        "name: a\ndisks: {b: {path: ./gone/x, size: 1G}}",
        2,
        "its directory: No such file",
    ),
    (
        "name: a\ndisks: {b: {path: ~/.ssh/x, size: 1G}}",
        2,
        "`**/.ssh` holds credentials",
    ),
    (
        "name: a\ndisks: {b: {path: x/../y, size: 1G}}",
        2,
        "where the `..` in it leads is not known",
    ),
    ("name: a\nshares: {s: ~/}", 2, "holds credentials"),
    ("name: a\nkernel: ./none", 2, "does not exist"),
    ("name: a\nshares: {s: ./none}", 2, "cannot look at"),
    (
        "name: a\nnetworks: {n: {forwards: [\"tcp:127.0.0.1:99999:22\"]}}",
        2,
        "is not a port",
    ),
    ("name: a\nsandbox: no", 2, "`no` is not a sandbox mode"),
    (
        "name: a\nqemu: {args: [\"-daemonize\"]}",
        2,
        "`-daemonize` cannot be given",
    ),
];

/// A sandbox with one of each kind of file in its home.
fn furnished() -> Sandbox {
    let sandbox = Sandbox::new();
    let home = sandbox.home();
    fs::create_dir(home.join("directory")).unwrap();
    fs::write(home.join("text"), "no image").unwrap();
    qemu_img::create(&home.join("one.qcow2"), "qcow2", "1M");
    symlink("one.qcow2", home.join("link")).unwrap();
    let fifo = home.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    sandbox
}

#[test]
fn a_wrong_file_is_told_with_its_place() {
    let sandbox = furnished();
    let told = |file: &Path| {
        sandbox
            .maqet(&["config", "check", &file.display().to_string()])
            .expect(78)
            .stderr
    };
    for (text, line, words) in FILES {
        let file = sandbox.write_vm("wrong", text);
        let error = told(&file);
        assert!(
            error.starts_with("error: ") && error.contains(words),
            "{text}: {error}"
        );
        let place = format!("wrong.yaml:{line}:");
        assert!(*line == 0 || error.contains(&place), "{text}: {error}");
    }
    for (bytes, words) in [
        (b"name: \xff\n".to_vec(), "line 1 of"),
        (vec![b'a'; (1 << 20) + 1], "larger than 1 MiB"),
        ([b"a: ".to_vec(), vec![b'['; 2000]].concat(), "open brackets"),
    ] {
        let file = sandbox.home().join("wrong.yaml");
        fs::write(&file, bytes).unwrap();
        let error = told(&file);
        assert!(error.contains(words), "{error}");
    }
    let elsewhere = sandbox.write_vm("elsewhere", "name: a\ndisks: {b: {path: /srv/x, size: 1G}}");
    let elsewhere = elsewhere.display().to_string();
    // Who may not write to `/srv` is told that.
    if nix::unistd::access("/srv", nix::unistd::AccessFlags::W_OK).is_ok() {
        let said = sandbox.maqet(&["config", "check", &elsewhere]).expect(0).stderr;
        let words = "a: valid, if the supervisor's configuration allows it: `/srv/x` is off limits";
        assert!(said.starts_with(words), "{said}");
    }
    assert!(
        sandbox.processes().is_empty(),
        "to check a file needs no supervisor"
    );
}

/// Disks that only a start looks into, what is told of them, and what to do about it.
const DISKS: &[(&str, &str, &str)] = &[
    (
        "b: {path: ./secret}",
        "`[DIR]/secret` is encrypted",
        "make a plain image",
    ),
    (
        "b: {path: ./torn}",
        "its table of clusters lies outside the file",
        "put a whole copy",
    ),
    ("b: {path: ./cut}", "lies outside the file", "put a whole copy"),
    (
        "b: {path: ./on-device}",
        "`/dev/sda` is off limits",
        "choose a place",
    ),
    (
        "b: {path: ./on-system}",
        "`/etc/no-such-file` is off limits",
        "`storage: {roots: [/etc]}`",
    ),
    (
        "b: {path: ./on-nothing}",
        "No such file",
        "put it back; or say where it is now: qemu-img rebase",
    ),
    ("b: {path: ./on-fifo}", "is a FIFO, not an image file", ""),
    (
        "b: {path: ./above}, c: {path: ./one.qcow2}",
        "use one file",
        "give each a file of its own",
    ),
];

/// The images of those.
fn make_disks(home: &Path) {
    let writable = |name: &str| {
        qemu_img::create(&home.join(name), "qcow2", "1M");
        fs::File::options().write(true).open(home.join(name)).unwrap()
    };
    // The method: LUKS.
    writable("secret").write_all_at(&[0, 0, 0, 2], 32).unwrap();
    writable("torn").write_all_at(&[0x7f; 8], 40).unwrap();
    writable("cut").set_len(300).unwrap();
    for (name, base) in [
        ("on-device", "/dev/sda"),
        ("on-system", "/etc/no-such-file"),
        ("on-nothing", "./nothing"),
        ("on-fifo", "./fifo"),
    ] {
        let args = [
            "create", "-q", "-u", "-f", "qcow2", "-b", base, "-F", "raw", name, "1M",
        ];
        qemu_img::run_in(home, &args);
    }
    qemu_img::overlay_on("one.qcow2", &home.join("above"));
}

#[test]
fn a_wrong_disk_is_told_before_qemu_runs_and_left_as_it_is() {
    let sandbox = furnished();
    let home = sandbox.home();
    make_disks(&home);
    for (number, (disk, words, hint)) in DISKS.iter().enumerate() {
        let name = format!("vm-{number}");
        let before = contents(&home);
        Guest::tiny(&name)
            .line(&format!("disks: {{{disk}}}"))
            .add(&sandbox);
        let error = sandbox.maqet(&["start", &name]).expect(78).stderr;
        let told = error.replace(&home.display().to_string(), "[DIR]");
        assert!(told.contains(words) && told.contains(hint), "{disk}: {told}");
        assert!(!told.contains("QEMU ended"), "{disk}: {told}");
        assert_eq!(contents(&home), before, "{disk}");
    }
    nothing_runs(&sandbox);
}

/// Every image and what it holds.
fn contents(home: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(home).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    let images = files
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none_or(|end| end == "qcow2"));
    let mut held: Vec<_> = images
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    held.sort();
    held
}

#[test]
fn a_path_may_begin_above_the_file() {
    let sandbox = furnished();
    let file = sandbox.home().join("directory/web.yaml");
    let yaml = Guest::tiny("web")
        .line("disks: {b: {path: ../one.qcow2}}")
        .yaml(&sandbox);
    fs::write(&file, yaml).unwrap();
    sandbox
        .maqet(&["add", &file.display().to_string(), "--start"])
        .expect(0);
    let path = &sandbox.status("web")["disks"][0]["path"];
    assert_eq!(*path, sandbox.home().join("one.qcow2").display().to_string());
    // So it is on the command line.
    sandbox.maqet(&["kill", "web"]).expect(0);
    sandbox
        .maqet(&["storage", "clone", "web", "b", "./../home/copy"])
        .expect(0);
    sandbox
        .maqet(&["storage", "attach", "web", "../home/copy"])
        .expect(0);
    let path = &sandbox.status("web")["disks"][1]["path"];
    assert_eq!(*path, sandbox.home().join("copy").display().to_string());
    // Elsewhere only opening it would tell where it leads.
    let yaml = Guest::tiny("db")
        .line("disks: {b: {path: x/../two, size: 1M}}")
        .write(&sandbox);
    let refused = sandbox
        .maqet(&["add", &yaml.display().to_string()])
        .expect(78)
        .stderr;
    assert!(
        refused.contains("where the `..` in it leads is not known"),
        "{refused}"
    );
}

#[test]
fn a_disk_that_was_taken_away_is_told_as_gone() {
    let sandbox = furnished();
    Guest::tiny("web")
        .line("disks: {b: {path: ./one.qcow2, size: 1M, interface: ide}}")
        .start(&sandbox);
    let (path, aside) = (sandbox.home().join("one.qcow2"), sandbox.home().join("aside"));
    fs::rename(&path, &aside).unwrap();
    let works: [&[&str]; 2] = [
        &["snapshot", "create", "web", "s", "--external"],
        &["storage", "clone", "web", "b", "./copy"],
    ];
    let told = |args: &[&str]| {
        let error = sandbox.maqet(args).expect(5).stderr;
        assert!(error.contains("disk `b` of `web` is gone"), "{args:?}: {error}");
        assert!(error.contains("hint: put it back"), "{args:?}: {error}");
    };
    told(works[0]);
    sandbox.maqet(&["stop", "web", "--force"]).expect(0);
    for args in works {
        told(args);
    }
    told(&["snapshot", "create", "web", "s"]);
    told(&["start", "web"]);
    fs::rename(&aside, &path).unwrap();
    sandbox.maqet(&["snapshot", "create", "web", "s"]).expect(0);
    sandbox.maqet(&["start", "web"]).expect(0);
}
