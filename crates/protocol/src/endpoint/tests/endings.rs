//! Streams and calls that end early, late or not at all.

use tokio::sync::oneshot;

use super::*;
use crate::control::{EventReply, Events, List, Listed};
use crate::error::CallError;
use crate::refusal::{Refusal, RefusalCode};

#[tokio::test]
async fn a_stream_ends_cleanly_and_gives_the_connection_back() {
    let (client, mut connection) = connected().await;
    let server = tokio::spawn(async move {
        let call = connection.next_call().await.unwrap().unwrap();
        assert!(call.more);
        for _ in 0..3 {
            connection.reply_more(&EventReply { event: None }).await.unwrap();
        }
        connection.reply(&EventReply { event: None }).await.unwrap();
        connection.next_call().await.unwrap().unwrap();
        connection.reply(&Listed { vms: Vec::new() }).await.unwrap();
    });
    let mut stream = client.stream(&Events::default()).await.unwrap();
    let mut replies = 0;
    while let Some(reply) = stream.next().await {
        assert_eq!(reply.unwrap().event, None);
        replies += 1;
    }
    assert_eq!(replies, 4);
    let mut client = stream.into_client().unwrap();
    client.call(&List::default(), Some(DEADLINE)).await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn a_stream_may_end_in_a_refusal_or_with_the_server() {
    let (client, mut connection) = connected().await;
    let server = tokio::spawn(async move {
        connection.next_call().await.unwrap().unwrap();
        connection.reply_more(&EventReply { event: None }).await.unwrap();
        connection
            .refuse(&Refusal::new(RefusalCode::Busy, "too slow"))
            .await
            .unwrap();
    });
    let mut stream = client.stream(&Events::default()).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    let refused = stream.next().await.unwrap().unwrap_err();
    assert_eq!(refused.refusal().unwrap().code, RefusalCode::Busy);
    assert!(stream.next().await.is_none());
    server.await.unwrap();

    let (client, mut connection) = connected().await;
    let server = tokio::spawn(async move {
        connection.next_call().await.unwrap().unwrap();
        connection.reply_more(&EventReply { event: None }).await.unwrap();
    });
    let mut stream = client.stream(&Events::default()).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    let lost = stream.next().await.unwrap().unwrap_err();
    assert!(
        matches!(lost, CallError::Protocol(ProtocolError::Closed)),
        "{lost:?}"
    );
    assert!(stream.next().await.is_none());
    assert!(stream.into_client().is_none());
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_given_up_makes_the_connection_useless() {
    let (mut client, connection) = connected().await;
    let late = client
        .call(&List::default(), Some(Duration::from_secs(1)))
        .await
        .unwrap_err();
    assert!(
        matches!(late, CallError::Protocol(ProtocolError::Deadline { .. })),
        "{late:?}"
    );
    let after = client
        .call(&List::default(), Some(Duration::from_secs(1)))
        .await
        .unwrap_err();
    assert!(
        matches!(after, CallError::Protocol(ProtocolError::Abandoned)),
        "{after:?}"
    );
    drop(connection);

    let (mut client, connection) = connected().await;
    let list = List::default();
    tokio::select! {
        biased;
        _ = client.call(&list, None) => panic!("nobody answers"),
        () = std::future::ready(()) => {}
    }
    let after = client.call(&List::default(), None).await.unwrap_err();
    assert!(
        matches!(after, CallError::Protocol(ProtocolError::Abandoned)),
        "{after:?}"
    );
    drop(connection);
}

#[tokio::test]
async fn a_server_that_dies_in_a_call_ends_it_at_once() {
    let (mut client, mut connection) = connected().await;
    let server = tokio::spawn(async move {
        connection.next_call().await.unwrap().unwrap();
    });
    let lost = client.call(&List::default(), None).await.unwrap_err();
    assert!(
        matches!(lost, CallError::Protocol(ProtocolError::Closed)),
        "{lost:?}"
    );
    server.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_leaves_is_noticed_while_its_call_is_worked_on() {
    let (mut raw, mut connection) = raw_connected().await;
    // The next call is already in the socket: reading could not tell that its sender is gone.
    raw.bytes(format!("{}\0{}\0", list(), list()).as_bytes()).await;
    connection.next_call().await.unwrap().unwrap();
    let (watching, watched) = oneshot::channel();
    let server = tokio::spawn(async move {
        {
            let closed = connection.closed();
            tokio::pin!(closed);
            tokio::select! {
                biased;
                _ = closed.as_mut() => panic!("it is still there"),
                () = tokio::task::yield_now() => {}
            }
            watching.send(()).unwrap();
            closed.await.unwrap();
        }
        connection.closed().await.unwrap();
    });
    watched.await.unwrap();
    drop(raw);
    server.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_only_stops_writing_still_gets_its_reply() {
    let (mut raw, mut connection) = raw_connected().await;
    raw.send(list()).await;
    raw.framed.get_mut().shutdown().await.unwrap();
    connection.next_call().await.unwrap().unwrap();
    tokio::select! {
        biased;
        _ = connection.closed() => panic!("it still reads"),
        () = tokio::task::yield_now() => {}
    }
    connection.reply(&Listed { vms: Vec::new() }).await.unwrap();
    assert_eq!(raw.read().await.error, None);
    assert_eq!(connection.next_call().await.unwrap(), None);
}
