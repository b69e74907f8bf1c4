//! Everything has a bound, and what is over it is told.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::fake::{Fake, PLENTY, failed};
use crate::codec::LineCodec;
use crate::command::{Cont, Quit};
use crate::{EVENT_BYTES_MAX, EVENT_QUEUE_MAX, Incoming, PENDING_COMMANDS_MAX, QUEUED_BYTES_MAX, QmpError};

const SOON: Duration = Duration::from_millis(30);

#[test]
fn a_line_over_the_limit_is_refused_whole_or_not() {
    let decode = |text: &[u8]| LineCodec::new(8).decode(&mut BytesMut::from(text));
    assert_eq!(decode(b"12345678\n").unwrap().unwrap().as_ref(), b"12345678");
    assert!(decode(b"12345678").unwrap().is_none());
    assert!(matches!(
        failed(decode(b"123456789\n")),
        QmpError::TooLong { limit: 8 }
    ));
    assert!(matches!(
        failed(decode(b"123456789")),
        QmpError::TooLong { limit: 8 }
    ));
}

#[test]
fn a_grown_buffer_is_given_back() {
    let mut codec = LineCodec::new(1 << 20);
    let mut buffer = BytesMut::from("x".repeat(1 << 19).as_str());
    buffer.extend_from_slice(b"\n\r\n");
    assert_eq!(codec.decode(&mut buffer).unwrap().unwrap().len(), 1 << 19);
    assert!(codec.decode(&mut buffer).unwrap().is_none());
    assert!(buffer.capacity() < 1 << 15, "{}", buffer.capacity());
}

#[tokio::test]
async fn a_peer_that_never_reads_makes_callers_busy_not_memory_big() {
    let (_fake, qmp, _events) = Fake::connected().await;
    let big = json!({"data": "x".repeat(QUEUED_BYTES_MAX / 2)});
    let mut waiting = Vec::new();
    let busy = loop {
        let (qmp, big) = (qmp.clone(), big.clone());
        let mut run = Box::pin(async move { qmp.run("x", Some(big), PLENTY).await });
        match (&mut run).now_or_never() {
            None => waiting.push(run),
            Some(answer) => break failed(answer),
        }
    };
    assert!(matches!(busy, QmpError::Busy));
    assert!(
        waiting.len() <= 3,
        "{} half-megabyte commands in flight",
        waiting.len()
    );
}

#[tokio::test]
async fn commands_in_flight_are_bounded_and_forgotten_ones_make_room() {
    let (mut fake, qmp, _events) = Fake::connected().await;
    let mut waiting: Vec<_> = (0..PENDING_COMMANDS_MAX)
        .map(|_| Box::pin(qmp.execute(&Cont, PLENTY)))
        .collect();
    for run in &mut waiting {
        assert!(run.now_or_never().is_none());
    }
    assert!(matches!(failed(qmp.execute(&Cont, PLENTY).await), QmpError::Busy));
    waiting.clear();
    let serve = async {
        let mut commands = Vec::new();
        for _ in 0..=PENDING_COMMANDS_MAX {
            commands.push(fake.heard().await);
        }
        for command in &commands {
            fake.answer(command, json!({})).await;
        }
    };
    let (answer, ()) = tokio::join!(qmp.execute(&Cont, PLENTY), serve);
    answer.unwrap();
    assert_eq!(usize::try_from(qmp.discarded()).unwrap(), PENDING_COMMANDS_MAX);
}

#[tokio::test]
async fn a_command_given_up_before_it_was_sent_is_never_sent() {
    let (mut fake, qmp, _events) = Fake::connected().await;
    // Longer than the socket takes at once, so that what comes after it waits here.
    let big = json!({"data": "x".repeat(QUEUED_BYTES_MAX * 3 / 4)});
    let mut blocking = Box::pin(qmp.run("blocking", Some(big), PLENTY));
    assert!((&mut blocking).now_or_never().is_none());
    let error = failed(qmp.execute(&Quit, SOON).await);
    assert!(matches!(error, QmpError::Deadline { .. }), "{error}");
    let serve = async {
        let (first, second) = (fake.heard().await, fake.heard().await);
        assert_eq!(
            (&first["execute"], &second["execute"]),
            (&json!("blocking"), &json!("cont"))
        );
        fake.answer(&second, json!({})).await;
        fake.answer(&first, json!({})).await;
    };
    let (cont, blocking, ()) = tokio::join!(qmp.execute(&Cont, PLENTY), blocking, serve);
    cont.unwrap();
    blocking.unwrap();
}

#[tokio::test]
async fn a_flood_of_events_drops_the_oldest_and_says_how_many() {
    let (mut fake, qmp, mut events) = Fake::connected().await;
    let serve = async {
        for number in 0..EVENT_QUEUE_MAX + 10 {
            fake.say(&format!("{}\r\n", json!({"event": "E", "data": number})))
                .await;
        }
        let command = fake.heard().await;
        fake.answer(&command, json!({})).await;
    };
    let (answer, ()) = tokio::join!(qmp.execute(&Cont, PLENTY), serve);
    answer.unwrap();
    assert_eq!(events.next().await, Some(Incoming::Lagged(10)));
    let Some(Incoming::Event(event)) = events.next().await else {
        panic!("no event")
    };
    assert_eq!(event.data, json!(10));
}

#[tokio::test]
async fn big_events_are_bounded_by_bytes() {
    let (mut fake, qmp, mut events) = Fake::connected().await;
    let text = "x".repeat(EVENT_BYTES_MAX / 2);
    let serve = async {
        for _ in 0..3 {
            fake.say(&format!("{}\r\n", json!({"event": "E", "data": text})))
                .await;
        }
        let command = fake.heard().await;
        fake.answer(&command, json!({})).await;
    };
    let (answer, ()) = tokio::join!(qmp.execute(&Cont, PLENTY), serve);
    answer.unwrap();
    assert_eq!(events.next().await, Some(Incoming::Lagged(2)));
    assert!(matches!(events.next().await, Some(Incoming::Event(_))));
}
