//! Rules about a whole spec that need no look at the host.

mod devices;
mod shares;

use std::fmt;
use std::path::Path;
use std::time::Duration;

pub(crate) use self::devices::is_device_name;
use crate::machine::Family;
use crate::size::Size;
use crate::vm::{RestartPolicy, VmSpec};

/// Least memory of a guest.
const MEMORY_MIN: Size = Size(1 << 20);
/// Most memory of a guest: far above any host, far below where QEMU's sums overflow.
const MEMORY_MAX: Size = Size(16 << 40);
const CPUS_MAX: u32 = 1024;
const STOP_TIMEOUT_MAX: Duration = Duration::from_hours(24);
/// Longest pause before a restart.
const BACKOFF_MAX: Duration = Duration::from_hours(24);
/// Longest time over which restarts are counted.
const WINDOW_MAX: Duration = Duration::from_hours(7 * 24);

/// Dotted path of a field, `disks.root.size`; elements of lists are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(Vec<String>);

impl FieldPath {
    pub(crate) fn root() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn of(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| (*key).to_owned()).collect())
    }

    pub(crate) fn under(mut self, key: &str) -> Self {
        self.0.insert(0, key.to_owned());
        self
    }

    /// Keys from the outside in.
    pub fn keys(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, key) in self.0.iter().enumerate() {
            match (index, key.bytes().all(|byte| byte.is_ascii_digit())) {
                (_, true) => write!(formatter, "[{key}]")?,
                (0, false) => formatter.write_str(key)?,
                (_, false) => write!(formatter, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// Something wrong with a field of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The field.
    pub field: FieldPath,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Finding {
    /// What is wrong with the field of these keys.
    pub fn new(keys: &[&str], message: impl Into<String>) -> Self {
        Self {
            field: FieldPath::of(keys),
            message: message.into(),
            hint: None,
        }
    }

    /// The same with what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.message)
    }
}

/// Everything that is wrong with a spec as far as the spec alone tells; empty when nothing is. [`crate::load()`] has
/// called this; a spec that came over a socket is checked again by whoever received it.
pub fn validate(spec: &VmSpec) -> Vec<Finding> {
    let family = Family::of(&spec.machine);
    let mut findings = Vec::new();
    basics(spec, family, &mut findings);
    boot(spec, family, &mut findings);
    devices::disks(spec, family, &mut findings);
    devices::networks(spec, family, &mut findings);
    shares::shares(spec, family, &mut findings);
    extra_args(&spec.extra_args, &mut findings);
    restart(spec.restart, &mut findings);
    findings
}

fn basics(spec: &VmSpec, family: Family, findings: &mut Vec<Finding>) {
    if spec.binary.is_empty() || spec.binary.starts_with('-') {
        findings.push(Finding::new(
            &["binary"],
            format!("`{}` is not a program", spec.binary),
        ));
    }
    machine(&spec.machine, findings);
    if spec.memory < MEMORY_MIN || spec.memory > MEMORY_MAX {
        let message = format!("memory must be {MEMORY_MIN} to {MEMORY_MAX}, not {}", spec.memory);
        findings.push(Finding::new(&["memory"], message));
    }
    if spec.cpus == 0 || spec.cpus > CPUS_MAX {
        findings.push(Finding::new(
            &["cpus"],
            format!("the number of CPUs must be 1 to {CPUS_MAX}, not {}", spec.cpus),
        ));
    }
    if let Some(most) = family.cpus_max().filter(|most| spec.cpus > *most) {
        let message = format!(
            "machine `{}` has at most {most} CPU{}, not {}",
            spec.machine,
            plural(most),
            spec.cpus
        );
        findings.push(Finding::new(&["cpus"], message));
    }
    if spec.stop.timeout.is_zero() || spec.stop.timeout > STOP_TIMEOUT_MAX {
        let message = "the time to stop must be more than 0 and at most 24 hours".to_owned();
        findings.push(
            Finding::new(&["stop", "timeout"], message).hint("to end a VM at once use `maqet stop --force`"),
        );
    }
}

fn restart(restart: RestartPolicy, findings: &mut Vec<Finding>) {
    let mut wrong = |key: &str, message: String| findings.push(Finding::new(&["restart", key], message));
    if restart.tries == 0 || restart.tries > RestartPolicy::TRIES_MAX {
        let most = RestartPolicy::TRIES_MAX;
        wrong(
            "tries",
            format!("the number of tries must be 1 to {most}, not {}", restart.tries),
        );
    }
    if restart.backoff.is_zero() || restart.backoff > BACKOFF_MAX {
        wrong(
            "backoff",
            "the pause before a restart must be more than 0 and at most 24 hours".to_owned(),
        );
    } else if restart.backoff_max < restart.backoff || restart.backoff_max > BACKOFF_MAX {
        wrong(
            "backoff_max",
            "the longest pause must be at least `backoff` and at most 24 hours".to_owned(),
        );
    } else if restart.window > WINDOW_MAX {
        wrong("window", "restarts are counted over at most 7 days".to_owned());
    } else if restart.window <= restart.pauses() {
        let pauses = humantime::format_duration(restart.pauses());
        let message = format!(
            "{} restarts pause for {pauses}: within a window that is not longer they would never be given up",
            restart.tries
        );
        wrong("window", message);
    }
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// A type, then options after commas.
fn machine(machine: &str, findings: &mut Vec<Finding>) {
    let mut parts = machine.split(',');
    let name = parts.next().unwrap_or_default();
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '+');
    if name.is_empty() || name.starts_with('-') || !name.chars().all(ok) {
        findings.push(
            Finding::new(&["machine"], format!("`{name}` is not a machine type")).hint("for example `q35`"),
        );
    }
    if parts.any(|part| part.trim_start().starts_with("accel=")) {
        findings
            .push(Finding::new(&["machine"], "the accelerator has its own field").hint("write `accel: tcg`"));
    }
}

fn boot(spec: &VmSpec, family: Family, findings: &mut Vec<Finding>) {
    let kernel = spec.kernel.as_ref();
    let paths = [
        (
            ["kernel", "image"].as_slice(),
            kernel.map(|kernel| kernel.image.as_path()),
        ),
        (
            &["kernel", "initrd"],
            kernel.and_then(|kernel| kernel.initrd.as_deref()),
        ),
        (&["firmware"], spec.firmware.as_deref()),
    ];
    for (field, path) in paths {
        findings.extend(path.and_then(|path| relative(field, path)));
    }
    if family == Family::Microvm && spec.vga.is_some() {
        let finding = Finding::new(
            &["vga"],
            format!("machine `{}` has no graphics card", spec.machine),
        );
        findings.push(finding.hint("leave out `vga`"));
    }
    if family != Family::None {
        return;
    }
    let nothing = "machine `none` has no devices and no CPU that runs";
    let given = [
        ("kernel", kernel.is_some()),
        ("firmware", spec.firmware.is_some()),
        ("vga", spec.vga.is_some()),
    ];
    for (field, _) in given.iter().filter(|(_, given)| *given) {
        findings.push(Finding::new(
            &[field],
            format!("{nothing}: `{field}` cannot be used"),
        ));
    }
    if spec.serial.log {
        findings.push(Finding::new(
            &["serial", "log"],
            format!("{nothing}: there is no serial port to log"),
        ));
    }
}

fn relative(field: &[&str], path: &Path) -> Option<Finding> {
    (!path.is_absolute())
        .then(|| Finding::new(field, format!("`{}` is not an absolute path", path.display())))
}

/// Words that would take QEMU out of maqet's hands, or that maqet gives itself.
const REFUSED: [(&str, &str, &str); 8] = [
    ("accel", "the accelerator has its own field", "write `accel: tcg`"),
    (
        "enable-kvm",
        "the accelerator has its own field",
        "write `accel: kvm`",
    ),
    (
        "daemonize",
        "a QEMU that leaves its parent cannot be managed",
        "leave it out: `maqet start` returns anyway",
    ),
    (
        "preconfig",
        "a QEMU that waits for its configuration cannot be started",
        "leave it out",
    ),
    ("help", "QEMU would print its help and end", "leave it out"),
    ("h", "QEMU would print its help and end", "leave it out"),
    ("version", "QEMU would print its version and end", "leave it out"),
    (
        "add-fd",
        "descriptors are handed over by maqet",
        "give files as `disks`",
    ),
];

fn extra_args(words: &[String], findings: &mut Vec<Finding>) {
    let mut before = "";
    for (index, word) in words.iter().enumerate() {
        let index = index.to_string();
        let field = ["qemu", "args", index.as_str()];
        let option = word
            .strip_prefix('-')
            .map(|rest| rest.strip_prefix('-').unwrap_or(rest));
        if let Some((name, why, hint)) = REFUSED.iter().find(|(name, ..)| Some(*name) == option) {
            findings.push(Finding::new(&field, format!("`-{name}` cannot be given: {why}")).hint(*hint));
        }
        let machine = matches!(before, "-machine" | "-M" | "--machine" | "--M");
        if machine && word.split(',').any(|part| part.starts_with("accel=")) {
            findings
                .push(Finding::new(&field, "the accelerator has its own field").hint("write `accel: tcg`"));
        }
        if word.contains('\0') {
            findings.push(Finding::new(&field, "a word with a NUL character"));
        }
        before = word;
    }
}
