//! Who may name whom.

use std::process::Command;

use serde_json::Value;

use crate::tree::{files, none, root};

/// The rows; a package of a row may depend on those of the rows above it here.
const WORDS: [&str; 2] = ["spec", "process"];
const ADAPTERS: [&str; 4] = ["protocol", "state", "storage", "qmp"];
const PROGRAMS: [&str; 3] = ["cli", "supervisor", "runner"];

/// Outside packages that have one home, and the homes. What only tests need does not count.
const HOMES: [(&str, &[&str]); 20] = [
    ("actix", &["supervisor"]),
    ("actix-rt", &["supervisor"]),
    ("annotate-snippets", &["spec"]),
    ("anstream", &["cli"]),
    ("anyhow", &["cli", "supervisor", "runner"]),
    ("blake3", &["state", "storage"]),
    ("clap", &["cli", "supervisor", "runner"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("comfy-table", &["cli"]),
    ("hmac", &["protocol"]),
    ("indicatif", &["cli"]),
    ("insta", &[]),
    ("landlock", &["runner", "process"]),
    ("redb", &["state"]),
    ("sd-notify", &["supervisor"]),
    ("sha2", &["protocol", "storage"]),
    ("sysinfo", &["supervisor"]),
    ("tempfile", &["cli", "storage"]),
    ("yaml_serde", &["spec"]),
];

/// One dependency as a package declares it.
#[derive(Debug)]
struct Arrow {
    from: String,
    to: String,
    /// The name code uses.
    code_name: String,
    /// Needed by tests only.
    tests: bool,
}

fn arrows() -> Vec<Arrow> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
            "--locked",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().flat_map(declared).collect()
}

fn declared(package: &Value) -> Vec<Arrow> {
    let from = package["name"].as_str().unwrap();
    let arrow = |dependency: &Value| {
        let to = dependency["name"].as_str().unwrap();
        Arrow {
            from: from.trim_start_matches("maqet-").to_owned(),
            to: to.to_owned(),
            code_name: dependency["rename"].as_str().unwrap_or(to).replace('-', "_"),
            tests: dependency["kind"] == "dev" || from == "maqet-tests",
        }
    };
    package["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(arrow)
        .collect()
}

fn may(from: &str, to: &str) -> bool {
    let down = match from {
        _ if WORDS.contains(&from) => false,
        _ if ADAPTERS.contains(&from) => WORDS.contains(&to) || (from, to) == ("protocol", "state"),
        _ if PROGRAMS.contains(&from) => WORDS.contains(&to) || ADAPTERS.contains(&to),
        _ => from == "tests",
    };
    down || to == "spec"
}

#[test]
fn every_arrow_points_down() {
    let wrong = arrows().into_iter().filter_map(|arrow| {
        let to = arrow.to.strip_prefix("maqet-")?;
        (!may(&arrow.from, to)).then(|| format!("{} names {to}", arrow.from))
    });
    none("arrows that point up or sideways", &wrong.collect::<Vec<_>>());
}

#[test]
fn every_outside_thing_has_one_home() {
    let strays = arrows()
        .into_iter()
        .filter(|arrow| !arrow.tests)
        .filter_map(|arrow| {
            let (_, homes) = HOMES.iter().find(|(package, _)| *package == arrow.to)?;
            (!homes.contains(&arrow.from.as_str())).then(|| format!("{} depends on {}", arrow.from, arrow.to))
        });
    none("packages away from home", &strays.collect::<Vec<_>>());
}

#[test]
fn only_tests_have_fail_points() {
    let manifests = files("crates", "Cargo.toml").into_iter();
    let wrong = manifests.filter(|manifest| {
        let declared =
            manifest.path == "crates/process/Cargo.toml" && manifest.text.contains("\nfail-points = []\n");
        let mentions = manifest.text.matches("fail-points").count();
        mentions != usize::from(declared)
    });
    none(
        "crates that could switch fail points on",
        &wrong.map(|manifest| manifest.path).collect::<Vec<_>>(),
    );
    let root = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(
        !root.contains("fail-points"),
        "the workspace switches fail points on"
    );
    // Not even a build of the whole workspace has them in a release: that is without debug assertions.
    assert!(
        !root.contains("debug-assertions"),
        "a profile sets debug assertions"
    );
}

#[test]
fn every_dependency_is_used() {
    let unused = arrows().into_iter().filter_map(|arrow| {
        let dir = if arrow.from == "tests" {
            "tests".to_owned()
        } else {
            format!("crates/{}", arrow.from)
        };
        let named = files(&dir, ".rs")
            .iter()
            .any(|source| source.text.contains(&arrow.code_name));
        (!named).then(|| format!("{} declares {}", arrow.from, arrow.to))
    });
    none("dependencies that no code names", &unused.collect::<Vec<_>>());
}

#[test]
fn every_shared_version_is_used() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let table = manifest
        .split("[workspace.dependencies]\n")
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap();
    let names = table
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0.trim()));
    let manifests = ["crates", "tests"]
        .into_iter()
        .flat_map(|dir| files(dir, "Cargo.toml"));
    let members: String = manifests.map(|manifest| manifest.text).collect();
    let used = |name: &str| members.contains(&format!("\n{name} = {{ workspace = true"));
    let unused: Vec<String> = names
        .filter(|name| !name.starts_with('#') && !used(name))
        .map(str::to_owned)
        .collect();
    none("versions nobody uses", &unused);
}
