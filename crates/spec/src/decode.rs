//! The merged document as a [`VmSpec`]: types, words and defaults. What depends on several fields at once is
//! checked afterwards by [`crate::validate()`].

mod devices;
mod shares;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fault::Fault;
use crate::fields::{Fields, boolean, choice, integer, text, word};
use crate::machine::{Family, architecture, default_machine, qemu_architecture};
use crate::name::VmName;
use crate::path;
use crate::size::{InvalidSize, Size};
use crate::source::Source;
use crate::vm::{
    Accel, Kernel, OnReboot, OnRunnerLoss, OnTimeout, RestartPolicy, RestartWhen, Sandbox, SandboxPaths,
    Serial, StopPolicy, VmSpec,
};
use crate::yaml::{Kind, Node, Value};

/// Memory of a VM whose file names none.
const MEMORY_DEFAULT: Size = Size(512 << 20);

/// What decoding needs besides the document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) sources: &'a [Source],
    pub(crate) home: Option<&'a Path>,
    /// Where images are whose disks have no `path`.
    pub(crate) disks: Option<&'a Path>,
    /// Host architecture as Rust names it.
    pub(crate) default_arch: &'a str,
}

/// Top-level keys.
pub(crate) const KEYS: [&str; 21] = [
    "name",
    "binary",
    "machine",
    "accel",
    "cpu_model",
    "memory",
    "cpus",
    "kernel",
    "firmware",
    "disks",
    "networks",
    "shares",
    "serial",
    "display",
    "vga",
    "on_reboot",
    "stop",
    "restart",
    "on_runner_loss",
    "sandbox",
    "qemu",
];

/// Decodes the merged, normalized document.
pub(crate) fn decode(root: &Node, cx: Context<'_>) -> Result<VmSpec, Fault> {
    let fields = Fields::of(root, "a VM", &KEYS)?;
    let binary = fields.read("binary", |node| program(node, cx))?;
    let binary = binary.unwrap_or_else(|| crate::argv::default_binary(cx.default_arch));
    let guest_arch = architecture(&binary)
        .unwrap_or(qemu_architecture(cx.default_arch))
        .to_owned();
    let machine = fields
        .read("machine", word)?
        .unwrap_or_else(|| default_machine(&guest_arch).to_owned());
    let family = Family::of(&machine);
    let sandbox = fields.read("sandbox", |node| sandbox(node, cx))?;
    let (sandbox, sandbox_paths) = sandbox.unwrap_or_default();
    let name = name(&fields)?;
    let own = cx.disks.map(|disks| disks.join(name.as_str()));
    let own = own.as_deref();
    Ok(VmSpec {
        name,
        accel: fields.read("accel", accel)?.unwrap_or_default(),
        cpu_model: fields.read("cpu_model", word)?,
        memory: fields.read("memory", memory)?.unwrap_or(MEMORY_DEFAULT),
        cpus: fields.read("cpus", cpus)?.unwrap_or(1),
        kernel: fields.read("kernel", |node| kernel(node, cx))?,
        firmware: fields.read("firmware", |node| file(node, cx))?,
        disks: fields
            .read("disks", |node| devices::disks(node, cx, (family, own)))?
            .unwrap_or_default(),
        networks: fields
            .read("networks", |node| devices::networks(node, family))?
            .unwrap_or_default(),
        shares: fields
            .read("shares", |node| shares::shares(node, cx))?
            .unwrap_or_default(),
        serial: serial(&fields, family)?,
        display: fields.read("display", word)?.filter(|display| display != "none"),
        vga: fields.read("vga", word)?.filter(|vga| vga != "none"),
        on_reboot: fields.read("on_reboot", on_reboot)?.unwrap_or_default(),
        stop: fields.read("stop", stop)?.unwrap_or_default(),
        restart: fields.read("restart", restart)?.unwrap_or_default(),
        on_runner_loss: fields.read("on_runner_loss", on_runner_loss)?.unwrap_or_default(),
        sandbox,
        sandbox_paths,
        extra_args: fields.read("qemu", extra_args)?.unwrap_or_default(),
        binary,
        machine,
    })
}

fn name(fields: &Fields<'_>) -> Result<VmName, Fault> {
    let hint = "write `name: web` in the file, or give `--name web`";
    let node = match fields.written("name") {
        Some(node) if !node.is_null() => node,
        Some(node) => return Err(Fault::at(node.mark, "the VM has no name").hint(hint)),
        None => return Err(Fault::nowhere("the VM has no name").hint(hint)),
    };
    VmName::new(&text(node)?).map_err(|error| Fault::at(node.mark, error.to_string()).hint(error.hint()))
}

/// A bare program name is looked up on PATH later; anything with a slash is a path.
fn program(node: &Node, cx: Context<'_>) -> Result<String, Fault> {
    let written = word(node)?;
    if written.contains('/') {
        Ok(file(node, cx)?.display().to_string())
    } else {
        Ok(written)
    }
}

/// A path, relative to the file it is written in.
fn file(node: &Node, cx: Context<'_>) -> Result<PathBuf, Fault> {
    let directory = cx
        .sources
        .get(node.mark.source)
        .map_or(Path::new("/"), Source::directory);
    path::absolute(&word(node)?, directory, cx.home).map_err(|message| Fault::at(node.mark, message))
}

fn accel(node: &Node) -> Result<Accel, Fault> {
    choice(
        node,
        "an accelerator",
        &[("auto", Accel::Auto), ("kvm", Accel::Kvm), ("tcg", Accel::Tcg)],
    )
}

/// A bare number is MiB, as for QEMU's `-m`.
fn memory(node: &Node) -> Result<Size, Fault> {
    match &node.value {
        Value::Scalar(Kind::Integer(Some(count)), _) => Size::mebibytes(*count),
        Value::Scalar(..) | Value::List(_) | Value::Map(_) => text(node)?.parse(),
    }
    .map_err(|error| invalid_size(node, &error))
}

/// A size with a unit.
fn size(node: &Node) -> Result<Size, Fault> {
    text(node)?.parse().map_err(|error| invalid_size(node, &error))
}

fn invalid_size(node: &Node, error: &InvalidSize) -> Fault {
    Fault::at(node.mark, error.to_string()).hint(error.hint())
}

fn cpus(node: &Node) -> Result<u32, Fault> {
    match &node.value {
        Value::Scalar(Kind::Text, text) => {
            Err(
                Fault::at(node.mark, format!("`{text}` is not a number of CPUs")).hint(format!(
                    "write `cpus: 2`; a CPU model goes in `cpu_model: {text}`"
                )),
            )
        }
        Value::Scalar(..) | Value::List(_) | Value::Map(_) => integer(node, "the number of CPUs", 1..=1024),
    }
}

fn kernel(node: &Node, cx: Context<'_>) -> Result<Kernel, Fault> {
    let fields = Fields::of(node, "a kernel", &["image", "initrd", "append"])?;
    let initrd = fields.read("initrd", |node| file(node, cx))?;
    let append = fields.read("append", text)?;
    let Some(image) = fields.read("image", |node| file(node, cx))? else {
        let given = if initrd.is_some() { "`initrd`" } else { "`append`" };
        let message = match (&initrd, &append) {
            (None, None) => "the kernel has no `image`".to_owned(),
            _ => format!("{given} without a kernel `image`"),
        };
        return Err(Fault::at(node.mark, message).hint("write `kernel: {image: ./vmlinuz}`"));
    };
    Ok(Kernel {
        image,
        initrd,
        append,
    })
}

/// The serial port is logged unless the machine has none.
fn serial(fields: &Fields<'_>, family: Family) -> Result<Serial, Fault> {
    let default = Serial {
        log: family != Family::None,
    };
    let Some(node) = fields.get("serial") else {
        return Ok(default);
    };
    let log = Fields::of(node, "`serial`", &["log"])?.read("log", boolean)?;
    Ok(log.map_or(default, |log| Serial { log }))
}

fn on_reboot(node: &Node) -> Result<OnReboot, Fault> {
    choice(
        node,
        "what `on_reboot` can do",
        &[("reset", OnReboot::Reset), ("stop", OnReboot::Stop)],
    )
}

fn stop(node: &Node) -> Result<StopPolicy, Fault> {
    let fields = Fields::of(node, "`stop`", &["timeout", "on_timeout"])?;
    let default = StopPolicy::default();
    let on_timeout = fields.read("on_timeout", |node| {
        choice(
            node,
            "what `on_timeout` can do",
            &[("keep", OnTimeout::Keep), ("kill", OnTimeout::Kill)],
        )
    })?;
    Ok(StopPolicy {
        timeout: fields.read("timeout", duration)?.unwrap_or(default.timeout),
        on_timeout: on_timeout.unwrap_or(default.on_timeout),
    })
}

fn duration(node: &Node) -> Result<Duration, Fault> {
    let written = text(node)?;
    humantime::parse_duration(&written).map_err(|_| {
        let fault = Fault::at(node.mark, format!("`{written}` is not a duration"));
        match &node.value {
            Value::Scalar(Kind::Integer(_), _) => fault.hint(format!("write `{written}s` for seconds")),
            Value::Scalar(..) | Value::List(_) | Value::Map(_) => {
                fault.hint("durations are like `30s` or `1m 30s`")
            }
        }
    })
}

/// `restart: on-failure` was made a map before, see `normalize`.
fn restart(node: &Node) -> Result<RestartPolicy, Fault> {
    const FIELDS: [&str; 5] = ["policy", "backoff", "backoff_max", "tries", "window"];
    let fields = Fields::of(node, "`restart`", &FIELDS)?;
    let default = RestartPolicy::default();
    let policy = fields.read("policy", restart_when)?;
    let tuned = FIELDS.iter().skip(1).find(|field| fields.get(field).is_some());
    if let (None, Some(field)) = (policy, tuned) {
        let fault = Fault::at(node.mark, format!("`restart` has `{field}` but no `policy`"));
        return Err(fault.hint("write `policy: on-failure` or `policy: always` beside it"));
    }
    let backoff = fields.read("backoff", duration)?.unwrap_or(default.backoff);
    Ok(RestartPolicy {
        policy: policy.unwrap_or(default.policy),
        backoff,
        backoff_max: fields
            .read("backoff_max", duration)?
            .unwrap_or(default.backoff_max.max(backoff)),
        tries: fields
            .read("tries", |node| {
                integer(node, "the number of tries", 1..=RestartPolicy::TRIES_MAX)
            })?
            .unwrap_or(default.tries),
        window: fields.read("window", duration)?.unwrap_or(default.window),
    })
}

fn restart_when(node: &Node) -> Result<RestartWhen, Fault> {
    let words =
        [RestartWhen::Never, RestartWhen::OnFailure, RestartWhen::Always].map(|when| (when.as_str(), when));
    match &node.value {
        Value::Scalar(_, text) if text == "unless-stopped" => {
            let fault = Fault::at(node.mark, "`unless-stopped` is not a restart policy");
            Err(fault.hint("write `policy: always`: a VM that somebody stopped is never restarted"))
        }
        Value::Scalar(..) | Value::List(_) | Value::Map(_) => choice(node, "a restart policy", &words),
    }
}

fn on_runner_loss(node: &Node) -> Result<OnRunnerLoss, Fault> {
    choice(
        node,
        "what `on_runner_loss` can do",
        &[("adopt", OnRunnerLoss::Adopt), ("stop", OnRunnerLoss::Stop)],
    )
}

/// `sandbox: require` was made a map before, see `normalize`.
fn sandbox(node: &Node, cx: Context<'_>) -> Result<(Sandbox, SandboxPaths), Fault> {
    let fields = Fields::of(node, "`sandbox`", &["mode", "read", "write"])?;
    let mode = fields.read("mode", |node| choice(node, "a sandbox mode", &Sandbox::ALL))?;
    let mode = mode.unwrap_or_default();
    let paths = SandboxPaths {
        read: fields.read("read", |node| files(node, cx))?.unwrap_or_default(),
        write: fields.read("write", |node| files(node, cx))?.unwrap_or_default(),
    };
    if mode == Sandbox::Off && !paths.is_empty() {
        let fault = Fault::at(node.mark, "`sandbox` is off and has paths");
        return Err(fault.hint("write `mode: auto` beside them, or take them out"));
    }
    Ok((mode, paths))
}

/// One path or a list of them.
fn files(node: &Node, cx: Context<'_>) -> Result<Vec<PathBuf>, Fault> {
    match &node.value {
        Value::List(items) => items.iter().map(|item| file(item, cx)).collect(),
        Value::Scalar(..) | Value::Map(_) => Ok(vec![file(node, cx)?]),
    }
}

fn extra_args(node: &Node) -> Result<Vec<String>, Fault> {
    let fields = Fields::of(node, "`qemu`", &["args"])?;
    match fields.get("args").map(|args| &args.value) {
        Some(Value::List(items)) => items.iter().map(text).collect(),
        Some(Value::Scalar(..) | Value::Map(_)) | None => Ok(Vec::new()),
    }
}
