//! Idempotency keys: a call that is repeated, because its answer was lost, is carried out once.

use maqet_process::Signal;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox};
use serde_json::{Value, json};

use crate::place;
use crate::raw::{Door, Raw};

/// A connection that has come in.
fn friend(door: &Door) -> Raw {
    let mut raw = door.connect();
    raw.authenticate(&door.secret);
    raw
}

fn control(name: &str) -> String {
    format!("org.maqet.Control.{name}")
}

/// The parameters of a successful reply.
fn answer(raw: &mut Raw, method: &str, parameters: &Value) -> Value {
    let reply = raw.ask(&control(method), parameters);
    assert_eq!(reply.get("error"), None, "{reply}");
    reply["parameters"].clone()
}

/// Begins a call, waits until its effect shows as an event of this kind, and hangs up without reading the answer.
fn cut_after(sandbox: &Sandbox, door: &Door, call: (&str, &Value), kind: &str) {
    let mut raw = friend(door);
    raw.call(&control(call.0), call.1);
    wait::until(kind, PATIENCE, || {
        let events = kinds(sandbox);
        if events.iter().any(|seen| seen == kind) {
            Ok(())
        } else {
            Err(events)
        }
    });
    raw.cut();
}

/// The kinds of all events so far.
fn kinds(sandbox: &Sandbox) -> Vec<String> {
    let output = sandbox.maqet(&["events", "--since", "0", "-o", "json"]).expect(0);
    let events = output.stdout.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["kind"].as_str().unwrap().to_owned()
    });
    events.collect()
}

#[test]
fn the_same_key_twice_makes_one_vm() {
    let sandbox = Sandbox::new();
    let supervisor = sandbox.supervisor();
    let door = place::control(&sandbox);
    Guest::tiny("model").add(&sandbox);
    let mut spec = sandbox.json(&["info", "model"])["spec"].clone();
    spec["name"] = json!("web");
    let add = json!({"spec": spec, "key": "one-web"});

    // At the same time on two connections, then again.
    let (mut one, mut other) = (friend(&door), friend(&door));
    one.call(&control("Add"), &add);
    other.call(&control("Add"), &add);
    let (first, second) = (one.read().unwrap(), other.read().unwrap());
    assert_eq!(first.get("error"), None, "{first}");
    assert_eq!(first, second);
    let id = first["parameters"]["id"].clone();
    assert_eq!(answer(&mut one, "Add", &add)["id"], id);
    assert_eq!(
        answer(&mut one, "List", &json!({}))["vms"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    // Another key is another call, and the name is taken.
    let reply = one.ask(&control("Add"), &json!({"spec": spec, "key": "two-web"}));
    assert_eq!(reply["error"], control("NameTaken"), "{reply}");

    // The answer outlives a supervisor that had no time to say good-bye.
    supervisor.signal(Signal::Kill);
    supervisor.output().expect(128 + 9);
    sandbox.maqet(&["ls"]).expect(0);
    assert_eq!(answer(&mut friend(&door), "Add", &add)["id"], id);
}

#[test]
fn a_call_that_was_cut_off_gets_its_answer_when_repeated() {
    let sandbox = Sandbox::new();
    let _supervisor = sandbox.supervisor();
    let door = place::control(&sandbox);
    Guest::tiny("web").add(&sandbox);

    let start = json!({"vm": "web", "key": "start-web"});
    cut_after(&sandbox, &door, ("Start", &start), "vm.starting");
    let mut raw = friend(&door);
    let started = answer(&mut raw, "Start", &start);
    assert_eq!(started["already"], false, "{started}");
    assert_eq!(answer(&mut raw, "Start", &start), started);

    let stop = json!({"vm": "web", "key": "stop-web"});
    cut_after(&sandbox, &door, ("Stop", &stop), "vm.stopping");
    let stopped = answer(&mut raw, "Stop", &stop);
    assert_eq!(stopped["how"], "guest", "{stopped}");
    assert_eq!(answer(&mut raw, "Stop", &stop), stopped);

    // What was done stays done: the old key does not start it again.
    assert_eq!(answer(&mut raw, "Start", &start), started);
    assert_eq!(sandbox.status("web")["status"], "stopped");
    let starts = kinds(&sandbox)
        .into_iter()
        .filter(|kind| kind == "vm.starting")
        .count();
    assert_eq!(starts, 1);
}
