//! The handle callers hold.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::command::Command;
use crate::connection::{Connection, Lines, lines, settle};
use crate::error::QmpError;
use crate::event::Events;
use crate::message::{Message, request};
use crate::schema::Schema;

/// QEMU's version. For people and logs: features are asked for with [`Qmp::schema`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Micro number.
    pub micro: u32,
    /// The packager's words; may be empty.
    pub package: String,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A connection to QEMU's monitor. Clones share it; when the last one is dropped the connection closes and
/// [`Events`] end.
#[derive(Clone, Debug)]
pub struct Qmp {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Arc<Connection>,
    version: Version,
    tasks: [AbortHandle; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.connection.close(&QmpError::Closed);
    }
}

const CAPABILITIES: &str = "qmp_capabilities";

impl Qmp {
    /// Greets QEMU on a fresh connection; `greeting_deadline` bounds the greeting and the negotiation after it.
    ///
    /// What a previous client left in QEMU's buffers (whole replies, or the tail of one) comes before the greeting
    /// and is discarded; events are kept wherever they come. Needs a tokio runtime, which may be single-threaded.
    ///
    /// # Errors
    /// [`QmpError::Greeting`] without a greeting, [`QmpError::Deadline`] without an answer to the negotiation,
    /// [`QmpError::Refused`] when QEMU rejects it, [`QmpError::Closed`] and the rest when the peer is no QEMU.
    pub async fn connect(
        stream: UnixStream,
        greeting_deadline: Duration,
    ) -> Result<(Self, Events), QmpError> {
        let (reader, writer) = stream.into_split();
        let connection = Arc::new(Connection::new(writer));
        let mut lines = lines(reader);
        let begun = tokio::time::Instant::now();
        let version = timeout(greeting_deadline, greeting(&mut lines, &connection))
            .await
            .unwrap_or_else(|_| {
                let discarded = connection.discarded();
                Err(QmpError::Greeting {
                    after: greeting_deadline,
                    discarded,
                })
            })?;
        let left = greeting_deadline.saturating_sub(begun.elapsed());
        timeout(left, negotiate(&mut lines, &connection))
            .await
            .unwrap_or_else(|_| {
                let command = CAPABILITIES.to_owned();
                Err(QmpError::Deadline {
                    command,
                    after: greeting_deadline,
                })
            })?;
        let events = Events::new(Arc::clone(&connection.events));
        let tasks = [
            tokio::spawn(Arc::clone(&connection).read(lines)).abort_handle(),
            tokio::spawn(Arc::clone(&connection).write_queued()).abort_handle(),
        ];
        let inner = Arc::new(Inner {
            connection,
            version,
            tasks,
        });
        Ok((Self { inner }, events))
    }

    /// Version of QEMU, from its greeting.
    pub fn version(&self) -> &Version {
        &self.inner.version
    }

    /// Replies that belonged to no living command: late ones, and those of a dead predecessor.
    pub fn discarded(&self) -> u64 {
        self.inner.connection.discarded()
    }

    /// Runs a typed command.
    ///
    /// # Errors
    /// [`QmpError::Refused`] with QEMU's words, [`QmpError::Deadline`], [`QmpError::Closed`], [`QmpError::Busy`],
    /// [`QmpError::Malformed`] when the reply has another shape than [`Command::Reply`].
    pub async fn execute<C: Command>(&self, command: &C, deadline: Duration) -> Result<C::Reply, QmpError> {
        let arguments = (!C::BARE).then_some(command);
        let text = self.exchange(C::NAME, arguments, None, deadline).await?;
        read(&text)
    }

    /// Runs a typed command that hands QEMU a descriptor; QEMU has its own of the same file then.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn hand_over<C: Command>(
        &self,
        command: &C,
        fd: OwnedFd,
        deadline: Duration,
    ) -> Result<C::Reply, QmpError> {
        let arguments = (!C::BARE).then_some(command);
        let text = self.exchange(C::NAME, arguments, Some(fd), deadline).await?;
        read(&text)
    }

    /// Runs a command by name; `arguments` must be an object.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn run(
        &self,
        name: &str,
        arguments: Option<Value>,
        deadline: Duration,
    ) -> Result<Value, QmpError> {
        let text = self.exchange(name, arguments.as_ref(), None, deadline).await?;
        read(&text)
    }

    /// Asks QEMU which commands and events it has. About 26 ms on QEMU 7.2: ask once, keep the answer.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn schema(&self, deadline: Duration) -> Result<Schema, QmpError> {
        let text = self
            .exchange::<Value>(Schema::COMMAND, None, None, deadline)
            .await?;
        Schema::read(&text)
    }

    async fn exchange<A: Serialize>(
        &self,
        name: &str,
        arguments: Option<&A>,
        fd: Option<OwnedFd>,
        deadline: Duration,
    ) -> Result<Box<RawValue>, QmpError> {
        let line = |id: &str| request(name, arguments, id);
        let mut ticket = self.inner.connection.send(fd, line)?;
        match timeout(deadline, ticket.outcome()).await {
            Ok(delivery) => settle(name, delivery),
            Err(_) => Err(QmpError::Deadline {
                command: name.to_owned(),
                after: deadline,
            }),
        }
    }
}

/// Reads the text of a reply.
pub(crate) fn read<T: DeserializeOwned>(text: &RawValue) -> Result<T, QmpError> {
    serde_json::from_str(text.get()).map_err(|error| QmpError::malformed(&error, text.get().as_bytes()))
}

/// Reads up to and including the greeting.
async fn greeting(lines: &mut Lines, connection: &Connection) -> Result<Version, QmpError> {
    loop {
        let line = lines.next().await.unwrap_or(Err(QmpError::Closed))?;
        match Message::parse(&line) {
            Ok(Message::Greeting(version)) => return Ok(version),
            Ok(Message::Event(event)) => connection.events.push(event, line.len()),
            // A reply, or the tail of one, for the client before us.
            Ok(Message::Reply { .. }) | Err(_) => connection.count_discarded(),
        }
    }
}

/// Leaves negotiation mode.
async fn negotiate(lines: &mut Lines, connection: &Arc<Connection>) -> Result<(), QmpError> {
    let mut ticket = connection.send(None, |id| request::<()>(CAPABILITIES, None, id))?;
    connection.drain().await?;
    let delivery = loop {
        tokio::select! {
            biased;
            delivery = ticket.outcome() => break delivery,
            line = lines.next() => connection.receive(&line.unwrap_or(Err(QmpError::Closed))?)?,
        }
    };
    settle(CAPABILITIES, delivery).map(drop)
}
