//! The validated description of one virtual machine.
//!
//! A [`VmSpec`] can only come from [`crate::load()`] or from a stored record, so whoever holds one may rely on
//! every rule of `validate`. Paths in it are absolute.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::image::ImageName;
use crate::name::VmName;
pub use crate::restart::{RestartPolicy, RestartWhen};
pub use crate::share::{Share, ShareKind, ShareSecurity};
use crate::size::Size;
use crate::tuning::is_default;
pub use crate::tuning::{Aio, Cache, DetectZeroes, Discard, Media};

/// What a VM should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Name, unique within one data directory.
    pub name: VmName,
    /// QEMU program: a bare name looked up on PATH, or an absolute path.
    /// Default: `qemu-system-<host architecture>`.
    pub binary: String,
    /// QEMU machine type, for example `q35`; options may follow after commas (`q35,smm=off`). `none` is a machine
    /// without devices.
    pub machine: String,
    /// Accelerator.
    pub accel: Accel,
    /// CPU model for QEMU's `-cpu`; `None` leaves the choice to QEMU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Guest memory, bytes; at least 1 MiB.
    pub memory: Size,
    /// Virtual CPUs; 1 to 1024.
    pub cpus: u32,
    /// Kernel booted directly, without firmware or boot loader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// Firmware image for QEMU's `-bios`; absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
    /// Disks in the order of the file, which is the boot order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Network cards in the order of the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// Directories of the host that the guest can mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
    /// First serial port.
    #[serde(default)]
    pub serial: Serial,
    /// QEMU's `-display`; `None` means no display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
    /// QEMU's `-vga`; `None` means no graphics card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vga: Option<String>,
    /// What happens when the guest asks for a reset.
    #[serde(default)]
    pub on_reboot: OnReboot,
    /// How the VM is brought to an end.
    #[serde(default)]
    pub stop: StopPolicy,
    /// Whether an ended VM is started again.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// What becomes of QEMU when its runner is gone.
    #[serde(default)]
    pub on_runner_loss: OnRunnerLoss,
    /// Confinement of QEMU.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// What a confined QEMU may touch beyond what the rest of the spec names.
    #[serde(default, skip_serializing_if = "SandboxPaths::is_empty")]
    pub sandbox_paths: SandboxPaths,
    /// Words appended to QEMU's command line as they are (`qemu.args`, `args` and `arguments` of the file).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<String>,
}

/// Accelerator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM when it can really run a guest, else TCG.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

/// A kernel that QEMU loads itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Kernel image; absolute path.
    pub image: PathBuf,
    /// Initial RAM disk; absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<String>,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Name within the VM; also QEMU's block node name, so `[a-z][a-z0-9-]{0,30}`.
    pub name: String,
    /// Image file; absolute path.
    pub path: PathBuf,
    /// Size to create a missing image with, bytes; `None` means the file must exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Image of the library that a missing image is made on, as an overlay; it is as large as that, or as `size` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ImageName>,
    /// Format of the image; never probed.
    pub format: DiskFormat,
    /// Bus the guest sees.
    pub interface: DiskInterface,
    /// The guest cannot write.
    #[serde(default)]
    pub readonly: bool,
    /// What the guest takes it for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub media: Media,
    /// Caching.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache: Cache,
    /// How QEMU asks the host for blocks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub aio: Aio,
    /// What becomes of blocks that the guest does not need any more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub discard: Discard,
    /// What becomes of blocks that the guest fills with zeroes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub detect_zeroes: DetectZeroes,
    /// PCI Express port, or slot of a `pc`, from 0 to [`HOTPLUG_PORTS`](crate::machine::HOTPLUG_PORTS) exclusive, of a disk that came
    /// while the machine ran; `None` for a place of the machine's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u8>,
}

/// Format of a disk image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU copy-on-write, version 2 or 3.
    #[default]
    Qcow2,
    /// Plain bytes.
    Raw,
}

/// Bus a disk is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskInterface {
    /// virtio-blk.
    #[default]
    Virtio,
    /// virtio-scsi with a SCSI disk.
    Scsi,
    /// AHCI.
    Sata,
    /// Parallel IDE (`pc` machine).
    Ide,
    /// `NVMe`.
    Nvme,
    /// Block node without a guest device.
    None,
}

/// One network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Name within the VM; also QEMU's netdev id.
    pub name: String,
    /// What the card is connected to.
    #[serde(rename = "type")]
    pub kind: NetworkKind,
    /// QEMU device model, default `virtio-net-pci`.
    pub model: String,
    /// Host ports that lead into the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
}

/// What a network card is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// QEMU's user-mode stack.
    #[default]
    User,
}

/// A host port that leads into the guest, written `tcp:127.0.0.1:2222:22`, `auto` for any free host port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Transport.
    pub protocol: Transport,
    /// Host address to listen on; default 127.0.0.1.
    pub host_address: std::net::Ipv4Addr,
    /// Host port, 1 to 65535; `None` lets maqet choose at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Guest port, 1 to 65535.
    pub guest_port: u16,
}

/// Transport of a port forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The first serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serial {
    /// Keep what the guest prints in a bounded log file.
    pub log: bool,
}

impl Default for Serial {
    fn default() -> Self {
        Self { log: true }
    }
}

/// What happens when the guest asks for a reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReboot {
    /// The machine resets and boots again.
    #[default]
    Reset,
    /// The VM ends (cause `guest-reset`).
    Stop,
}

/// How a VM is brought to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopPolicy {
    /// Time the guest gets to shut down after the ACPI button.
    #[serde(with = "crate::duration")]
    pub timeout: Duration,
    /// What to do with a QEMU that answers nothing.
    pub on_timeout: OnTimeout,
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            on_timeout: OnTimeout::Keep,
        }
    }
}

/// What a plain `stop` does with a QEMU that answers nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// Leave it running and say so.
    #[default]
    Keep,
    /// End it with SIGKILL; recorded as unclean.
    Kill,
}

/// What becomes of a QEMU whose runner is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRunnerLoss {
    /// A new runner takes it over; the guest notices nothing.
    #[default]
    Adopt,
    /// A new runner brings it to an orderly end (cause `runner-lost`).
    Stop,
}

/// Confinement of QEMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// As much as kernel and QEMU can do; what was achieved is shown.
    #[default]
    Auto,
    /// Files and system calls, or the VM does not start.
    Require,
    /// Files, system calls and the TCP ports it listens on, or the VM does not start.
    RequireNet,
    /// None.
    Off,
}

impl Sandbox {
    /// Every mode, with the word for it in a file.
    pub const ALL: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("require", Self::Require),
        ("require-net", Self::RequireNet),
        ("off", Self::Off),
    ];

    /// The word for it in a file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Require => "require",
            Self::RequireNet => "require-net",
            Self::Off => "off",
        }
    }
}

/// Files and directories that a confined QEMU may touch, each with all that is below it; absolute paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxPaths {
    /// To be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<PathBuf>,
    /// To be read, written, made and deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<PathBuf>,
}

impl SandboxPaths {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.read.is_empty() && self.write.is_empty()
    }
}

impl Disk {
    /// Whether the first start makes an image that is missing: its size is known, or what it is to show.
    pub const fn is_makeable(&self) -> bool {
        self.size.is_some() || self.from.is_some()
    }
}

impl fmt::Display for DiskInterface {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Virtio => "virtio",
            Self::Scsi => "scsi",
            Self::Sata => "sata",
            Self::Ide => "ide",
            Self::Nvme => "nvme",
            Self::None => "none",
        })
    }
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        })
    }
}
