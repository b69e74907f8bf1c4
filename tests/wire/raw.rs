//! A client that says what it likes.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use maqet_protocol::SocketRole;
use maqet_protocol::handshake::{HelloReply, Nonce, Side, Transcript, VERSION};
use maqet_state::secret::Secret;
use maqet_tests::wait::PATIENCE;
use serde_json::{Value, json};

/// A socket under attack: where it is and what opens it.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) path: PathBuf,
    pub(crate) role: SocketRole,
    pub(crate) secret: Secret,
    /// A method that answers only after the handshake.
    pub(crate) guarded: &'static str,
}

impl Door {
    /// A fresh connection.
    pub(crate) fn connect(&self) -> Raw {
        Raw::connect(&self.path, self.role.clone())
    }
}

/// One connection, blocking; everything it sends is kept.
#[derive(Debug)]
pub(crate) struct Raw {
    stream: UnixStream,
    role: SocketRole,
    pub(crate) sent: Vec<Value>,
}

impl Raw {
    pub(crate) fn connect(path: &Path, role: SocketRole) -> Self {
        let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            role,
            sent: Vec::new(),
        }
    }

    /// The full name of a method of the interface this socket serves.
    pub(crate) fn method(&self, name: &str) -> String {
        format!("{}.{name}", self.role.interface())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn send(&mut self, frame: Value) {
        let mut bytes = frame.to_string().into_bytes();
        bytes.push(0);
        self.bytes(&bytes).unwrap();
        self.sent.push(frame);
    }

    /// The next reply; `None` when the connection was closed instead.
    pub(crate) fn read(&mut self) -> Option<Value> {
        let mut frame = Vec::new();
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return None,
                Ok(_) if byte == [0] => return Some(serde_json::from_slice(&frame).unwrap()),
                Ok(_) => frame.extend_from_slice(&byte),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply ({error}) to {:?}", self.sent),
            }
        }
    }

    pub(crate) fn call(&mut self, method: &str, parameters: &Value) {
        self.send(json!({"method": method, "parameters": parameters}));
    }

    pub(crate) fn ask(&mut self, method: &str, parameters: &Value) -> Value {
        self.call(method, parameters);
        self.read()
            .unwrap_or_else(|| panic!("closed instead of an answer to {method}"))
    }

    /// Asks for something only friends get.
    pub(crate) fn ask_guarded(&mut self, door: &Door) -> Value {
        self.ask(&self.method(door.guarded), &json!({}))
    }

    /// Says `Hello`; returns the answer and what both sides must agree on.
    pub(crate) fn hello(&mut self) -> (HelloReply, Transcript) {
        let nonce = Nonce::random().unwrap();
        let hello = json!({"version": VERSION, "client_nonce": nonce.as_str()});
        let reply = self.ask(&self.method("Hello"), &hello);
        let reply: HelloReply = serde_json::from_value(reply["parameters"].clone()).unwrap();
        let transcript = Transcript {
            client_nonce: nonce,
            server_nonce: reply.server_nonce.clone(),
            version: VERSION,
            role: self.role.clone(),
            client_inode: 0,
            server_inode: reply.server_inode,
        };
        (reply, transcript)
    }

    pub(crate) fn prove(&mut self, proof: &str) -> Value {
        self.ask(&self.method("Prove"), &json!({"client_proof": proof}))
    }

    /// The whole handshake of an honest client.
    pub(crate) fn authenticate(&mut self, secret: &Secret) {
        let (reply, transcript) = self.hello();
        assert!(transcript.verify(Side::Server, secret, &reply.server_proof));
        let proved = self.prove(&transcript.proof(Side::Client, secret));
        assert_eq!(proved.get("error"), None, "{proved}");
    }

    /// The server has nothing more to say.
    pub(crate) fn assert_closed(&mut self) {
        assert_eq!(self.read(), None);
    }

    /// Hangs up.
    pub(crate) fn cut(self) {
        drop(self.stream);
    }
}

/// The refusal of somebody who has not proved himself.
pub(crate) fn assert_refused(reply: &Value) {
    let error = reply["error"].as_str().unwrap_or_default();
    assert!(error.ends_with(".AuthenticationFailed"), "{reply}");
}
