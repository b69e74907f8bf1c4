//! What is refused of disks, networks, kernel and extra words, and the words people read then.
#![expect(
    clippy::too_many_lines,
    clippy::cognitive_complexity,
    reason = "a table of inputs, each with what people read then"
)]

use super::rendered;

#[test]
fn disks() {
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {path: a, size: 10}\n"), @r#"
    size `10` has no unit
     --> web.yaml:3:25
      |
    3 |   root: {path: a, size: 10}
      |                         ^^
    hint: write `10G` or `10M`
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {path: a, size: 10GB}\n"), @r#"
    size `10GB` is ambiguous: `GB` may mean powers of 1000 or of 1024
     --> web.yaml:3:25
      |
    3 |   root: {path: a, size: 10GB}
      |                         ^^^^
    hint: write `10G` (binary, as QEMU does)
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {path: a, size: 100B}\n"), @r#"
    the size must be a multiple of 512 bytes, not 100B
     --> web.yaml:3:25
      |
    3 |   root: {path: a, size: 100B}
      |                         ^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {size: 10G}\n"), @r#"
    disk `root` has no `path`
     --> web.yaml:3:3
      |
    3 |   root: {size: 10G}
      |   ^^^^
    hint: write `path: ./root.qcow2`, and `size: 10G` to have it created
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root:\n"), @r#"
    disk `root` has no value
     --> web.yaml:3:3
      |
    3 |   root:
      |   ^^^^
    hint: write `root: {path: ./root.qcow2, size: 10G}`
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: ./root.qcow2\n"), @r#"
    expected a disk as a map, found `./root.qcow2`
     --> web.yaml:3:9
      |
    3 |   root: ./root.qcow2
      |         ^^^^^^^^^^^^
    hint: its fields are path, size, from, format, interface, readonly, media, cache, aio, discard, detect_zeroes, port, file, type
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  Root: {path: a}\n"), @r#"
    `Root` is not a disk name
     --> web.yaml:3:3
      |
    3 |   Root: {path: a}
      |   ^^^^
    hint: such names are a letter a-z, then up to 30 of a-z 0-9 -
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {path: a, format: vmdk}\n"), @r#"
    `vmdk` is not an image format
     --> web.yaml:3:27
      |
    3 |   root: {path: a, format: vmdk}
      |                           ^^^^
    hint: it is one of qcow2, raw
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {path: a, type: qcow}\n"), @r#"
    `qcow` is not an image format, did you mean `qcow2`?
     --> web.yaml:3:25
      |
    3 |   root: {path: a, type: qcow}
      |                         ^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {path: a, interface: ide}\n"), @r#"
    machine `q35` has no disks with interface `ide`
     --> web.yaml:3:30
      |
    3 |   root: {path: a, interface: ide}
      |                              ^^^
    hint: write `interface: sata`, or `machine: pc`
    "#);
    insta::assert_snapshot!(rendered("name: web\nmachine: microvm\ndisks:\n  root: {path: a, interface: nvme}\n"), @r#"
    machine `microvm` has no disks with interface `nvme`
     --> web.yaml:4:30
      |
    4 |   root: {path: a, interface: nvme}
      |                              ^^^^
    hint: write `interface: virtio`
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {path: a, interface: virito}\n"), @r#"
    `virito` is not a disk interface, did you mean `virtio`?
     --> web.yaml:3:30
      |
    3 |   root: {path: a, interface: virito}
      |                              ^^^^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {path: a, readonly: true, interface: sata}\n"), @r#"
    disks with interface `ide` and `sata` are always writable
     --> web.yaml:3:29
      |
    3 |   root: {path: a, readonly: true, interface: sata}
      |                             ^^^^
    hint: write `interface: virtio`, `scsi` or `nvme`; or `media: cdrom`
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {path: a, readonly: true, size: 1G}\n"), @r#"
    a read-only disk is never created, so it has no `size`
     --> web.yaml:3:41
      |
    3 |   root: {path: a, readonly: true, size: 1G}
      |                                         ^^
    hint: leave out `size` or `readonly`
    "#);
    insta::assert_snapshot!(rendered("name: web\ndisks:\n  root: {path: a}\n  data: {path: ./x/../a}\n  more: {path: ././a}\n"), @r#"
    disk `root` already uses `/vms/a`
     --> web.yaml:5:16
      |
    5 |   more: {path: ././a}
      |                ^^^^^
    hint: give each disk a file of its own
    "#);
    insta::assert_snapshot!(rendered("name: web\nstorage:\n  - {name: a, file: x}\n  - {name: a, file: y}\n"), @r#"
    the name `a` is used twice
     --> web.yaml:4:12
      |
    4 |   - {name: a, file: y}
      |            ^
    "#);
    insta::assert_snapshot!(rendered("name: web\nstorage:\n  - {name: share, type: virtfs, options: {writeout: immediate}}\n"), @r#"
    unknown field `writeout`
     --> web.yaml:3:43
      |
    3 |   - {name: share, type: virtfs, options: {writeout: immediate}}
      |                                           ^^^^^^^^
    hint: fields here are mount_tag, security_model, id, readonly
    "#);
    insta::assert_snapshot!(rendered("name: web\nstorage:\n  - {file: a, path: b}\n"), @r#"
    `file` is given although `path` is
     --> web.yaml:3:12
      |
    3 |   - {file: a, path: b}
      |            ^
    hint: both mean the same; keep one
    "#);
    insta::assert_snapshot!(rendered("name: web\nstorage: [{file: a}]\ndisks: {b: {path: b}}\n"), @r#"
    `disks` is given twice
     --> web.yaml:3:1
      |
    3 | disks: {b: {path: b}}
      | ^^^^^
    hint: `storage` and `disks` mean the same; keep one
    "#);
    insta::assert_snapshot!(rendered("name: web\nstorage:\n  - {name: o, file: a, backing_file: base.qcow2}\n"), @r#"
    unknown field `backing_file`
     --> web.yaml:3:24
      |
    3 |   - {name: o, file: a, backing_file: base.qcow2}
      |                        ^^^^^^^^^^^^
    hint: images with a backing file cannot be created by this version; make it with `qemu-img create -b` and give its path
    "#);
    insta::assert_snapshot!(rendered("name: web\nmachine: pc\ndisks: {a: {path: a, interface: ide}, b: {path: b, interface: ide}, c: {path: c, interface: ide}, d: {path: d, interface: ide}, e: {path: e, interface: ide}}\n"), @r#"
    machine `pc` has room for 4 disks with interface `ide`
     --> web.yaml:3:153
      |
    3 | ...e: ide}, d: {path: d, interface: ide}, e: {path: e, interface: ide}}
      |                                                                   ^^^
    hint: write `interface: virtio`
    "#);
}

#[test]
fn networks() {
    insta::assert_snapshot!(rendered("name: web\nnetworks:\n  lan:\n    forwards: [\"tcp:127.0.0.1:0:22\"]\n"), @r#"
    `0` is not a port (1 to 65535)
     --> web.yaml:4:16
      |
    4 |     forwards: ["tcp:127.0.0.1:0:22"]
      |                ^^^^^^^^^^^^^^^^^^^^
    hint: write `auto` for any free host port
    "#);
    insta::assert_snapshot!(rendered("name: web\nnetworks:\n  lan:\n    forwards:\n      - tcp:127.0.0.1:2222:22\n      - tcp:127.0.0.1:70000:22\n"), @r#"
    `70000` is not a port (1 to 65535)
     --> web.yaml:6:9
      |
    6 |       - tcp:127.0.0.1:70000:22
      |         ^^^^^^^^^^^^^^^^^^^^^^
    hint: forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`
    "#);
    insta::assert_snapshot!(rendered("name: web\nnetworks:\n  lan:\n    forwards: [2222:22]\n"), @r#"
    `2222` is neither `tcp` nor `udp`
     --> web.yaml:4:16
      |
    4 |     forwards: [2222:22]
      |                ^^^^^^^
    hint: forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`
    "#);
    insta::assert_snapshot!(rendered("name: web\nnetworks:\n  lan:\n    forwards: tcp:2222:22\n"), @r#"
    expected a list of forwards, found `tcp:2222:22`
     --> web.yaml:4:15
      |
    4 |     forwards: tcp:2222:22
      |               ^^^^^^^^^^^
    hint: for example `["tcp:127.0.0.1:auto:22"]`
    "#);
    insta::assert_snapshot!(rendered("name: web\nnetworks:\n  lan:\n    forwards: [\"tcp:2222:22\"]\n  dmz:\n    forwards: [\"tcp:0.0.0.0:2222:80\"]\n"), @r#"
    `tcp:127.0.0.1:2222:22` already listens on that host port
     --> web.yaml:6:16
      |
    6 |     forwards: ["tcp:0.0.0.0:2222:80"]
      |                ^^^^^^^^^^^^^^^^^^^^^
    hint: choose another port, or `auto`
    "#);
    insta::assert_snapshot!(rendered("name: web\nnetworks: {lan: {type: bridge}}\n"), @r#"
    `bridge` is not a network type this version knows
     --> web.yaml:2:24
      |
    2 | networks: {lan: {type: bridge}}
      |                        ^^^^^^
    hint: it is one of user
    "#);
    insta::assert_snapshot!(rendered("name: web\nnetworks:\n  lan:\n"), @r#"
    network `lan` has no value
     --> web.yaml:3:3
      |
    3 |   lan:
      |   ^^^
    hint: write `lan: {type: user}`
    "#);
    insta::assert_snapshot!(rendered("name: web\nnetworks: {lan: {model: \"e1000,mac=52:54:00:12:34:56\"}}\n"), @r#"
    `e1000,mac=52:54:00:12:34:56` is not a device model
     --> web.yaml:2:25
      |
    2 | networks: {lan: {model: "e1000,mac=52:54:00:12:34:56"}}
      |                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: options of the device go in `qemu.args`
    "#);
    insta::assert_snapshot!(rendered("name: web\nmachine: microvm\nnetworks: {lan: {model: e1000-pci}}\n"), @r#"
    machine `microvm` has no PCI bus for `e1000-pci`
     --> web.yaml:3:25
      |
    3 | networks: {lan: {model: e1000-pci}}
      |                         ^^^^^^^^^
    hint: write `model: virtio-net-device`
    "#);
}

#[test]
fn boot_and_words() {
    insta::assert_snapshot!(rendered("name: web\nkernel: {append: quiet}\n"), @r#"
    `append` without a kernel `image`
     --> web.yaml:2:9
      |
    2 | kernel: {append: quiet}
      |         ^
    hint: write `kernel: {image: ./vmlinuz}`
    "#);
    insta::assert_snapshot!(rendered("name: web\nkernel: {initrd: i.img}\n"), @r#"
    `initrd` without a kernel `image`
     --> web.yaml:2:9
      |
    2 | kernel: {initrd: i.img}
      |         ^
    hint: write `kernel: {image: ./vmlinuz}`
    "#);
    insta::assert_snapshot!(rendered("name: web\nkernel: {}\n"), @r#"
    the kernel has no `image`
     --> web.yaml:2:9
      |
    2 | kernel: {}
      |         ^
    hint: write `kernel: {image: ./vmlinuz}`
    "#);
    insta::assert_snapshot!(rendered("name: web\nargs: -nographic\n"), @r#"
    expected a list of words, found `-nographic`
     --> web.yaml:2:7
      |
    2 | args: -nographic
      |       ^^^^^^^^^^
    hint: for example `["-msg", "timestamp=on"]`
    "#);
    insta::assert_snapshot!(rendered("name: web\nqemu: {args: [\"-daemonize\"]}\n"), @r#"
    `-daemonize` cannot be given: a QEMU that leaves its parent cannot be managed
     --> web.yaml:2:15
      |
    2 | qemu: {args: ["-daemonize"]}
      |               ^^^^^^^^^^^^
    hint: leave it out: `maqet start` returns anyway
    "#);
    insta::assert_snapshot!(rendered("name: web\nqemu: {args: [\"-accel\", \"tcg\"]}\n"), @r#"
    `-accel` cannot be given: the accelerator has its own field
     --> web.yaml:2:15
      |
    2 | qemu: {args: ["-accel", "tcg"]}
      |               ^^^^^^^^
    hint: write `accel: tcg`
    "#);
    insta::assert_snapshot!(rendered("name: web\nargs: [\"-machine\", \"q35,accel=tcg\"]\n"), @r#"
    the accelerator has its own field
     --> web.yaml:2:20
      |
    2 | args: ["-machine", "q35,accel=tcg"]
      |                    ^^^^^^^^^^^^^^^
    hint: write `accel: tcg`
    "#);
    insta::assert_snapshot!(rendered("name: web\nqemu: {args: [[a]]}\n"), @r#"
    expected a word, found a list
     --> web.yaml:2:15
      |
    2 | qemu: {args: [[a]]}
      |               ^
    "#);
    insta::assert_snapshot!(rendered("name: web\nqemu: {binary: x}\n"), @r#"
    unknown field `binary`
     --> web.yaml:2:8
      |
    2 | qemu: {binary: x}
      |        ^^^^^^
    hint: fields here are args
    "#);
    insta::assert_snapshot!(rendered("name: web\ncpu: 2\ncpus: 2\n"), @r#"
    `cpus` is given twice
     --> web.yaml:3:1
      |
    3 | cpus: 2
      | ^^^^
    hint: `cpu`, `cpus` and `smp` among the `arguments` mean the same; keep one
    "#);
}
