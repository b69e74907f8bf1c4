//! Disks and networks on QEMU's command line.

use super::nodes::{self as names, ImageSets};
use super::options::Options;
use super::{DiskWiring, Wiring, WiringError, Words, comma};
use crate::machine::{Family, HOTPLUG_PORTS};
use crate::vm::{Disk, DiskInterface, Media, Network, NetworkKind, VmSpec};

/// Ports of one AHCI controller.
const AHCI_PORTS: usize = 6;

/// Slot of the ports for disks that come while a machine runs; where the chipset of a real one has its own.
const PORTS_SLOT: u32 = 0x1c;

/// First of the slots of a `pc` that such disks get: behind those that it gives out by itself.
const PC_SLOT: u8 = 0x10;

/// Chassis number of the first of them. No two ports may have the same; people count theirs from 0 or 1.
const CHASSIS_FIRST: usize = 240;

/// Numbers of descriptor sets kept for what a disk stands on; its own image has the disk's number.
const SETS_PER_DISK: usize = 1000;

/// Every disk as descriptors, nodes and device.
pub(super) fn disks(
    words: &mut Words,
    spec: &VmSpec,
    wiring: &Wiring,
    family: Family,
) -> Result<(), WiringError> {
    let mut buses = Buses::of(spec, family);
    for port in ports(spec, family) {
        words.pair("-device", port.device());
    }
    for (place, disk) in spec.disks.iter().enumerate() {
        let wired = wiring.disks.iter().find(|wired| wired.name == disk.name);
        let wired = wired.ok_or_else(|| WiringError::Disk(disk.name.clone()))?;
        nodes(words, disk, place, wired);
        let Attached { controller, device } = buses.attach(disk);
        for device in [controller, device].into_iter().flatten() {
            words.pair("-device", device.device());
        }
    }
    Ok(())
}

/// Ports for disks that come while the machine runs: a `q35` takes none in its own slots. They are functions of one slot which
/// nothing else gets by itself, so that everything has the address that it would have without them. No device behind one has
/// I/O ports, of which there are few.
fn ports(spec: &VmSpec, family: Family) -> impl Iterator<Item = Options> {
    let count = if has_ports(spec, family) { HOTPLUG_PORTS } else { 0 };
    (0..count).map(|number| {
        let options = Options::of("pcie-root-port").with("id", port(number));
        let options = options
            .with("bus", "pcie.0")
            .with("addr", format!("{PORTS_SLOT:#x}.{number:x}"));
        let options = options.with("chassis", CHASSIS_FIRST + usize::from(number));
        let options = options.with("io-reserve", 0);
        options.when(number == 0, "multifunction")
    })
}

/// Whether there are ports: words of a person's own may have their slot.
pub(super) fn has_ports(spec: &VmSpec, family: Family) -> bool {
    family == Family::Q35 && !spec.extra_args.iter().any(|word| names_slot(word, PORTS_SLOT))
}

/// Whether a word for QEMU puts something into this slot: `addr=1c.0`, or `"addr": "0x1c"`. QEMU reads both as hexadecimal.
fn names_slot(word: &str, slot: u32) -> bool {
    let plain = word.replace(['"', '{', '}', ' '], "");
    let mut named = plain
        .split(',')
        .filter_map(|option| option.split_once(['=', ':']))
        .filter(|(name, _)| *name == "addr")
        .filter_map(|(_, address)| address.trim_start_matches("0x").split('.').next());
    named.any(|number| u32::from_str_radix(number, 16) == Ok(slot))
}

/// Name of a port, and of the bus behind it.
fn port(number: u8) -> String {
    format!("plug{number}")
}

/// A guest whose host has no room is halted and misses nothing; of every other error it is told. `NVMe` drives of
/// QEMU know no such choice: their guests see errors.
fn on_errors(device: Options, disk: &Disk) -> Options {
    let writes = disk.media == Media::Disk && !disk.readonly;
    if writes && disk.interface != DiskInterface::Nvme {
        device.with("werror", "enospc").with("rerror", "report")
    } else {
        device
    }
}

/// QEMU gets the open images, never their paths, and each layer of a chain by name. Names of nodes that are not a disk's have
/// a dot, which no disk name has. QEMU wants a node to be there before another stands on it.
fn nodes(words: &mut Words, disk: &Disk, place: usize, wired: &DiskWiring) {
    let set = |depth: usize| u64::try_from(set_of(place, depth)).unwrap_or(u64::MAX);
    let layers = wired.below.iter().zip(1..);
    let below: Vec<_> = layers.map(|(layer, depth)| (layer.format, set(depth))).collect();
    let sets = ImageSets {
        own: set(0),
        below: &below,
    };
    let descriptors = std::iter::once(wired.fd).chain(wired.below.iter().map(|layer| layer.fd));
    let descriptors: Vec<_> = descriptors.zip(0..).collect();
    // The deepest image comes first.
    let nodes = names::of_disk(disk, place, &sets);
    for ((fd, depth), of_image) in descriptors.into_iter().rev().zip(nodes) {
        words.pair("-add-fd", format!("fd={fd},set={}", set(depth)));
        for node in of_image {
            words.pair("-blockdev", node.word());
        }
    }
}

/// Number of the descriptor set of an image: a disk's own at depth 0, the nearest below it at depth 1.
const fn set_of(place: usize, depth: usize) -> usize {
    match depth.checked_sub(1) {
        None => place,
        Some(below) => SETS_PER_DISK * (place + 1) + below,
    }
}

/// What a disk is attached by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attached {
    /// A controller that was not there yet.
    pub(super) controller: Option<Options>,
    /// The device; `None` for a disk without one.
    pub(super) device: Option<Options>,
}

/// Places on the buses that are taken.
#[derive(Debug)]
pub(super) struct Buses {
    family: Family,
    scsi: usize,
    sata: usize,
    ide: usize,
    boot: usize,
}

impl Buses {
    /// None is.
    pub(super) fn of(spec: &VmSpec, family: Family) -> Self {
        Self {
            family,
            scsi: 0,
            sata: 0,
            ide: 0,
            // A kernel that QEMU loads itself has the first place in the boot order, and no place may be taken twice.
            boot: usize::from(spec.kernel.is_some()),
        }
    }

    /// Takes the next places for a disk.
    pub(super) fn attach(&mut self, disk: &Disk) -> Attached {
        let Attached { controller, device } = self.place(disk);
        let device = device.map(|device| {
            let device = match disk.port {
                Some(number) if self.family == Family::Pc => {
                    device.with("addr", format!("{:#x}", u32::from(PC_SLOT) + u32::from(number)))
                }
                // QEMU would take a second device at another address, where a port has none.
                Some(number) => device.with("bus", port(number)).with("addr", "0"),
                None => device,
            };
            let device = device
                .with("drive", disk.name.as_str())
                .with("bootindex", self.boot);
            self.boot += 1;
            let through = disk.cache.is_through().then_some("off");
            on_errors(device.maybe("write-cache", through), disk)
        });
        Attached { controller, device }
    }

    fn place(&mut self, disk: &Disk) -> Attached {
        let transport = if self.family == Family::Microvm {
            "device"
        } else {
            "pci"
        };
        let kind = match disk.media {
            Media::Disk => "hd",
            Media::Cdrom => "cd",
        };
        let mut controller = None;
        let device = match disk.interface {
            DiskInterface::Virtio => Options::of(format!("virtio-blk-{transport}")),
            DiskInterface::Scsi => {
                if self.scsi == 0 {
                    let scsi = Options::of(format!("virtio-scsi-{transport}"));
                    controller = Some(scsi.with("id", "scsi0"));
                }
                self.scsi += 1;
                Options::of(format!("scsi-{kind}")).with("bus", "scsi0.0")
            }
            DiskInterface::Sata => {
                let (added, bus) = self.sata();
                controller = added;
                Options::of(format!("ide-{kind}")).with("bus", bus)
            }
            DiskInterface::Ide => {
                let place = self.ide;
                self.ide += 1;
                let device = Options::of(format!("ide-{kind}")).with("bus", format!("ide.{}", place / 2));
                device.with("unit", place % 2)
            }
            DiskInterface::Nvme => Options::of("nvme").with("serial", disk.name.as_str()),
            DiskInterface::None => return Attached::default(),
        };
        let device = Some(device);
        Attached { controller, device }
    }

    /// A port of the machine's own controller on q35, then one more for every six disks.
    fn sata(&mut self) -> (Option<Options>, String) {
        let (controller, port) = (self.sata / AHCI_PORTS, self.sata % AHCI_PORTS);
        self.sata += 1;
        if self.family == Family::Q35 && controller == 0 {
            return (None, format!("ide.{port}"));
        }
        let name = format!("ahci{controller}");
        let bus = format!("{name}.{port}");
        ((port == 0).then(|| Options::of("ahci").with("id", name)), bus)
    }
}

/// Every network card with its back end.
pub(super) fn networks(words: &mut Words, spec: &VmSpec, wiring: &Wiring) -> Result<(), WiringError> {
    for (number, network) in spec.networks.iter().enumerate() {
        let ports = wiring.forwards.get(number).map(Vec::as_slice).unwrap_or_default();
        let back_end = match network.kind {
            NetworkKind::User => user(network, ports)?,
        };
        words.pair("-netdev", back_end);
        words.pair(
            "-device",
            format!("{},netdev={}", comma(&network.model), network.name),
        );
    }
    Ok(())
}

fn user(network: &Network, ports: &[u16]) -> Result<String, WiringError> {
    let mut option = format!("user,id={}", network.name);
    for (index, forward) in network.forwards.iter().enumerate() {
        let missing = || WiringError::Forward {
            network: network.name.clone(),
            index,
        };
        let port = ports.get(index).ok_or_else(missing)?;
        let (protocol, address, guest) = (forward.protocol, forward.host_address, forward.guest_port);
        option.extend([format!(",hostfwd={protocol}:{address}:{port}-:{guest}")]);
    }
    Ok(option)
}
