//! Loading, end to end.
#![expect(
    clippy::too_many_lines,
    reason = "inputs with what becomes of them, to be read side by side"
)]

mod merged;
mod refused;
mod refused_devices;
mod restart;
mod shares;
mod strict;
mod tuned_disks;

use super::*;

fn options() -> LoadOptions {
    LoadOptions {
        name: None,
        home: Some("/home/u".into()),
        directory: "/cwd".into(),
        default_arch: "x86_64".to_owned(),
        disks: None,
    }
}

#[test]
fn a_disk_from_an_image_has_a_place_of_its_own() {
    let text = "name: web\ndisks: {root: {from: debian}, data: {path: data.qcow2, from: debian}}";
    let source = [Source::new("web.yaml", "/vms", text)];
    let placed = LoadOptions {
        disks: Some("/data/disks".into()),
        ..options()
    };
    let spec = load(&source, &[], &placed).unwrap();
    let paths: Vec<_> = spec
        .disks
        .iter()
        .map(|disk| disk.path.to_str().unwrap())
        .collect();
    assert_eq!(paths, ["/data/disks/web/root.qcow2", "/vms/data.qcow2"]);
    for (text, options) in [
        (text, options()),
        ("name: web\ndisks: {root: {size: 1G}}", placed),
    ] {
        let refused = load(&[Source::new("web.yaml", "/vms", text)], &[], &options).unwrap_err();
        assert!(
            refused.to_string().contains("disk `root` has no `path`"),
            "{refused}"
        );
    }
}

fn one(text: &str) -> Result<VmSpec, SpecError> {
    load(&[Source::new("web.yaml", "/vms", text)], &[], &options())
}

/// The whole error as a person reads it.
fn rendered(text: &str) -> String {
    one(text).unwrap_err().to_string()
}

#[test]
fn the_smallest_spec() {
    insta::assert_json_snapshot!(one("name: web").unwrap(), @r#"
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
        "policy": "never",
        "backoff": "1s",
        "backoff_max": "1m",
        "tries": 5,
        "window": "10m"
      },
      "on_runner_loss": "adopt",
      "sandbox": "auto"
    }
    "#);
}

#[test]
fn the_example_of_the_design() {
    let spec = one(r#"
name: web
memory: 512M
cpus: 2
machine: q35
accel: auto
kernel: {image: ./vmlinuz, initrd: ~/initrd.img, append: "console=ttyS0"}
disks:
  root: {path: ./web.qcow2, size: 10G, format: qcow2, interface: virtio}
  data: {path: ./data.raw, size: 1G, format: raw, readonly: false}
networks:
  lan: {type: user, forwards: ["tcp:127.0.0.1:auto:22"]}
serial: {log: true}
restart: {policy: on-failure}
stop: {timeout: 30s, on_timeout: keep}
sandbox: auto
qemu: {args: ["-msg", "timestamp=on"]}
"#)
    .unwrap();
    insta::assert_json_snapshot!(spec, @r#"
    {
      "name": "web",
      "binary": "qemu-system-x86_64",
      "machine": "q35",
      "accel": "auto",
      "memory": 536870912,
      "cpus": 2,
      "kernel": {
        "image": "/vms/vmlinuz",
        "initrd": "/home/u/initrd.img",
        "append": "console=ttyS0"
      },
      "disks": [
        {
          "name": "root",
          "path": "/vms/web.qcow2",
          "size": 10737418240,
          "format": "qcow2",
          "interface": "virtio",
          "readonly": false
        },
        {
          "name": "data",
          "path": "/vms/data.raw",
          "size": 1073741824,
          "format": "raw",
          "interface": "virtio",
          "readonly": false
        }
      ],
      "networks": [
        {
          "name": "lan",
          "type": "user",
          "model": "virtio-net-pci",
          "forwards": [
            {
              "protocol": "tcp",
              "host_address": "127.0.0.1",
              "guest_port": 22
            }
          ]
        }
      ],
      "serial": {
        "log": true
      },
      "on_reboot": "reset",
      "stop": {
        "timeout": "30s",
        "on_timeout": "keep"
      },
      "restart": {
        "policy": "on-failure",
        "backoff": "1s",
        "backoff_max": "1m",
        "tries": 5,
        "window": "10m"
      },
      "on_runner_loss": "adopt",
      "sandbox": "auto",
      "extra_args": [
        "-msg",
        "timestamp=on"
      ]
    }
    "#);
}

#[test]
fn other_architectures() {
    let on = |arch: &str, text: &str| {
        let options = LoadOptions {
            default_arch: arch.to_owned(),
            ..options()
        };
        let spec = load(&[Source::new("web.yaml", "/vms", text)], &[], &options).unwrap();
        format!("{} {}", spec.binary, spec.machine)
    };
    assert_eq!(on("aarch64", "name: web"), "qemu-system-aarch64 virt");
    assert_eq!(
        on("x86_64", "{name: web, binary: qemu-system-riscv64}"),
        "qemu-system-riscv64 virt"
    );
    assert_eq!(
        on("x86_64", "{name: web, binary: ./bin/qemu-kvm}"),
        "/vms/bin/qemu-kvm q35"
    );
}

#[test]
fn the_parts_of_an_error() {
    let error = one("name: web\ndisks:\n  root: {path: a, size: 10GB}\n").unwrap_err();
    assert_eq!(
        (error.file_name(), error.line(), error.column()),
        (Some("web.yaml"), Some(3), Some(25))
    );
    assert_eq!(error.field_path(), Some("disks.root.size"));
    assert!(error.snippet(true).unwrap().contains('\u{1b}'));
    assert!(!error.to_string().contains('\u{1b}'));
    let error = one("name: web\nnetworks: {lan: {forwards: ['tcp:1:1', 'tcp:1:1']}}\n").unwrap_err();
    assert_eq!(error.field_path(), Some("networks.lan.forwards[1]"));
}

#[test]
fn the_examples_load() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/vm");
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let source = Source::read(&path).unwrap();
            let spec = load(&[source], &[], &options()).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(path.file_stem().unwrap(), spec.name.as_str());
            assert_eq!(one(&crate::to_yaml(&spec)), Ok(spec));
            count += 1;
        }
    }
    assert!(count >= 3, "only {count} examples");
}

#[test]
fn the_full_example_names_every_field() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/vm/full.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let missing: Vec<&str> = crate::decode::KEYS
        .into_iter()
        .filter(|key| !text.contains(&format!("\n{key}:")))
        .collect();
    assert_eq!(
        missing,
        ["firmware"],
        "firmware and kernel are rarely used together"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.yaml");
    let told = || {
        let error = Source::read(&path).unwrap_err().to_string();
        error.replace(&directory.path().display().to_string(), "[DIR]")
    };
    insta::assert_snapshot!(told(), @"cannot read `[DIR]/bad.yaml`: No such file or directory (os error 2)");
    std::fs::write(&path, b"name: web\nmemory: \xff\n").unwrap();
    insta::assert_snapshot!(told(), @"line 2 of `[DIR]/bad.yaml` is not UTF-8 text");
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    insta::assert_snapshot!(told(), @"`[DIR]/bad.yaml` is larger than 1 MiB");
}
