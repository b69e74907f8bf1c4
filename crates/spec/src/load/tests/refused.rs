//! What is refused, and the words people read then.
#![expect(
    clippy::too_many_lines,
    clippy::cognitive_complexity,
    reason = "a table of inputs, each with what people read then"
)]

use super::rendered;

#[test]
fn fields() {
    insta::assert_snapshot!(rendered("name: web\ncpuz: 4\n"), @r#"
    unknown field `cpuz`, did you mean `cpus`?
     --> web.yaml:2:1
      |
    2 | cpuz: 4
      | ^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nmemroy: 1G\n"), @r#"
    unknown field `memroy`, did you mean `memory`?
     --> web.yaml:2:1
      |
    2 | memroy: 1G
      | ^^^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nfrobnicate: 1\n"), @r#"
    unknown field `frobnicate`
     --> web.yaml:2:1
      |
    2 | frobnicate: 1
      | ^^^^^^^^^^
    hint: fields here are name, binary, machine, accel, cpu_model, memory, cpus, kernel, firmware, disks, networks, shares, serial, display, vga, on_reboot, stop, restart, on_runner_loss, sandbox, qemu
    "#);
    insta::assert_snapshot!(rendered("name: web\nenable_kvm: true\n"), @r#"
    unknown field `enable_kvm`
     --> web.yaml:2:1
      |
    2 | enable_kvm: true
      | ^^^^^^^^^^
    hint: write `accel: kvm`
    "#);
    insta::assert_snapshot!(rendered("name: web\nnetwork: {lan: {}}\n"), @r#"
    unknown field `network`, did you mean `networks`?
     --> web.yaml:2:1
      |
    2 | network: {lan: {}}
      | ^^^^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nkernel: {image: a, cmdline: b}\n"), @r#"
    unknown field `cmdline`
     --> web.yaml:2:20
      |
    2 | kernel: {image: a, cmdline: b}
      |                    ^^^^^^^
    hint: write `append`
    "#);
    insta::assert_snapshot!(rendered("name: web\nstop: {timout: 3s}\n"), @r#"
    unknown field `timout`, did you mean `timeout`?
     --> web.yaml:2:8
      |
    2 | stop: {timout: 3s}
      |        ^^^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root:\n    path: a\n    fromat: raw\n"), @r#"
    unknown field `fromat`, did you mean `format`?
     --> web.yaml:5:5
      |
    5 |     fromat: raw
      |     ^^^^^^
    "#);
    insta::assert_snapshot!(rendered("memory: 1G\n"), @r#"
    the VM has no name
    hint: write `name: web` in the file, or give `--name web`
    "#);
    insta::assert_snapshot!(rendered(""), @r#"
    the VM has no name
    hint: write `name: web` in the file, or give `--name web`
    "#);
}

#[test]
fn names() {
    insta::assert_snapshot!(rendered("name: ~\n"), @r#"
    the VM has no name
     --> web.yaml:1:7
      |
    1 | name: ~
      |       ^
    hint: write `name: web` in the file, or give `--name web`
    "#);
    insta::assert_snapshot!(rendered("name: \"~\"\n"), @r#"
    `~` is not a VM name: `~` is not one of a-z 0-9 . _ -
     --> web.yaml:1:7
      |
    1 | name: "~"
      |       ^^^
    hint: names are like `web-1`: a letter or digit, then up to 62 of a-z 0-9 . _ -
    "#);
    insta::assert_snapshot!(rendered("name: Web_1\n"), @r#"
    `Web_1` is not a VM name: `W` is not one of a-z 0-9 . _ -
     --> web.yaml:1:7
      |
    1 | name: Web_1
      |       ^^^^^
    hint: `web_1` would do
    "#);
    insta::assert_snapshot!(rendered("name: deadbeef\n"), @r#"
    `deadbeef` is not a VM name: 8 or more hexadecimal digits read as an id
     --> web.yaml:1:7
      |
    1 | name: deadbeef
      |       ^^^^^^^^
    hint: `vm-deadbeef` would do
    "#);
    insta::assert_snapshot!(rendered("name: true\n"), @r#"
    expected a text, found the boolean `true`
     --> web.yaml:1:7
      |
    1 | name: true
      |       ^^^^
    hint: write `"true"` if you mean the word
    "#);
    insta::assert_snapshot!(rendered("name: [a]\n"), @r#"
    expected a text, found a list
     --> web.yaml:1:7
      |
    1 | name: [a]
      |       ^
    "#);
    insta::assert_snapshot!(rendered("name: \"a\\u0007\"\n"), @r#"
    a control character (\u{7}) in a text
     --> web.yaml:1:7
      |
    1 | name: "a\u0007"
      |       ^^^^^^^^^
    "#);
}

#[test]
fn numbers_and_words() {
    insta::assert_snapshot!(rendered("name: web\ncpus: 0\n"), @r#"
    the number of CPUs must be 1 to 1024, not 0
     --> web.yaml:2:7
      |
    2 | cpus: 0
      |       ^
    "#);
    insta::assert_snapshot!(rendered("name: web\ncpus: -3\n"), @r#"
    the number of CPUs must be 1 to 1024, not -3
     --> web.yaml:2:7
      |
    2 | cpus: -3
      |       ^^
    "#);
    insta::assert_snapshot!(rendered("name: web\ncpus: 1.5\n"), @r#"
    expected a whole number, found the number `1.5`
     --> web.yaml:2:7
      |
    2 | cpus: 1.5
      |       ^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\ncpu: host\n"), @r#"
    `host` is not a number of CPUs
     --> web.yaml:2:6
      |
    2 | cpu: host
      |      ^^^^
    hint: write `cpus: 2`; a CPU model goes in `cpu_model: host`
    "#);
    insta::assert_snapshot!(rendered("name: web\ncpus: 99999999999999999999999\n"), @r#"
    the number of CPUs must be 1 to 1024, not 99999999999999999999999
     --> web.yaml:2:7
      |
    2 | cpus: 99999999999999999999999
      |       ^^^^^^^^^^^^^^^^^^^^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nmemory: banana\n"), @r#"
    `banana` is not a size
     --> web.yaml:2:9
      |
    2 | memory: banana
      |         ^^^^^^
    hint: sizes are like `512M`, `10G` or `1T`
    "#);
    insta::assert_snapshot!(rendered("name: web\nmemory: 1GB\n"), @r#"
    size `1GB` is ambiguous: `GB` may mean powers of 1000 or of 1024
     --> web.yaml:2:9
      |
    2 | memory: 1GB
      |         ^^^
    hint: write `1G` (binary, as QEMU does)
    "#);
    insta::assert_snapshot!(rendered("name: web\nmemory: 100K\n"), @r#"
    memory must be 1M to 16T, not 100K
     --> web.yaml:2:9
      |
    2 | memory: 100K
      |         ^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nmemory: 1.5G\n"), @r#"
    size `1.5G` has a fraction
     --> web.yaml:2:9
      |
    2 | memory: 1.5G
      |         ^^^^
    hint: write it in the next smaller unit, for example `1536M` for 1.5 G
    "#);
    insta::assert_snapshot!(rendered("name: web\nmemory: 20000G\n"), @r#"
    memory must be 1M to 16T, not 20000G
     --> web.yaml:2:9
      |
    2 | memory: 20000G
      |         ^^^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\naccel: kmv\n"), @r#"
    `kmv` is not an accelerator, did you mean `kvm`?
     --> web.yaml:2:8
      |
    2 | accel: kmv
      |        ^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\naccel: hvf\n"), @r#"
    `hvf` is not an accelerator
     --> web.yaml:2:8
      |
    2 | accel: hvf
      |        ^^^
    hint: it is one of auto, kvm, tcg
    "#);
    insta::assert_snapshot!(rendered("name: web\nserial: {log: yes}\n"), @r#"
    expected `true` or `false`, found `yes`
     --> web.yaml:2:15
      |
    2 | serial: {log: yes}
      |               ^^^
    hint: write `true`
    "#);
    insta::assert_snapshot!(rendered("name: web\nserial: true\n"), @r#"
    expected `serial` as a map, found the boolean `true`
     --> web.yaml:2:9
      |
    2 | serial: true
      |         ^^^^
    hint: its fields are log
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisplay: false\n"), @r#"
    expected a text, found the boolean `false`
     --> web.yaml:2:10
      |
    2 | display: false
      |          ^^^^^
    hint: write `"false"` if you mean the word
    "#);
    insta::assert_snapshot!(rendered("name: web\nsandbox: {mode: off, read: /r}\n"), @r#"
    `sandbox` is off and has paths
     --> web.yaml:2:10
      |
    2 | sandbox: {mode: off, read: /r}
      |          ^
    hint: write `mode: auto` beside them, or take them out
    "#);
    insta::assert_snapshot!(rendered("name: web\nsandbox: atuo\n"), @r#"
    `atuo` is not a sandbox mode, did you mean `auto`?
     --> web.yaml:2:10
      |
    2 | sandbox: atuo
      |          ^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nrestart: {policy: nevr}\n"), @r#"
    `nevr` is not a restart policy, did you mean `never`?
     --> web.yaml:2:19
      |
    2 | restart: {policy: nevr}
      |                   ^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nstop: {timeout: 30}\n"), @r#"
    `30` is not a duration
     --> web.yaml:2:17
      |
    2 | stop: {timeout: 30}
      |                 ^^
    hint: write `30s` for seconds
    "#);
    insta::assert_snapshot!(rendered("name: web\nstop: {timeout: 0s}\n"), @r#"
    the time to stop must be more than 0 and at most 24 hours
     --> web.yaml:2:17
      |
    2 | stop: {timeout: 0s}
      |                 ^^
    hint: to end a VM at once use `maqet stop --force`
    "#);
    insta::assert_snapshot!(rendered("name: web\nfirmware: ~bob/fw.bin\n"), @r#"
    `~bob/fw.bin`: only `~/` is understood, not other users' homes
     --> web.yaml:2:11
      |
    2 | firmware: ~bob/fw.bin
      |           ^^^^^^^^^^^
    "#);
}

#[test]
fn machines() {
    insta::assert_snapshot!(rendered("name: web\nmachine: none\ncpus: 2\n"), @r#"
    machine `none` has at most 1 CPU, not 2
     --> web.yaml:3:7
      |
    3 | cpus: 2
      |       ^
    "#);
    insta::assert_snapshot!(rendered("name: web\nmachine: none\nserial: {log: true}\n"), @r#"
    machine `none` has no devices and no CPU that runs: there is no serial port to log
     --> web.yaml:3:15
      |
    3 | serial: {log: true}
      |               ^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nmachine: none\nkernel: ./vmlinuz\n"), @r#"
    machine `none` has no devices and no CPU that runs: `kernel` cannot be used
     --> web.yaml:3:9
      |
    3 | kernel: ./vmlinuz
      |         ^^^^^^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nmachine: none\nnetworks:\n  lan: {type: user}\n"), @r#"
    machine `none` has no network cards
     --> web.yaml:4:8
      |
    4 |   lan: {type: user}
      |        ^
    "#);
    insta::assert_snapshot!(rendered("name: web\nmachine: none\ndisks: {root: {path: a}}\n"), @r#"
    machine `none` has no disks with interface `virtio`
     --> web.yaml:3:15
      |
    3 | disks: {root: {path: a}}
      |               ^
    hint: a disk there can only be `interface: none`
    "#);
    insta::assert_snapshot!(rendered("name: web\nmachine: \"q35,accel=kvm\"\n"), @r#"
    the accelerator has its own field
     --> web.yaml:2:10
      |
    2 | machine: "q35,accel=kvm"
      |          ^^^^^^^^^^^^^^^
    hint: write `accel: tcg`
    "#);
    insta::assert_snapshot!(rendered("name: web\nmachine: \"q 35\"\n"), @r#"
    `q 35` is not a machine type
     --> web.yaml:2:10
      |
    2 | machine: "q 35"
      |          ^^^^^^
    hint: for example `q35`
    "#);
    insta::assert_snapshot!(rendered("name: web\nmachine: pc\ncpus: 256\n"), @r#"
    machine `pc` has at most 255 CPUs, not 256
     --> web.yaml:3:7
      |
    3 | cpus: 256
      |       ^^^
    "#);
}
