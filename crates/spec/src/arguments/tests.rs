//! `arguments:` item by item.

use crate::load::{LoadOptions, load};
use crate::source::Source;
use crate::vm::{Accel, OnReboot, VmSpec};
use crate::{Size, SpecError};

fn loaded(arguments: &str) -> Result<VmSpec, SpecError> {
    let options = LoadOptions {
        home: Some("/home/u".into()),
        ..LoadOptions::default()
    };
    load(
        &[Source::new(
            "vm.yaml",
            "/v,ms",
            format!("name: web\narguments:\n{arguments}"),
        )],
        &[],
        &options,
    )
}

fn words(arguments: &str) -> String {
    loaded(arguments).unwrap().extra_args.join(" ")
}

#[test]
fn shapes_of_an_item() {
    for (item, expected) in [
        ("- snapshot", "-snapshot"),
        ("- --snapshot", "-snapshot"),
        ("- {usb: ~}", "-usb"),
        ("- {rtc: base=utc}", "-rtc base=utc"),
        ("- {rtc: base=utc, clock: vm}", "-rtc base=utc,clock=vm"),
        ("- {rtc: {base: utc, clock: vm}}", "-rtc base=utc,clock=vm"),
        (
            "- {device: {virtio-net-pci: ~, netdev: n0}}",
            "-device virtio-net-pci,netdev=n0",
        ),
        (
            "- {device: virtio-rng-pci}\n- {device: virtio-rng-pci}",
            "-device virtio-rng-pci -device virtio-rng-pci",
        ),
        (
            "- {blockdev: {driver: raw, file: {driver: file, filename: /x}}}",
            "-blockdev driver=raw,file.driver=file,file.filename=/x",
        ),
        (
            "- {object: {memory-backend-ram: ~, id: m0, size: 64M, share: true}}",
            "-object memory-backend-ram,id=m0,size=64M,share=on",
        ),
        ("- {k: [x, y]}", "-k x,y"),
        ("- {k: {a: [x, y]}}", "-k a.x,a.y"),
        (
            "- {fw_cfg: {name: opt/x, string: \"a,b\"}}",
            "-fw_cfg name=opt/x,string=a,,b",
        ),
        (
            "- {netdev: \"user,id=n0,hostfwd=tcp::2222-:22\"}",
            "-netdev user,id=n0,hostfwd=tcp::2222-:22",
        ),
        ("- {smp: {cores: 2, threads: 1}}", "-smp cores=2,threads=1"),
        ("- {m: \"512M,slots=2\"}", "-m 512M,slots=2"),
        ("- {display: {gtk: ~, zoom-to-fit: on}}", ""),
        ("- nodefaults\n- {no-shutdown: ~}", ""),
    ] {
        assert_eq!(words(item), expected, "{item}");
    }
}

#[test]
fn options_with_a_field_become_that_field() {
    let spec = loaded(
        "- machine: pc\n- accel: tcg\n- m: 256\n- smp: 2\n- cpu: qemu64,-svm\n- kernel: ./vmlinuz\n- initrd: ./i\n\
         - append: \"a, b\"\n- no-reboot: ~\n- display: {gtk: ~, zoom-to-fit: true}\n- vga: none\n- bios: fw.bin\n",
    )
    .unwrap();
    let kernel = spec.kernel.unwrap();
    assert_eq!(
        (spec.machine.as_str(), spec.accel, spec.cpus),
        ("pc", Accel::Tcg, 2)
    );
    assert_eq!(spec.memory, Size(256 << 20));
    assert_eq!(spec.cpu_model.as_deref(), Some("qemu64,-svm"));
    assert_eq!(kernel.image.to_str(), Some("/v,ms/vmlinuz"));
    assert_eq!(kernel.append.as_deref(), Some("a, b"));
    assert_eq!(spec.on_reboot, OnReboot::Stop);
    assert_eq!(spec.display.as_deref(), Some("gtk,zoom-to-fit=on"));
    assert_eq!((spec.vga, spec.extra_args.len()), (None, 0));
    assert_eq!(loaded("- enable-kvm\n").unwrap().accel, Accel::Kvm);
}

#[test]
fn paths_are_relative_to_the_file() {
    for (item, expected) in [
        ("- {serial: \"file:./a.log\"}", "-serial file:/v,,ms/a.log"),
        (
            "- {chardev: \"socket,id=c,path=x.sock\"}",
            "-chardev socket,id=c,path=/v,,ms/x.sock",
        ),
        (
            "- {chardev: {socket: ~, id: c, path: ~/x}}",
            "-chardev socket,id=c,path=/home/u/x",
        ),
        ("- {qmp: \"unix:./q\"}", "-qmp unix:/v,,ms/q"),
        (
            "- {drive: \"file=nbd:localhost:1\"}",
            "-drive file=nbd:localhost:1",
        ),
        (
            "- {drive: \"file=/abs,format=raw\"}",
            "-drive file=/abs,format=raw",
        ),
        ("- {dtb: a.dtb}", "-dtb /v,ms/a.dtb"),
        ("- {incoming: \"tcp:0:4444\"}", "-incoming tcp:0:4444"),
        ("- {loadvm: snap1}", "-loadvm snap1"),
    ] {
        assert_eq!(words(item), expected, "{item}");
    }
}

#[test]
fn given_twice() {
    insta::assert_snapshot!(loaded("- machine: pc\n- M: q35\n").unwrap_err(), @r#"
    `machine` is given twice
     --> vm.yaml:4:3
      |
    4 | - M: q35
      |   ^
    hint: options among the `arguments` count as `machine` too; keep one
    "#);
    insta::assert_snapshot!(loaded("- kernel: a\n- kernel: b\n").unwrap_err(), @r#"
    `kernel.image` is given twice
     --> vm.yaml:4:3
      |
    4 | - kernel: b
      |   ^^^^^^
    hint: options among the `arguments` count as `kernel` too; keep one
    "#);
    insta::assert_snapshot!(loaded("- {accel: \"tcg,thread=multi\"}\n").unwrap_err(), @r#"
    `tcg,thread=multi` is not an accelerator
     --> vm.yaml:3:11
      |
    3 | - {accel: "tcg,thread=multi"}
      |           ^^^^^^^^^^^^^^^^^^
    hint: it is one of auto, kvm, tcg
    "#);
    insta::assert_snapshot!(loaded("- [a]\n").unwrap_err(), @r#"
    expected an option, found a list
     --> vm.yaml:3:3
      |
    3 | - [a]
      |   ^
    "#);
    insta::assert_snapshot!(loaded("- daemonize\n").unwrap_err(), @r#"
    `-daemonize` cannot be given: a QEMU that leaves its parent cannot be managed
     --> vm.yaml:3:3
      |
    3 | - daemonize
      |   ^^^^^^^^^
    hint: leave it out: `maqet start` returns anyway
    "#);
}
