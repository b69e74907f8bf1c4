//! Clients that do not know the secret, or do not keep to the handshake.

use std::cell::RefCell;
use std::io;

use super::*;

#[tokio::test]
async fn nothing_but_introspection_answers_before_the_proof() {
    let (mut raw, server) = raw();
    for method in [
        "org.maqet.Control.List",
        "org.maqet.Control.SupervisorStop",
        "com.example.Nothing",
        "",
    ] {
        assert_unauthenticated(&raw.ask(method, json!({})).await);
    }
    let info = raw.ask("org.varlink.service.GetInfo", json!({})).await;
    let interfaces = &info.parameters.unwrap()["interfaces"];
    assert_eq!(interfaces, &json!(["org.varlink.service", "org.maqet.Control"]));
    for interface in ["org.maqet.Control", "org.varlink.service"] {
        let asked = json!({"interface": interface});
        let described = raw
            .ask("org.varlink.service.GetInterfaceDescription", asked)
            .await;
        let parameters = described.parameters.unwrap();
        assert!(
            parameters["description"]
                .as_str()
                .unwrap()
                .contains(&format!("\ninterface {interface}\n"))
        );
    }
    raw.authenticate().await;
    raw.send(json!({"method": "org.maqet.Control.List"})).await;
    assert_eq!(
        server.await.unwrap().unwrap().as_deref(),
        Some("org.maqet.Control.List")
    );
}

#[tokio::test]
async fn a_wrong_proof_ends_the_connection_and_is_logged_with_the_peer() {
    Log::install();
    let (mut raw, server) = raw();
    raw.hello().await;
    assert_unauthenticated(&raw.prove(&"0".repeat(64)).await);
    assert!(raw.is_closed().await);
    assert_eq!(failure(server).await, AuthenticationError::Proof);
    let text = Log::text();
    assert!(
        text.contains("WARN") && text.contains("authentication failed"),
        "{text}"
    );
    assert!(text.contains(&format!("pid={}", std::process::id())), "{text}");
    assert!(
        text.contains(&format!("uid={}", rustix::process::getuid().as_raw())),
        "{text}"
    );
}

#[tokio::test]
async fn another_secret_is_a_wrong_proof() {
    let (mut raw, server) = raw();
    let (reply, transcript) = raw.hello().await;
    let other = Secret::from_bytes([8; 32]);
    assert!(!transcript.verify(Side::Server, &other, &reply.server_proof));
    assert_unauthenticated(&raw.prove(&transcript.proof(Side::Client, &other)).await);
    assert_eq!(failure(server).await, AuthenticationError::Proof);
}

#[tokio::test]
async fn proofs_that_are_not_proofs_are_refused() {
    for proof in [
        json!(""),
        json!("00"),
        json!("zz".repeat(32)),
        json!("0".repeat(2000)),
    ] {
        let (mut raw, server) = raw();
        raw.hello().await;
        let reply = raw
            .ask("org.maqet.Control.Prove", json!({"client_proof": proof}))
            .await;
        assert_unauthenticated(&reply);
        assert_eq!(failure(server).await, AuthenticationError::Proof);
    }
}

#[tokio::test]
async fn a_recorded_session_is_worthless() {
    let (mut honest, server) = raw();
    honest.authenticate().await;
    honest
        .send(json!({"method": "org.maqet.Control.SupervisorStop"}))
        .await;
    assert!(server.await.unwrap().is_ok());
    let recorded = honest.sent;

    let (mut thief, server) = raw();
    for (at, frame) in recorded.into_iter().take(2).enumerate() {
        thief.send(frame).await;
        let reply = thief.read().await;
        assert_eq!(reply.error.is_some(), at == 1, "{reply:?}");
    }
    assert!(thief.is_closed().await);
    assert_eq!(failure(server).await, AuthenticationError::Proof);
}

#[tokio::test]
async fn a_recorded_session_sent_in_one_piece_is_worthless_too() {
    let (mut honest, _server) = raw();
    honest.authenticate().await;
    let mut all = Vec::new();
    for frame in &honest.sent {
        all.extend_from_slice(frame.to_string().as_bytes());
        all.push(0);
    }
    all.extend_from_slice(b"{\"method\":\"org.maqet.Control.SupervisorStop\"}\0");
    let (mut thief, server) = raw();
    thief.bytes(&all).await;
    assert_eq!(failure(server).await, AuthenticationError::Proof);
}

#[tokio::test]
async fn the_servers_own_proof_sent_back_is_no_proof() {
    let (mut raw, server) = raw();
    let (reply, _) = raw.hello().await;
    assert_unauthenticated(&raw.prove(&reply.server_proof).await);
    assert_eq!(failure(server).await, AuthenticationError::Proof);
}

#[tokio::test]
async fn a_proof_of_another_connection_is_no_proof() {
    let (mut first, _first_server) = raw();
    let (_, transcript) = first.hello().await;
    let (mut second, server) = raw();
    second.hello().await;
    assert_unauthenticated(&second.prove(&transcript.proof(Side::Client, &secret())).await);
    assert_eq!(failure(server).await, AuthenticationError::Proof);
}

#[tokio::test]
async fn hello_and_prove_come_once_and_in_this_order() {
    let hello = json!({"version": 1, "client_nonce": "ab".repeat(32)});
    let prove = json!({"client_proof": "ab".repeat(32)});
    let out_of_turn = |step: &str| AuthenticationError::OutOfTurn {
        method: format!("org.maqet.Control.{step}"),
    };

    let (mut twice, server) = raw();
    twice.hello().await;
    assert_unauthenticated(&twice.ask("org.maqet.Control.Hello", hello.clone()).await);
    assert!(twice.is_closed().await);
    assert_eq!(failure(server).await, out_of_turn("Hello"));

    let (mut unasked, server) = raw();
    assert_unauthenticated(&unasked.ask("org.maqet.Control.Prove", prove.clone()).await);
    assert_eq!(failure(server).await, out_of_turn("Prove"));

    for (step, parameters) in [("Hello", hello), ("Prove", prove)] {
        let (mut again, server) = raw();
        again.authenticate().await;
        let reply = again.ask(&format!("org.maqet.Control.{step}"), parameters).await;
        assert_unauthenticated(&reply);
        assert!(again.is_closed().await);
        assert_eq!(failure(server).await, out_of_turn(step));
    }
}

#[tokio::test]
async fn a_hello_that_makes_no_sense_ends_the_connection() {
    let nonce = "ab".repeat(32);
    let cases = [
        (
            json!({"version": 2, "client_nonce": nonce}),
            AuthenticationError::Version { version: 2 },
        ),
        (
            json!({"version": 1}),
            AuthenticationError::InvalidParameter {
                parameter: "client_nonce".into(),
            },
        ),
        (
            json!({"version": 1, "client_nonce": "short"}),
            AuthenticationError::InvalidParameter {
                parameter: "client_nonce".into(),
            },
        ),
        (
            json!({"version": 1, "client_nonce": nonce, "extra": 1}),
            AuthenticationError::InvalidParameter {
                parameter: "extra".into(),
            },
        ),
        (
            json!({"version": 1, "client_nonce": nonce, "role": "runner"}),
            AuthenticationError::Role {
                wanted: "runner".into(),
            },
        ),
        (
            json!({"version": 1, "client_nonce": nonce, "role": "control", "vm": VM}),
            AuthenticationError::Vm { wanted: VM.into() },
        ),
    ];
    for (hello, reason) in cases {
        let (mut raw, server) = raw();
        assert_unauthenticated(&raw.ask("org.maqet.Control.Hello", hello).await);
        assert!(raw.is_closed().await);
        assert_eq!(failure(server).await, reason);
    }
}

#[tokio::test]
async fn the_other_interface_is_another_role() {
    let (mut raw, server) = raw();
    let hello = json!({"version": 1, "client_nonce": "ab".repeat(32)});
    assert_unauthenticated(&raw.ask("org.maqet.Runner.Hello", hello).await);
    let wanted = "org.maqet.Runner".to_owned();
    assert_eq!(failure(server).await, AuthenticationError::Role { wanted });
}

#[tokio::test]
async fn a_proof_for_another_role_or_vm_is_no_proof() {
    for role in [runner(VM), runner(OTHER_VM)] {
        let (mut raw, server) = raw();
        let (_, transcript) = raw.hello().await;
        let elsewhere = Transcript { role, ..transcript };
        assert_unauthenticated(&raw.prove(&elsewhere.proof(Side::Client, &secret())).await);
        assert_eq!(failure(server).await, AuthenticationError::Proof);
    }
}

thread_local! {
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what is logged, per thread, which is per test.
///
/// Installed for the whole process: a subscriber of one thread may miss an event whose place in the code another
/// thread came by first, because without a subscriber it is remembered as of no interest.
struct Log;

impl Log {
    fn install() {
        let subscriber = tracing_subscriber::fmt()
            .with_writer(|| Self)
            .with_ansi(false)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        tracing::callsite::rebuild_interest_cache();
    }

    fn text() -> String {
        LOGGED.with_borrow(|bytes| String::from_utf8(bytes.clone()).unwrap())
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
