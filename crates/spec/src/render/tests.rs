//! What is written reads back as the same spec.
#![expect(
    clippy::too_many_lines,
    reason = "inputs with what becomes of them, to be read side by side"
)]

use std::time::Duration;

use super::*;
use crate::load::{LoadOptions, load};
use crate::name::VmName;
use crate::size::Size;
use crate::source::Source;
use crate::vm::{
    Aio, Cache, DetectZeroes, Discard, DiskFormat, DiskInterface, Media, RestartWhen, Sandbox, Serial,
};

/// Texts that YAML readers like to take for something else.
const TRICKY: [&str; 22] = [
    "no",
    "Yes",
    "on",
    "~",
    "null",
    "1",
    "0x1f",
    "1.10",
    "2024-01-01",
    "52:54:00",
    "1:30",
    "a: b",
    "a #b",
    "- x",
    "'",
    "\"",
    "\\",
    "{a}",
    "[b]",
    "&x",
    "*x",
    "ünï, ",
];

fn reload(text: &str) -> VmSpec {
    load(
        &[Source::new("again.yaml", "/elsewhere", text)],
        &[],
        &LoadOptions::default(),
    )
    .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn tricky_texts_survive() {
    for text in TRICKY {
        let mut spec = reload("name: web");
        spec.display = Some(text.to_owned());
        spec.cpu_model = Some(text.to_owned());
        spec.extra_args = vec![text.to_owned(), format!("-x{text}")];
        spec.kernel = Some(Kernel {
            image: format!("/d/{text}").into(),
            initrd: None,
            append: Some(format!("{text} ")),
        });
        assert_eq!(reload(&to_yaml(&spec)), spec, "{text}");
    }
}

/// A small linear congruential generator: the same specs on every run, no dependency.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn flip(&mut self) -> bool {
        self.roll(2) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let sides = u64::try_from(from.len()).unwrap();
        from[usize::try_from(self.roll(sides)).unwrap()]
    }

    fn disk(&mut self, number: u64) -> Disk {
        let media = self.pick(&[Media::Disk, Media::Cdrom]);
        let readonly = media == Media::Cdrom || self.flip();
        let interface = self.pick(match media {
            Media::Disk => &[DiskInterface::Virtio, DiskInterface::Scsi, DiskInterface::Nvme],
            Media::Cdrom => &[DiskInterface::Sata, DiskInterface::Scsi, DiskInterface::None],
        });
        let cache = self.pick(&[Cache::Writeback, Cache::None]);
        let discard = self.pick(&[Discard::Ignore, Discard::Unmap]);
        Disk {
            name: format!("d{number}"),
            path: format!("/d/{number}{}", self.pick(&TRICKY).replace('/', "")).into(),
            size: (!readonly && self.flip()).then(|| Size(512 * (1 + self.roll(1 << 30)))),
            format: self.pick(&[DiskFormat::Raw, DiskFormat::Qcow2]),
            interface,
            readonly,
            media,
            cache,
            aio: self.pick(match cache {
                Cache::None => &[Aio::Native, Aio::IoUring],
                Cache::Writeback | Cache::Writethrough | Cache::Directsync => &[Aio::Threads, Aio::IoUring],
            }),
            discard,
            from: None,
            port: None,
            detect_zeroes: self.pick(match discard {
                Discard::Unmap => &[DetectZeroes::Off, DetectZeroes::Unmap],
                Discard::Ignore => &[DetectZeroes::Off, DetectZeroes::On],
            }),
        }
    }

    fn network(&mut self, number: u16) -> Network {
        let forward = |host_port, guest_port| crate::vm::Forward {
            protocol: crate::vm::Transport::Udp,
            host_address: [127, 0, 0, 2].into(),
            host_port,
            guest_port,
        };
        Network {
            name: format!("n-{number}"),
            kind: NetworkKind::User,
            model: self.pick(&["virtio-net-pci", "e1000", "1e3"]).to_owned(),
            forwards: if self.flip() {
                vec![forward(None, 22), forward(Some(1000 + number), 1)]
            } else {
                Vec::new()
            },
        }
    }

    fn restart(&mut self) -> RestartPolicy {
        let backoff = Duration::from_millis(1 + self.roll(60_000));
        RestartPolicy {
            policy: self.pick(&[RestartWhen::Never, RestartWhen::OnFailure, RestartWhen::Always]),
            backoff,
            backoff_max: backoff + Duration::from_millis(self.roll(60_000)),
            tries: u32::try_from(1 + self.roll(100)).unwrap(),
            window: Duration::from_millis(12_000_001 + self.roll(86_400_000)),
        }
    }

    fn spec(&mut self) -> VmSpec {
        let mut spec = reload("name: web");
        spec.name = VmName::new(self.pick(&["1e3", "no", "0.1", "null", "web", "1_000", "0o17"])).unwrap();
        spec.accel = self.pick(&[Accel::Auto, Accel::Kvm, Accel::Tcg]);
        spec.memory = Size((1 << 20) + self.roll(1 << 32));
        spec.cpus = u32::try_from(1 + self.roll(255)).unwrap();
        spec.machine = self.pick(&["q35", "pc", "virt", "q35,smm=off"]).to_owned();
        spec.disks = (0..self.roll(4)).map(|number| self.disk(number)).collect();
        let ported = |disk: &&mut Disk| matches!(disk.interface, DiskInterface::Virtio | DiskInterface::Nvme);
        let is_q35 = spec.machine.starts_with("q35");
        for (disk, port) in spec.disks.iter_mut().filter(ported).zip(0..).filter(|_| is_q35) {
            disk.port = self.flip().then_some(port);
        }
        spec.networks = (0..u16::try_from(self.roll(3)).unwrap())
            .map(|number| self.network(number))
            .collect();
        spec.serial = Serial { log: self.flip() };
        spec.firmware = self.flip().then(|| "/fw/OVMF.fd".into());
        spec.vga = self.flip().then(|| "std".to_owned());
        spec.on_reboot = self.pick(&[OnReboot::Stop, OnReboot::Reset]);
        spec.stop = StopPolicy {
            timeout: Duration::from_millis(1 + self.roll(86_400_000)),
            on_timeout: self.pick(&[OnTimeout::Keep, OnTimeout::Kill]),
        };
        spec.restart = self.restart();
        spec.on_runner_loss = self.pick(&[OnRunnerLoss::Adopt, OnRunnerLoss::Stop]);
        spec.sandbox = self.pick(&Sandbox::ALL.map(|(_, mode)| mode));
        if spec.sandbox != Sandbox::Off {
            spec.sandbox_paths.read = (0..self.roll(3)).map(|n| format!("/r/{n}").into()).collect();
            spec.sandbox_paths.write = (0..self.roll(3)).map(|n| format!("/w/{n}").into()).collect();
        }
        spec.extra_args = (0..self.roll(3)).map(|_| self.pick(&TRICKY).to_owned()).collect();
        spec
    }
}

#[test]
fn any_spec_survives() {
    let mut dice = Dice(20_261_123);
    for round in 0..500 {
        let spec = dice.spec();
        assert_eq!(crate::validate(&spec), [], "round {round}");
        assert_eq!(reload(&to_yaml(&spec)), spec, "round {round}");
    }
}

#[test]
fn how_it_looks() {
    let spec = load(
        &[Source::new(
            "web.yaml",
            "/vms",
            "{name: web, kernel: {image: k, append: 'console=ttyS0, quiet'}, machine: pc, qemu: {args: [-msg, 'timestamp=on', 'no']},\n\
             disks: {root: {path: r, size: 10G}}, networks: {lan: {forwards: ['tcp:auto:22']}}}",
        )],
        &[],
        &LoadOptions::default(),
    )
    .unwrap();
    insta::assert_snapshot!(to_yaml(&spec), @r#"
    name: web
    binary: qemu-system-x86_64
    machine: pc
    accel: auto
    memory: 512M
    cpus: 1
    kernel:
      image: /vms/k
      append: "console=ttyS0, quiet"
    disks:
      root:
        path: /vms/r
        size: 10G
        format: qcow2
        interface: virtio
    networks:
      lan:
        type: user
        model: virtio-net-pci
        forwards:
          - tcp:127.0.0.1:auto:22
    serial:
      log: true
    stop:
      timeout: 30s
      on_timeout: keep
    sandbox: auto
    qemu:
      args:
        - -msg
        - timestamp=on
        - "no"
    "#);
    insta::assert_snapshot!(to_yaml(&reload("{name: bare, machine: none}")), @r#"
    name: bare
    binary: qemu-system-x86_64
    machine: none
    accel: auto
    memory: 512M
    cpus: 1
    stop:
      timeout: 30s
      on_timeout: keep
    sandbox: auto
    "#);
}
