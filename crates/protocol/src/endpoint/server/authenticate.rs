//! The server's half of the handshake.

use super::{
    AuthenticationError, Call, Duration, FRAME_BYTES_MAX, HANDSHAKE_MS, Hello, HelloReply, Nonce, PeerNames,
    Phase, ProcessHandle, ProtocolError, Prove, Refusal, RefusalCode, ServerConnection, Side, Transcript,
    VERSION, compare_inodes, parse_parameters, refusal_to_reply, socket, timeout_at,
};

impl ServerConnection {
    /// Lets the peer prove itself; `false` when it hung up instead.
    pub(super) async fn authenticate_in_time(&mut self) -> Result<bool, ProtocolError> {
        let due = self.proof_due;
        let outcome = match timeout_at(due, self.authenticate()).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(ProtocolError::HandshakeDeadline {
                after: Duration::from_millis(HANDSHAKE_MS),
            }),
        };
        if let Err(error) = &outcome {
            self.warn(error);
        }
        outcome
    }

    pub(super) fn is_handshake(method: &str) -> bool {
        matches!(method.rsplit_once('.'), Some((_, "Hello" | "Prove"))) && !method.starts_with("org.varlink.")
    }

    /// Answers `Hello` or `Prove` of a peer that has proved itself already, and says what to return.
    pub(super) async fn fail_out_of_turn(&mut self, call: &Call) -> Result<ProtocolError, ProtocolError> {
        let reason = AuthenticationError::OutOfTurn {
            method: call.method.clone(),
        };
        self.answer_failure(&reason).await?;
        let error = ProtocolError::from(reason);
        self.warn(&error);
        Ok(error)
    }

    async fn authenticate(&mut self) -> Result<bool, ProtocolError> {
        let peer = socket::peer(self.framed.get_ref()).map_err(ProtocolError::Peer)?;
        self.peer = Some(PeerNames {
            pid: peer.pid,
            uid: peer.uid,
            inode: peer.inode(),
        });
        while let Some(call) = self.read_call().await? {
            if let Err(reason) = self.admit() {
                self.answer_failure(&reason).await?;
                return Err(reason.into());
            }
            self.answer_unproven(&call).await?;
            if matches!(self.phase, Phase::Proven) {
                self.framed.codec_mut().set_limit(FRAME_BYTES_MAX);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the kernel says of the peer, which no secret makes good.
    fn admit(&self) -> Result<(), AuthenticationError> {
        let Some(peer) = self.peer else { return Ok(()) };
        let own = self.identity.uid;
        if peer.uid != own && peer.uid != 0 {
            return Err(AuthenticationError::ForeignUid { uid: peer.uid, own });
        }
        if peer.inode.is_some_and(|inode| (self.identity.refuse)(inode)) {
            return Err(AuthenticationError::RefusedProcess);
        }
        Ok(())
    }

    async fn answer_unproven(&mut self, call: &Call) -> Result<(), ProtocolError> {
        if let Some(reply) = self.introspection(call)? {
            return self.send(&reply).await;
        }
        if !Self::is_handshake(&call.method) {
            // An honest mistake of somebody who may still do it right: told, not cut off.
            return self
                .answer_failure(&AuthenticationError::Unproven {
                    method: call.method.clone(),
                })
                .await;
        }
        match self.handshake_step(call)? {
            Ok(reply) => self.send(&reply).await,
            Err(reason) => {
                self.answer_failure(&reason).await?;
                Err(reason.into())
            }
        }
    }

    /// The outer error is ours, the inner one the peer's.
    fn handshake_step(
        &mut self,
        call: &Call,
    ) -> Result<Result<super::Reply, AuthenticationError>, ProtocolError> {
        let out_of_turn = || {
            Err(AuthenticationError::OutOfTurn {
                method: call.method.clone(),
            })
        };
        let Some((interface, step)) = call.method.rsplit_once('.') else {
            return Ok(out_of_turn());
        };
        if interface != self.identity.role.interface() {
            return Ok(Err(AuthenticationError::Role {
                wanted: interface.to_owned(),
            }));
        }
        let parameters = call.parameters.clone().unwrap_or_default();
        match (step, std::mem::replace(&mut self.phase, Phase::Fresh)) {
            ("Hello", Phase::Fresh) => match parse_parameters(parameters) {
                Ok(hello) => self.greet(hello),
                Err(refusal) => Ok(Err(invalid(refusal))),
            },
            ("Prove", Phase::Greeted(transcript)) => Ok(match parse_parameters(parameters) {
                Ok(prove) => self.judge(&transcript, &prove),
                Err(refusal) => Err(invalid(refusal)),
            }),
            _ => Ok(out_of_turn()),
        }
    }

    fn greet(&mut self, hello: Hello) -> Result<Result<super::Reply, AuthenticationError>, ProtocolError> {
        if let Err(reason) = self.check_hello(&hello) {
            return Ok(Err(reason));
        }
        let own = ProcessHandle::current().map_err(ProtocolError::Peer)?;
        let transcript = Transcript {
            client_nonce: hello.client_nonce,
            server_nonce: Nonce::random()?,
            version: VERSION,
            role: self.identity.role.clone(),
            client_inode: hello.client_inode,
            server_inode: own.inode().unwrap_or(0),
        };
        let reply = HelloReply {
            version: VERSION,
            server_nonce: transcript.server_nonce.clone(),
            server_proof: transcript.proof(Side::Server, &self.identity.secret),
            server_inode: transcript.server_inode,
        };
        self.phase = Phase::Greeted(transcript);
        Ok(Ok(super::Reply::ok(super::parameters_of(&reply)?)))
    }

    fn check_hello(&self, hello: &Hello) -> Result<(), AuthenticationError> {
        let role = &self.identity.role;
        if hello.version != VERSION {
            return Err(AuthenticationError::Version {
                version: hello.version,
            });
        }
        if let Some(wanted) = hello.role.as_ref().filter(|wanted| *wanted != role.name()) {
            return Err(AuthenticationError::Role {
                wanted: wanted.clone(),
            });
        }
        if let Some(wanted) = hello.vm.as_ref().filter(|wanted| *wanted != role.vm()) {
            return Err(AuthenticationError::Vm {
                wanted: wanted.clone(),
            });
        }
        compare_inodes(hello.client_inode, self.peer.and_then(|peer| peer.inode))
    }

    fn judge(&mut self, transcript: &Transcript, prove: &Prove) -> Result<super::Reply, AuthenticationError> {
        if transcript.verify(Side::Client, &self.identity.secret, &prove.client_proof) {
            self.phase = Phase::Proven;
            Ok(super::Reply::ok(super::Parameters::new()))
        } else {
            Err(AuthenticationError::Proof)
        }
    }

    async fn answer_failure(&mut self, reason: &AuthenticationError) -> Result<(), ProtocolError> {
        let refusal = Refusal::new(RefusalCode::AuthenticationFailed, reason.to_string());
        let reply = refusal_to_reply(self.identity.role.interface(), &refusal);
        self.send(&reply).await
    }

    fn warn(&self, error: &ProtocolError) {
        let (pid, uid) = self.peer.map_or((-1, u32::MAX), |peer| (peer.pid, peer.uid));
        let source = std::error::Error::source(error)
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::warn!(pid, uid, role = self.identity.role.name(), %error, source, "authentication failed");
    }
}

fn invalid(refusal: Refusal) -> AuthenticationError {
    AuthenticationError::InvalidParameter {
        parameter: refusal.parameter.unwrap_or_default(),
    }
}
