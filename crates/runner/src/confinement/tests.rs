//! What is planned for a spec, and which complaints are the sandbox's.

use maqet_spec::load::{LoadOptions, load};
use maqet_spec::source::Source;

use super::*;

fn spec(text: &str) -> VmSpec {
    let source = Source::new("web.yaml", "/vm", format!("name: web\nmachine: q35\n{text}"));
    load(&[source], &[], &LoadOptions::default()).unwrap()
}

fn planned(text: &str, accel: &str) -> Option<Confinement> {
    let policy = PathPolicy::new(None, Vec::new(), Vec::new());
    let around = Surroundings {
        binary: Path::new("/usr/bin/qemu-system-x86_64"),
        accel,
        serial_log: Some("/data/serial.log".into()),
        shares: Vec::new(),
        policy: &policy,
    };
    plan(&spec(text), around)
}

#[track_caller]
fn access(confinement: &Confinement, path: &Path) -> Option<Access> {
    let mut rules = confinement.rules.iter().filter(|rule| rule.path == path);
    let found = rules.next().map(|rule| rule.access);
    assert_eq!(rules.next(), None, "{} twice", path.display());
    found
}

#[test]
fn what_the_fields_name_can_be_read_and_nothing_of_the_host_beside() {
    let plan = planned(
        "kernel: {image: ./k, initrd: /i}\nfirmware: /fw\nnetworks: {lan: {forwards: ['tcp:127.0.0.1:2222:22']}}\n",
        "tcg",
    )
    .unwrap();
    for (path, expected) in [
        ("/vm/k", Some(Access::Read)),
        ("/i", Some(Access::Read)),
        ("/fw", Some(Access::Read)),
        ("/data/serial.log", Some(Access::Write)),
        ("/usr", Some(Access::Execute)),
        ("/dev/null", Some(Access::Device)),
        ("/dev/kvm", None),
        ("/dev/ptmx", None),
        ("/etc", None),
        ("/etc/passwd", None),
        ("/home", None),
        ("/tmp", None),
        ("/", None),
    ] {
        assert_eq!(access(&plan, Path::new(path)), expected, "{path}");
    }
    assert_eq!(plan.tcp_ports, [2222]);
    assert_eq!(plan.floor, Floor::Nothing);
    let kvm = planned("", "kvm").unwrap();
    assert_eq!(access(&kvm, Path::new("/dev/kvm")), Some(Access::Device));
}

#[test]
fn the_mode_says_what_must_be_achieved() {
    let floor = |mode: &str| planned(&format!("sandbox: {mode}\n"), "tcg").map(|plan| plan.floor);
    assert_eq!(floor("auto"), Some(Floor::Nothing));
    assert_eq!(floor("require"), Some(Floor::Files));
    assert_eq!(floor("require-net"), Some(Floor::Network));
    assert_eq!(floor("off"), None);
    assert_eq!(
        planned("sandbox: {mode: require, read: /r}\n", "tcg")
            .unwrap()
            .floor,
        Floor::Files
    );
}

#[test]
fn paths_of_the_sandbox_are_given_as_they_are() {
    let plan = planned("sandbox: {read: [/r, ./s], write: /w}\n", "tcg").unwrap();
    for (path, expected) in [("/r", Access::Read), ("/vm/s", Access::Read), ("/w", Access::Own)] {
        assert_eq!(access(&plan, Path::new(path)), Some(expected), "{path}");
    }
}

#[test]
fn what_qemus_own_words_name_is_given_as_far_as_the_policy_lets_it_be_written() {
    let root = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(root.path()).unwrap();
    fs::write(root.join("vars.fd"), "").unwrap();
    fs::create_dir(root.join("share")).unwrap();
    let at = |name: &str| root.join(name).display().to_string();
    let text = format!(
        "qemu: {{args: ['-pflash', '{}', '-fsdev', 'local,id=f,path={}', '-fw_cfg', 'name=opt/x,file=/etc/hostname', \
         '-serial', 'file:{}', '-pidfile', '/tmp/maqet-never/pid', '-gdb', 'tcp::4444']}}\nsandbox: auto\n",
        at("vars.fd"),
        at("share"),
        at("new/log")
    );
    fs::create_dir(root.join("new")).unwrap();
    let plan = planned(&text, "tcg").unwrap();
    for (path, expected) in [
        (at("vars.fd"), Some(Access::Write)),
        (at("share"), Some(Access::Own)),
        ("/etc/hostname".to_owned(), Some(Access::Read)),
        (at("new"), Some(Access::Own)),
        (root.display().to_string(), None),
        ("/tmp/maqet-never".to_owned(), None),
    ] {
        assert_eq!(access(&plan, Path::new(&path)), expected, "{path}");
    }
    assert_eq!(plan.tcp_ports, [4444]);
}

#[test]
fn a_shared_directory_is_not_opened_for_a_file_to_be_made() {
    let policy = PathPolicy::new(None, Vec::new(), Vec::new());
    assert_eq!(named_in_words(Path::new("/tmp/maqet-never"), &policy), None);
    assert_eq!(named_in_words(Path::new("/etc/maqet-never"), &policy), None);
}

#[test]
fn a_complaint_is_the_sandboxs_if_we_may_what_qemu_may_not() {
    let of = |words: &str| denied_path(words).map(|path| path.display().to_string());
    assert_eq!(
        of("Could not open '/etc/hostname': Permission denied").as_deref(),
        Some("/etc/hostname")
    );
    assert_eq!(
        of("Could not open '/etc/hostname': No such file or directory"),
        None
    );
    assert_eq!(of("Could not open '/maqet-never/x': Permission denied"), None);
    assert!(of("-D /tmp/maqet-never: Permission denied").is_some());
    let hinted = |words: &str| hint(words).unwrap_or_default();
    let denied = hinted("Could not open '/etc/hostname': Permission denied");
    assert!(
        denied.starts_with("denied by the sandbox: /etc/hostname;"),
        "{denied}"
    );
    let denied = hinted("Failed to bind socket: Permission denied");
    assert!(
        denied.starts_with("denied by the sandbox: QEMU listens on"),
        "{denied}"
    );
    assert_eq!(hint("Failed to bind socket: Address already in use"), None);
}
