//! Loading, end to end.

use super::*;

fn options() -> LoadOptions {
    LoadOptions {
        name: None,
        home: Some("/home/u".into()),
        directory: "/cwd".into(),
        default_arch: "x86_64".to_owned(),
    }
}

fn one(text: &str) -> Result<VmSpec, SpecError> {
    load(&[Source::new("web.yaml", "/vms", text)], &[], &options())
}

#[test]
fn the_smallest_spec() {
    let spec = one("name: web").unwrap();
    insta::assert_json_snapshot!(spec, @r#"
    {
      "name": "web",
      "binary": "qemu-system-x86_64",
      "machine": "q35",
      "accel": "auto",
      "memory": 536870912,
      "cpus": 1,
      "serial": {
        "log": true
      },
      "on_reboot": "reset",
      "stop": {
        "timeout": "30s",
        "on_timeout": "keep"
      },
      "restart": {
        "policy": "never"
      },
      "sandbox": "auto"
    }
    "#);
}

fn rendered(text: &str) -> String {
    one(text).unwrap_err().to_string()
}

#[test]
fn unknown_field() {
    insta::assert_snapshot!(rendered("name: web\ncpuz: 4\n"), @r#"
    unknown field `cpuz`, did you mean `cpus`?
     --> web.yaml:2:1
      |
    2 | cpuz: 4
      | ^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\ncpus: 0\n"), @r#"
    the number of CPUs must be 1 to 1024, not 0
     --> web.yaml:2:7
      |
    2 | cpus: 0
      |       ^
    "#);
}
