//! The end that connects.

use std::marker::PhantomData;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use maqet_process::ProcessHandle;
use maqet_process::socket;
use maqet_state::secret::Secret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::codec::Framed;

use crate::call::refusal_from_error;
use crate::error::{AuthenticationError, CallError, ProtocolError};
use crate::handshake::{Hello, HelloReply, Nonce, Prove, Side, SocketRole, Transcript, VERSION};
use crate::method::Method;
use crate::varlink::{
    Call, FRAME_BYTES_MAX, FRAME_BYTES_MAX_UNPROVEN, FrameCodec, Parameters, Reply, parameters_of, parse,
};

/// A connection whose other end has proved that it knows the secret, and which has proved the same to it.
///
/// It serves one call at a time. A call that is given up (by its deadline, or because its future was dropped) leaves
/// its reply outstanding; the connection refuses every later call with [`ProtocolError::Abandoned`].
#[derive(Debug)]
pub struct Client {
    framed: Framed<UnixStream, FrameCodec>,
    role: SocketRole,
    owes_reply: bool,
}

impl Client {
    /// Authenticates both ends of a connected socket within `deadline`.
    ///
    /// # Errors
    /// [`ProtocolError::Authentication`] when either side does not convince the other, [`ProtocolError::Deadline`],
    /// and whatever a socket can do.
    pub async fn connect(
        stream: UnixStream,
        role: SocketRole,
        secret: &Secret,
        deadline: Duration,
    ) -> Result<Self, ProtocolError> {
        let mut client = Self {
            framed: Framed::new(stream, FrameCodec::new(FRAME_BYTES_MAX_UNPROVEN)),
            role,
            owes_reply: false,
        };
        let shaken = timeout(deadline, client.shake_hands(secret)).await;
        shaken.map_err(|_elapsed| ProtocolError::Deadline { after: deadline })??;
        client.framed.codec_mut().set_limit(FRAME_BYTES_MAX);
        Ok(client)
    }

    /// Calls a method and waits for its one reply; without `deadline` for as long as it takes.
    ///
    /// # Errors
    /// [`CallError::Refused`] when the peer says no, [`CallError::Protocol`] otherwise. After
    /// [`ProtocolError::Deadline`] the connection is of no further use.
    pub async fn call<M: Method>(
        &mut self,
        method: &M,
        deadline: Option<Duration>,
    ) -> Result<M::Reply, CallError> {
        let exchange = self.exchange(M::NAME, method);
        let reply = match deadline {
            None => exchange.await?,
            Some(after) => timeout(after, exchange)
                .await
                .map_err(|_elapsed| ProtocolError::Deadline { after })??,
        };
        read_reply(self.role.interface(), M::NAME, reply)
    }

    /// Calls a method that replies more than once.
    ///
    /// # Errors
    /// [`CallError::Protocol`] when the call could not be sent. A refusal comes as the first item of the stream.
    pub async fn stream<M: Method>(mut self, method: &M) -> Result<ReplyStream<M>, CallError> {
        let mut call = Call::new(M::NAME, parameters_of(method)?);
        call.more = true;
        self.send(&call).await?;
        Ok(ReplyStream {
            client: self,
            ended: false,
            method: PhantomData,
        })
    }

    async fn shake_hands(&mut self, secret: &Secret) -> Result<(), ProtocolError> {
        let own_inode = ProcessHandle::current()
            .map_err(ProtocolError::Peer)?
            .inode()
            .unwrap_or(0);
        let hello = Hello {
            version: VERSION,
            client_nonce: Nonce::random()?,
            client_inode: own_inode,
            role: Some(self.role.name().to_owned()),
            vm: Some(self.role.vm().to_owned()),
        };
        let reply: HelloReply = self.handshake_call("Hello", &hello).await?;
        let transcript = self.check_server(hello, &reply, secret)?;
        let prove = Prove {
            client_proof: transcript.proof(Side::Client, secret),
        };
        let _nothing: Parameters = self.handshake_call("Prove", &prove).await?;
        Ok(())
    }

    /// Believes the server, or does not; nothing has been told to it so far but a nonce.
    fn check_server(
        &self,
        hello: Hello,
        reply: &HelloReply,
        secret: &Secret,
    ) -> Result<Transcript, ProtocolError> {
        if reply.version != VERSION {
            return Err(AuthenticationError::Version {
                version: reply.version,
            }
            .into());
        }
        if reply.server_nonce == hello.client_nonce {
            return Err(AuthenticationError::EchoedNonce.into());
        }
        let peer = socket::peer(self.framed.get_ref()).map_err(ProtocolError::Peer)?;
        compare_inodes(reply.server_inode, peer.inode())?;
        let transcript = Transcript {
            client_nonce: hello.client_nonce,
            server_nonce: reply.server_nonce.clone(),
            version: VERSION,
            role: self.role.clone(),
            client_inode: hello.client_inode,
            server_inode: reply.server_inode,
        };
        if transcript.verify(Side::Server, secret, &reply.server_proof) {
            Ok(transcript)
        } else {
            Err(AuthenticationError::Proof.into())
        }
    }

    async fn handshake_call<P, R>(&mut self, name: &str, parameters: &P) -> Result<R, ProtocolError>
    where
        P: Serialize,
        R: DeserializeOwned,
    {
        let method = format!("{}.{name}", self.role.interface());
        let reply = self.exchange(&method, parameters).await?;
        let parameters = reply.parameters.unwrap_or_default();
        if let Some(error) = reply.error {
            let message = parameters
                .get("message")
                .and_then(Value::as_str)
                .unwrap_or(&error)
                .to_owned();
            return Err(AuthenticationError::ByPeer { error, message }.into());
        }
        serde_json::from_value(Value::Object(parameters))
            .map_err(|source| ProtocolError::UnexpectedReply { method, source })
    }

    async fn exchange<P: Serialize>(&mut self, method: &str, parameters: &P) -> Result<Reply, ProtocolError> {
        self.send(&Call::new(method, parameters_of(parameters)?)).await?;
        let reply = self.receive().await?;
        self.owes_reply = false;
        Ok(reply)
    }

    async fn send(&mut self, call: &Call) -> Result<(), ProtocolError> {
        if self.owes_reply {
            return Err(ProtocolError::Abandoned);
        }
        self.owes_reply = true;
        self.framed.send(call).await
    }

    async fn receive(&mut self) -> Result<Reply, ProtocolError> {
        match self.framed.next().await {
            Some(frame) => parse(&frame?),
            None => Err(ProtocolError::Closed),
        }
    }
}

/// Somebody who can see the other's inode compares; 0 is the word of one who cannot know its own.
pub(crate) fn compare_inodes(reported: u64, seen: Option<u64>) -> Result<(), AuthenticationError> {
    match seen {
        Some(seen) if reported != 0 && seen != reported => Err(AuthenticationError::Inode { reported, seen }),
        Some(_) | None => Ok(()),
    }
}

fn read_reply<R: DeserializeOwned>(interface: &str, method: &str, reply: Reply) -> Result<R, CallError> {
    let parameters = reply.parameters.unwrap_or_default();
    if let Some(error) = reply.error {
        let method = method.to_owned();
        return Err(refusal_from_error(interface, &error, &parameters).map_or_else(
            || {
                ProtocolError::UnknownError {
                    method,
                    error,
                    parameters: Value::Object(parameters.clone()),
                }
                .into()
            },
            CallError::from,
        ));
    }
    let read = serde_json::from_value(Value::Object(parameters));
    Ok(read.map_err(|source| ProtocolError::UnexpectedReply {
        method: method.to_owned(),
        source,
    })?)
}

/// The replies of a method that replies more than once.
#[derive(Debug)]
pub struct ReplyStream<M> {
    client: Client,
    ended: bool,
    method: PhantomData<fn() -> M>,
}

impl<M: Method> ReplyStream<M> {
    /// The next reply; `None` after the last one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Client::call`]; an error ends the stream.
    pub async fn next(&mut self) -> Option<Result<M::Reply, CallError>> {
        if self.ended {
            return None;
        }
        let reply = match self.client.receive().await {
            Ok(reply) => reply,
            Err(error) => {
                self.ended = true;
                return Some(Err(error.into()));
            }
        };
        if !reply.continues || reply.error.is_some() {
            self.ended = true;
            self.client.owes_reply = false;
        }
        Some(read_reply(self.client.role.interface(), M::NAME, reply))
    }

    /// The connection, for further calls, once the stream has ended; `None` before.
    pub fn into_client(self) -> Option<Client> {
        (!self.client.owes_reply).then_some(self.client)
    }
}
