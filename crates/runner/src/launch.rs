//! Everything between an order and a gate that stands: ports, disks, sockets, command line.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_process::confine::{Confinement, Level, Rule};
use maqet_process::gate::{GateOrder, Gated, PASSED_NUMBER_MIN, spawn_gate};
use maqet_process::identity::{FileId, ProcessIdentity, Role};
use maqet_process::pidfd::ProcessHandle;
use maqet_process::point::{Point, pass};
use maqet_process::{ProcessError, socket};
use maqet_protocol::control::SandboxStatus;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{ExpectedFile, OpenedFile, Prepare};
use maqet_spec::VmSpec;
use maqet_spec::argv::{SerialWiring, Wiring, argv};
use maqet_spec::vm::Sandbox;
use maqet_storage::PathPolicy;
use tokio::time::timeout;

use crate::confinement::Surroundings;
use crate::logs::{Logs, QEMU_LOG, SERIAL_LOG};
use crate::oom::Baseline;
use crate::place::{CONTROL_MONITOR, Place, SERIAL_SOCKET, SPARE_MONITOR};
use crate::ports;
use crate::qemu::{Qemu, images};
use crate::shares::Shares;
use crate::virtiofsd::Standing;
use crate::{accel, confinement, disks, virtiofsd};

/// The runner's own image, whatever has become of its path.
pub(crate) const SELF: &str = "/proc/self/exe";

/// A gate stands within milliseconds; this bounds a host that is thrashing.
pub(crate) const GATE_STANDS: Duration = Duration::from_secs(20);

/// Variables QEMU gets from the runner's environment, if they are set: search path, language, places for scratch
/// files, and the way to a display.
const ENVIRONMENT: [&str; 9] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// A gate that stands and will become QEMU.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Releases it.
    pub(crate) gated: Gated,
    /// What it will be.
    pub(crate) qemu: Qemu,
    /// What it gets for its disks.
    pub(crate) files: Vec<OpenedFile>,
    /// Gates of those who serve its shares.
    pub(crate) helpers: Vec<Standing>,
}

/// Has a gate made. Nothing of the VM runs yet, and the runner keeps no descriptor of its disks.
///
/// # Errors
/// `conflict` for a port in use, and a disk that is another file than the one on record; `invalid-spec` for a disk that
/// cannot be opened, `start-failed` for the rest.
pub(crate) async fn gate(place: Place, order: Prepare) -> Result<Gate, Refusal> {
    pass(Point::PrepareAsked);
    let mut spec = order.spec;
    let held = ports::claim(&mut spec.networks).map_err(|refusal| refusal.vm(&*place.name))?;
    let accel = accel::resolve(spec.accel, &order.binary).await;
    let logs = Logs::new(order.log_dir, order.log_bytes_max);
    let failed = failure(&place, "QEMU's gate cannot be made");
    let words_from = logs.size(QEMU_LOG);
    let executables = executables(&order.binary).map_err(|error| failed(&error))?;
    let policy = PathPolicy::for_host(order.roots).map_err(|error| failed(&error))?;
    let bounds = Bounds {
        policy: &policy,
        expected: &order.files,
    };
    let launch = (order.launch_id.as_str(), order.generation);
    let helping = virtiofsd::Order::new(&spec, order.virtiofsd.as_deref(), launch, &logs);
    let mut shares = Shares::open(&place, &spec.shares, (&policy, &order.own), &helping).await?;
    let helpers = std::mem::take(&mut shares.helpers);
    let mut wired = wire(&place, &spec, (accel, &logs), (&bounds, shares))?;
    let files = std::mem::take(&mut wired.files);
    let program = (order.binary.as_path(), accel);
    let (gate_order, sandbox) = gate_order(&place, &spec, program, (wired, &logs), &policy)?;
    pass(Point::DisksOpened);
    let gated = stand(&place, gate_order).await?;
    let (identity, handle) = identify(&gated, launch, executables).map_err(|error| failed(&error))?;
    pass(Point::GateStands);
    let qemu = Qemu {
        identity,
        handle,
        accel: accel.to_owned(),
        ports: ports::status(&spec.networks),
        sandbox,
        helpers: Vec::new(),
        images: images(&spec),
        paused: false,
        stop: spec.stop,
        logs,
        words_from,
        kills: Baseline::take(),
        held,
    };
    Ok(Gate {
        gated,
        qemu,
        files,
        helpers,
    })
}

/// What QEMU's gate is told, and how QEMU will be confined.
fn gate_order(
    place: &Place,
    spec: &VmSpec,
    (binary, accel): (&Path, &str),
    (mut wired, logs): (Wired, &Logs),
    policy: &PathPolicy,
) -> Result<(GateOrder, SandboxStatus), Refusal> {
    let shares = std::mem::take(&mut wired.shares);
    let mut order = wired.order(place, spec, binary.to_owned(), logs)?;
    let around = Surroundings {
        binary,
        accel,
        serial_log: serial_log(place, spec, logs)?,
        shares,
        policy,
    };
    order.confinement = confine(place, spec, around)?;
    let sandbox = sandbox(spec, order.confinement.is_some());
    Ok((order, sandbox))
}

/// Who the gate is, and QEMU will be.
fn identify(
    gated: &Gated,
    (launch_id, generation): (&str, u64),
    executables: Vec<FileId>,
) -> Result<(ProcessIdentity, ProcessHandle), ProcessError> {
    let handle = gated.handle.try_clone()?;
    let identity = ProcessIdentity::take(&gated.handle, Role::Qemu, launch_id, generation, executables)?;
    Ok((identity, handle))
}

/// Makes a gate and waits until it stands.
async fn stand(place: &Place, order: GateOrder) -> Result<Gated, Refusal> {
    let failed = failure(place, "QEMU's gate cannot be made");
    let mut gated = spawn_gate(Path::new(SELF), order).map_err(|error| failed(&error))?;
    pass(Point::GateSpawned);
    match timeout(GATE_STANDS, gated.listening()).await {
        Ok(standing) => standing.map_err(|error| failed(&error))?,
        Err(elapsed) => return Err(failed(&elapsed)),
    }
    Ok(gated)
}

/// Turns errors into refusals of a start.
fn failure<'a>(place: &'a Place, words: &'a str) -> impl Fn(&dyn std::error::Error) -> Refusal + 'a {
    move |error| place.refusal_from(RefusalCode::StartFailed, words, error)
}

/// Descriptors of one start and the numbers QEMU will know them by.
#[derive(Debug)]
struct Wired {
    wiring: Wiring,
    listen: Vec<(OwnedFd, i32)>,
    pass: Vec<(OwnedFd, i32)>,
    files: Vec<OpenedFile>,
    shares: Vec<Rule>,
}

/// Which files QEMU may be handed.
struct Bounds<'a> {
    policy: &'a PathPolicy,
    /// What is on record for the disks.
    expected: &'a [ExpectedFile],
}

impl Wired {
    fn order(self, place: &Place, spec: &VmSpec, binary: PathBuf, logs: &Logs) -> Result<GateOrder, Refusal> {
        let output = logs
            .open(QEMU_LOG)
            .map_err(|error| failure(place, "QEMU's log cannot be opened")(&error))?;
        let words = argv(spec, &self.wiring)
            .map_err(|error| failure(place, "QEMU's command line cannot be made")(&error))?;
        Ok(GateOrder {
            program: binary,
            args: words.into_iter().map(OsString::from).collect(),
            env: environment(),
            listen: self.listen,
            pass: self.pass,
            enclosure: None,
            output: output.into(),
            confinement: None,
        })
    }
}

fn wire(
    place: &Place,
    spec: &VmSpec,
    (accel, logs): (&str, &Logs),
    (bounds, directories): (&Bounds<'_>, Shares),
) -> Result<Wired, Refusal> {
    let mut numbers = PASSED_NUMBER_MIN..;
    let mut next = || numbers.next().unwrap_or(i32::MAX);
    let sockets = [CONTROL_MONITOR, SPARE_MONITOR, SERIAL_SOCKET];
    let mut listen = Vec::new();
    for name in sockets {
        let socket = socket::bind_listener(place.directory().as_fd(), name).map_err(|error| {
            place.refusal_from(
                RefusalCode::StartFailed,
                format!("`{name}` cannot be bound"),
                &error,
            )
        })?;
        listen.push((socket, next()));
    }
    pass(Point::SocketsBound);
    let mut passed = Vec::new();
    let (mut opened, mut files) = (Vec::new(), Vec::new());
    for disk in &spec.disks {
        let chain = disks::open(place, disk, bounds.policy)?;
        files.extend(disks::recognize(place, disk, &chain, bounds.expected)?);
        opened.push(disks::wire(disk, chain, &mut passed, &mut next));
    }
    let (shares, rules) = directories.wire(&mut passed, &mut next);
    let number = |at: usize| listen.get(at).map_or(-1, |(_, number): &(OwnedFd, i32)| *number);
    let wiring = Wiring {
        launch_id: place.launch_id.to_string(),
        accel: accel.to_owned(),
        control_fd: number(0),
        recovery_fd: number(1),
        serial: Some(SerialWiring {
            fd: number(2),
            log: spec.serial.log.then(|| logs.path(SERIAL_LOG)),
        }),
        disks: opened,
        shares,
        forwards: ports::numbers(&spec.networks),
    };
    Ok(Wired {
        wiring,
        listen,
        pass: passed,
        files,
        shares: rules,
    })
}

/// The images this process may legitimately show: our own, and QEMU's after exec.
fn executables(binary: &Path) -> Result<Vec<FileId>, ProcessError> {
    Ok(vec![FileId::of_path(Path::new(SELF))?, FileId::of_path(binary)?])
}

fn environment() -> Vec<(OsString, OsString)> {
    ENVIRONMENT
        .iter()
        .filter_map(|name| std::env::var_os(name).map(|value| (OsString::from(name), value)))
        .collect()
}

/// The log that QEMU's serial port writes. A rule is made for what is there, so it is made first.
fn serial_log(place: &Place, spec: &VmSpec, logs: &Logs) -> Result<Option<PathBuf>, Refusal> {
    if !spec.serial.log {
        return Ok(None);
    }
    logs.open(SERIAL_LOG)
        .map_err(|error| failure(place, "the serial log cannot be made")(&error))?;
    Ok(Some(logs.path(SERIAL_LOG)))
}

/// What QEMU may touch, as far as the spec asks for and the kernel can do.
fn confine(place: &Place, spec: &VmSpec, around: Surroundings<'_>) -> Result<Option<Confinement>, Refusal> {
    let plan = confinement::plan(spec, around);
    let level = Level::of_this_kernel();
    match plan
        .as_ref()
        .and_then(|plan| confinement::shortcoming(plan, level))
    {
        Some(why) => Err(unconfined(place, spec.sandbox, &why)),
        None => Ok(plan),
    }
}

fn unconfined(place: &Place, sandbox: Sandbox, why: &str) -> Refusal {
    let words = format!("`sandbox: {}` cannot be had", sandbox.as_str());
    let refusal = place.refusal(RefusalCode::StartFailed, words).cause(why);
    refusal.hint("`sandbox: auto` confines QEMU as far as this kernel can")
}

/// How a QEMU of this spec is confined, if it is.
pub(crate) fn sandbox(spec: &VmSpec, confined: bool) -> SandboxStatus {
    SandboxStatus {
        requested: spec.sandbox.as_str().to_owned(),
        seccomp: spec.sandbox != Sandbox::Off,
        // The gate sets it for every QEMU.
        no_new_privs: true,
        landlock_abi: confined.then(|| Level::of_this_kernel().abi()).flatten(),
    }
}
