//! What `wait` and `start --wait` can wait for.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// QEMU runs.
    Running,
    /// The VM ended as somebody meant it to.
    Stopped,
    /// The VM ended otherwise.
    Failed,
    /// The VM ended, however.
    Exit,
    /// What the guest printed on its serial port since it was started matches this regular expression.
    Serial(String),
    /// A TCP service answers behind this forwarded port; the guest's number or the host's.
    Port(u16),
    /// The guest agent answers.
    Agent,
    /// This file exists on the host.
    File(PathBuf),
    /// An event of this kind was journalled.
    Event(String),
}

impl Condition {
    /// Whether the text is meant as a condition: it may still be a wrong one.
    pub(crate) fn is_meant_by(text: &str) -> bool {
        matches!(text, "running" | "stopped" | "failed" | "exit" | "agent") || text.contains('=')
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.split_once('=')) {
            ("running", _) => Ok(Self::Running),
            ("stopped", _) => Ok(Self::Stopped),
            ("failed", _) => Ok(Self::Failed),
            ("exit", _) => Ok(Self::Exit),
            ("agent", _) => Ok(Self::Agent),
            (_, Some((kind, ""))) => Err(format!("`{kind}=` needs a value")),
            (_, Some(("serial", pattern))) => Ok(Self::Serial(pattern.to_owned())),
            (_, Some(("file", path))) => Ok(Self::File(PathBuf::from(path))),
            (_, Some(("event", kind))) => Ok(Self::Event(kind.to_owned())),
            (_, Some(("port", number))) => port(number),
            (_, Some(_) | None) => Err(
                "expected running, stopped, failed, exit, serial=REGEX, port=N, agent, file=PATH or event=NAME".to_owned(),
            ),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => formatter.write_str("running"),
            Self::Stopped => formatter.write_str("stopped"),
            Self::Failed => formatter.write_str("failed"),
            Self::Exit => formatter.write_str("exit"),
            Self::Agent => formatter.write_str("agent"),
            Self::Serial(pattern) => write!(formatter, "serial={pattern}"),
            Self::Port(number) => write!(formatter, "port={number}"),
            Self::File(path) => write!(formatter, "file={}", path.display()),
            Self::Event(kind) => write!(formatter, "event={kind}"),
        }
    }
}

/// Words of `wait`: one or more VMs, then one or more conditions. The first word is always a VM, so that a VM called
/// `running` can be waited for.
///
/// # Errors
/// What is missing or wrong, for people.
pub(crate) fn split(words: &[String]) -> Result<(Vec<String>, Vec<Condition>), String> {
    let Some((first, rest)) = words.split_first() else {
        return Err("expected a VM and a condition".to_owned());
    };
    let boundary = rest
        .iter()
        .position(|word| Condition::is_meant_by(word))
        .unwrap_or(rest.len());
    let (vms, conditions) = rest.split_at(boundary);
    if conditions.is_empty() {
        let all: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
        return Err(format!("no condition given to wait for {}", all.join(", ")));
    }
    let vms = std::iter::once(first).chain(vms).cloned().collect();
    let conditions = conditions
        .iter()
        .map(|word| {
            word.parse()
                .map_err(|error| format!("invalid condition `{word}`: {error}"))
        })
        .collect::<Result<_, String>>()?;
    Ok((vms, conditions))
}

fn port(number: &str) -> Result<Condition, String> {
    match number.parse::<u16>() {
        Ok(port) if port > 0 => Ok(Condition::Port(port)),
        Ok(_) | Err(_) => Err(format!("`{number}` is not a port, expected 1 to 65535")),
    }
}
