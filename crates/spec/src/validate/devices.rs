//! Rules about disks and networks.

use std::net::Ipv4Addr;

use crate::machine::{Family, HOTPLUG_PORTS};
use crate::size::Size;
use crate::validate::Finding;
use crate::vm::{
    Aio, DetectZeroes, Discard, Disk, DiskFormat, DiskInterface, Forward, Media, Network, VmSpec,
};

/// Disks on the two parallel IDE buses.
const IDE_DISKS_MAX: usize = 4;
/// Bytes that image sizes are multiples of.
const SECTOR_BYTES: u64 = 512;
/// Most that an image is made large, 1 PiB: as much as the library takes.
const SIZE_MAX: Size = Size(1 << 50);

pub(super) fn disks(spec: &VmSpec, family: Family, findings: &mut Vec<Finding>) {
    let mut ide = 0;
    for (index, disk) in spec.disks.iter().enumerate() {
        let before = spec.disks.get(..index).unwrap_or_default();
        findings.extend(one_disk(disk, before, &spec.machine, family));
        ide += usize::from(disk.interface == DiskInterface::Ide);
        if disk.interface == DiskInterface::Ide && ide == IDE_DISKS_MAX + 1 {
            let message = format!(
                "machine `{}` has room for {IDE_DISKS_MAX} disks with interface `ide`",
                spec.machine
            );
            findings.push(
                Finding::new(&["disks", &disk.name, "interface"], message).hint("write `interface: virtio`"),
            );
        }
    }
}

/// Characters of a disk's or network's name: QEMU's node names end there.
const NAME_CHARACTERS_MAX: usize = 31;

/// Whether a device may have this name: it becomes a QEMU id, `[a-z][a-z0-9-]{0,30}`.
pub(crate) fn is_device_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(inner)
        && name.len() <= NAME_CHARACTERS_MAX
}

/// A spec that was not read from a file may have any name: QEMU would read a comma in it as its own.
pub(super) fn named(list: &'static str, name: &str) -> Option<Finding> {
    let finding = || {
        let shown: String = name.chars().flat_map(char::escape_debug).collect();
        let finding = Finding::new(&[list, name], format!("`{shown}` is not a device's name"));
        finding.hint("such names are a letter a-z, then up to 30 of a-z 0-9 -")
    };
    (!is_device_name(name)).then(finding)
}

fn one_disk(disk: &Disk, before: &[Disk], machine: &str, family: Family) -> Vec<Finding> {
    let at = |field: &'static str, message: String| Finding::new(&["disks", &disk.name, field], message);
    let mut findings = Vec::from_iter(named("disks", &disk.name));
    if let Some(other) = before.iter().find(|other| other.name == disk.name) {
        findings.push(Finding::new(
            &["disks", &disk.name],
            format!("the name `{}` is used twice", other.name),
        ));
    }
    if let Some(other) = before.iter().find(|other| other.path == disk.path) {
        let finding = at(
            "path",
            format!("disk `{}` already uses `{}`", other.name, disk.path.display()),
        );
        findings.push(finding.hint("give each disk a file of its own"));
    }
    if !disk.path.is_absolute() {
        findings.push(at(
            "path",
            format!("`{}` is not an absolute path", disk.path.display()),
        ));
    }
    if let Some(why) = misfit(disk.interface, machine, family) {
        findings.push(why.into_finding(disk));
    }
    findings.extend(size(disk));
    if disk.from.is_some() {
        findings.extend(clone(disk));
    }
    findings.extend(medium(disk));
    findings.extend(tuning(disk));
    findings.extend(port(disk, before, family));
    findings
}

/// Whether a disk can be at the port that it names.
fn port(disk: &Disk, before: &[Disk], family: Family) -> Option<Finding> {
    let port = disk.port?;
    let told = |message: String| Some(Finding::new(&["disks", &disk.name, "port"], message));
    let takes = matches!(disk.interface, DiskInterface::Virtio | DiskInterface::Nvme);
    if !family.is_pc() || !takes {
        let words = "only disks with interface `virtio` or `nvme` of a `q35` or `pc` have a port";
        return told(words.to_owned())?.hint("leave `port` out").into();
    }
    if port >= HOTPLUG_PORTS {
        return told(format!("there are ports 0 to {}, not {port}", HOTPLUG_PORTS - 1));
    }
    let other = before.iter().find(|other| other.port == Some(port))?;
    told(format!("disk `{}` has port {port} already", other.name))
}

/// What is wrong with the size of an image that is to be made.
fn size(disk: &Disk) -> Option<Finding> {
    let size = disk.size?;
    let told = |message: String| Some(Finding::new(&["disks", &disk.name, "size"], message));
    if size.0 == 0 || !size.0.is_multiple_of(SECTOR_BYTES) {
        return told(format!(
            "the size must be a multiple of {SECTOR_BYTES} bytes, not {size}"
        ));
    }
    if size > SIZE_MAX {
        return told(format!("a disk has at most {SIZE_MAX}, not {size}"));
    }
    if disk.readonly {
        let finding = told("a read-only disk is never created, so it has no `size`".to_owned())?;
        return Some(finding.hint("leave out `size` or `readonly`"));
    }
    None
}

/// What a disk that stands on an image of the library must be.
fn clone(disk: &Disk) -> Option<Finding> {
    let at = |field: &'static str, message: &str| Finding::new(&["disks", &disk.name, field], message);
    match (disk.format, disk.readonly) {
        (DiskFormat::Raw, _) => {
            let finding = at(
                "format",
                "a disk `from` the library stands on it, which only qcow2 can",
            );
            Some(finding.hint("leave `format` out"))
        }
        (DiskFormat::Qcow2, true) => {
            let finding = at("from", "a read-only disk is never created, so it has no `from`");
            Some(finding.hint("leave out `from` or `readonly`"))
        }
        (DiskFormat::Qcow2, false) => None,
    }
}

/// What the guest takes a disk for, and whether it may write.
fn medium(disk: &Disk) -> Option<Finding> {
    use DiskInterface as I;
    let at = |field: &'static str, message: &str| Finding::new(&["disks", &disk.name, field], message);
    match (disk.media, disk.interface) {
        (Media::Disk, I::Ide | I::Sata) if disk.readonly => Some(
            at(
                "readonly",
                "disks with interface `ide` and `sata` are always writable",
            )
            .hint("write `interface: virtio`, `scsi` or `nvme`; or `media: cdrom`"),
        ),
        (Media::Cdrom, I::Virtio | I::Nvme) => {
            let message = format!("there is no CD-ROM drive with interface `{}`", disk.interface);
            let hint = "leave `interface` out, or write `sata`, `scsi` or, on machine `pc`, `ide`";
            Some(at("interface", &message).hint(hint))
        }
        (Media::Cdrom, _) if !disk.readonly => {
            Some(at("readonly", "a CD-ROM is read-only").hint("leave `readonly` out"))
        }
        (Media::Disk | Media::Cdrom, I::Virtio | I::Scsi | I::Sata | I::Ide | I::Nvme | I::None) => None,
    }
}

/// Words that QEMU takes only together with others.
fn tuning(disk: &Disk) -> Vec<Finding> {
    let at = |field: &'static str, message: &str, hint: &str| {
        Finding::new(&["disks", &disk.name, field], message).hint(hint)
    };
    let mut findings = Vec::new();
    if disk.aio == Aio::Native && !disk.cache.is_direct() {
        findings.push(at(
            "aio",
            "`aio: native` only works past the host's page cache",
            "write `cache: none` or `cache: directsync` beside it; or `aio: threads`",
        ));
    }
    if disk.detect_zeroes == DetectZeroes::Unmap && disk.discard != Discard::Unmap {
        findings.push(at(
            "detect_zeroes",
            "zeroes can only be given back where unused blocks are",
            "write `discard: unmap` beside it; or `detect_zeroes: on`",
        ));
    }
    if disk.cache.is_through() && disk.interface == DiskInterface::None {
        findings.push(at(
            "cache",
            "a disk without a device has nothing that flushes each write",
            "give your own `-device` the property `write-cache=off`, and leave `cache` out or write `cache: none`",
        ));
    }
    findings
}

/// Why an interface does not go with a machine.
struct Misfit {
    message: String,
    hint: &'static str,
}

impl Misfit {
    fn into_finding(self, disk: &Disk) -> Finding {
        Finding::new(&["disks", &disk.name, "interface"], self.message).hint(self.hint)
    }
}

fn misfit(interface: DiskInterface, machine: &str, family: Family) -> Option<Misfit> {
    use DiskInterface as I;
    let hint = match (family, interface) {
        (_, I::None)
        | (Family::Other | Family::Pc, I::Virtio | I::Scsi | I::Nvme | I::Sata | I::Ide)
        | (Family::Q35 | Family::Virt, I::Virtio | I::Scsi | I::Nvme | I::Sata)
        | (Family::Microvm, I::Virtio | I::Scsi)
        | (Family::Isapc, I::Ide) => return None,
        (Family::None, I::Virtio | I::Scsi | I::Nvme | I::Sata | I::Ide) => {
            "a disk there can only be `interface: none`"
        }
        (Family::Q35, I::Ide) => "write `interface: sata`, or `machine: pc`",
        (Family::Virt, I::Ide) | (Family::Microvm, I::Nvme | I::Sata | I::Ide) => "write `interface: virtio`",
        (Family::Isapc, I::Virtio | I::Scsi | I::Nvme | I::Sata) => "write `interface: ide`",
    };
    Some(Misfit {
        message: format!("machine `{machine}` has no disks with interface `{interface}`"),
        hint,
    })
}

pub(super) fn networks(spec: &VmSpec, family: Family, findings: &mut Vec<Finding>) {
    for (index, network) in spec.networks.iter().enumerate() {
        let before = spec.networks.get(..index).unwrap_or_default();
        findings.extend(one_network(network, before, &spec.machine, family));
    }
    forwards(&spec.networks, findings);
}

fn one_network(network: &Network, before: &[Network], machine: &str, family: Family) -> Vec<Finding> {
    let mut findings = Vec::from_iter(named("networks", &network.name));
    let model = &network.model;
    if before.iter().any(|other| other.name == network.name) {
        let message = format!("the name `{}` is used twice", network.name);
        findings.push(Finding::new(&["networks", &network.name], message));
    }
    if family == Family::None {
        let message = format!("machine `{machine}` has no network cards");
        findings.push(Finding::new(&["networks", &network.name], message));
    }
    let field = ["networks", network.name.as_str(), "model"];
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if model.is_empty() || !model.chars().all(ok) {
        let finding = Finding::new(&field, format!("`{model}` is not a device model"));
        findings.push(finding.hint("options of the device go in `qemu.args`"));
    }
    if model.ends_with("-pci") && matches!(family, Family::Microvm | Family::Isapc) {
        let finding = Finding::new(
            &field,
            format!("machine `{machine}` has no PCI bus for `{model}`"),
        );
        findings.push(finding.hint(format!("write `model: {}`", family.network_model())));
    }
    findings
}

/// Two forwards cannot listen on the same port.
fn forwards(networks: &[Network], findings: &mut Vec<Finding>) {
    let mut seen: Vec<&Forward> = Vec::new();
    for network in networks {
        for (index, forward) in network.forwards.iter().enumerate() {
            let index = index.to_string();
            let field = ["networks", network.name.as_str(), "forwards", index.as_str()];
            if forward.host_port == Some(0) || forward.guest_port == 0 {
                findings.push(Finding::new(&field, "ports are 1 to 65535, not 0"));
            }
            if let Some(other) = seen.iter().find(|other| collide(other, forward)) {
                let finding = Finding::new(&field, format!("`{other}` already listens on that host port"));
                findings.push(finding.hint("choose another port, or `auto`"));
            }
            seen.push(forward);
        }
    }
}

fn collide(one: &Forward, other: &Forward) -> bool {
    let addresses = one.host_address == other.host_address
        || one.host_address == Ipv4Addr::UNSPECIFIED
        || other.host_address == Ipv4Addr::UNSPECIFIED;
    one.protocol == other.protocol && one.host_port.is_some() && one.host_port == other.host_port && addresses
}

#[cfg(test)]
mod tests {
    use super::is_device_name;

    #[test]
    fn names_of_devices_are_qemu_ids() {
        for name in ["root", "disk2", "a-b", &"a".repeat(31)] {
            assert!(is_device_name(name), "{name}");
        }
        for name in ["", "2", "-a", "Root", "a,b", "a b", "a.b", "a\n", &"a".repeat(32)] {
            assert!(!is_device_name(name), "{name}");
        }
    }
}
