//! What is written where: closed and full streams, colours, widths, forms of answers.

use std::fs::File;
use std::io::{Read, pipe};
use std::process::{Command, Stdio};

use maqet_tests::{Guest, Sandbox};
use serde_json::Value;

/// Verbs whose answer goes to stdout, with or without a supervisor.
const ANSWERS: &[&[&str]] = &[
    &["--help"],
    &["ls", "--help"],
    &["-V"],
    &["man"],
    &["completion", "bash"],
    &["ls"],
    &["ls", "-o", "json"],
    &["info", "web"],
    &["status", "web"],
    &["inspect", "web", "-o", "yaml"],
    &["why", "web"],
    &["events"],
    &["state", "dump"],
    &["supervisor", "status"],
];

fn stored() -> Sandbox {
    let sandbox = Sandbox::new();
    Guest::none("web").add(&sandbox);
    sandbox
}

/// Runs `maqet` with a stdout and a stderr of its own; its exit code, and what it wrote to a stderr that is none.
fn run(sandbox: &Sandbox, args: &[&str], change: impl FnOnce(&mut Command)) -> (i32, String) {
    let mut command = sandbox.command("maqet-under-test");
    command.args(args).stdin(Stdio::null());
    let (mut reading, writing) = pipe().unwrap();
    command.stderr(writing);
    change(&mut command);
    let mut child = command.spawn().unwrap();
    // It holds the writing end.
    drop(command);
    let mut told = String::new();
    reading.read_to_string(&mut told).unwrap();
    (child.wait().unwrap().code().unwrap(), told)
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn an_answer_that_nobody_reads_is_no_failure() {
    let sandbox = stored();
    for args in ANSWERS {
        let (reading, writing) = pipe().unwrap();
        drop(reading);
        let ended = run(&sandbox, args, |command| {
            command.stdout(writing);
        });
        assert_eq!(ended, (0, String::new()), "{args:?}");
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure_that_is_told() {
    let sandbox = stored();
    for args in ANSWERS {
        let (code, told) = run(&sandbox, args, |command| {
            command.stdout(full());
        });
        assert_eq!(code, 1, "{args:?}: {told}");
        assert!(
            told.contains("write to stdout") && told.contains("No space left"),
            "{args:?}: {told}"
        );
    }
}

#[test]
fn an_error_that_cannot_be_told_keeps_its_code() {
    let sandbox = stored();
    let wrong: [(&[&str], i32); 5] = [
        (&["fly"], 2),
        (&["fly", "-o", "json"], 2),
        (&["start"], 2),
        (&["status", "nobody"], 4),
        (&["ls", "--no-autostart", "--runtime-dir", "/tmp/maqet-none"], 6),
    ];
    for (args, expected) in wrong {
        let (code, _) = run(&sandbox, args, |command| {
            command.stdout(Stdio::null()).stderr(full());
        });
        assert_eq!(code, expected, "{args:?}");
    }
}

#[test]
fn colours_are_for_terminals_and_whoever_asks() {
    let sandbox = stored();
    let told = |args: &[&str], variables: &[(&str, &str)]| {
        let args = [&["status", "nobody"], args].concat();
        let (code, told) = run(&sandbox, &args, |command| {
            command
                .stdout(Stdio::null())
                .env_remove("NO_COLOR")
                .envs(variables.iter().copied());
        });
        assert_eq!(code, 4);
        told.contains('\u{1b}')
    };
    assert!(!told(&[], &[]));
    assert!(told(&["--color", "always"], &[]));
    assert!(!told(&["--color", "never"], &[]));
    assert!(!told(&[], &[("NO_COLOR", "1")]));
}

#[test]
fn help_fits_the_width_and_every_verb_has_it() {
    let sandbox = Sandbox::new();
    let help = |args: &[&str]| {
        let mut command = sandbox.command("maqet-under-test");
        let output = command
            .args(args)
            .arg("--help")
            .env("COLUMNS", "60")
            .output()
            .unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut pending: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = 0;
    while let Some(verb) = pending.pop() {
        seen += 1;
        let words: Vec<&str> = verb.iter().map(String::as_str).collect();
        let text = help(&words);
        // Usage is one line for each way, however long.
        let (usage, rest): (Vec<&str>, Vec<&str>) = text
            .lines()
            .partition(|line| line.starts_with("Usage: ") || line.starts_with("       maqet "));
        assert!(!usage.is_empty(), "{verb:?}");
        let wide: Vec<_> = rest.iter().filter(|line| line.chars().count() > 60).collect();
        assert!(wide.is_empty(), "{verb:?}: {wide:?}");
        let unknown: Vec<&str> = words.iter().copied().chain(["--no-such-option"]).collect();
        let error = sandbox
            .maqet(&[&unknown[..], &["-o", "json"]].concat())
            .expect(2)
            .error();
        assert_eq!(error["code"], "usage", "{verb:?}: {error}");
        pending.extend(below(&text).map(|name| [&verb[..], &[name.to_owned()]].concat()));
    }
    assert!(seen > 45, "{seen}");
    assert!(sandbox.processes().is_empty(), "help needs no supervisor");
}

/// The verbs that a help text lists.
fn below(help: &str) -> impl Iterator<Item = &str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next())
}

/// Verbs that answer with a list of one, and those that answer with an object.
const LISTS: &[&[&str]] = &[
    &["ls"],
    &["start", "web"],
    &["pause", "web"],
    &["resume", "web"],
    &["reset", "web"],
    &["wait", "web", "running"],
    &["enable", "web"],
    &["disable", "web"],
    &["restart", "web", "--timeout", "0s"],
    &["stop", "web", "--timeout", "0s"],
];
const OBJECTS: &[&[&str]] = &[
    &["status", "web"],
    &["info", "web"],
    &["inspect", "web"],
    &["why", "web"],
    &["storage", "info", "web"],
    &["storage", "verify", "web"],
    &["supervisor", "status"],
    &["state", "verify"],
    &["audit", "verify"],
];

#[test]
fn answers_as_json_are_what_the_documents_promise() {
    let sandbox = stored();
    for args in LISTS {
        let answer = sandbox.json(args);
        assert_eq!(answer.as_array().map(Vec::len), Some(1), "{args:?}: {answer}");
    }
    for args in OBJECTS {
        let answer = sandbox.json(args);
        assert!(answer.is_object(), "{args:?}: {answer}");
    }
    let events = sandbox.maqet(&["events"]).expect(0).stdout;
    let is_object = |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|event| event.is_object());
    assert!(!events.is_empty() && events.lines().all(is_object), "{events}");
    assert_eq!(sandbox.json(&["rm", "web"]).as_array().map(Vec::len), Some(1));
}

/// Fields that scripts may rely on, by verb.
const FIELDS: &[(&str, &str)] = &[
    (
        "ls",
        "id name status activity run_state pid runner_pid since uptime_s memory cpus restart last_exit",
    ),
    ("status", "id name status accel disks ports sandbox"),
    ("stop", "vm status how took_ms"),
];

#[test]
fn fields_that_scripts_rely_on_are_there() {
    let sandbox = stored();
    for (verb, fields) in FIELDS {
        let answer = match *verb {
            "ls" => sandbox.json(&["ls"]),
            verb => sandbox.json(&[verb, "web"]),
        };
        let one = answer.get(0).unwrap_or(&answer);
        let missing: Vec<_> = fields
            .split(' ')
            .filter(|field| one.get(field).is_none())
            .collect();
        assert!(missing.is_empty(), "{verb}: {missing:?} of {one}");
    }
}
