//! What an operator edits, as it is delivered.

use std::path::PathBuf;

use maqet_spec::{LoadOptions, Source, load, yaml};
use serde_json::Value;

use crate::tree::{files, none, root};

fn source(path: &str) -> Result<Source, String> {
    Source::read(&root().join(path)).map_err(|error| error.to_string())
}

#[test]
fn every_vm_example_is_a_vm() {
    let options = LoadOptions {
        home: Some(PathBuf::from("/home/user")),
        directory: root(),
        default_arch: "x86_64".to_owned(),
        ..LoadOptions::default()
    };
    let check = |path: &str| load(&[source(path)?], &[], &options).map_err(|error| error.to_string());
    let examples = files("config/vm", ".yaml");
    let wrong: Vec<String> = examples
        .iter()
        .filter_map(|example| check(&example.path).err())
        .collect();
    none("examples that `maqet add` would refuse", &wrong);
}

#[test]
fn every_other_yaml_file_is_yaml() {
    let check =
        |path: &str| yaml::from_str_strict::<Value>(&source(path)?).map_err(|error| error.to_string());
    let all = files("config", ".yaml");
    let wrong: Vec<String> = all.iter().filter_map(|file| check(&file.path).err()).collect();
    none("files that cannot be read", &wrong);
}

#[test]
fn every_unit_has_its_sections() {
    let complete = |text: &str| {
        ["[Unit]", "[Service]", "ExecStart="]
            .iter()
            .all(|part| text.contains(part))
    };
    let units = files("config/systemd", ".service").into_iter();
    let wrong: Vec<String> = units
        .filter(|unit| !complete(&unit.text))
        .map(|unit| unit.path)
        .collect();
    none("incomplete units", &wrong);
}
