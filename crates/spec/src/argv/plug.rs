//! A disk that comes while QEMU runs: where it can go, and what QEMU is told. It has the nodes, the device and the place that the
//! next start gives it, so that a snapshot with the machine's memory can be loaded after that.

use serde_json::Value;

use super::devices::{Attached, Buses, has_ports};
use super::nodes::{ImageSets, of_disk};
use crate::machine::{Family, HOTPLUG_PORTS};
use crate::vm::{Disk, DiskFormat, DiskInterface, VmSpec};

/// Why a disk cannot come while QEMU runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpluggable {
    /// It would need a controller, which is there when another disk is attached that way at the start.
    #[error("it has no SCSI controller: no disk of it is `interface: scsi`")]
    NoController,
    /// The guest's hardware has no such thing.
    #[error("a machine of type `{machine}` takes no disk with `interface: {interface}` while it runs")]
    Bus {
        /// How it should be attached.
        interface: DiskInterface,
        /// The machine.
        machine: String,
    },
    /// A person's own words have the slot of the ports.
    #[error("it has no ports for disks that come while it runs: its `qemu.args` have a device at `addr=1c`")]
    NoPorts,
    /// All ports have a disk.
    #[error("the {HOTPLUG_PORTS} places for disks that come while it runs are taken")]
    NoPort,
}

/// The disk as it can be given to a QEMU that runs with this spec, which does not have it yet: with a port where it needs one.
///
/// # Errors
/// [`Unpluggable`].
pub fn placed(spec: &VmSpec, mut disk: Disk) -> Result<Disk, Unpluggable> {
    let family = Family::of(&spec.machine);
    match (disk.interface, family) {
        (DiskInterface::None, _) => {}
        (DiskInterface::Virtio | DiskInterface::Nvme, Family::Q35 | Family::Pc) => {
            if family == Family::Q35 && !has_ports(spec, family) {
                return Err(Unpluggable::NoPorts);
            }
            let is_free = |port: &u8| spec.disks.iter().all(|other| other.port != Some(*port));
            let free = (0..HOTPLUG_PORTS).find(is_free);
            disk.port = Some(free.ok_or(Unpluggable::NoPort)?);
        }
        (DiskInterface::Scsi, _) => {
            let scsi = |other: &Disk| other.interface == DiskInterface::Scsi;
            if !spec.disks.iter().any(scsi) {
                return Err(Unpluggable::NoController);
            }
        }
        (
            interface @ (DiskInterface::Virtio
            | DiskInterface::Nvme
            | DiskInterface::Sata
            | DiskInterface::Ide),
            _,
        ) => {
            let machine = spec.machine.clone();
            return Err(Unpluggable::Bus { interface, machine });
        }
    }
    Ok(disk)
}

/// Options of the nodes of a disk's images, in the order in which they are made: those of one image, the deepest first, are that of
/// its file and its own. `sets` are the descriptor sets of the files; `below` is what the disk's own image stands on, the nearest
/// first.
pub fn nodes(disk: &Disk, place: usize, own: u64, below: &[(DiskFormat, u64)]) -> Vec<[Value; 2]> {
    let nodes = of_disk(disk, place, &ImageSets { own, below });
    nodes
        .iter()
        .map(|pair| [pair[0].json(), pair[1].json()])
        .collect()
}

/// Arguments of `device_add` for the disk of this name; `None` for one that has no device.
pub fn device(spec: &VmSpec, name: &str) -> Option<Value> {
    let mut buses = Buses::of(spec, Family::of(&spec.machine));
    let attached = spec.disks.iter().map(|disk| (disk, buses.attach(disk)));
    let mut of_this = attached.filter(|(disk, _)| disk.name == name);
    let (_, Attached { device, .. }) = of_this.next()?;
    device.map(|device| device.json())
}

#[cfg(test)]
mod tests;
