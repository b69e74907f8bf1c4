//! Clients that send too much, too little, too slowly, or something else.

use super::*;

#[tokio::test]
async fn a_frame_that_is_too_long_is_cut_off_before_the_proof_and_taken_after_it() {
    let (mut endless, server) = raw();
    endless.bytes(&[b' '; 4097]).await;
    assert!(endless.is_closed().await);
    assert!(matches!(
        server.await.unwrap(),
        Err(ProtocolError::FrameTooLong { limit: 4096 })
    ));

    let (mut proven, server) = raw();
    proven.authenticate().await;
    let arguments = json!({"pad": "x".repeat(1 << 20)});
    proven
        .send(json!({"method": "org.maqet.Control.Qmp", "parameters": {"arguments": arguments}}))
        .await;
    assert_eq!(
        server.await.unwrap().unwrap().as_deref(),
        Some("org.maqet.Control.Qmp")
    );
}

#[tokio::test]
async fn frames_that_are_not_varlink_end_the_connection() {
    for bytes in [
        &b"\0"[..],
        b"null\0",
        b"[1]\0",
        b"{\"method\":1}\0",
        b"\xff\xfe\0",
        b"GET / HTTP/1.1\0",
    ] {
        let (mut raw, server) = raw();
        raw.bytes(bytes).await;
        assert!(raw.is_closed().await);
        assert!(matches!(server.await.unwrap(), Err(ProtocolError::Malformed(_))));
    }
}

#[tokio::test]
async fn a_frame_torn_by_the_peers_death_is_an_error() {
    let (mut raw, server) = raw();
    raw.bytes(b"{\"method\"").await;
    drop(raw);
    assert!(matches!(
        server.await.unwrap(),
        Err(ProtocolError::Truncated { bytes: 9 })
    ));
}

#[tokio::test]
async fn a_peer_that_leaves_without_a_word_is_no_error() {
    let (raw, server) = raw();
    drop(raw);
    assert!(matches!(server.await.unwrap(), Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_prove_itself_in_time_is_cut_off() {
    let begin = tokio::time::Instant::now();
    let (mut half, server) = raw();
    half.bytes(b"{\"method\":\"org.maqet.Con").await;
    assert!(half.is_closed().await);
    assert!(matches!(
        server.await.unwrap(),
        Err(ProtocolError::HandshakeDeadline { .. })
    ));
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn introspection_does_not_buy_more_time() {
    let begin = tokio::time::Instant::now();
    let (mut busy, server) = raw();
    for _ in 0..4 {
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            busy.ask("org.varlink.service.GetInfo", json!({})).await.error,
            None
        );
    }
    assert!(busy.is_closed().await);
    assert!(matches!(
        server.await.unwrap(),
        Err(ProtocolError::HandshakeDeadline { .. })
    ));
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_cut_off_too() {
    let (mut deaf, server) = raw();
    let ask = json!({"method": "org.varlink.service.GetInterfaceDescription",
        "parameters": {"interface": "org.maqet.Control"}});
    let frame = format!("{ask}\0").repeat(50);
    deaf.bytes(frame.as_bytes()).await;
    assert!(matches!(
        server.await.unwrap(),
        Err(ProtocolError::HandshakeDeadline { .. })
    ));
}
