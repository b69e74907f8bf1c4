//! One connection: commands out, replies matched, events handed on.
//!
//! A command is written by its caller when the socket takes it at once, which it nearly always does; only the rest
//! of a line goes through the writer task. The reader task hands replies straight to the waiting caller.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::value::RawValue;
use tokio::io::Interest;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio_util::codec::FramedRead;

use crate::codec::{LINE_BYTES_MAX, LineCodec};
use crate::error::QmpError;
use crate::event::EventQueue;
use crate::message::{ErrorBody, Message, Outcome};

/// Commands that may wait for their reply at the same time on one connection.
pub const PENDING_COMMANDS_MAX: usize = 128;

/// Commands that QEMU has not read yet, bytes; one longer command alone is let through.
pub const QUEUED_BYTES_MAX: usize = 1024 * 1024;

/// Lines as they come.
pub(crate) type Lines = FramedRead<OwnedReadHalf, LineCodec>;

/// What a waiting caller is told.
pub(crate) type Delivery = Result<Outcome, QmpError>;

/// State shared by callers, reader and writer.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Random part of the ids of this connection.
    prefix: String,
    socket: OwnedWriteHalf,
    state: Mutex<State>,
    /// Told when something was queued that the socket did not take at once, and at the end.
    queued: Notify,
    pub(crate) events: Arc<EventQueue>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    pending: HashMap<u64, oneshot::Sender<Delivery>>,
    queue: VecDeque<Outgoing>,
    queued_bytes: usize,
    discarded: u64,
    closed: bool,
}

/// A line, or what is left of it, that the socket has not taken yet.
#[derive(Debug)]
struct Outgoing {
    number: u64,
    line: Vec<u8>,
    written: usize,
    /// Goes with its first byte.
    fd: Option<OwnedFd>,
}

/// A command under way. Dropping it forgets the command: unsent it is never sent, sent its reply is discarded.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    connection: &'a Connection,
    number: u64,
    pub(crate) reply: oneshot::Receiver<Delivery>,
}

impl Connection {
    pub(crate) fn new(socket: OwnedWriteHalf) -> Self {
        Self {
            prefix: random_prefix(),
            socket,
            state: Mutex::default(),
            queued: Notify::new(),
            events: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replies and unreadable lines that belonged to no command of this connection.
    pub(crate) fn discarded(&self) -> u64 {
        self.lock().discarded
    }

    pub(crate) fn count_discarded(&self) {
        let mut state = self.lock();
        state.discarded = state.discarded.saturating_add(1);
    }

    /// Sends the line that `write` makes for a fresh id, and a descriptor with it.
    ///
    /// # Errors
    /// [`QmpError::Busy`] without room, [`QmpError::Closed`] after the end, [`QmpError::TooLong`].
    pub(crate) fn send(
        &self,
        fd: Option<OwnedFd>,
        write: impl FnOnce(&str) -> Result<Vec<u8>, QmpError>,
    ) -> Result<Ticket<'_>, QmpError> {
        let mut state = self.lock();
        if state.closed {
            return Err(QmpError::Closed);
        }
        let number = state.last_id.saturating_add(1);
        let line = write(&format!("{}{number:x}", self.prefix))?;
        state.admit(line.len())?;
        state.last_id = number;
        let (sender, reply) = oneshot::channel();
        let mut outgoing = Outgoing {
            number,
            line,
            written: 0,
            fd,
        };
        if state.queue.is_empty() {
            self.write_some(&mut outgoing)?;
        }
        state.pending.insert(number, sender);
        if !outgoing.is_done() {
            state.queued_bytes = state.queued_bytes.saturating_add(outgoing.line.len());
            state.queue.push_back(outgoing);
            self.queued.notify_one();
        }
        Ok(Ticket {
            connection: self,
            number,
            reply,
        })
    }

    /// Gives the socket as much of `outgoing` as it takes without waiting.
    fn write_some(&self, outgoing: &mut Outgoing) -> Result<(), QmpError> {
        while !outgoing.is_done() {
            let taken = match &outgoing.fd {
                Some(fd) => self.try_hand_over(fd, outgoing.rest()),
                None => self.socket.try_write(outgoing.rest()),
            };
            match taken {
                Ok(0) => return Err(QmpError::Closed),
                Ok(count) => {
                    outgoing.written = outgoing.written.saturating_add(count);
                    outgoing.fd = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn try_hand_over(&self, fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
        let socket = self.socket.as_ref();
        socket.try_io(Interest::WRITABLE, || {
            let fds = [fd.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            if !rights.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut rights, SendFlags::NOSIGNAL)?;
            Ok(sent)
        })
    }

    /// Carries queued lines to the socket until the connection ends.
    pub(crate) async fn write_queued(self: Arc<Self>) {
        loop {
            self.queued.notified().await;
            if let Err(error) = self.drain().await {
                self.close(&error);
            }
            if self.lock().closed {
                return;
            }
        }
    }

    pub(crate) async fn drain(&self) -> Result<(), QmpError> {
        while !self.lock().queue.is_empty() {
            self.socket.writable().await?;
            self.write_front()?;
        }
        Ok(())
    }

    fn write_front(&self) -> Result<(), QmpError> {
        let mut state = self.lock();
        while let Some(mut front) = state.queue.pop_front() {
            let written = self.write_some(&mut front);
            if written.is_err() || !front.is_done() {
                state.queue.push_front(front);
                return written;
            }
            state.queued_bytes = state.queued_bytes.saturating_sub(front.line.len());
        }
        Ok(())
    }

    /// Reads until the connection ends.
    pub(crate) async fn read(self: Arc<Self>, mut lines: Lines) {
        let end = loop {
            match lines.next().await {
                None => break QmpError::Closed,
                Some(line) => match line.and_then(|line| self.receive(&line)) {
                    Ok(()) => (),
                    Err(error) => break error,
                },
            }
        };
        self.close(&end);
    }

    /// Takes one line.
    ///
    /// # Errors
    /// [`QmpError::Malformed`]: the stream cannot be trusted any further.
    pub(crate) fn receive(&self, line: &[u8]) -> Result<(), QmpError> {
        match Message::parse(line)? {
            Message::Event(event) => self.events.push(event, line.len()),
            Message::Reply { id, outcome } => self.deliver(id.as_deref(), outcome),
            Message::Greeting(_) => self.count_discarded(),
        }
        Ok(())
    }

    fn deliver(&self, id: Option<&str>, outcome: Outcome) {
        let number = id
            .and_then(|id| id.strip_prefix(self.prefix.as_str()))
            .and_then(|number| u64::from_str_radix(number, 16).ok());
        let waiting = number.and_then(|number| self.lock().pending.remove(&number));
        let delivered = waiting.is_some_and(|sender| sender.send(Ok(outcome)).is_ok());
        if !delivered {
            tracing::debug!(id, "reply to no command of this connection");
            self.count_discarded();
        }
    }

    /// Ends the connection for everyone. Later calls change nothing.
    pub(crate) fn close(&self, why: &QmpError) {
        let mut state = self.lock();
        state.closed = true;
        state.queue.clear();
        state.queued_bytes = 0;
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for sender in pending.into_values() {
            // A caller that went away in the meantime needs no answer.
            drop(sender.send(Err(why.clone())));
        }
        self.queued.notify_one();
        self.events.end();
    }
}

impl State {
    fn admit(&self, bytes: usize) -> Result<(), QmpError> {
        if bytes > LINE_BYTES_MAX {
            return Err(QmpError::TooLong {
                limit: LINE_BYTES_MAX,
            });
        }
        let full = self.pending.len() >= PENDING_COMMANDS_MAX || self.queue.len() >= PENDING_COMMANDS_MAX;
        let heavy = !self.queue.is_empty() && self.queued_bytes.saturating_add(bytes) > QUEUED_BYTES_MAX;
        if full || heavy {
            Err(QmpError::Busy)
        } else {
            Ok(())
        }
    }
}

impl Outgoing {
    fn rest(&self) -> &[u8] {
        self.line.get(self.written..).unwrap_or_default()
    }

    fn is_done(&self) -> bool {
        self.written >= self.line.len()
    }
}

impl Ticket<'_> {
    /// The reply, or why there will be none.
    pub(crate) async fn outcome(&mut self) -> Delivery {
        (&mut self.reply).await.unwrap_or(Err(QmpError::Closed))
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        if state.pending.remove(&self.number).is_none() {
            return;
        }
        // Only a line QEMU has seen nothing of may be taken back.
        let unsent = |outgoing: &Outgoing| outgoing.number == self.number && outgoing.written == 0;
        if let Some(index) = state.queue.iter().position(unsent)
            && let Some(taken) = state.queue.remove(index)
        {
            state.queued_bytes = state.queued_bytes.saturating_sub(taken.line.len());
        }
    }
}

/// Turns what arrived into the value or the refusal of `command`.
pub(crate) fn settle(command: &str, delivery: Delivery) -> Result<Box<RawValue>, QmpError> {
    delivery?.map_err(|ErrorBody { class, description }| QmpError::Refused {
        command: command.to_owned(),
        class,
        description,
    })
}

/// Lines read from `socket`.
pub(crate) fn lines(socket: OwnedReadHalf) -> Lines {
    FramedRead::new(socket, LineCodec::new(LINE_BYTES_MAX))
}

/// Five characters and a dash, different for each connection: short, because QEMU pays for every byte. It only has
/// to tell this connection's replies from those of a dead one, so it needs no secrecy.
fn random_prefix() -> String {
    const ALPHABET: [char; 32] = [
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't',
        'u', 'v', 'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
    ];
    let random = RandomState::new().hash_one(std::process::id()).to_le_bytes();
    random
        .iter()
        .take(5)
        .filter_map(|byte| ALPHABET.get(usize::from(byte & 31)))
        .chain(['-'].iter())
        .collect()
}
