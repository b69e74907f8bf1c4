//! Two honest ends.

use super::*;
use crate::control::{Empty, Events, List, Listed, Qmp, QmpReturn, Start, Stop, SupervisorInfo};
use crate::error::CallError;
use crate::method::Method;
use crate::refusal::{Refusal, RefusalCode};
use crate::runner::{Query, RunnerState};

#[tokio::test]
async fn calls_are_typed_on_both_sides() {
    let (mut client, mut connection) = connected().await;
    let server = tokio::spawn(async move {
        let call = connection.next_call().await.unwrap().unwrap();
        let stop: Stop = call.parse().unwrap();
        let refusal = Refusal::new(RefusalCode::VmNotFound, "no VM `web`")
            .vm(stop.vm)
            .hint("maqet ls");
        connection.refuse(&refusal).await.unwrap();
        let call = connection.next_call().await.unwrap().unwrap();
        assert_eq!(call.method, Qmp::NAME);
        connection
            .reply(&QmpReturn {
                value: json!({"deep": [1, 2]}),
            })
            .await
            .unwrap();
        connection.peer().unwrap()
    });
    let stop = Stop {
        vm: "web".into(),
        timeout_ms: None,
        force: false,
        key: None,
    };
    let refused = client.call(&stop, Some(DEADLINE)).await.unwrap_err();
    let expected = Refusal::new(RefusalCode::VmNotFound, "no VM `web`")
        .vm("web")
        .hint("maqet ls");
    assert_eq!(refused.refusal(), Some(&expected));
    let qmp = Qmp {
        vm: "web".into(),
        command: "stop".into(),
        arguments: None,
        timeout_ms: None,
    };
    assert_eq!(
        client.call(&qmp, None).await.unwrap().value,
        json!({"deep": [1, 2]})
    );
    let peer = server.await.unwrap();
    assert_eq!(peer.uid, rustix::process::getuid().as_raw());
    assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
    assert_eq!(peer.inode, own_inode());
}

#[tokio::test]
async fn a_runners_socket_works_the_same() {
    let (near, far) = UnixStream::pair().unwrap();
    let mut connection = serve_as(ServerIdentity::new(runner(VM), secret()), far);
    let server = tokio::spawn(async move {
        let call = connection.next_call().await.unwrap().unwrap();
        let _query: Query = call.parse().unwrap();
        let state = RunnerState {
            qemu: None,
            running: None,
            exit: None,
        };
        connection.reply(&state).await.unwrap();
        connection.next_call().await.unwrap().unwrap();
        connection
            .refuse(&Refusal::new(RefusalCode::WrongState, "no QEMU"))
            .await
            .unwrap();
    });
    let mut client = Client::connect(near, runner(VM), &secret(), DEADLINE)
        .await
        .unwrap();
    assert_eq!(client.call(&Query {}, Some(DEADLINE)).await.unwrap().exit, None);
    let refused = client
        .call(&crate::runner::Release {}, Some(DEADLINE))
        .await
        .unwrap_err();
    assert_eq!(refused.refusal().unwrap().code, RefusalCode::WrongState);
    server.await.unwrap();
}

#[tokio::test]
async fn replies_of_a_later_server_are_understood_as_far_as_they_go() {
    let (mut client, mut connection) = connected().await;
    let server = tokio::spawn(async move {
        for reply in [json!({"vms": [], "new": 1}), json!({"vms": 1})] {
            connection.next_call().await.unwrap().unwrap();
            connection.reply(&reply).await.unwrap();
        }
    });
    assert_eq!(client.call(&List::default(), None).await.unwrap().vms, Vec::new());
    let odd = client.call(&List::default(), None).await.unwrap_err();
    assert!(
        matches!(odd, CallError::Protocol(ProtocolError::UnexpectedReply { .. })),
        "{odd:?}"
    );
    server.await.unwrap();
}

/// Asks on a connection whose server hands nothing out; the error's last part and its parameters.
async fn standard_error(call: Value) -> (String, Value) {
    let (mut raw, mut connection) = raw_connected().await;
    let server = tokio::spawn(async move { connection.next_call().await.map(|call| call.is_none()) });
    raw.send(call).await;
    let reply = raw.read().await;
    drop(raw);
    assert!(server.await.unwrap().unwrap());
    let error = reply.error.unwrap();
    let name = error.strip_prefix("org.varlink.service.").unwrap().to_owned();
    (name, Value::Object(reply.parameters.unwrap()))
}

#[tokio::test]
async fn calls_that_do_not_exist_get_varlinks_own_errors() {
    let cases = [
        (
            "org.maqet.Control.Fly",
            "MethodNotFound",
            json!({"method": "org.maqet.Control.Fly"}),
        ),
        (
            "org.varlink.service.Fly",
            "MethodNotFound",
            json!({"method": "org.varlink.service.Fly"}),
        ),
        (
            "com.example.Fly",
            "InterfaceNotFound",
            json!({"interface": "com.example"}),
        ),
        ("Fly", "InterfaceNotFound", json!({"interface": ""})),
        (Events::NAME, "ExpectedMore", json!({})),
    ];
    for (method, error, parameters) in cases {
        let answer = standard_error(json!({"method": method})).await;
        assert_eq!(answer, (error.to_owned(), parameters), "{method}");
    }
    let upgrade = standard_error(json!({"method": List::NAME, "upgrade": true})).await;
    assert_eq!(upgrade.0, "MethodNotImplemented");
}

#[tokio::test]
async fn descriptions_of_what_is_not_there_are_refused() {
    let describe = "org.varlink.service.GetInterfaceDescription";
    let absent = json!({"method": describe, "parameters": {"interface": "com.example"}});
    assert_eq!(standard_error(absent).await.0, "InterfaceNotFound");
    let (error, parameters) = standard_error(json!({"method": describe})).await;
    assert_eq!(
        (error.as_str(), &parameters["parameter"]),
        ("InvalidParameter", &json!("interface"))
    );
}

#[tokio::test]
async fn an_unknown_parameter_is_refused_by_name() {
    let (mut raw, mut connection) = raw_connected().await;
    let server = tokio::spawn(async move {
        let call = connection.next_call().await.unwrap().unwrap();
        connection
            .refuse(&call.parse::<Start>().unwrap_err())
            .await
            .unwrap();
    });
    let reply = raw.ask(Start::NAME, json!({"vm": "web", "now": true})).await;
    assert_eq!(
        reply.error.as_deref(),
        Some("org.varlink.service.InvalidParameter")
    );
    assert_eq!(reply.parameters.unwrap()["parameter"], "now");
    server.await.unwrap();
}

#[tokio::test]
async fn calls_sent_early_are_served_one_by_one() {
    let (mut raw, mut connection) = raw_connected().await;
    let two = format!("{}\0{}\0", list(), json!({"method": SupervisorInfo::NAME}));
    raw.bytes(two.as_bytes()).await;
    for expected in [List::NAME, SupervisorInfo::NAME] {
        assert_eq!(connection.next_call().await.unwrap().unwrap().method, expected);
        connection.reply(&json!({"to": expected})).await.unwrap();
    }
    for expected in [List::NAME, SupervisorInfo::NAME] {
        assert_eq!(raw.read().await.parameters.unwrap()["to"], expected);
    }
}

#[tokio::test]
async fn a_call_that_wants_no_reply_gets_none() {
    let (mut raw, mut connection) = raw_connected().await;
    raw.send(json!({"method": List::NAME, "oneway": true})).await;
    raw.send(json!({"method": "org.maqet.Control.Fly", "oneway": true}))
        .await;
    raw.send(list()).await;
    connection.next_call().await.unwrap().unwrap();
    connection.reply(&json!({"nobody": "reads this"})).await.unwrap();
    connection.next_call().await.unwrap().unwrap();
    connection
        .reply(&json!({"somebody": "reads this"}))
        .await
        .unwrap();
    assert!(raw.read().await.parameters.unwrap().contains_key("somebody"));
}

#[tokio::test]
async fn a_call_left_open_is_refused_and_a_closed_one_takes_no_reply() {
    let (mut raw, mut connection) = raw_connected().await;
    let unasked = connection.reply(&Empty {}).await.unwrap_err();
    assert!(matches!(unasked, ProtocolError::NoOpenCall));
    raw.send(list()).await;
    connection.next_call().await.unwrap().unwrap();
    raw.send(list()).await;
    connection.next_call().await.unwrap().unwrap();
    assert_eq!(
        raw.read().await.error.as_deref(),
        Some("org.maqet.Control.Internal")
    );
}

#[tokio::test]
async fn an_answer_that_is_too_long_becomes_a_refusal() {
    let (mut client, mut connection) = connected().await;
    let server = tokio::spawn(async move {
        connection.next_call().await.unwrap().unwrap();
        let long = QmpReturn {
            value: Value::from("x".repeat(FRAME_BYTES_MAX)),
        };
        connection.reply(&long).await.unwrap();
        connection.next_call().await.unwrap().unwrap();
        connection.reply(&Listed { vms: Vec::new() }).await.unwrap();
    });
    let refused = client.call(&List::default(), None).await.unwrap_err();
    assert_eq!(refused.refusal().unwrap().code, RefusalCode::Internal);
    client.call(&List::default(), None).await.unwrap();
    server.await.unwrap();
}
