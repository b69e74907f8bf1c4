//! What is known about QEMU's machine types without asking QEMU.

use crate::vm::DiskInterface;

/// PCI Express ports of a `q35`, and slots of a `pc`, that are kept for disks that come while it runs. A slot has room for eight ports.
pub const HOTPLUG_PORTS: u8 = 8;

/// Machines that take the same devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `q35` and its versions: PCI Express, AHCI built in.
    Q35,
    /// `pc` and its versions (i440FX): PCI, parallel IDE.
    Pc,
    /// `microvm`: virtio over memory-mapped transports, no PCI.
    Microvm,
    /// `isapc`: no PCI.
    Isapc,
    /// `virt` of ARM, RISC-V and `LoongArch`: PCI Express, no ISA.
    Virt,
    /// `none`: no devices, no CPU to run.
    None,
    /// Anything else; QEMU has the last word.
    Other,
}

impl Family {
    /// Family of a machine type; options after a comma are ignored.
    pub fn of(machine: &str) -> Self {
        let name = machine.split(',').next().unwrap_or(machine);
        let versioned = |prefix: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        match name {
            "q35" => Self::Q35,
            "pc" => Self::Pc,
            "microvm" => Self::Microvm,
            "isapc" => Self::Isapc,
            "virt" => Self::Virt,
            "none" => Self::None,
            _ if versioned("pc-q35-") => Self::Q35,
            _ if versioned("pc-i440fx-") => Self::Pc,
            _ if versioned("virt-") => Self::Virt,
            _ => Self::Other,
        }
    }

    /// PCs with a chipset: ISA devices such as pvpanic and the firmware's 64 KiB granularity.
    pub fn is_pc(self) -> bool {
        matches!(self, Self::Q35 | Self::Pc)
    }

    /// Most virtual CPUs that every QEMU version allows for it, when that is fixed.
    pub fn cpus_max(self) -> Option<u32> {
        match self {
            Self::None | Self::Isapc => Some(1),
            Self::Pc => Some(255),
            Self::Q35 | Self::Microvm | Self::Virt | Self::Other => None,
        }
    }

    /// Where a CD-ROM drive goes that says nothing else.
    pub fn cdrom_interface(self) -> DiskInterface {
        match self {
            Self::Q35 => DiskInterface::Sata,
            Self::Pc | Self::Isapc => DiskInterface::Ide,
            Self::None => DiskInterface::None,
            Self::Microvm | Self::Virt | Self::Other => DiskInterface::Scsi,
        }
    }

    /// Network card a guest can use best.
    pub fn network_model(self) -> &'static str {
        match self {
            Self::Microvm => "virtio-net-device",
            Self::Isapc => "ne2k_isa",
            Self::Q35 | Self::Pc | Self::Virt | Self::None | Self::Other => "virtio-net-pci",
        }
    }
}

/// Architecture in a program's name: `x86_64` for `/usr/bin/qemu-system-x86_64`.
pub fn architecture(binary: &str) -> Option<&str> {
    binary
        .rsplit('/')
        .next()?
        .strip_prefix("qemu-system-")
        .filter(|rest| !rest.is_empty())
}

/// Machine used when a file names none; `architecture` as in QEMU's program names.
pub fn default_machine(architecture: &str) -> &'static str {
    match architecture {
        "aarch64" | "arm" | "riscv32" | "riscv64" | "loongarch64" => "virt",
        "ppc64" => "pseries",
        "s390x" => "s390-ccw-virtio",
        _ => "q35",
    }
}

/// QEMU's name of an architecture that Rust calls `arch` (`std::env::consts::ARCH`).
pub fn qemu_architecture(arch: &str) -> &str {
    match arch {
        "x86" => "i386",
        "powerpc64" => "ppc64",
        "powerpc" => "ppc",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families() {
        for (machine, family) in [
            ("q35", Family::Q35),
            ("pc-q35-7.2", Family::Q35),
            ("pc", Family::Pc),
            ("pc-i440fx-7.2", Family::Pc),
            ("microvm", Family::Microvm),
            ("virt-9.0", Family::Virt),
            ("virtual", Family::Other),
            ("none", Family::None),
            ("q35,smm=off", Family::Q35),
        ] {
            assert_eq!(Family::of(machine), family, "{machine}");
        }
    }

    #[test]
    fn architectures() {
        assert_eq!(architecture("/usr/bin/qemu-system-aarch64"), Some("aarch64"));
        assert_eq!(architecture("qemu-kvm"), None);
        assert_eq!(default_machine("aarch64"), "virt");
        assert_eq!(qemu_architecture("x86"), "i386");
    }
}
