//! Finding, starting and trusting a supervisor.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use maqet_process::error::ProcessError;

use super::{connect, connect_existing, nobody_listens};
use crate::error::CliError;
use crate::fake::{self, World};
use crate::settings::{LOG_FILE, Settings};
use crate::watch;

/// A script that plays the supervisor; descriptor 3 is its readiness pipe.
fn script(world: &World, text: &str) -> Settings {
    let settings = world.settings();
    let path: PathBuf = settings.data_dir.join("maqet-supervisor");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    Settings {
        supervisor_bin: Some(path),
        autostart: true,
        ..settings
    }
}

async fn failure(settings: &Settings) -> CliError {
    connect(settings, &fake::output()).await.unwrap_err()
}

#[test]
fn without_autostart_nothing_is_made() {
    fake::run(async {
        let world = World::with("created");
        let mut settings = world.settings();
        settings.runtime_dir = settings.runtime_dir.join("not/there");
        let error = failure(&settings).await;
        assert_eq!(
            (error.exit().code(), error.code().as_str()),
            (6, "supervisor-unreachable")
        );
        assert!(!settings.runtime_dir.exists());
    });
}

#[test]
fn a_connection_that_is_reset_before_it_is_taken_met_nobody() {
    let met = |kind: io::ErrorKind| ProcessError::File {
        action: "connect to socket",
        path: "control.sock".into(),
        source: kind.into(),
    };
    assert!(nobody_listens(&met(io::ErrorKind::ConnectionReset)));
    assert!(nobody_listens(&met(io::ErrorKind::ConnectionRefused)));
    assert!(!nobody_listens(&met(io::ErrorKind::PermissionDenied)));
}

#[test]
fn a_stale_socket_counts_as_nobody() {
    fake::run(async {
        let world = World::with("created");
        let settings = world.settings();
        drop(std::os::unix::net::UnixListener::bind(settings.socket()).unwrap());
        assert!(connect_existing(&settings).await.unwrap().is_none());
    });
}

#[test]
fn a_wrong_secret_is_refused() {
    fake::run(async {
        let world = World::listening("created");
        world.write_key(&"08".repeat(32));
        let error = failure(&world.settings()).await;
        assert_eq!(
            (error.exit().code(), error.code().as_str()),
            (7, "authentication-failed")
        );
    });
}

#[test]
fn a_runtime_directory_open_to_others_is_refused() {
    fake::run(async {
        let world = World::listening("created");
        let settings = world.settings();
        fs::set_permissions(&settings.runtime_dir, Permissions::from_mode(0o755)).unwrap();
        let error = failure(&settings).await;
        assert_eq!((error.exit().code(), error.code().as_str()), (7, "permission"));
    });
}

#[test]
fn a_supervisor_is_started_and_waited_for() {
    fake::run(async {
        let world = World::with("created");
        let text = "echo \"$@\" > \"$2/asked.new\"; mv \"$2/asked.new\" \"$2/asked\"; read go < \"$2/go\"; \
            echo talk; echo ready >&3";
        let settings = script(&world, text);
        let go = settings.data_dir.join("go");
        nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let output = fake::output();
        let supervisor = async {
            let asked = settings.data_dir.join("asked");
            watch::exists(&asked).await.unwrap();
            world.listen();
            tokio::fs::write(&go, "go\n").await.unwrap();
            fs::read_to_string(asked).unwrap()
        };
        let (client, words) = tokio::join!(connect(&settings, &output), supervisor);
        client.unwrap();
        let (data, run) = (settings.data_dir.display(), settings.runtime_dir.display());
        assert_eq!(
            words.trim(),
            format!("--data-dir {data} --runtime-dir {run} --ready-fd 3")
        );
        let log = settings.data_dir.join(LOG_FILE);
        assert_eq!(fs::read_to_string(&log).unwrap(), "talk\n");
        assert_eq!(fs::metadata(log).unwrap().permissions().mode() & 0o777, 0o600);
    });
}

#[test]
fn a_supervisor_that_fails_is_quoted() {
    fake::run(async {
        let world = World::with("created");
        let settings = script(
            &world,
            "echo 'error: the store is broken' >&3; echo '  page 7' >&3; exit 1",
        );
        let error = failure(&settings).await.report();
        assert_eq!(
            (error.exit, error.message.as_str()),
            (6, "the supervisor could not be started")
        );
        assert_eq!(
            error.causes,
            ["the store is broken", "  page 7", "it ended with exit code 1"]
        );
        assert_eq!(
            error.hint,
            Some(format!("look into {}", settings.log().display()))
        );
    });
}

#[test]
fn a_supervisor_that_refuses_its_configuration_is_quoted() {
    fake::run(async {
        let world = World::with("created");
        let words = "echo 'error: unknown field' >&3; echo 'hint: look' >&3; exit 78";
        let error = failure(&script(&world, words)).await.report();
        assert_eq!((error.exit, error.code.as_str()), (78, "invalid-config"));
        assert_eq!(error.causes, ["unknown field"]);
    });
}

#[test]
fn a_program_that_is_not_there_is_named() {
    fake::run(async {
        let world = World::with("created");
        let mut settings = script(&world, "");
        settings.supervisor_bin = Some(settings.data_dir.join("nothing"));
        let error = failure(&settings).await.report();
        assert_eq!(error.exit, 6);
        assert!(
            error.message.contains("nothing` could not be started"),
            "{}",
            error.message
        );
    });
}

#[test]
fn the_loser_of_a_race_connects_to_the_winner() {
    fake::run(async {
        let world = World::with("created");
        // The winner holds the data directory but does not listen yet; it does by the third attempt.
        let text = "n=0; [ -e \"$2/n\" ] && n=$(cat \"$2/n\"); n=$((n + 1)); echo $n > \"$2/n\"; \
            [ $n -ge 3 ] && : > \"$2/third\"; echo 'error: another supervisor' >&3; exit 75";
        let settings = script(&world, text);
        let output = fake::output();
        let winner = Arc::clone(&world);
        let winning = async {
            watch::exists(&settings.data_dir.join("third")).await.unwrap();
            winner.listen();
        };
        let (client, ()) = tokio::join!(connect(&settings, &output), winning);
        client.unwrap();
    });
}
