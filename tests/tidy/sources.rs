//! What every Rust file looks like.

use crate::tree::{TextFile, files, none};

/// Longest file of a crate without its tests, lines that are not empty.
const LINES_MAX: usize = 400;

/// Words in a path that say nothing about what is in the file.
const EMPTY_NAMES: [&str; 8] = [
    "utils", "util", "common", "helpers", "misc", "types", "manager", "mod",
];

/// Ways to send a signal but through `ProcessHandle`. Written in pieces, so that this file is no finding. Those that have
/// the name of anybody's method, as the standard library's `Child` does, are `disallowed-methods` of clippy instead.
const SIGNALS: [&str; 18] = [
    concat!("signal::", "kill"),
    concat!("kill", "pg("),
    concat!("pidfd_send_", "signal"),
    concat!("libc::", "kill"),
    concat!("kill_", "process"),
    concat!("kill_current_", "process_group"),
    concat!("tg", "kill"),
    concat!("SYS_t", "kill"),
    concat!("pthread_", "kill"),
    concat!("sig", "queue"),
    concat!("F_SET", "SIG"),
    concat!("set_parent_process_death_", "signal"),
    concat!("set_pdeath", "sig"),
    concat!("kill_", "with("),
    concat!("kill_and_", "wait("),
    concat!("(\"", "kill\")"),
    concat!("(\"", "pkill\")"),
    concat!("/bin/", "kill"),
];

/// Ways to wait for a while instead of a condition.
const SLEEPS: [&str; 4] = [
    concat!("thread::", "sleep"),
    concat!("time::", "sleep("),
    concat!("time::", "interval"),
    concat!("sleep_", "ms("),
];

/// Where `unsafe` may be asked for: calls that no crate wraps, and descriptors that are numbers on a command line.
const UNSAFE_PLACES: [&str; 7] = [
    "crates/process/src/kernel.rs",
    "crates/protocol/src/endpoint/hangup.rs",
    "crates/runner/src/channel.rs",
    "crates/runner/src/logs.rs",
    "crates/supervisor/src/readiness.rs",
    "tests/harness/numbered.rs",
    "tests/programs/fake_qemu/options.rs",
];

fn is_test(source: &TextFile) -> bool {
    source.path.ends_with("/tests.rs") || source.path.contains("/tests/")
}

/// The part before the unit tests at the end of a file.
fn code(source: &TextFile) -> &str {
    source.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap()
}

fn all() -> impl Iterator<Item = TextFile> {
    files("", ".rs").into_iter()
}

fn crates() -> impl Iterator<Item = TextFile> {
    all().filter(|source| source.path.starts_with("crates/") && source.path.contains("/src/"))
}

/// `path: needle` for each file that contains one of the needles.
fn containing(sources: impl Iterator<Item = TextFile>, needles: &[&str]) -> Vec<String> {
    let hits = |source: TextFile| {
        let found = needles.iter().filter(|needle| source.text.contains(**needle));
        found
            .map(|needle| format!("{}: {needle}", source.path))
            .collect::<Vec<_>>()
    };
    sources.flat_map(hits).collect()
}

#[test]
fn there_is_something_to_check() {
    assert!(all().count() > 50);
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let silent = all().filter(|source| !source.text.starts_with("//! "));
    let wrong: Vec<String> = silent.map(|source| source.path).collect();
    none("first line is not `//! …`", &wrong);
}

#[test]
fn no_file_is_too_long() {
    let long = |source: TextFile| {
        let lines = code(&source)
            .lines()
            .filter(|line| !line.trim().is_empty())
            .count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines", source.path))
    };
    let wrong: Vec<String> = crates()
        .filter(|source| !is_test(source))
        .filter_map(long)
        .collect();
    none("which noun hides inside", &wrong);
}

#[test]
fn names_say_what_is_inside() {
    let empty = |source: &TextFile| {
        source
            .path
            .trim_end_matches(".rs")
            .split('/')
            .any(|part| EMPTY_NAMES.contains(&part))
    };
    let wrong: Vec<String> = all().filter(empty).map(|source| source.path).collect();
    none("a name that fits everything", &wrong);
}

#[test]
fn signals_are_sent_only_by_process() {
    let elsewhere = all().filter(|source| !source.path.starts_with("crates/process/"));
    none(
        "signals go through `maqet_process`",
        &containing(elsewhere, &SIGNALS),
    );
}

#[test]
fn nothing_sleeps_or_ticks() {
    none(
        "wait for a condition, never for a while",
        &containing(all(), &SLEEPS),
    );
}

#[test]
fn unsafe_is_where_it_was_agreed() {
    let elsewhere = all().filter(|source| !UNSAFE_PLACES.contains(&source.path.as_str()));
    none(
        "unsafe code",
        &containing(
            elsewhere,
            &[concat!("unsafe", " {"), concat!("expect(", "unsafe_code")],
        ),
    );
}

#[test]
fn no_test_is_switched_off() {
    none(
        "a test that does not run",
        &containing(all(), &[concat!("#[", "ignore")]),
    );
}
