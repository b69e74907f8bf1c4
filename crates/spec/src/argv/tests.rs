//! QEMU's words, as snapshots and before a real QEMU.
#![expect(
    clippy::too_many_lines,
    reason = "a table of inputs, each with what people read then"
)]

mod real;

use super::*;
use crate::load::{LoadOptions, load};
use crate::source::Source;

/// A spec from YAML; the smallest name is supplied.
pub(super) fn spec(yaml: &str) -> VmSpec {
    let options = LoadOptions {
        default_arch: "x86_64".to_owned(),
        ..LoadOptions::default()
    };
    let source = Source::new("vm.yaml", "/vms", format!("name: web\n{yaml}"));
    load(&[source], &[], &options).unwrap()
}

/// One option per line.
fn shown(yaml: &str) -> String {
    let spec = spec(yaml);
    let words = argv(&spec, &Wiring::sample(&spec)).unwrap();
    words.join(" ").replace(" -", "\n-")
}

#[test]
fn everything_a_q35_can_have() {
    insta::assert_snapshot!(shown(
        r#"
memory: 1536M
cpus: 2
accel: kvm
cpu_model: host
kernel: {image: ./vmlinuz, initrd: "./in,itrd.img", append: "console=ttyS0 a=b,c"}
firmware: ./fw.bin
vga: std
display: vnc=127.0.0.1:1
on_reboot: stop
disks:
  root: {path: ./root.qcow2, size: 10G}
  data: {path: ./data.raw, format: raw, interface: scsi, readonly: true}
  more: {path: ./more.raw, format: raw, interface: scsi}
  sata: {path: ./sata.raw, format: raw, interface: sata}
  fast: {path: ./fast.raw, format: raw, interface: nvme}
  spare: {path: ./spare.raw, format: raw, interface: none}
  tuned: {path: ./t.qcow2, cache: directsync, aio: native, discard: unmap, detect_zeroes: unmap}
  cd: {path: ./cd.iso, media: cdrom, aio: io_uring}
networks:
  lan: {forwards: ["tcp:127.0.0.1:2222:22", "udp:0.0.0.0:auto:53"]}
  old: {model: e1000}
shares:
  src: {path: "./a,b", tag: code, readonly: true}
qemu: {args: ["-msg", "timestamp=on"]}
"#
    ), @r#"
    -nodefaults
    -no-user-config
    -S
    -name guest=web
    -machine q35,accel=kvm,dump-guest-core=off
    -cpu host
    -m 1536M
    -smp 2
    -display vnc=127.0.0.1:1
    -vga std
    -action reboot=shutdown,shutdown=pause,panic=pause
    -device pvpanic
    -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
    -chardev socket,id=qmp0-LAUNCH,fd=5,server=on,wait=off
    -mon chardev=qmp0-LAUNCH,mode=control
    -chardev socket,id=qmp1-LAUNCH,fd=6,server=on,wait=off
    -mon chardev=qmp1-LAUNCH,mode=control
    -chardev socket,id=serial0,fd=7,server=on,wait=off,logfile=serial.log,logappend=on
    -serial chardev:serial0
    -bios /vms/fw.bin
    -kernel /vms/vmlinuz
    -initrd /vms/in,itrd.img
    -append console=ttyS0 a=b,c
    -device pcie-root-port,id=plug0,bus=pcie.0,addr=0x1c.0,chassis=240,io-reserve=0,multifunction=on
    -device pcie-root-port,id=plug1,bus=pcie.0,addr=0x1c.1,chassis=241,io-reserve=0
    -device pcie-root-port,id=plug2,bus=pcie.0,addr=0x1c.2,chassis=242,io-reserve=0
    -device pcie-root-port,id=plug3,bus=pcie.0,addr=0x1c.3,chassis=243,io-reserve=0
    -device pcie-root-port,id=plug4,bus=pcie.0,addr=0x1c.4,chassis=244,io-reserve=0
    -device pcie-root-port,id=plug5,bus=pcie.0,addr=0x1c.5,chassis=245,io-reserve=0
    -device pcie-root-port,id=plug6,bus=pcie.0,addr=0x1c.6,chassis=246,io-reserve=0
    -device pcie-root-port,id=plug7,bus=pcie.0,addr=0x1c.7,chassis=247,io-reserve=0
    -add-fd fd=8,set=0
    -blockdev driver=file,node-name=file.0,filename=/dev/fdset/0
    -blockdev driver=qcow2,node-name=root,file=file.0
    -device virtio-blk-pci,drive=root,bootindex=1,werror=enospc,rerror=report
    -add-fd fd=9,set=1
    -blockdev driver=file,node-name=file.1,filename=/dev/fdset/1,read-only=on
    -blockdev driver=raw,node-name=data,file=file.1,read-only=on
    -device virtio-scsi-pci,id=scsi0
    -device scsi-hd,bus=scsi0.0,drive=data,bootindex=2
    -add-fd fd=10,set=2
    -blockdev driver=file,node-name=file.2,filename=/dev/fdset/2
    -blockdev driver=raw,node-name=more,file=file.2
    -device scsi-hd,bus=scsi0.0,drive=more,bootindex=3,werror=enospc,rerror=report
    -add-fd fd=11,set=3
    -blockdev driver=file,node-name=file.3,filename=/dev/fdset/3
    -blockdev driver=raw,node-name=sata,file=file.3
    -device ide-hd,bus=ide.0,drive=sata,bootindex=4,werror=enospc,rerror=report
    -add-fd fd=12,set=4
    -blockdev driver=file,node-name=file.4,filename=/dev/fdset/4
    -blockdev driver=raw,node-name=fast,file=file.4
    -device nvme,serial=fast,drive=fast,bootindex=5
    -add-fd fd=13,set=5
    -blockdev driver=file,node-name=file.5,filename=/dev/fdset/5
    -blockdev driver=raw,node-name=spare,file=file.5
    -add-fd fd=14,set=6
    -blockdev driver=file,node-name=file.6,filename=/dev/fdset/6,cache.direct=on,aio=native,discard=unmap
    -blockdev driver=qcow2,node-name=tuned,file=file.6,cache.direct=on,discard=unmap,detect-zeroes=unmap
    -device virtio-blk-pci,drive=tuned,bootindex=6,write-cache=off,werror=enospc,rerror=report
    -add-fd fd=15,set=7
    -blockdev driver=file,node-name=file.7,filename=/dev/fdset/7,read-only=on,aio=io_uring
    -blockdev driver=raw,node-name=cd,file=file.7,read-only=on
    -device ide-cd,bus=ide.1,drive=cd,bootindex=7
    -netdev user,id=lan,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp:0.0.0.0:0-:53
    -device virtio-net-pci,netdev=lan
    -netdev user,id=old
    -device e1000,netdev=old
    -fsdev local,id=share.src,path=/proc/self/fd/16,security_model=mapped-xattr,multidevs=remap,readonly=on
    -device virtio-9p-pci,fsdev=share.src,mount_tag=code
    -msg timestamp=on
    "#);
}

/// What shares make of a command line, its other words left out.
fn words_of_shares(machine: &str) -> String {
    let shares = "shares: {a: {path: ./a, type: virtiofs, tag: code}, b: ./b}";
    let all = shown(&format!(
        "machine: {machine}\naccel: tcg\nmemory: 64M\n{shares}\n"
    ));
    let about = ["-machine", "-object", "-fsdev", "share."];
    let lines = all
        .lines()
        .filter(|line| about.iter().any(|word| line.contains(word)));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn virtiofs_sees_the_memory_of_the_guest() {
    insta::assert_snapshot!(words_of_shares("q35"), @"
    -object memory-backend-memfd,id=shared-ram,share=on,size=67108864
    -machine q35,accel=tcg,dump-guest-core=off,memory-backend=shared-ram
    -chardev socket,id=share.a,fd=8
    -device vhost-user-fs-pci,chardev=share.a,tag=code
    -fsdev local,id=share.b,path=/proc/self/fd/9,security_model=mapped-xattr,multidevs=remap
    -device virtio-9p-pci,fsdev=share.b,mount_tag=b
    ");
    insta::assert_snapshot!(words_of_shares("microvm"), @"
    -object memory-backend-memfd,id=shared-ram,share=on,size=67108864
    -machine microvm,accel=tcg,dump-guest-core=off,memory-backend=shared-ram
    -chardev socket,id=share.a,fd=8
    -device vhost-user-fs-device,chardev=share.a,tag=code
    -fsdev local,id=share.b,path=/proc/self/fd/9,security_model=mapped-xattr,multidevs=remap
    -device virtio-9p-device,fsdev=share.b,mount_tag=b
    ");
}

#[test]
fn a_pc_with_ide_and_no_sandbox() {
    insta::assert_snapshot!(shown(
        "
machine: pc
accel: tcg
sandbox: off
serial: {log: false}
disks:
  a: {path: /d/a, format: raw, interface: ide}
  b: {path: /d/b, format: raw, interface: ide}
  c: {path: /d/c, format: raw, interface: ide}
  d: {path: /d/d, format: raw, interface: sata}
"
    ), @r#"
    -nodefaults
    -no-user-config
    -S
    -name guest=web
    -machine pc,accel=tcg,dump-guest-core=off
    -m 512M
    -smp 1
    -display none
    -action shutdown=pause,panic=pause
    -device pvpanic
    -chardev socket,id=qmp0-LAUNCH,fd=5,server=on,wait=off
    -mon chardev=qmp0-LAUNCH,mode=control
    -chardev socket,id=qmp1-LAUNCH,fd=6,server=on,wait=off
    -mon chardev=qmp1-LAUNCH,mode=control
    -chardev socket,id=serial0,fd=7,server=on,wait=off
    -serial chardev:serial0
    -add-fd fd=8,set=0
    -blockdev driver=file,node-name=file.0,filename=/dev/fdset/0
    -blockdev driver=raw,node-name=a,file=file.0
    -device ide-hd,bus=ide.0,unit=0,drive=a,bootindex=0,werror=enospc,rerror=report
    -add-fd fd=9,set=1
    -blockdev driver=file,node-name=file.1,filename=/dev/fdset/1
    -blockdev driver=raw,node-name=b,file=file.1
    -device ide-hd,bus=ide.0,unit=1,drive=b,bootindex=1,werror=enospc,rerror=report
    -add-fd fd=10,set=2
    -blockdev driver=file,node-name=file.2,filename=/dev/fdset/2
    -blockdev driver=raw,node-name=c,file=file.2
    -device ide-hd,bus=ide.1,unit=0,drive=c,bootindex=2,werror=enospc,rerror=report
    -add-fd fd=11,set=3
    -blockdev driver=file,node-name=file.3,filename=/dev/fdset/3
    -blockdev driver=raw,node-name=d,file=file.3
    -device ahci,id=ahci0
    -device ide-hd,bus=ahci0.0,drive=d,bootindex=3,werror=enospc,rerror=report
    "#);
}

#[test]
fn machines_with_little() {
    insta::assert_snapshot!(shown("machine: none\naccel: tcg\n"), @r#"
    -nodefaults
    -no-user-config
    -S
    -name guest=web
    -machine none,accel=tcg
    -m 512M
    -smp 1
    -display none
    -action shutdown=pause,panic=pause
    -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
    -chardev socket,id=qmp0-LAUNCH,fd=5,server=on,wait=off
    -mon chardev=qmp0-LAUNCH,mode=control
    -chardev socket,id=qmp1-LAUNCH,fd=6,server=on,wait=off
    -mon chardev=qmp1-LAUNCH,mode=control
    "#);
    insta::assert_snapshot!(shown("machine: microvm\ndisks: {root: {path: /d/r}}\nnetworks: {lan: {type: user}}\n"), @r#"
    -nodefaults
    -no-user-config
    -S
    -name guest=web
    -machine microvm,accel=kvm,dump-guest-core=off
    -m 512M
    -smp 1
    -display none
    -action shutdown=pause,panic=pause
    -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
    -chardev socket,id=qmp0-LAUNCH,fd=5,server=on,wait=off
    -mon chardev=qmp0-LAUNCH,mode=control
    -chardev socket,id=qmp1-LAUNCH,fd=6,server=on,wait=off
    -mon chardev=qmp1-LAUNCH,mode=control
    -chardev socket,id=serial0,fd=7,server=on,wait=off,logfile=serial.log,logappend=on
    -serial chardev:serial0
    -add-fd fd=8,set=0
    -blockdev driver=file,node-name=file.0,filename=/dev/fdset/0
    -blockdev driver=qcow2,node-name=root,file=file.0
    -device virtio-blk-device,drive=root,bootindex=0,werror=enospc,rerror=report
    -netdev user,id=lan
    -device virtio-net-device,netdev=lan
    "#);
}

#[test]
fn commas_in_paths_are_doubled_only_where_they_end_a_value() {
    let spec = spec("kernel: ./a,b\n");
    let mut wiring = Wiring::sample(&spec);
    wiring.serial = Some(SerialWiring {
        fd: 7,
        log: Some("/r/x,y.log".into()),
    });
    let words = argv(&spec, &wiring).unwrap();
    assert!(words.contains(&"/vms/a,b".to_owned()));
    assert!(
        words
            .iter()
            .any(|word| word.contains("logfile=/r/x,,y.log,logappend=on")),
        "{words:?}"
    );
}

#[test]
fn a_wiring_of_another_spec_is_refused() {
    let spec = spec("disks: {root: {path: /d/r}}\nnetworks: {lan: {forwards: ['tcp:1:2']}}\n");
    let mut wiring = Wiring::sample(&spec);
    wiring.forwards.clear();
    let missing = WiringError::Forward {
        network: "lan".to_owned(),
        index: 0,
    };
    assert_eq!(argv(&spec, &wiring), Err(missing));
    wiring.disks.clear();
    assert_eq!(argv(&spec, &wiring), Err(WiringError::Disk("root".to_owned())));
}
