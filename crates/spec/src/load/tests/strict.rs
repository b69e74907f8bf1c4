//! Texts that are hardly YAML, or too much of it.
#![expect(
    clippy::too_many_lines,
    clippy::cognitive_complexity,
    reason = "a table of inputs, each with what people read then"
)]

use std::time::Instant;

use super::{one, rendered};

#[test]
fn syntax() {
    insta::assert_snapshot!(rendered("name: [a\n"), @r#"
    not YAML: did not find expected ',' or ']', while parsing a flow sequence
     --> web.yaml:1:9
      |
    1 | name: [a
      |         ^
    "#);
    insta::assert_snapshot!(rendered("name: web\n  memory: 1G\n"), @r#"
    not YAML: mapping values are not allowed in this context
     --> web.yaml:2:9
      |
    2 |   memory: 1G
      |         ^
    "#);
    insta::assert_snapshot!(rendered("name: web\n\tcpus: 2\n"), @r#"
    not YAML: found a tab character that violates indentation, while scanning a plain scalar
     --> web.yaml:2:1
      |
    2 |     cpus: 2
      | ^^^^^^^^
    "#);
    insta::assert_snapshot!(rendered("@name: web\n"), @r#"
    not YAML: found character that cannot start any token, while scanning for the next token
     --> web.yaml:1:1
      |
    1 | @name: web
      | ^^^^^
    "#);
    insta::assert_snapshot!(rendered("name: \"web\n"), @r#"
    not YAML: found unexpected end of stream, while scanning a quoted scalar
     --> web.yaml:1:11
      |
    1 | name: "web
      |           ^
    "#);
    insta::assert_snapshot!(rendered("name: web\ncpus: *x\n"), @r#"
    not YAML: unknown anchor
     --> web.yaml:2:7
      |
    2 | cpus: *x
      |       ^^
    "#);
    insta::assert_snapshot!(rendered("- a\n"), @r#"
    expected a VM as a map, found a list
     --> web.yaml:1:1
      |
    1 | - a
      | ^^^
    hint: for example `name: web`
    "#);
    insta::assert_snapshot!(rendered("web\n"), @r#"
    expected a VM as a map, found `web`
     --> web.yaml:1:1
      |
    1 | web
      | ^^^
    hint: for example `name: web`
    "#);
}

#[test]
fn keys() {
    insta::assert_snapshot!(rendered("name: web\nmemory: 1G\ncpus: 2\nmemory: 2G\n"), @r#"
    duplicate key `memory`
     --> web.yaml:4:1
      |
    4 | memory: 2G
      | ^^^^^^
    hint: it is already given in line 2
    "#);
    insta::assert_snapshot!(rendered("name: web\nnetworks:\n  lan: {type: user}\n  dmz: {type: user}\n  lan: {model: e1000}\n"), @r#"
    duplicate key `lan`
     --> web.yaml:5:3
      |
    5 |   lan: {model: e1000}
      |   ^^^
    hint: it is already given in line 3
    "#);
    insta::assert_snapshot!(rendered("base: &b {cpus: 2}\nname: web\n<<: *b\n"), @r#"
    merge keys (`<<`) are not supported
     --> web.yaml:3:1
      |
    3 | <<: *b
      | ^^
    hint: give several files: `maqet add base.yaml web.yaml` merges them left to right
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root:\n    <<: {path: a}\n"), @r#"
    merge keys (`<<`) are not supported
     --> web.yaml:4:5
      |
    4 |     <<: {path: a}
      |     ^^
    hint: give several files: `maqet add base.yaml web.yaml` merges them left to right
    "#);
    insta::assert_snapshot!(rendered("name: web\n? [a]\n: 1\n"), @r#"
    a key must be a plain text
     --> web.yaml:2:3
      |
    2 | ? [a]
      |   ^
    "#);
    insta::assert_snapshot!(rendered("name: web\n~: 1\n"), @r#"
    unknown field `~`
     --> web.yaml:2:1
      |
    2 | ~: 1
      | ^
    hint: fields here are name, binary, machine, accel, cpu_model, memory, cpus, kernel, firmware, disks, networks, shares, serial, display, vga, on_reboot, stop, restart, on_runner_loss, sandbox, qemu
    "#);
}

#[test]
fn documents_and_tags() {
    insta::assert_snapshot!(rendered("name: web\n---\nname: db\n"), @r#"
    more than one YAML document
     --> web.yaml:2:1
      |
    2 | ---
      | ^^^
    hint: one file is one VM; give several files to merge them
    "#);
    insta::assert_snapshot!(rendered("{name: web}\nmemory: 1G\n"), @r#"
    not YAML: text after the end of the document
     --> web.yaml:2:1
      |
    2 | memory: 1G
      | ^^^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\n}\n"), @r#"
    not YAML: did not find expected key, while parsing a block mapping
     --> web.yaml:2:1
      |
    2 | }
      | ^
    "#);
    insta::assert_snapshot!(rendered("name: !mine web\n"), @r#"
    YAML tags (`!…`) are not supported
     --> web.yaml:1:7
      |
    1 | name: !mine web
      |       ^^^^^^^^^
    hint: quote the text if it begins with `!`
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks: !x {}\n"), @r#"
    YAML tags (`!…`) are not supported
     --> web.yaml:2:8
      |
    2 | disks: !x {}
      |        ^^^^
    hint: quote the text if it begins with `!`
    "#);
}

/// Longest that any text may take to be refused, milliseconds. Far above what is measured, far below a hang.
const REFUSED_MS_MAX: u128 = 10_000;

/// The message for a text that is refused in bounded time.
fn refused_soon(text: &str) -> String {
    let begun = Instant::now();
    let message = one(text).unwrap_err().message().to_owned();
    let took = begun.elapsed().as_millis();
    assert!(took < REFUSED_MS_MAX, "took {took} ms: {message}");
    message
}

#[test]
fn costly_texts() {
    let laughs: Vec<String> = ('a'..='i')
        .zip('b'..='j')
        .map(|(one, next)| format!("{next}: &{next} [{}]\n", format!("*{one}, ").repeat(9)))
        .collect();
    let laughs = laughs.concat();
    insta::assert_snapshot!(refused_soon(&format!("a: &a [x, x]\n{laughs}")), @"not YAML: repetition limit exceeded");
    let big = "[1, 2, 3, 4, 5, 6, 7, 8, 9]";
    insta::assert_snapshot!(refused_soon(&format!("a: &a {big}\nb: [{}]\n", "*a, ".repeat(90_000))), @"the text expands to more than 100000 values");
    insta::assert_snapshot!(refused_soon(&"[".repeat(1 << 20)), @"more than 1000 open brackets");
    insta::assert_snapshot!(refused_soon(&"[".repeat(900)), @"nested deeper than 64 levels");
    insta::assert_snapshot!(refused_soon(&format!("{}{}", "[".repeat(100), "]".repeat(100))), @"nested deeper than 64 levels");
    insta::assert_snapshot!(refused_soon(&"- ".repeat(500_000)), @"nested deeper than 64 levels");
    insta::assert_snapshot!(refused_soon(&"? ".repeat(500_000)), @"a key must be a plain text");
    insta::assert_snapshot!(refused_soon(&"a: ".repeat(300_000)), @"not YAML: mapping values are not allowed in this context");
    insta::assert_snapshot!(refused_soon(&"a:\n".repeat(340_000)), @"the text expands to more than 100000 values");
    insta::assert_snapshot!(refused_soon(&"\"".repeat(1 << 20)), @"not YAML: text after the end of the document");
    insta::assert_snapshot!(refused_soon(&"&a ".repeat(300_000)), @"not YAML: text after the end of the document");
    insta::assert_snapshot!(refused_soon(&"# x\n".repeat(300_000)), @"`web.yaml` is larger than 1 MiB");
}

#[test]
fn odd_but_fine() {
    let spec =
        one("\u{feff}# a comment\r\nname: &n web\r\ncpus: 0x2\r\nmemory: 512 # MiB\r\ndisplay: \"no\"\r\n")
            .unwrap();
    assert_eq!(
        (spec.name.as_str(), spec.cpus, spec.memory.to_string().as_str()),
        ("web", 2, "512M")
    );
    assert_eq!(spec.display.as_deref(), Some("no"));
    let spec = one(
        "--- # one document\nname: 007\nkernel:\n  image: k\n  append: &a !!str 1.10\ncpu_model: *a\n...\n",
    )
    .unwrap();
    assert_eq!(
        (spec.name.as_str(), spec.cpu_model.as_deref()),
        ("007", Some("1.10"))
    );
}

#[test]
fn columns_count_characters() {
    insta::assert_snapshot!(rendered("{name: web, display: \"\u{fc}\u{fc}\u{4e16}\", cpuz: 2}\n"), @r#"
    unknown field `cpuz`, did you mean `cpus`?
     --> web.yaml:1:29
      |
    1 | {name: web, display: "üü世", cpuz: 2}
      |                              ^^^^
    "#);
}
