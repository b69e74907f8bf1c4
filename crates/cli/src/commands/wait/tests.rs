//! Waiting, with a supervisor that tells what a test lets happen.

use std::fs;
use std::sync::Arc;

use serde_json::json;

use super::{Wanted, until};
use crate::error::CliError;
use crate::fake::{self, World};
use crate::session::Session;

fn wanted(conditions: &[&str]) -> Wanted {
    Wanted {
        vms: vec!["web".to_owned()],
        conditions: conditions.iter().map(|text| text.parse().unwrap()).collect(),
        any: false,
        since: None,
    }
}

/// Waits while the world goes on once the wait has subscribed to the journal.
async fn outcome(
    world: &Arc<World>,
    wanted: Wanted,
    goes_on: impl FnOnce(),
) -> Result<Vec<String>, CliError> {
    let (settings, output) = (world.settings(), fake::output());
    let session = Session::new(&settings, &output);
    let subscribed = async {
        while !world
            .calls_of("Events")
            .iter()
            .any(|call| call["follow"] == json!(true))
        {
            tokio::task::yield_now().await;
        }
        goes_on();
    };
    let (held, ()) = tokio::join!(until(&session, &wanted), subscribed);
    Ok(held?.into_iter().map(|held| held.condition).collect())
}

async fn at_once(world: &Arc<World>, wanted: &Wanted) -> Result<Vec<String>, CliError> {
    let (settings, output) = (world.settings(), fake::output());
    let held = until(&Session::new(&settings, &output), wanted).await?;
    Ok(held.into_iter().map(|held| held.condition).collect())
}

#[test]
fn what_is_so_already_holds_at_once() {
    fake::run(async {
        let world = World::listening("stopped");
        assert_eq!(
            at_once(&world, &wanted(&["stopped", "exit"])).await.unwrap(),
            ["stopped", "exit"]
        );
    });
}

#[test]
fn a_start_and_an_end_are_seen() {
    fake::run(async {
        let world = World::listening("created");
        let held = outcome(&world, wanted(&["exit", "running", "event=STOP"]), || {
            for kind in ["vm.starting", "vm.running", "qmp.STOP", "vm.stopped"] {
                world.happens(kind, &json!({}));
            }
        });
        let mut held = held.await.unwrap();
        held.sort();
        assert_eq!(held, ["event=STOP", "exit", "running"]);
    });
}

#[test]
fn an_end_makes_running_impossible_and_tells_why() {
    fake::run(async {
        let world = World::listening("created");
        let waiting = outcome(&world, wanted(&["running"]), || {
            world.happens("vm.starting", &json!({}));
            world.happens("vm.failed", &json!({}));
        });
        let report = waiting.await.unwrap_err().report();
        insta::assert_snapshot!(report.json(), @r#"{"error":{"code":"vm-ended","exit":1,"message":"`web` ended before `running` held","vm":"web","state":"failed","causes":["qemu-crashed at 2026-01-02T03:04:05.000Z (signal 11)","last words"],"hint":"maqet why web"}}"#);
    });
}

#[test]
fn with_any_one_is_enough_and_only_the_last_failure_counts() {
    fake::run(async {
        let world = World::listening("failed");
        let any = Wanted {
            any: true,
            ..wanted(&["stopped", "exit"])
        };
        assert_eq!(at_once(&world, &any).await.unwrap(), ["exit"]);
        let hopeless = Wanted {
            any: true,
            ..wanted(&["stopped", "serial=x"])
        };
        assert_eq!(at_once(&world, &hopeless).await.unwrap_err().code(), "vm-ended");
    });
}

#[test]
fn a_removed_vm_ends_the_wait() {
    fake::run(async {
        let world = World::listening("created");
        let waiting = outcome(&world, wanted(&["running"]), || {
            world.happens("vm.removed", &json!({}));
        });
        let error = waiting.await.unwrap_err();
        assert_eq!(
            (error.exit().code(), error.to_string().as_str()),
            (4, "`web` was removed before `running` held")
        );
    });
}

#[test]
fn serial_sees_only_the_present_run() {
    fake::run(async {
        let world = World::listening("running");
        fs::write(world.serial_log(), "login: \n").unwrap();
        world.happens("vm.running", &json!({"serial_offset": 8}));
        let log = world.serial_log();
        let held = outcome(&world, wanted(&["serial=log.n: $"]), || {
            fs::write(&log, "login: \nbooting\nlogin: ").unwrap();
        });
        assert_eq!(held.await.unwrap(), ["serial=log.n: $"]);
    });
}

#[test]
fn serial_of_a_run_that_ended_is_searched_before_it_fails() {
    fake::run(async {
        let world = World::listening("stopped");
        fs::write(world.serial_log(), "old\ndone\n").unwrap();
        world.happens("vm.running", &json!({"serial_offset": 4}));
        world.happens("vm.stopped", &json!({}));
        assert_eq!(
            at_once(&world, &wanted(&["serial=done"])).await.unwrap(),
            ["serial=done"]
        );
        let error = at_once(&world, &wanted(&["serial=old"])).await.unwrap_err();
        assert_eq!((error.exit().code(), error.code().as_str()), (1, "vm-ended"));
    });
}

#[test]
fn serial_goes_on_with_the_next_run() {
    fake::run(async {
        let world = World::listening("created");
        let log = world.serial_log();
        let held = outcome(&world, wanted(&["serial=ready"]), || {
            fs::write(&log, "ready in the past\nnow\nready\n").unwrap();
            world.happens("vm.running", &json!({"serial_offset": 18}));
        });
        assert_eq!(held.await.unwrap(), ["serial=ready"]);
    });
}

#[test]
fn a_file_on_the_host_is_seen() {
    fake::run(async {
        let world = World::listening("created");
        let path = world.serial_log().with_file_name("flag");
        let condition = format!("file={}", path.display());
        let held = outcome(&world, wanted(&[&condition]), || fs::write(&path, "").unwrap());
        assert_eq!(held.await.unwrap(), std::slice::from_ref(&condition));
    });
}

#[test]
fn what_cannot_be_known_is_said() {
    fake::run(async {
        let world = World::listening("running");
        let error = at_once(&world, &wanted(&["agent"])).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "`web`: this version has no guest agent channel"
        );
        let error = at_once(&world, &wanted(&["serial=("])).await.unwrap_err();
        assert_eq!(error.exit().code(), 2);
        let error = at_once(&world, &wanted(&["port=22"])).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "`web`: no TCP port 22 is forwarded (forwarded: none)"
        );
    });
}

#[test]
fn a_port_is_ready_when_the_guest_took_the_connection() {
    fake::run(async {
        let world = World::listening("running");
        // Accepts and says nothing, as QEMU does for a guest that has not answered yet.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let forward =
            json!([{"protocol": "tcp", "host_address": "127.0.0.1", "host_port": port, "guest_port": 22}]);
        world.status.lock().unwrap()["ports"] = forward;
        let usernet = |state: &str| json!({"return": format!("  TCP[{state}]  15  127.0.0.1  {port}  10.0.2.15  22  0  0\r\n")});
        world
            .answers
            .lock()
            .unwrap()
            .insert("Qmp", Ok(usernet("SYN_SENT")));
        let becomes_ready = async {
            while world.calls_of("Qmp").len() < 2 {
                tokio::task::yield_now().await;
            }
            world
                .answers
                .lock()
                .unwrap()
                .insert("Qmp", Ok(usernet("ESTABLISHED")));
        };
        let wanted = wanted(&["port=22"]);
        let (held, ()) = tokio::join!(at_once(&world, &wanted), becomes_ready);
        assert_eq!(held.unwrap(), ["port=22"]);
        assert!(world.calls_of("Qmp").len() >= 3);
    });
}

#[test]
fn a_port_that_closes_at_once_is_not_ready() {
    fake::run(async {
        let world = World::listening("running");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let forward =
            json!([{"protocol": "tcp", "host_address": "127.0.0.1", "host_port": port, "guest_port": 22}]);
        world.status.lock().unwrap()["ports"] = forward;
        let guest = async {
            for _ in 0..2 {
                drop(listener.accept().await.unwrap());
            }
            let (stream, _) = listener.accept().await.unwrap();
            stream.try_write(b"SSH-2.0\r\n").unwrap();
            stream
        };
        let wanted = wanted(&["port=22"]);
        let (held, _stream) = tokio::join!(at_once(&world, &wanted), guest);
        assert_eq!(held.unwrap(), ["port=22"]);
    });
}
