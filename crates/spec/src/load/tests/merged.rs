//! Several files, overrides, and the Python tool's keys.
#![expect(
    clippy::too_many_lines,
    clippy::cognitive_complexity,
    reason = "a table of inputs, each with what people read then"
)]

use super::*;

fn merged(texts: &[&str], overrides: &[&str]) -> Result<VmSpec, SpecError> {
    let sources: Vec<Source> = texts
        .iter()
        .enumerate()
        .map(|(number, text)| Source::new(format!("{number}.yaml"), format!("/vms/{number}"), *text))
        .collect();
    let overrides: Vec<Override> = overrides.iter().map(|text| text.parse().unwrap()).collect();
    load(&sources, &overrides, &options())
}

const BASE: &str = "
name: web
memory: 512M
kernel: {image: ./k, append: quiet}
disks:
  root: {path: root.qcow2, size: 1G}
  data: {path: data.qcow2, size: 1G}
networks: {lan: {forwards: ['tcp:auto:22', 'tcp:auto:80']}}
qemu: {args: [-device, a]}
";

#[test]
fn maps_merge_scalars_and_lists_replace_words_append() {
    let over = "
memory: 1G
kernel: {append: debug}
disks: {root: {size: 5G}, extra: {path: ./extra.qcow2, size: 1G}}
networks: {lan: {forwards: ['tcp:auto:443']}}
qemu: {args: [-device, b]}
";
    let spec = merged(&[BASE, over], &[]).unwrap();
    let kernel = spec.kernel.unwrap();
    assert_eq!(
        (kernel.image.to_str(), kernel.append.as_deref()),
        (Some("/vms/0/k"), Some("debug"))
    );
    let disks: Vec<String> = spec
        .disks
        .iter()
        .map(|disk| format!("{} {} {}", disk.name, disk.path.display(), disk.size.unwrap()))
        .collect();
    assert_eq!(
        disks,
        [
            "root /vms/0/root.qcow2 5G",
            "data /vms/0/data.qcow2 1G",
            "extra /vms/1/extra.qcow2 1G"
        ]
    );
    assert_eq!(spec.networks[0].forwards.len(), 1);
    assert_eq!(spec.extra_args, ["-device", "a", "-device", "b"]);
    assert_eq!(spec.memory.to_string(), "1G");
}

#[test]
fn null_takes_out() {
    let spec = merged(&[BASE, "{kernel: ~, disks: {data: ~}, memory: ~, qemu: ~}"], &[]).unwrap();
    assert_eq!(
        (spec.kernel, spec.disks.len(), spec.memory.to_string().as_str()),
        (None, 1, "512M")
    );
    assert_eq!(spec.extra_args, [""; 0]);
}

#[test]
fn a_file_merged_with_itself_is_itself() {
    let text = "{name: web, storage: [{name: a, file: x}], networks: [{name: lan}]}";
    assert_eq!(
        load(
            &[Source::new("a", "/d", text), Source::new("a", "/d", text)],
            &[],
            &options()
        ),
        load(&[Source::new("a", "/d", text)], &[], &options())
    );
}

#[test]
fn overrides_come_last() {
    let spec = merged(
        &[BASE],
        &[
            "memory=2048",
            "kernel.append=console=ttyS0 a=b",
            "disks.root.readonly=false",
            "disks.new.path=./n.qcow2",
            "networks.lan.forwards.1=tcp:8080:80",
            "networks.lan.forwards.2=tcp:8443:443",
            "stop.timeout=5s",
            "qemu.args=[-x, 'y']",
            "cpu=3",
            "display=~",
        ],
    )
    .unwrap();
    assert_eq!((spec.memory.to_string().as_str(), spec.cpus), ("2G", 3));
    assert_eq!(spec.kernel.unwrap().append.as_deref(), Some("console=ttyS0 a=b"));
    assert_eq!(spec.disks[2].path.to_str(), Some("/cwd/n.qcow2"));
    let forwards: Vec<String> = spec.networks[0]
        .forwards
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        forwards,
        [
            "tcp:127.0.0.1:auto:22",
            "tcp:127.0.0.1:8080:80",
            "tcp:127.0.0.1:8443:443"
        ]
    );
    assert_eq!(spec.extra_args, ["-device", "a", "-x", "y"]);
}

#[test]
fn the_name_of_the_command_line_wins() {
    let options = LoadOptions {
        name: Some("db".to_owned()),
        ..options()
    };
    let named = |text: &str| load(&[Source::new("web.yaml", "/vms", text)], &[], &options);
    assert_eq!(named("name: web").unwrap().name.as_str(), "db");
    assert_eq!(named("name: [no name]").unwrap().name.as_str(), "db");
    assert_eq!(load(&[], &[], &options).unwrap().name.as_str(), "db");
    let options = LoadOptions {
        name: Some("1.5e3".to_owned()),
        ..options
    };
    assert_eq!(load(&[], &[], &options).unwrap().name.as_str(), "1.5e3");
}

fn told(texts: &[&str], overrides: &[&str]) -> String {
    merged(texts, overrides).unwrap_err().to_string()
}

#[test]
fn errors_name_the_source_at_fault() {
    insta::assert_snapshot!(told(&[BASE, "memory: 1G\ncpus: 0\n"], &[]), @r#"
    the number of CPUs must be 1 to 1024, not 0
     --> 1.yaml:2:7
      |
    2 | cpus: 0
      |       ^
    "#);
    insta::assert_snapshot!(told(&[BASE], &["memroy=1G"]), @r#"
    unknown field `memroy`, did you mean `memory`?
     --> command line:1:7
      |
    1 | --set memroy=1G
      |       ^^^^^^
    "#);
    insta::assert_snapshot!(told(&[BASE], &["memory=banana"]), @r#"
    `banana` is not a size
     --> command line:1:14
      |
    1 | --set memory=banana
      |              ^^^^^^
    hint: sizes are like `512M`, `10G` or `1T`
    "#);
    insta::assert_snapshot!(told(&[BASE], &["disks.root.sise=1G"]), @r#"
    unknown field `sise`, did you mean `size`?
     --> command line:1:18
      |
    1 | --set disks.root.sise=1G
      |                  ^^^^
    "#);
    insta::assert_snapshot!(told(&[BASE], &["networks.lan.forwards.5=tcp:1:1"]), @r#"
    no element 5 in a list of 2
     --> command line:1:29
      |
    1 | --set networks.lan.forwards.5=tcp:1:1
      |                             ^
    hint: elements are counted from 0; 2 appends one
    "#);
    insta::assert_snapshot!(told(&[BASE], &["networks.lan.forwards=[tcp:1:1, tcp:1:2]"]), @r#"
    `tcp:127.0.0.1:1:1` already listens on that host port
     --> command line:1:39
      |
    1 | --set networks.lan.forwards=[tcp:1:1, tcp:1:2]
      |                                       ^^^^^^^
    hint: choose another port, or `auto`
    "#);
    insta::assert_snapshot!(told(&[BASE], &["kernel.append=[a"]), @r#"
    not YAML: did not find expected ',' or ']', while parsing a flow sequence
     --> command line:1:23
      |
    1 | --set kernel.append=[a
      |                       ^
    "#);
    insta::assert_snapshot!(told(&[BASE], &["disks.data.path=/vms/0/root.qcow2"]), @r#"
    disk `root` already uses `/vms/0/root.qcow2`
     --> command line:1:23
      |
    1 | --set disks.data.path=/vms/0/root.qcow2
      |                       ^^^^^^^^^^^^^^^^^
    hint: give each disk a file of its own
    "#);
    let options = LoadOptions {
        name: Some("Web 1".to_owned()),
        ..options()
    };
    insta::assert_snapshot!(load(&[], &[], &options).unwrap_err(), @r#"
    `Web 1` is not a VM name: `W` is not one of a-z 0-9 . _ -
     --> command line:1:8
      |
    1 | --name Web 1
      |        ^^^^^
    hint: `web-1` would do
    "#);
    insta::assert_snapshot!("memory".parse::<Override>().unwrap_err(), @r#"
    `--set memory` is not PATH=VALUE
    hint: for example `--set memory=1G` or `--set kernel.append=quiet`
    "#);
    insta::assert_snapshot!("a..b=1".parse::<Override>().unwrap_err(), @r#"
    `--set a..b=1` is not PATH=VALUE
    hint: for example `--set memory=1G` or `--set kernel.append=quiet`
    "#);
}

#[test]
fn a_file_of_the_python_tool() {
    let base = r#"
name: lab1
binary: /usr/bin/qemu-system-x86_64
memory: 512M
cpu: 2
display: none
vga: std
arguments:
  - machine: q35
  - accel: tcg
  - kernel: ./vmlinuz
  - initrd: ./initrd.gz
  - append: "console=ttyS0 panic=-1"
  - no-reboot: null
  - serial: "file:./lab1.log"
  - netdev: "user,id=n0,hostfwd=tcp::2222-:22"
  - device: {virtio-net-pci: null, netdev: n0}
  - object: {memory-backend-ram: null, id: m0, size: 64M}
args: ["-msg", "timestamp=on"]
storage:
  - {name: hdd, type: qcow2, size: 2G, interface: virtio, file: ./lab1.qcow2}
  - {name: scratch, type: raw, size: 64M, interface: none, file: ./scratch.img}
"#;
    let over = "
memory: 1G
arguments: [{smp: {cores: 2, threads: 1}}, {device: virtio-rng-pci}]
storage: [{type: qcow2, size: 100M, file: more.qcow2}]
";
    insta::assert_snapshot!(crate::to_yaml(&merged(&[base, over], &[]).unwrap()), @r#"
    name: lab1
    binary: /usr/bin/qemu-system-x86_64
    machine: q35
    accel: tcg
    memory: 1G
    cpus: 2
    kernel:
      image: /vms/0/vmlinuz
      initrd: /vms/0/initrd.gz
      append: console=ttyS0 panic=-1
    disks:
      hdd:
        path: /vms/0/lab1.qcow2
        size: 2G
        format: qcow2
        interface: virtio
      scratch:
        path: /vms/0/scratch.img
        size: 64M
        format: raw
        interface: none
      storage2:
        path: /vms/1/more.qcow2
        size: 100M
        format: qcow2
        interface: virtio
    serial:
      log: true
    vga: std
    on_reboot: stop
    stop:
      timeout: 30s
      on_timeout: keep
    sandbox: auto
    qemu:
      args:
        - -serial
        - file:/vms/0/lab1.log
        - -netdev
        - user,id=n0,hostfwd=tcp::2222-:22
        - -device
        - virtio-net-pci,netdev=n0
        - -object
        - memory-backend-ram,id=m0,size=64M
        - -msg
        - timestamp=on
        - -smp
        - cores=2,threads=1
        - -device
        - virtio-rng-pci
    "#);
}
