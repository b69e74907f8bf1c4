//! Findings about files.

use std::os::unix::fs::symlink;

use super::*;
use crate::load::{LoadOptions, load_located};
use crate::source::Source;

/// Findings about a VM in a directory with a few files, with the directory's name taken out.
fn findings(yaml: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("kernel"), "x").unwrap();
    fs::write(at("fw.bin"), vec![0; 65536]).unwrap();
    fs::write(at("short.bin"), vec![0; 100]).unwrap();
    fs::write(at("plain.img"), vec![0; 4096]).unwrap();
    fs::write(at("good.qcow2"), b"QFI\xfb....").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    symlink(at("good.qcow2"), at("same")).unwrap();
    fs::hard_link(at("plain.img"), at("other.img")).unwrap();
    let source = Source::new("vm.yaml", directory.path(), format!("name: web\n{yaml}"));
    let options = LoadOptions {
        default_arch: "x86_64".to_owned(),
        ..LoadOptions::default()
    };
    let loaded = load_located(&[source], &[], &options).unwrap();
    let told: Vec<String> = check_host(&loaded.spec)
        .iter()
        .map(|finding| loaded.explain(finding).to_string())
        .collect();
    told.join("\n---\n")
        .replace(&directory.path().display().to_string(), "[DIR]")
}

#[test]
fn nothing_to_find() {
    assert_eq!(
        findings("kernel: {image: kernel, initrd: kernel}\nfirmware: fw.bin\n"),
        ""
    );
    assert_eq!(
        findings(
            "disks: {a: {path: new, size: 1G}, b: {path: good.qcow2}, c: {path: plain.img, format: raw}}\n"
        ),
        ""
    );
}

#[test]
fn kernel_and_firmware() {
    insta::assert_snapshot!(findings("kernel:\n  image: missing\n  initrd: folder\nfirmware: short.bin\n"), @r#"
    `[DIR]/missing` does not exist
     --> vm.yaml:3:10
      |
    3 |   image: missing
      |          ^^^^^^^
    ---
    `[DIR]/folder` is not a regular file
     --> vm.yaml:4:11
      |
    4 |   initrd: folder
      |           ^^^^^^
    ---
    firmware `[DIR]/short.bin` is 100 bytes long, not a multiple of 64 KiB
     --> vm.yaml:5:11
      |
    5 | firmware: short.bin
      |           ^^^^^^^^^
    "#);
}

#[test]
fn disks() {
    insta::assert_snapshot!(findings(
        "storage:\n  - {name: a, file: missing}\n  - {name: b, file: plain.img}\n  - {name: c, file: folder}\n\
         \x20 - {name: d, file: no/such/dir, size: 1G}\n  - {name: e, file: dangling, size: 1G}\n  - {name: f, file: kernel/x, size: 1G}\n"
    ), @r#"
    `[DIR]/missing` does not exist
     --> vm.yaml:3:21
      |
    3 |   - {name: a, file: missing}
      |                     ^^^^^^^
    hint: write `size: 10G` to have it created at the first start
    ---
    `[DIR]/plain.img` is not a qcow2 image
     --> vm.yaml:4:21
      |
    4 |   - {name: b, file: plain.img}
      |                     ^^^^^^^^^
    hint: write `format: raw` if it holds plain bytes
    ---
    `[DIR]/folder` is not a regular file
     --> vm.yaml:5:21
      |
    5 |   - {name: c, file: folder}
      |                     ^^^^^^
    ---
    `[DIR]/no/such/dir` cannot be created: its directory: No such file or directory (os error 2)
     --> vm.yaml:6:21
      |
    6 |   - {name: d, file: no/such/dir, size: 1G}
      |                     ^^^^^^^^^^^
    hint: mkdir -p [DIR]/no/such
    ---
    `[DIR]/dangling` is a link that leads nowhere
     --> vm.yaml:7:21
      |
    7 |   - {name: e, file: dangling, size: 1G}
      |                     ^^^^^^^^
    ---
    cannot look at `[DIR]/kernel/x`: Not a directory (os error 20)
     --> vm.yaml:8:21
      |
    8 |   - {name: f, file: kernel/x, size: 1G}
      |                     ^^^^^^^^
    "#);
}

#[test]
fn one_file_is_one_disk_unless_it_is_only_read() {
    insta::assert_snapshot!(findings(
        "disks:\n  a: {path: good.qcow2}\n  b: {path: same, readonly: true}\n  c: {path: plain.img, format: raw}\n"
    ), @r#"
    `[DIR]/same` is the file of disk `a` as well
     --> vm.yaml:4:13
      |
    4 |   b: {path: same, readonly: true}
      |             ^^^^
    hint: give each disk a file of its own
    "#);
    assert_eq!(
        findings("disks: {a: {path: good.qcow2, readonly: true}, b: {path: same, readonly: true}}\n"),
        ""
    );
    insta::assert_snapshot!(findings(
        "disks:\n  a: {path: plain.img, format: raw}\n  b: {path: ./folder/../other.img, format: raw}\n"
    ), @r#"
    `[DIR]/folder/../other.img` is the file of disk `a` as well
     --> vm.yaml:4:13
      |
    4 |   b: {path: ./folder/../other.img, format: raw}
      |             ^^^^^^^^^^^^^^^^^^^^^
    hint: give each disk a file of its own
    "#);
}

#[test]
fn an_image_is_of_the_format_that_is_said() {
    insta::assert_snapshot!(findings("disks:\n  a: {path: good.qcow2, format: raw}\n"), @r#"
    `[DIR]/good.qcow2` is a qcow2 image, not a raw one
     --> vm.yaml:3:13
      |
    3 |   a: {path: good.qcow2, format: raw}
      |             ^^^^^^^^^^
    hint: write `format: qcow2`
    "#);
    assert_eq!(
        findings("disks: {a: {path: good.qcow2, format: raw, readonly: true}}\n"),
        ""
    );
    insta::assert_snapshot!(findings("disks:\n  a: {path: missing.iso, media: cdrom}\n"), @r#"
    `[DIR]/missing.iso` does not exist
     --> vm.yaml:3:13
      |
    3 |   a: {path: missing.iso, media: cdrom}
      |             ^^^^^^^^^^^
    "#);
}

#[test]
fn kvm_is_for_the_hosts_own_kind() {
    let other = if std::env::consts::ARCH == "s390x" {
        "x86_64"
    } else {
        "s390x"
    };
    let found = findings(&format!("binary: qemu-system-{other}\naccel: kvm\n"));
    assert!(found.contains("cannot run a guest of"), "{found}");
}
