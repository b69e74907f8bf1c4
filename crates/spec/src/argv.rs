//! A spec and the descriptors of one start as QEMU's command line. Pure: the same input gives the same words.
//!
//! Words are in the order machine, monitors, serial port, boot, disks, networks, shares, extra words. The extra words come
//! last, so that they can override what QEMU lets be overridden.

mod devices;
pub mod nodes;
mod options;
pub mod plug;
mod shares;

use std::path::{Path, PathBuf};

pub use shares::opened;

use crate::machine::{Family, qemu_architecture};
use crate::vm::{DiskFormat, OnReboot, Sandbox, VmSpec};

/// What a start decides that is not in the spec. All descriptors are numbers in the QEMU process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Random id of this launch, part of the control monitor's id, so that the command line names the launch.
    /// Letters, digits and dashes.
    pub launch_id: String,
    /// Accelerator: `kvm` or `tcg`.
    pub accel: String,
    /// Bound, non-blocking Unix socket for the control monitor.
    pub control_fd: i32,
    /// The same for the recovery monitor.
    pub recovery_fd: i32,
    /// The serial port, if the machine has one.
    pub serial: Option<SerialWiring>,
    /// Opened images of each disk of the spec.
    pub disks: Vec<DiskWiring>,
    /// Opened directory of each share of the spec, by name.
    pub shares: Vec<ShareWiring>,
    /// Host ports of the forwards, one list per network in the order of the spec, resolved where the spec says
    /// `auto`.
    pub forwards: Vec<Vec<u16>>,
}

/// Wiring of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskWiring {
    /// The disk's name.
    pub name: String,
    /// Its image.
    pub fd: i32,
    /// What the image stands on, the nearest first.
    pub below: Vec<LayerWiring>,
}

/// One image below another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerWiring {
    /// The image, open for reading.
    pub fd: i32,
    /// Its format.
    pub format: DiskFormat,
}

/// Wiring of a shared directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareWiring {
    /// The share's name.
    pub name: String,
    /// The directory by 9p; by virtiofs the connection to its virtiofsd.
    pub fd: i32,
}

/// Wiring of the serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialWiring {
    /// Bound, non-blocking Unix socket.
    pub fd: i32,
    /// File that what the guest prints is appended to.
    pub log: Option<PathBuf>,
}

/// A wiring that does not belong to the spec: a defect of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WiringError {
    /// No descriptor for a disk.
    #[error("no descriptor for disk `{0}`")]
    Disk(String),
    /// No descriptor for a share.
    #[error("no descriptor for share `{0}`")]
    Share(String),
    /// No host port for a forward.
    #[error("no host port for forward {index} of network `{network}`")]
    Forward {
        /// Name of the network.
        network: String,
        /// Number of the forward, from 0.
        index: usize,
    },
}

impl Wiring {
    /// A wiring with made-up numbers, to show a command line without starting anything. Ports that are chosen at
    /// each start are shown as 0.
    pub fn sample(spec: &VmSpec) -> Self {
        let log = spec.serial.log.then(|| PathBuf::from("serial.log"));
        Self {
            launch_id: "LAUNCH".to_owned(),
            accel: match spec.accel {
                crate::vm::Accel::Auto | crate::vm::Accel::Kvm => "kvm".to_owned(),
                crate::vm::Accel::Tcg => "tcg".to_owned(),
            },
            control_fd: 5,
            recovery_fd: 6,
            serial: Some(SerialWiring { fd: 7, log }),
            disks: spec
                .disks
                .iter()
                .zip(8..)
                .map(|(disk, fd)| DiskWiring {
                    name: disk.name.clone(),
                    fd,
                    below: Vec::new(),
                })
                .collect(),
            shares: spec
                .shares
                .iter()
                .zip((8..).skip(spec.disks.len()))
                .map(|(share, fd)| ShareWiring {
                    name: share.name.clone(),
                    fd,
                })
                .collect(),
            forwards: spec
                .networks
                .iter()
                .map(|network| {
                    network
                        .forwards
                        .iter()
                        .map(|forward| forward.host_port.unwrap_or(0))
                        .collect()
                })
                .collect(),
        }
    }
}

/// QEMU program for the host; `arch` as Rust names it (`std::env::consts::ARCH`).
pub fn default_binary(arch: &str) -> String {
    format!("qemu-system-{}", qemu_architecture(arch))
}

/// The words after the program's name.
///
/// # Errors
/// When `wiring` lacks a descriptor or port that `spec` needs.
pub fn argv(spec: &VmSpec, wiring: &Wiring) -> Result<Vec<String>, WiringError> {
    let family = Family::of(&spec.machine);
    let mut words = Words(Vec::with_capacity(64));
    machine(&mut words, spec, wiring, family);
    monitors(&mut words, wiring);
    serial(&mut words, wiring, family);
    boot(&mut words, spec);
    devices::disks(&mut words, spec, wiring, family)?;
    devices::networks(&mut words, spec, wiring)?;
    shares::shares(&mut words, spec, wiring, family)?;
    let mut words = words.0;
    words.extend(spec.extra_args.iter().cloned());
    Ok(words)
}

/// A command line in the making.
struct Words(Vec<String>);

impl Words {
    fn flag(&mut self, option: &str) {
        self.0.push(option.to_owned());
    }

    fn pair(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }
}

/// Doubles commas, which end a value in QEMU's `key=value,…` options.
fn comma(value: &str) -> String {
    value.replace(',', ",,")
}

fn comma_path(path: &Path) -> String {
    comma(&path.display().to_string())
}

fn machine(words: &mut Words, spec: &VmSpec, wiring: &Wiring, family: Family) {
    words.flag("-nodefaults");
    words.flag("-no-user-config");
    // The guest runs only after the runner has verified whom it talks to.
    words.flag("-S");
    words.pair("-name", format!("guest={}", comma(spec.name.as_str())));
    let core = if family == Family::None {
        ""
    } else {
        ",dump-guest-core=off"
    };
    let memory = shares::memory(words, spec);
    words.pair(
        "-machine",
        format!("{},accel={}{core}{memory}", spec.machine, wiring.accel),
    );
    if let Some(model) = &spec.cpu_model {
        words.pair("-cpu", model.clone());
    }
    words.pair("-m", spec.memory.to_string());
    words.pair("-smp", spec.cpus.to_string());
    words.pair(
        "-display",
        spec.display.clone().unwrap_or_else(|| "none".to_owned()),
    );
    if let Some(vga) = &spec.vga {
        words.pair("-vga", vga.clone());
    }
    // Pausing keeps QEMU there to be asked why the guest ended.
    let reboot = if spec.on_reboot == OnReboot::Stop {
        "reboot=shutdown,"
    } else {
        ""
    };
    words.pair("-action", format!("{reboot}shutdown=pause,panic=pause"));
    if family.is_pc() {
        words.pair("-device", "pvpanic");
    }
    if spec.sandbox != Sandbox::Off {
        words.pair(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
    }
}

fn monitors(words: &mut Words, wiring: &Wiring) {
    for (name, fd) in [("qmp0", wiring.control_fd), ("qmp1", wiring.recovery_fd)] {
        let id = format!("{name}-{}", comma(&wiring.launch_id));
        words.pair("-chardev", format!("socket,id={id},fd={fd},server=on,wait=off"));
        words.pair("-mon", format!("chardev={id},mode=control"));
    }
}

fn serial(words: &mut Words, wiring: &Wiring, family: Family) {
    let Some(serial) = wiring.serial.as_ref().filter(|_| family != Family::None) else {
        return;
    };
    let log = serial
        .log
        .as_deref()
        .map(|path| format!(",logfile={},logappend=on", comma_path(path)));
    let log = log.unwrap_or_default();
    words.pair(
        "-chardev",
        format!("socket,id=serial0,fd={},server=on,wait=off{log}", serial.fd),
    );
    words.pair("-serial", "chardev:serial0");
}

/// These options take their value as it is: no commas to double.
fn boot(words: &mut Words, spec: &VmSpec) {
    if let Some(firmware) = &spec.firmware {
        words.pair("-bios", firmware.display().to_string());
    }
    if let Some(kernel) = &spec.kernel {
        words.pair("-kernel", kernel.image.display().to_string());
        if let Some(initrd) = &kernel.initrd {
            words.pair("-initrd", initrd.display().to_string());
        }
        if let Some(append) = &kernel.append {
            words.pair("-append", append.clone());
        }
    }
}

#[cfg(test)]
mod tests;
