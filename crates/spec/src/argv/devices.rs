//! Disks and networks on QEMU's command line.

use crate::argv::{DiskWiring, Wiring, WiringError, Words, comma, nodes as names};
use crate::machine::Family;
use crate::vm::{
    Aio, DetectZeroes, Discard, Disk, DiskFormat, DiskInterface, Media, Network, NetworkKind, VmSpec,
};

/// Ports of one AHCI controller.
const AHCI_PORTS: usize = 6;

/// Numbers of descriptor sets kept for what a disk stands on; its own image has the disk's number.
const SETS_PER_DISK: usize = 1000;

/// Every disk as descriptor, file node, format node and device.
pub(super) fn disks(
    words: &mut Words,
    spec: &VmSpec,
    wiring: &Wiring,
    family: Family,
) -> Result<(), WiringError> {
    let mut buses = Buses {
        family,
        scsi: 0,
        sata: 0,
        ide: 0,
    };
    // A kernel that QEMU loads itself has the first place in the boot order, and no place may be taken twice.
    let mut boot_index = usize::from(spec.kernel.is_some());
    for (set, disk) in spec.disks.iter().enumerate() {
        let wired = wiring.disks.iter().find(|wired| wired.name == disk.name);
        let wired = wired.ok_or_else(|| WiringError::Disk(disk.name.clone()))?;
        nodes(words, disk, set, wired);
        if let Some(device) = buses.attach(words, disk) {
            let through = if disk.cache.is_through() {
                ",write-cache=off"
            } else {
                ""
            };
            let errors = on_errors(disk);
            words.pair(
                "-device",
                format!(
                    "{device},drive={},bootindex={boot_index}{through}{errors}",
                    disk.name
                ),
            );
            boot_index += 1;
        }
    }
    Ok(())
}

/// A guest whose host has no room is halted and misses nothing; of every other error it is told. `NVMe` drives of
/// QEMU know no such choice: their guests see errors.
fn on_errors(disk: &Disk) -> &'static str {
    let writes = disk.media == Media::Disk && !disk.readonly;
    if writes && disk.interface != DiskInterface::Nvme {
        ",werror=enospc,rerror=report"
    } else {
        ""
    }
}

/// QEMU gets the open images, never their paths, and each layer of a chain by name. Names of nodes that are not a disk's have
/// a dot, which no disk name has.
fn nodes(words: &mut Words, disk: &Disk, set: usize, wired: &DiskWiring) {
    // QEMU wants a node to be there before another stands on it.
    let mut stands_on = String::new();
    for (depth, layer) in wired.below.iter().enumerate().rev() {
        let place = names::under(set, depth + 1);
        let name = names::below(set, depth + 1);
        let set = set_below(set, depth + 1);
        let of_file = format!(",read-only=on{}", requests(disk));
        let of_format = format!(",read-only=on{}{stands_on}", caching(disk));
        node(
            words,
            (layer.fd, set),
            &place,
            (layer.format, &name),
            &of_file,
            &of_format,
        );
        stands_on = format!(",backing={name}");
    }
    let readonly = if disk.readonly { ",read-only=on" } else { "" };
    let discard = if disk.discard == Discard::Unmap {
        ",discard=unmap"
    } else {
        ""
    };
    let zeroes = match disk.detect_zeroes {
        DetectZeroes::Off => String::new(),
        detect @ (DetectZeroes::On | DetectZeroes::Unmap) => format!(",detect-zeroes={detect}"),
    };
    node(
        words,
        (wired.fd, set),
        &set.to_string(),
        (disk.format, &disk.name),
        &format!("{readonly}{}{discard}", requests(disk)),
        &format!("{readonly}{}{discard}{zeroes}{stands_on}", caching(disk)),
    );
}

/// Number of the descriptor set of an image below another, the nearest of a disk at depth 1.
const fn set_below(place: usize, depth: usize) -> usize {
    SETS_PER_DISK * (place + 1) + depth - 1
}

/// How each file of a disk is read and written.
fn requests(disk: &Disk) -> String {
    match disk.aio {
        Aio::Threads => caching(disk).to_owned(),
        aio @ (Aio::Native | Aio::IoUring) => format!("{},aio={aio}", caching(disk)),
    }
}

fn caching(disk: &Disk) -> &'static str {
    if disk.cache.is_direct() {
        ",cache.direct=on"
    } else {
        ""
    }
}

/// A descriptor, the node of the file, and the node of the format on it.
fn node(
    words: &mut Words,
    (fd, set): (i32, usize),
    place: &str,
    (format, name): (DiskFormat, &str),
    of_file: &str,
    of_format: &str,
) {
    words.pair("-add-fd", format!("fd={fd},set={set}"));
    words.pair(
        "-blockdev",
        format!("driver=file,node-name=file.{place},filename=/dev/fdset/{set}{of_file}"),
    );
    words.pair(
        "-blockdev",
        format!("driver={format},node-name={name},file=file.{place}{of_format}"),
    );
}

/// Places on the buses that are taken.
struct Buses {
    family: Family,
    scsi: usize,
    sata: usize,
    ide: usize,
}

impl Buses {
    /// The device of a disk, adding the controller it needs; `None` for a disk without a device.
    fn attach(&mut self, words: &mut Words, disk: &Disk) -> Option<String> {
        let transport = if self.family == Family::Microvm {
            "device"
        } else {
            "pci"
        };
        let kind = match disk.media {
            Media::Disk => "hd",
            Media::Cdrom => "cd",
        };
        Some(match disk.interface {
            DiskInterface::Virtio => format!("virtio-blk-{transport}"),
            DiskInterface::Scsi => {
                if self.scsi == 0 {
                    words.pair("-device", format!("virtio-scsi-{transport},id=scsi0"));
                }
                self.scsi += 1;
                format!("scsi-{kind},bus=scsi0.0")
            }
            DiskInterface::Sata => format!("ide-{kind},{}", self.sata(words)),
            DiskInterface::Ide => {
                let place = self.ide;
                self.ide += 1;
                format!("ide-{kind},bus=ide.{},unit={}", place / 2, place % 2)
            }
            DiskInterface::Nvme => format!("nvme,serial={}", disk.name),
            DiskInterface::None => return None,
        })
    }

    /// A port of the machine's own controller on q35, then one more for every six disks.
    fn sata(&mut self, words: &mut Words) -> String {
        let (controller, port) = (self.sata / AHCI_PORTS, self.sata % AHCI_PORTS);
        self.sata += 1;
        if self.family == Family::Q35 && controller == 0 {
            return format!("bus=ide.{port}");
        }
        if port == 0 {
            words.pair("-device", format!("ahci,id=ahci{controller}"));
        }
        format!("bus=ahci{controller}.{port}")
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
