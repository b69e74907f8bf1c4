//! The shapes of the lines, both ways.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::QmpError;
use crate::event::Event;

/// A line from QEMU, told apart.
#[derive(Debug)]
pub(crate) enum Message {
    /// First line of a connection.
    Greeting(crate::client::Version),
    /// Something happened.
    Event(Event),
    /// Answer to a command; the id is `None` when QEMU could not read one or it was no text.
    Reply { id: Option<String>, outcome: Outcome },
}

/// What QEMU answered: the text of the value, or its error.
pub(crate) type Outcome = Result<Box<RawValue>, ErrorBody>;

/// QEMU's error object.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorBody {
    #[serde(default)]
    pub(crate) class: String,
    #[serde(default, rename = "desc")]
    pub(crate) description: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    data: Option<Value>,
    timestamp: Option<Timestamp>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    /// `null` is a value like any other here.
    #[serde(default, borrow, rename = "return", deserialize_with = "present")]
    value: Option<&'a RawValue>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct Greeting {
    version: VersionBody,
}

#[derive(Deserialize)]
struct VersionBody {
    qemu: VersionNumbers,
    #[serde(default)]
    package: String,
}

#[derive(Deserialize)]
struct VersionNumbers {
    major: u32,
    minor: u32,
    micro: u32,
}

/// Either number is -1 when QEMU could not read its clock.
#[derive(Deserialize)]
struct Timestamp {
    seconds: i64,
    microseconds: i64,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Message {
    /// Reads one line.
    ///
    /// # Errors
    /// [`QmpError::Malformed`] when the line is not JSON or none of the three kinds.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, QmpError> {
        let parsed: Line<'_> =
            serde_json::from_slice(line).map_err(|error| QmpError::malformed(&error, line))?;
        let id = || parsed.id.and_then(|id| serde_json::from_str(id.get()).ok());
        if let Some(value) = parsed.value {
            let outcome = Ok(value.to_owned());
            return Ok(Self::Reply { id: id(), outcome });
        }
        if let Some(error) = parsed.error {
            return Ok(Self::Reply {
                id: id(),
                outcome: Err(error),
            });
        }
        if let Some(name) = parsed.event {
            let at = parsed.timestamp.and_then(|stamp| stamp.since_epoch());
            let data = parsed.data.unwrap_or(Value::Null);
            return Ok(Self::Event(Event {
                name: name.into_owned(),
                data,
                at,
            }));
        }
        match parsed.greeting {
            Some(greeting) => Ok(Self::Greeting(greeting.version.into())),
            None => Err(QmpError::malformed(&"neither greeting, event nor reply", line)),
        }
    }
}

impl Timestamp {
    fn since_epoch(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let microseconds = u64::try_from(self.microseconds).ok()?;
        Duration::from_secs(seconds).checked_add(Duration::from_micros(microseconds))
    }
}

impl From<VersionBody> for crate::client::Version {
    fn from(body: VersionBody) -> Self {
        Self {
            major: body.qemu.major,
            minor: body.qemu.minor,
            micro: body.qemu.micro,
            package: body.package,
        }
    }
}

/// A command as QEMU reads it.
#[derive(Serialize)]
struct Request<'a, A> {
    execute: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a A>,
    id: &'a str,
}

/// Writes one command as one compact line.
///
/// # Errors
/// [`QmpError::Malformed`] when the arguments cannot be JSON.
pub(crate) fn request<A: Serialize>(
    execute: &str,
    arguments: Option<&A>,
    id: &str,
) -> Result<Vec<u8>, QmpError> {
    let mut line = Vec::with_capacity(64);
    serde_json::to_writer(
        &mut line,
        &Request {
            execute,
            arguments,
            id,
        },
    )
    .map_err(|error| QmpError::malformed(&error, execute.as_bytes()))?;
    line.push(b'\n');
    Ok(line)
}
