//! Both ends, against each other and against strangers, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use maqet_process::ProcessHandle;
use maqet_state::secret::Secret;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio_util::codec::Framed;

use super::client::Client;
use super::server::{ServerConnection, ServerIdentity};
use crate::control::{Empty, List, SupervisorStop};
use crate::error::{AuthenticationError, ProtocolError};
use crate::handshake::{HelloReply, Nonce, Side, SocketRole, Transcript, VERSION};
use crate::interface::{CONTROL_INTERFACES, RUNNER_INTERFACES};
use crate::method::Method;
use crate::varlink::{FRAME_BYTES_MAX, FrameCodec, Reply, parse};

mod attacks;
mod calls;
mod endings;
mod impostors;
mod limits;
mod strangers;

const DEADLINE: Duration = Duration::from_secs(20);
const VM: &str = "0123456789abcdef0123456789abcdef";
const OTHER_VM: &str = "f123456789abcdef0123456789abcdef";

fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

fn runner(vm: &str) -> SocketRole {
    SocketRole::Runner(vm.parse().unwrap())
}

fn own_inode() -> Option<u64> {
    ProcessHandle::current().unwrap().inode()
}

fn serve_as(identity: ServerIdentity, stream: UnixStream) -> ServerConnection {
    let interfaces = match &identity.role {
        SocketRole::Control => CONTROL_INTERFACES,
        SocketRole::Runner(_) => RUNNER_INTERFACES,
    };
    ServerConnection::accept(stream, Arc::new(identity), interfaces)
}

fn serve(stream: UnixStream) -> ServerConnection {
    serve_as(ServerIdentity::new(SocketRole::Control, secret()), stream)
}

/// Runs the server's side until it hands out a call, hangs up or fails.
fn until_first_call(mut connection: ServerConnection) -> tokio::task::JoinHandle<Outcome> {
    tokio::spawn(async move {
        connection
            .next_call()
            .await
            .map(|call| call.map(|call| call.method))
    })
}

type Outcome = Result<Option<String>, ProtocolError>;

async fn failure(server: tokio::task::JoinHandle<Outcome>) -> AuthenticationError {
    match server.await.unwrap() {
        Err(ProtocolError::Authentication(reason)) => reason,
        other => panic!("expected failed authentication, got {other:?}"),
    }
}

/// A client that says what it likes.
struct Raw {
    framed: Framed<UnixStream, FrameCodec>,
    sent: Vec<Value>,
}

impl Raw {
    fn new(stream: UnixStream) -> Self {
        Self {
            framed: Framed::new(stream, FrameCodec::new(FRAME_BYTES_MAX)),
            sent: Vec::new(),
        }
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        self.framed.get_mut().write_all(bytes).await.unwrap();
    }

    async fn send(&mut self, frame: Value) {
        self.framed.send(&frame).await.unwrap();
        self.sent.push(frame);
    }

    async fn read(&mut self) -> Reply {
        parse(&self.framed.next().await.unwrap().unwrap()).unwrap()
    }

    async fn ask(&mut self, method: &str, parameters: Value) -> Reply {
        self.send(json!({"method": method, "parameters": parameters}))
            .await;
        self.read().await
    }

    /// Says `Hello` on the control interface and returns what both sides must agree on, as an honest client would.
    async fn hello(&mut self) -> (HelloReply, Transcript) {
        let nonce = Nonce::random().unwrap();
        let hello = json!({"version": 1, "client_nonce": nonce.as_str()});
        let reply = self.ask("org.maqet.Control.Hello", hello).await;
        assert_eq!(reply.error, None);
        let reply: HelloReply = serde_json::from_value(Value::Object(reply.parameters.unwrap())).unwrap();
        let transcript = Transcript {
            client_nonce: nonce,
            server_nonce: reply.server_nonce.clone(),
            version: VERSION,
            role: SocketRole::Control,
            client_inode: 0,
            server_inode: reply.server_inode,
        };
        (reply, transcript)
    }

    async fn prove(&mut self, proof: &str) -> Reply {
        self.ask("org.maqet.Control.Prove", json!({"client_proof": proof}))
            .await
    }

    /// The whole handshake of an honest client that does not know its inode.
    async fn authenticate(&mut self) {
        let (reply, transcript) = self.hello().await;
        assert!(transcript.verify(Side::Server, &secret(), &reply.server_proof));
        let proved = self.prove(&transcript.proof(Side::Client, &secret())).await;
        assert_eq!(proved, Reply::ok(serde_json::Map::new()));
    }

    async fn is_closed(&mut self) -> bool {
        match self.framed.next().await {
            None | Some(Err(ProtocolError::Io(_))) => true,
            Some(_) => false,
        }
    }
}

/// A raw client and the outcome of the server that it talks to.
fn raw_against(identity: ServerIdentity) -> (Raw, tokio::task::JoinHandle<Outcome>) {
    let (near, far) = UnixStream::pair().unwrap();
    (Raw::new(near), until_first_call(serve_as(identity, far)))
}

fn raw() -> (Raw, tokio::task::JoinHandle<Outcome>) {
    raw_against(ServerIdentity::new(SocketRole::Control, secret()))
}

fn assert_unauthenticated(reply: &Reply) {
    assert_eq!(
        reply.error.as_deref(),
        Some("org.maqet.Control.AuthenticationFailed"),
        "{reply:?}"
    );
    assert!(reply.parameters.as_ref().unwrap()["message"].is_string());
}

/// A client and a server's connection that trust each other, and the first call the server got.
async fn connected() -> (Client, ServerConnection) {
    let (near, far) = UnixStream::pair().unwrap();
    let mut connection = serve(far);
    let server = tokio::spawn(async move {
        let call = connection.next_call().await.unwrap().unwrap();
        assert_eq!(call.method, SupervisorStop::NAME);
        connection.reply(&Empty {}).await.unwrap();
        connection
    });
    let mut client = Client::connect(near, SocketRole::Control, &secret(), DEADLINE)
        .await
        .unwrap();
    client
        .call(&SupervisorStop::default(), Some(DEADLINE))
        .await
        .unwrap();
    (client, server.await.unwrap())
}

/// The same with a raw client.
async fn raw_connected() -> (Raw, ServerConnection) {
    let (near, far) = UnixStream::pair().unwrap();
    let mut connection = serve(far);
    let server = tokio::spawn(async move {
        connection.next_call().await.unwrap().unwrap();
        connection.reply(&Empty {}).await.unwrap();
        connection
    });
    let mut raw = Raw::new(near);
    raw.authenticate().await;
    raw.ask(SupervisorStop::NAME, json!({})).await;
    (raw, server.await.unwrap())
}

fn list() -> Value {
    json!({"method": List::NAME})
}
