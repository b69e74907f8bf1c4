//! What may be typed: every alias, every form of the Python tool, and what is refused.

use std::ffi::OsString;
use std::time::Duration;

use clap::Parser;

use super::condition::{Condition, split};
use super::{Cli, command, duration, early, misuse};

fn parse(line: &str) -> Result<Cli, String> {
    Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
}

fn refused(line: &str) -> String {
    let error = Cli::try_parse_from(line.split_whitespace()).expect_err(line);
    assert_eq!(error.exit_code(), 2, "{line}");
    error.to_string().lines().next().unwrap().to_owned()
}

#[test]
fn clap_finds_no_fault() {
    command().debug_assert();
}

/// What each line means, as one text.
fn meanings(lines: &[&str]) -> String {
    let meanings = lines.iter().map(|line| {
        let cli = parse(line).unwrap_or_else(|error| panic!("`{line}`: {error}"));
        format!("{line}\n    {:?}\n", cli.verb)
    });
    meanings.collect()
}

#[test]
fn global_options_go_before_and_after_the_verb() {
    let options =
        "-o json --data-dir /d --runtime-dir /r --config /c --no-autostart --deadline 5s -vv --color never";
    let before = parse(&format!("maqet {options} ls")).unwrap().global;
    let after = parse(&format!("maqet ls {options}")).unwrap().global;
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    insta::assert_debug_snapshot!(before);
    let before = parse("maqet --output=yaml -q qmp run web query-status")
        .unwrap()
        .global;
    let after = parse("maqet qmp run web query-status -q -o yaml").unwrap().global;
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    insta::assert_debug_snapshot!(parse("maqet ls").unwrap().global);
}

#[test]
fn verbs_of_the_lifecycle() {
    insta::assert_snapshot!(meanings(&[
        "maqet add a.yaml - --set cpus=4 --name web --set memory=1G --start",
        "maqet create a.yaml",
        "maqet add --vm-config a.yaml b.yaml --name web --vm-config c.yaml",
        "maqet add --empty --name web",
        "maqet start a b --wait running --wait port=22 --timeout 90 --strict",
        "maqet stop a --timeout 1m --force",
        "maqet stop a b --strict",
        "maqet kill a b --strict",
        "maqet restart a --timeout 5s",
        "maqet reset a",
        "maqet pause a --strict",
        "maqet resume a b",
        "maqet qmp pause a",
        "maqet qmp resume a",
        "maqet rm a b --force --delete-storage --keep-snapshots",
        "maqet rm --all --yes",
        "maqet rm --all -y",
    ]));
}

#[test]
fn verbs_that_look() {
    insta::assert_snapshot!(meanings(&[
        "maqet ls",
        "maqet list",
        "maqet ps --status running",
        "maqet status web",
        "maqet info web",
        "maqet inspect web",
        "maqet why web",
        "maqet wait a b running port=22 --any --timeout 30",
        "maqet logs web",
        "maqet logs web -f --qemu",
        "maqet logs --serial web --follow",
        "maqet logs --runner web",
        "maqet logs web -f --virtiofsd",
        "maqet events",
        "maqet events -f --since 12 --vm web",
        "maqet qmp run web eject id=cd0 force=true --timeout 2s",
    ]));
}

#[test]
fn verbs_that_need_no_vm() {
    insta::assert_snapshot!(meanings(&[
        "maqet config check a.yaml b.yaml --set cpus=2",
        "maqet config render -",
        "maqet supervisor status",
        "maqet supervisor stop --strict",
        "maqet completion bash",
        "maqet completion zsh",
        "maqet completion fish",
        "maqet completion elvish",
        "maqet completion powershell",
        "maqet man",
        "maqet man --dir d",
        "maqet state backup c.redb",
        "maqet state restore c.redb",
        "maqet state dump",
        "maqet state dump c.redb",
        "maqet state verify",
        "maqet state verify c.redb",
        "maqet audit verify",
        "maqet audit verify c.redb",
    ]));
}

#[test]
fn what_contradicts_itself_is_refused() {
    for line in [
        "maqet",
        "maqet start",
        "maqet rm",
        "maqet rm a --all",
        "maqet rm a --keep-snapshots",
        "maqet add --empty a.yaml",
        "maqet add --empty --vm-config a.yaml",
        "maqet logs web --qemu --runner",
        "maqet logs web --qemu --virtiofsd",
        "maqet ls --status alive",
        "maqet -q -v ls",
        "maqet wait",
        "maqet start web --wait colour=red",
        "maqet stop web --timeout soon",
        "maqet completion csh",
    ] {
        refused(line);
    }
}

#[test]
fn verbs_that_do_not_exist_are_refused() {
    for name in ["apply", "exec", "console", "destroy", "up", "help"] {
        assert_eq!(
            refused(&format!("maqet {name} web")),
            format!("error: unrecognized subcommand '{name}'")
        );
    }
}

#[test]
fn durations() {
    for (text, seconds) in [
        ("90", 90.0),
        ("0.5", 0.5),
        ("90s", 90.0),
        ("1m 30s", 90.0),
        ("250ms", 0.25),
    ] {
        assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
    }
    for text in ["", "x", "-1", "5 parsecs", "inf", "NaN"] {
        duration(text).expect_err(text);
    }
}

#[test]
fn wait_tells_vms_from_conditions() {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (vms, conditions) = split(&words(
        "running b serial=lo+gin: port=22 agent file=/x=y event=qmp.STOP",
    ))
    .unwrap();
    assert_eq!(vms, ["running", "b"]);
    let shown: Vec<String> = conditions.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "serial=lo+gin:",
            "port=22",
            "agent",
            "file=/x=y",
            "event=qmp.STOP"
        ]
    );
    let all = split(&words("web running stopped failed exit")).unwrap().1;
    assert_eq!(
        all,
        [
            Condition::Running,
            Condition::Stopped,
            Condition::Failed,
            Condition::Exit
        ]
    );
    for (line, error) in [
        ("a b", "no condition given to wait for `a`, `b`"),
        ("a running b", "invalid condition `b`"),
        ("a port=0", "`0` is not a port"),
        ("a port=70000", "`70000` is not a port"),
        ("a serial=", "`serial=` needs a value"),
        ("a colour=red", "invalid condition `colour=red`"),
    ] {
        let found = split(&words(line)).unwrap_err();
        assert!(found.contains(error), "`{line}`: {found}");
    }
}

#[test]
fn json_is_seen_before_the_command_line_is_understood() {
    let wants = |line: &str| {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        early::wants_json(&words)
    };
    for line in [
        "maqet -o json x",
        "maqet x -ojson",
        "maqet x --output=json",
        "maqet --output json",
        "maqet -o=json",
    ] {
        assert!(wants(line), "{line}");
    }
    for line in [
        "maqet x",
        "maqet -o yaml",
        "maqet -o json -o table x",
        "maqet x -- -o json",
        "maqet -o",
    ] {
        assert!(!wants(line), "{line}");
    }
}

#[test]
fn usage_errors_as_json_carry_the_tip() {
    let error = Cli::try_parse_from(["maqet", "strat", "web"]).unwrap_err();
    insta::assert_snapshot!(misuse(&error).report().json(), @r#"{"error":{"code":"usage","exit":2,"message":"unrecognized subcommand 'strat'","vm":null,"state":null,"causes":[],"hint":"some similar subcommands exist: 'create', 'storage-info', 'storage', 'status', 'restart', 'state', 'start'"}}"#);
    let error = Cli::try_parse_from(["maqet", "status"]).unwrap_err();
    insta::assert_snapshot!(misuse(&error).report().json(), @r#"{"error":{"code":"usage","exit":2,"message":"the following required arguments were not provided: <VM>","vm":null,"state":null,"causes":[],"hint":"maqet status <VM>"}}"#);
}
