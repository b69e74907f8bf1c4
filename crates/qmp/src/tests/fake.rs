//! A scripted peer at the other end of a socket pair.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::{Events, Qmp, QmpError};

/// Long enough for any machine; no test waits for it to pass.
pub(super) const PLENTY: Duration = Duration::from_secs(20);

pub(super) const GREETING: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "#,
    r#""capabilities": ["oob"]}}"#,
    "\r\n"
);

/// The peer.
pub(super) struct Fake {
    pub(super) reader: BufReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
}

impl Fake {
    /// A peer and the stream that leads to it.
    pub(super) fn pair() -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = ours.into_split();
        let reader = BufReader::new(reader);
        (Self { reader, writer }, theirs)
    }

    /// A peer that has greeted and negotiated, and the client connected to it.
    pub(super) async fn connected() -> (Self, Qmp, Events) {
        let (mut fake, stream) = Self::pair();
        let serve = async {
            fake.say(GREETING).await;
            fake.accept_capabilities().await;
        };
        let (connected, ()) = tokio::join!(Qmp::connect(stream, PLENTY), serve);
        let (qmp, events) = connected.unwrap();
        (fake, qmp, events)
    }

    pub(super) async fn say(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next command the client sent.
    pub(super) async fn heard(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    pub(super) async fn accept_capabilities(&mut self) {
        let command = self.heard().await;
        assert_eq!(command["execute"], "qmp_capabilities");
        self.answer(&command, json!({})).await;
    }

    /// Answers `command` with `value`.
    pub(super) async fn answer(&mut self, command: &Value, value: impl Into<Value>) {
        self.say(&reply(command, value)).await;
    }

    /// Waits until the client has hung up.
    pub(super) async fn hung_up(&mut self) {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).await.unwrap();
    }
}

/// The line that answers `command` with `value`.
pub(super) fn reply(command: &Value, value: impl Into<Value>) -> String {
    format!("{}\r\n", json!({"return": value.into(), "id": command["id"]}))
}

/// Asserts on the kind of an error without spelling its fields.
pub(super) fn failed<T: std::fmt::Debug>(result: Result<T, QmpError>) -> QmpError {
    result.unwrap_err()
}
