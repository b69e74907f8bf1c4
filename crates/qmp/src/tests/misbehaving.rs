//! Everything a peer may do wrong.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::fake::{Fake, GREETING, PLENTY, failed, reply};
use crate::command::{Cont, QueryStatus, Quit};
use crate::{Incoming, Qmp, QmpError, RunState};

const SOON: Duration = Duration::from_millis(30);

#[tokio::test]
async fn what_is_sent_is_one_compact_line_without_needless_arguments() {
    let (mut fake, qmp, _events) = Fake::connected().await;
    let serve = async {
        let command = fake.heard().await;
        let id = command["id"].as_str().unwrap().to_owned();
        assert!(id.len() <= 8, "{id}");
        assert_eq!(command, json!({"execute": "cont", "id": id}));
        fake.answer(&command, json!({})).await;
        let command = fake.heard().await;
        assert_eq!(command["arguments"], json!({"command-line": "info"}));
        assert_ne!(command["id"], id.as_str());
        fake.answer(&command, json!("text")).await;
    };
    let ask = async {
        qmp.execute(&Cont, PLENTY).await.unwrap();
        let arguments = json!({"command-line": "info"});
        assert_eq!(
            qmp.run("human-monitor-command", Some(arguments), PLENTY)
                .await
                .unwrap(),
            "text"
        );
    };
    tokio::join!(serve, ask);
    assert_eq!(qmp.version().to_string(), "7.2.22");
}

#[tokio::test]
async fn lines_cut_into_single_bytes_are_put_together() {
    let (mut fake, stream) = Fake::pair();
    let serve = async {
        for byte in GREETING.bytes() {
            fake.writer.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let command = fake.heard().await;
        for byte in reply(&command, json!({})).bytes() {
            fake.writer.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let (connected, ()) = tokio::join!(Qmp::connect(stream, PLENTY), serve);
    connected.unwrap();
}

#[tokio::test]
async fn lines_that_arrive_together_are_taken_apart() {
    let (mut fake, qmp, mut events) = Fake::connected().await;
    let first = qmp.execute(&QueryStatus, PLENTY);
    let second = qmp.execute(&Cont, PLENTY);
    let serve = async {
        let (one, two) = (fake.heard().await, fake.heard().await);
        let status = json!({"running": true, "status": "dreaming", "singlestep": false});
        let event = r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "RESUME"}"#;
        fake.say(&format!(
            "{}{event}\r\n\r\n{}",
            reply(&two, json!({})),
            reply(&one, status)
        ))
        .await;
    };
    let (first, second, ()) = tokio::join!(first, second, serve);
    assert_eq!(first.unwrap().status, RunState::Other("dreaming".to_owned()));
    second.unwrap();
    let Some(Incoming::Event(event)) = events.next().await else {
        panic!("no event")
    };
    assert_eq!(
        (event.name.as_str(), event.data, event.at),
        ("RESUME", Value::Null, None)
    );
}

#[tokio::test]
async fn events_before_greeting_and_negotiation_are_kept_and_unknown_ones_too() {
    let (mut fake, stream) = Fake::pair();
    let event = |name: &str| {
        format!(
            "{{\"timestamp\": {{\"seconds\": 7, \"microseconds\": 5}}, \"event\": \"{name}\", \"data\": [1]}}\r\n"
        )
    };
    let serve = async {
        fake.say(&event("FROM_THE_FUTURE")).await;
        fake.say(GREETING).await;
        let command = fake.heard().await;
        fake.say(&event("SECOND")).await;
        fake.answer(&command, json!({})).await;
        fake.say(&event("THIRD")).await;
        drop(fake);
    };
    let (connected, ()) = tokio::join!(Qmp::connect(stream, PLENTY), serve);
    let (_qmp, mut events) = connected.unwrap();
    let mut names = Vec::new();
    while let Some(Incoming::Event(event)) = events.next().await {
        assert_eq!(
            (event.data, event.at),
            (json!([1]), Some(Duration::from_micros(7_000_005)))
        );
        names.push(event.name);
    }
    assert_eq!(names, ["FROM_THE_FUTURE", "SECOND", "THIRD"]);
}

#[tokio::test]
async fn what_the_previous_client_left_is_discarded() {
    let (mut fake, stream) = Fake::pair();
    let serve = async {
        // The tail of a long reply, then whole ones, with another client's ids, numbers, and none.
        fake.say("\"name\": \"x\"}], \"id\": \"abcde-9\"}\r\n").await;
        fake.say("{\"return\": {}, \"id\": \"abcde-1\"}\r\n").await;
        fake.say(GREETING).await;
        let command = fake.heard().await;
        fake.say("{\"return\": {\"stale\": true}, \"id\": 1}\r\n{\"error\": {\"class\": \"E\", \"desc\": \"d\"}}\r\n").await;
        fake.answer(&command, json!({})).await;
        let command = fake.heard().await;
        fake.say("{\"return\": {\"stale\": true}, \"id\": \"2\"}\r\n")
            .await;
        fake.answer(&command, json!({"fresh": true})).await;
    };
    let ask = async {
        let (qmp, events) = Qmp::connect(stream, PLENTY).await.unwrap();
        let answer = qmp.run("query-name", None, PLENTY).await.unwrap();
        (answer, qmp.discarded(), events)
    };
    let ((answer, discarded, _events), ()) = tokio::join!(ask, serve);
    assert_eq!((answer, discarded), (json!({"fresh": true}), 5));
}

#[tokio::test]
async fn a_late_reply_is_discarded_and_the_connection_goes_on() {
    let (mut fake, qmp, _events) = Fake::connected().await;
    let error = failed(qmp.run("query-block", None, SOON).await);
    assert!(
        matches!(&error, QmpError::Deadline { command, .. } if command == "query-block"),
        "{error}"
    );
    let serve = async {
        let late = fake.heard().await;
        let command = fake.heard().await;
        fake.answer(&late, json!("late")).await;
        fake.answer(&command, json!("in time")).await;
    };
    let (answer, ()) = tokio::join!(qmp.run("query-name", None, PLENTY), serve);
    assert_eq!((answer.unwrap(), qmp.discarded()), (json!("in time"), 1));
}

#[tokio::test]
async fn eof_in_the_middle_of_a_reply_ends_every_command() {
    let (mut fake, qmp, mut events) = Fake::connected().await;
    let serve = async {
        let command = fake.heard().await;
        fake.heard().await;
        let whole = reply(&command, json!({}));
        fake.say(whole.get(..10).unwrap()).await;
        drop(fake);
    };
    let (quit, cont, ()) = tokio::join!(qmp.execute(&Quit, PLENTY), qmp.execute(&Cont, PLENTY), serve);
    assert!(matches!(
        (failed(quit), failed(cont)),
        (QmpError::Closed, QmpError::Closed)
    ));
    assert_eq!(events.next().await, None);
    assert!(matches!(
        failed(qmp.execute(&Cont, PLENTY).await),
        QmpError::Closed
    ));
}

#[tokio::test]
async fn garbage_ends_the_connection_and_says_what_came() {
    for garbage in ["}}{ what\r\n", "{\"neither\": 1}\r\n", "[]\r\n", "\u{fffd}\r\n"] {
        let (mut fake, qmp, mut events) = Fake::connected().await;
        let serve = async {
            fake.heard().await;
            fake.say(garbage).await;
        };
        let (answer, ()) = tokio::join!(qmp.execute(&Cont, PLENTY), serve);
        let error = failed(answer);
        let QmpError::Malformed { excerpt, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(excerpt, garbage.trim_end_matches('\n'));
        assert_eq!(events.next().await, None);
        assert!(matches!(
            failed(qmp.execute(&Cont, PLENTY).await),
            QmpError::Closed
        ));
    }
}

#[tokio::test]
async fn a_reply_of_another_shape_fails_only_its_command() {
    let (mut fake, qmp, _events) = Fake::connected().await;
    let serve = async {
        let command = fake.heard().await;
        fake.answer(&command, json!([1])).await;
        let command = fake.heard().await;
        fake.answer(&command, Value::Null).await;
    };
    let ask = async {
        assert!(matches!(
            failed(qmp.execute(&QueryStatus, PLENTY).await),
            QmpError::Malformed { .. }
        ));
        assert_eq!(qmp.run("x", None, PLENTY).await.unwrap(), Value::Null);
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn refusals_keep_class_and_words() {
    let (mut fake, qmp, _events) = Fake::connected().await;
    let serve = async {
        let command = fake.heard().await;
        let error = json!({"error": {"class": "BrandNew", "desc": "Not today"}, "id": command["id"]});
        fake.say(&format!("{error}\r\n")).await;
    };
    let (answer, ()) = tokio::join!(qmp.execute(&Cont, PLENTY), serve);
    let error = failed(answer);
    assert_eq!(error.to_string(), "QEMU refused `cont`: Not today");
    assert!(matches!(error, QmpError::Refused { class, .. } if class == "BrandNew"));
}

#[tokio::test]
async fn long_replies_pass() {
    let (mut fake, qmp, _events) = Fake::connected().await;
    let long = "x".repeat(200_000);
    let serve = async {
        for _ in 0..3 {
            let command = fake.heard().await;
            fake.answer(&command, json!(long)).await;
        }
    };
    let ask = async {
        for _ in 0..3 {
            assert_eq!(
                qmp.run("x", None, PLENTY).await.unwrap().as_str(),
                Some(long.as_str())
            );
        }
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn no_greeting_is_told_from_a_refused_one() {
    let (mut fake, stream) = Fake::pair();
    fake.say("{\"return\": {}, \"id\": \"old-1\"}\r\n").await;
    let error = failed(Qmp::connect(stream, SOON).await);
    assert!(
        matches!(error, QmpError::Greeting { discarded: 1, .. }),
        "{error}"
    );

    let (mut fake, stream) = Fake::pair();
    fake.say(GREETING).await;
    let error = failed(Qmp::connect(stream, SOON).await);
    assert!(
        matches!(&error, QmpError::Deadline { command, .. } if command == "qmp_capabilities"),
        "{error}"
    );

    let (fake, stream) = Fake::pair();
    drop(fake);
    assert!(matches!(
        failed(Qmp::connect(stream, PLENTY).await),
        QmpError::Closed
    ));

    let (mut fake, stream) = Fake::pair();
    let serve = async {
        fake.say(GREETING).await;
        let command = fake.heard().await;
        let error = json!({"error": {"class": "GenericError", "desc": "no"}, "id": command["id"]});
        fake.say(&format!("{error}\r\n")).await;
    };
    let (connected, ()) = tokio::join!(Qmp::connect(stream, PLENTY), serve);
    assert!(matches!(failed(connected), QmpError::Refused { .. }));
}

#[tokio::test]
async fn dropping_the_last_handle_hangs_up() {
    let (mut fake, qmp, mut events) = Fake::connected().await;
    drop(qmp.clone());
    let serve = async {
        let command = fake.heard().await;
        fake.answer(&command, json!({})).await;
    };
    let (answer, ()) = tokio::join!(sendable(qmp.execute(&Cont, PLENTY)), serve);
    answer.unwrap();
    drop(qmp);
    assert_eq!(events.next().await, None);
    drop(events);
    fake.hung_up().await;
}

/// Callers may live on any thread of any runtime.
fn sendable<T: Send>(value: T) -> T {
    value
}
