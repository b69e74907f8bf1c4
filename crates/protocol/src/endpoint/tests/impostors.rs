//! Servers that are not what the client looks for. None of them is told anything but a nonce.

use super::*;

/// How an impostor answers `Hello`, given what the client said.
type Answer = fn(&Value) -> Value;

/// Lets a client meet an impostor; returns why it left, and how many calls it made.
async fn meet(role: SocketRole, answer: Answer) -> (ProtocolError, usize) {
    let (near, far) = UnixStream::pair().unwrap();
    let impostor = tokio::spawn(async move {
        let mut raw = Raw::new(far);
        let mut calls = 0;
        while let Some(Ok(frame)) = raw.framed.next().await {
            calls += 1;
            let call: Value = parse(&frame).unwrap();
            raw.send(answer(&call["parameters"])).await;
        }
        calls
    });
    let error = Client::connect(near, role, &secret(), DEADLINE)
        .await
        .unwrap_err();
    (error, impostor.await.unwrap())
}

fn transcript(hello: &Value, server_inode: u64) -> Transcript {
    Transcript {
        client_nonce: Nonce::try_from(hello["client_nonce"].as_str().unwrap().to_owned()).unwrap(),
        server_nonce: Nonce::try_from("ab".repeat(32)).unwrap(),
        version: VERSION,
        role: SocketRole::Control,
        client_inode: hello["client_inode"].as_u64().unwrap(),
        server_inode,
    }
}

fn reply(transcript: &Transcript, proof: &str) -> Value {
    json!({"parameters": {
        "version": transcript.version,
        "server_nonce": transcript.server_nonce.as_str(),
        "server_proof": proof,
        "server_inode": transcript.server_inode,
    }})
}

fn reason(error: ProtocolError) -> AuthenticationError {
    let ProtocolError::Authentication(reason) = error else {
        panic!("expected failed authentication, got {error:?}");
    };
    reason
}

#[tokio::test]
async fn a_server_without_the_secret_learns_nothing() {
    let (error, calls) = meet(SocketRole::Control, |hello| {
        reply(&transcript(hello, 0), &"0".repeat(64))
    })
    .await;
    assert_eq!(reason(error), AuthenticationError::Proof);
    assert_eq!(calls, 1);
}

#[tokio::test]
async fn a_server_that_proves_as_a_client_is_refused() {
    let (error, _) = meet(SocketRole::Control, |hello| {
        let transcript = transcript(hello, 0);
        reply(&transcript, &transcript.proof(Side::Client, &secret()))
    })
    .await;
    assert_eq!(reason(error), AuthenticationError::Proof);
}

#[tokio::test]
async fn a_server_that_sends_the_clients_nonce_back_is_refused() {
    let (error, calls) = meet(SocketRole::Control, |hello| {
        let base = transcript(hello, 0);
        let echo = Transcript {
            server_nonce: base.client_nonce.clone(),
            ..base
        };
        reply(&echo, &echo.proof(Side::Server, &secret()))
    })
    .await;
    assert_eq!((reason(error), calls), (AuthenticationError::EchoedNonce, 1));
}

#[tokio::test]
async fn a_server_of_another_version_is_refused() {
    let (error, _) = meet(SocketRole::Control, |hello| {
        let other = Transcript {
            version: 2,
            ..transcript(hello, 0)
        };
        reply(&other, &other.proof(Side::Server, &secret()))
    })
    .await;
    assert_eq!(reason(error), AuthenticationError::Version { version: 2 });
}

#[tokio::test]
async fn a_relay_shows_by_its_inode() {
    // The relay hands on what the real server said: proof and inode of another process.
    let (error, calls) = meet(SocketRole::Control, |hello| {
        let real = transcript(hello, own_inode().unwrap_or(0) + 1);
        reply(&real, &real.proof(Side::Server, &secret()))
    })
    .await;
    if let Some(seen) = own_inode() {
        assert_eq!(
            reason(error),
            AuthenticationError::Inode {
                reported: seen + 1,
                seen
            }
        );
        assert_eq!(calls, 1);
    }
}

#[tokio::test]
async fn a_server_that_talks_nonsense_is_an_error() {
    let (error, _) = meet(SocketRole::Control, |_| json!({"parameters": {"version": 1}})).await;
    assert!(
        matches!(error, ProtocolError::UnexpectedReply { .. }),
        "{error:?}"
    );
    let (error, _) = meet(SocketRole::Control, |_| json!([])).await;
    assert!(matches!(error, ProtocolError::Malformed(_)), "{error:?}");
    let (error, _) = meet(
        SocketRole::Control,
        |_| json!({"error": "a.B", "parameters": {"c": 1}}),
    )
    .await;
    assert_eq!(
        reason(error),
        AuthenticationError::ByPeer {
            error: "a.B".into(),
            message: "a.B".into()
        }
    );
    let (error, _) = meet(SocketRole::Control, |_| json!({"pad": "x".repeat(5000)})).await;
    assert!(
        matches!(error, ProtocolError::FrameTooLong { limit: 4096 }),
        "{error:?}"
    );
}

#[tokio::test]
async fn the_socket_of_another_vm_is_refused_by_both_sides() {
    let (near, far) = UnixStream::pair().unwrap();
    let server = until_first_call(serve_as(ServerIdentity::new(runner(OTHER_VM), secret()), far));
    let error = Client::connect(near, runner(VM), &secret(), DEADLINE)
        .await
        .unwrap_err();
    assert!(matches!(reason(error), AuthenticationError::ByPeer { .. }));
    assert_eq!(
        failure(server).await,
        AuthenticationError::Vm { wanted: VM.into() }
    );
    // A server that does not mind the difference proves for its own VM, which is not the one looked for.
    let (error, _) = meet(runner(VM), |hello| {
        let other = Transcript {
            role: runner(OTHER_VM),
            ..transcript(hello, 0)
        };
        reply(&other, &other.proof(Side::Server, &secret()))
    })
    .await;
    assert_eq!(reason(error), AuthenticationError::Proof);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_costs_the_deadline() {
    let (near, far) = UnixStream::pair().unwrap();
    let error = Client::connect(near, SocketRole::Control, &secret(), DEADLINE)
        .await
        .unwrap_err();
    assert!(matches!(error, ProtocolError::Deadline { after: DEADLINE }));
    drop(far);
}

#[tokio::test]
async fn a_server_that_hangs_up_is_told_apart() {
    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    let error = Client::connect(near, SocketRole::Control, &secret(), DEADLINE)
        .await
        .unwrap_err();
    assert!(
        matches!(error, ProtocolError::Closed | ProtocolError::Io(_)),
        "{error:?}"
    );
}
