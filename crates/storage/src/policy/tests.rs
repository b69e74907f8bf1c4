//! The policy, entry by entry.

use std::path::{Path, PathBuf};

use super::mounts::parse;
use super::places::{CREDENTIALS, FILE_SYSTEMS, HOMES, LOGIN_SCRIPTS, SCRATCH, SOCKETS, SYSTEM_TREES};
use super::{Mount, PathPolicy, Rule};

fn mount(point: &str, kind: &str) -> Mount {
    Mount {
        point: PathBuf::from(point),
        kind: kind.to_owned(),
    }
}

/// A user `ann` with a data directory outside her home.
fn policy() -> PathPolicy {
    let mounts = vec![
        mount("/", "overlay"),
        mount("/home", "ext4"),
        mount("/srv/images", "nfs4"),
        mount("/srv/images/local", "xfs"),
        mount("/home/ann/remote", "fuse.sshfs"),
    ];
    let roots = ["/var/lib/maqet", "/srv/vm"].map(PathBuf::from).to_vec();
    PathPolicy::new(Some("/home/ann".into()), roots, mounts)
}

fn rule_of(path: impl AsRef<Path>) -> Option<Rule> {
    policy().check(path.as_ref()).err().map(|denied| {
        assert!(!denied.hint().is_empty());
        assert!(denied.to_string().contains("off limits"), "{denied}");
        denied.rule
    })
}

#[test]
fn every_listed_place_of_a_home_is_refused_in_every_home() {
    for (list, rule) in [
        (CREDENTIALS, Rule::Credentials),
        (LOGIN_SCRIPTS, Rule::LoginScripts),
    ] {
        for entry in list {
            let name = entry.trim_start_matches("**/");
            for home in ["/home/ann", "/home/bob", "/root"] {
                let path = format!("{home}/{name}");
                assert_eq!(rule_of(&path), Some(rule), "{path}");
                assert_eq!(rule_of(format!("{path}/x/disk.qcow2")), Some(rule), "{path}");
                assert_eq!(
                    rule_of(format!("{path}2")).filter(|found| *found == rule),
                    None,
                    "{path}2"
                );
            }
        }
    }
}

#[test]
fn some_names_are_refused_anywhere_even_in_a_root() {
    for entry in CREDENTIALS.iter().filter_map(|entry| entry.strip_prefix("**/")) {
        for around in ["/srv/backup", "/var/lib/maqet", "/tmp/a/b"] {
            assert_eq!(rule_of(format!("{around}/{entry}/x")), Some(Rule::Credentials));
        }
    }
    assert_eq!(rule_of("/srv/vm/.config/disk"), None);
}

#[test]
fn every_system_tree_is_refused() {
    for tree in SYSTEM_TREES {
        assert_eq!(rule_of(tree), Some(Rule::System), "{tree}");
        assert_eq!(
            rule_of(format!("{tree}/x/disk.raw")),
            Some(Rule::System),
            "{tree}"
        );
        assert_eq!(
            rule_of(format!("{tree}-of-mine/disk.raw")),
            Some(Rule::Elsewhere),
            "{tree}"
        );
    }
}

#[test]
fn sockets_and_homes_of_others_are_refused() {
    for entry in SOCKETS {
        let path = entry.replace('*', "a1");
        assert_eq!(rule_of(&path), Some(Rule::Sockets), "{path}");
        assert_eq!(rule_of(format!("{path}/agent.1")), Some(Rule::Sockets), "{path}");
    }
    for entry in HOMES {
        assert_eq!(rule_of(format!("{entry}/bob/disk.raw")), Some(Rule::OthersHome));
    }
    for entry in SCRATCH {
        assert_eq!(rule_of(format!("{entry}/vm/disk.raw")), None);
    }
}

#[test]
fn a_refusal_says_how_to_allow_the_place() {
    let denied = policy().check(Path::new("/data/vm/disk.raw")).unwrap_err();
    assert_eq!(denied.rule, Rule::Elsewhere);
    assert!(
        denied.hint().contains("`storage: {roots: [/data/vm]}`"),
        "{}",
        denied.hint()
    );
    let roots = vec!["/data/vm".into()];
    let allowed = PathPolicy::new(None, roots, Vec::new());
    assert!(allowed.check(&denied.path).is_ok());
}

#[test]
fn every_listed_file_system_is_refused_where_it_is_mounted() {
    for entry in FILE_SYSTEMS {
        let kind = entry.replace('*', "x");
        let policy = PathPolicy::new(
            None,
            Vec::new(),
            vec![mount("/", "ext4"), mount("/tmp/data", &kind)],
        );
        let denied = policy.check(Path::new("/tmp/data/disk.raw")).unwrap_err();
        assert_eq!((denied.rule, denied.entry.as_str()), (Rule::Mount, kind.as_str()));
        assert!(policy.check(Path::new("/tmp/database/disk.raw")).is_ok());
    }
    for kind in [
        "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs", "virtiofs", "9p",
    ] {
        let policy = PathPolicy::new(None, Vec::new(), vec![mount("/tmp/data", kind)]);
        assert!(policy.check(Path::new("/tmp/data/disk.raw")).is_ok(), "{kind}");
    }
}

#[test]
fn ordinary_places_are_allowed() {
    for path in [
        "/home/ann/vm/web.qcow2",
        "/home/ann/.local/share/maqet/web.qcow2",
        "/home/ann/.cache/maqet/x",
        "/home/ann/.configuration/x",
        "/tmp/x",
        "/srv/vm/x",
        "/var/lib/maqet/web.qcow2",
    ] {
        assert_eq!(rule_of(path), None, "{path}");
    }
}

#[test]
fn the_order_of_the_rules_is_what_the_design_says() {
    // Credentials before home; home and roots before mounts and system trees; mounts before system trees.
    assert_eq!(rule_of("/home/ann/.ssh/id"), Some(Rule::Credentials));
    assert_eq!(rule_of("/home/ann/remote/disk.raw"), None);
    assert_eq!(rule_of("/srv/images/disk.raw"), Some(Rule::Mount));
    assert_eq!(rule_of("/srv/images/local/disk.raw"), Some(Rule::System));
    assert_eq!(rule_of("/home/bob/disk.raw"), Some(Rule::OthersHome));
    assert_eq!(rule_of("/var/lib/other/disk.raw"), Some(Rule::System));
    let mounts = vec![mount("/usr/share", "nfs")];
    let denied = PathPolicy::new(None, Vec::new(), mounts)
        .check(Path::new("/usr/share/x"))
        .unwrap_err();
    assert_eq!(denied.rule, Rule::Mount);
}

#[test]
fn paths_are_absolute_and_without_dots() {
    for path in ["disk.raw", "./disk.raw", "", "/home/ann/../bob/x", "/home/ann/.."] {
        assert_eq!(rule_of(path), Some(Rule::Form), "{path}");
    }
    assert_eq!(rule_of("/home/ann/./x"), None);
    assert_eq!(rule_of("/home//ann/x"), None);
}

#[test]
fn a_home_or_root_that_is_the_system_opens_nothing() {
    for home in ["/", "/usr", "/var", "relative"] {
        let policy = PathPolicy::new(Some(home.into()), vec!["/".into(), "x".into()], Vec::new());
        assert!(policy.check(Path::new("/etc/passwd")).is_err(), "{home}");
        assert!(policy.check(Path::new("/usr/x")).is_err(), "{home}");
    }
    let service = PathPolicy::new(Some("/var/lib/ci".into()), Vec::new(), Vec::new());
    assert!(service.check(Path::new("/var/lib/ci/x")).is_ok());
    // Root's own home is a system tree to everybody else.
    let root = PathPolicy::new(Some("/root".into()), Vec::new(), Vec::new());
    assert!(root.check(Path::new("/root/vm/x")).is_ok());
    assert!(root.check(Path::new("/root/.ssh/x")).is_err());
    assert_eq!(rule_of("/root/vm/x"), Some(Rule::OthersHome));
}

#[test]
fn the_innermost_root_is_found() {
    let roots = vec!["/data".into(), "/data/inner".into()];
    let policy = PathPolicy::new(None, roots, Vec::new());
    assert_eq!(
        policy.root_of(Path::new("/data/inner/x")),
        Some(Path::new("/data/inner"))
    );
    assert_eq!(policy.root_of(Path::new("/data/x")), Some(Path::new("/data")));
    assert_eq!(policy.root_of(Path::new("/data")), None);
    assert_eq!(policy.root_of(Path::new("/elsewhere")), None);
}

#[test]
fn mountinfo_is_read_with_its_escapes_and_optional_fields() {
    let text = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        36 35 98:0 /mnt1 /mnt/with\\040space rw,noatime master:1 shared:2 - fuse.sshfs host:/x rw\n\
        37 35 98:0 / /mnt/back\\134slash rw - ext4 /dev/sda rw\n\
        broken line\n\n38 35 0:1 / relative rw - ext4 x rw\n";
    let expected = [
        mount("/proc", "proc"),
        mount("/mnt/with space", "fuse.sshfs"),
        mount("/mnt/back\\slash", "ext4"),
    ];
    assert_eq!(parse(text), expected);
    let host = PathPolicy::for_host(Vec::new()).unwrap();
    assert!(host.check(Path::new("/proc/self/mem")).is_err());
    assert!(host.check(Path::new("/sys/power/state")).is_err());
}
