//! Calls under a supervisor that dies.

use maqet_protocol::control::{Reset, Stop};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use serde_json::{Value, json};

use super::{QUESTION_DEADLINE, Session, key};
use crate::fake::{self, World};

fn stop() -> Stop {
    Stop {
        vm: "web".to_owned(),
        timeout_ms: None,
        force: false,
        key: Some(key()),
    }
}

#[test]
fn a_change_is_called_again_under_the_same_key() {
    fake::run(async {
        let world = World::listening("running");
        let report = json!({"vm": "web", "status": "stopped", "how": "guest", "took_ms": 5});
        world.answers.lock().unwrap().insert("Stop", Ok(report));
        world.dies_on.lock().unwrap().insert("Stop");
        let (settings, output) = (world.settings(), fake::output());
        let report = Session::new(&settings, &output)
            .repeat(&stop(), QUESTION_DEADLINE)
            .await
            .unwrap();
        assert_eq!(report.took_ms, 5);
        let keys: Vec<Value> = world
            .calls_of("Stop")
            .iter()
            .map(|call| call["key"].clone())
            .collect();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys.first(), keys.last());
        assert_eq!(keys.first().and_then(Value::as_str).map(str::len), Some(32));
    });
}

#[test]
fn what_has_no_key_is_not_called_again() {
    fake::run(async {
        let world = World::listening("running");
        world.dies_on.lock().unwrap().insert("Reset");
        let (settings, output) = (world.settings(), fake::output());
        let session = Session::new(&settings, &output);
        let reset = Reset { vm: "web".to_owned() };
        let error = session.once(&reset, QUESTION_DEADLINE).await.unwrap_err();
        assert_eq!(
            (error.exit().code(), error.code().as_str()),
            (6, "supervisor-lost")
        );
        assert_eq!(world.calls_of("Reset").len(), 1);
    });
}

#[test]
fn a_refusal_keeps_its_words_and_the_connection() {
    fake::run(async {
        let world = World::listening("running");
        let refusal = Refusal::new(RefusalCode::WrongState, "`web` is running")
            .vm("web")
            .state("running")
            .cause("it was started")
            .hint("maqet stop web");
        world.answers.lock().unwrap().insert("Stop", Err(refusal));
        let (settings, output) = (world.settings(), fake::output());
        let session = Session::new(&settings, &output);
        let error = session.repeat(&stop(), QUESTION_DEADLINE).await.unwrap_err();
        insta::assert_snapshot!(error.report().json(), @r#"{"error":{"code":"wrong-state","exit":3,"message":"`web` is running","vm":"web","state":"running","causes":["it was started"],"hint":"maqet stop web"}}"#);
        assert_eq!(session.idle.borrow().len(), 1);
    });
}
