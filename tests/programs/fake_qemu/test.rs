//! The scripted QEMU, seen by the client that runners use, over sockets passed the way a gate passes them.
#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::os::fd::AsFd;
use std::time::Duration;

use maqet_process::spawn::Spawn;
use maqet_process::{ExitStatus, ProcessHandle, Signal, socket};
use maqet_qmp::command::{Cont, QueryStatus, Quit, Stop, SystemPowerdown};
use maqet_qmp::{Events, Incoming, Qmp, QmpError, RunState};
use maqet_tests::built;
use maqet_tests::wait::{self, PATIENCE};
use tempfile::TempDir;

/// Where waiting is the point of the test.
const SOON: Duration = Duration::from_millis(50);

struct Fake {
    dir: TempDir,
    handle: ProcessHandle,
}

impl Fake {
    fn start(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = std::fs::File::open(dir.path()).unwrap();
        let bind = |name| {
            let fd = socket::bind_listener(place.as_fd(), name).unwrap();
            socket::listen(&fd, 1).unwrap();
            fd
        };
        let mut spawn = Spawn::new(built("fake_qemu"));
        let log = dir.path().join("serial.log");
        let serial = format!(
            "socket,id=serial0,fd=7,server=on,wait=off,logfile={},logappend=on",
            log.display()
        );
        let words = [
            "-nodefaults",
            "-S",
            "-name",
            "guest=web",
            "-machine",
            "pc,accel=tcg",
            "-action",
            "shutdown=pause,panic=pause",
            "-chardev",
            "socket,id=qmp0-x,fd=5,server=on,wait=off",
            "-mon",
            "chardev=qmp0-x,mode=control",
            "-chardev",
            "socket,id=qmp1-x,fd=6,server=on,wait=off",
            "-mon",
            "chardev=qmp1-x,mode=control",
            "-chardev",
            &serial,
            "-serial",
            "chardev:serial0",
            "-global",
            &format!("fake.script={script}"),
        ];
        spawn.args = words.into_iter().map(Into::into).collect();
        spawn.fds = vec![(bind("qmp0"), 5), (bind("qmp1"), 6), (bind("serial"), 7)];
        spawn.stderr = Some(std::fs::File::create(dir.path().join("stderr")).unwrap().into());
        let handle = spawn.spawn().unwrap().handle;
        Self { dir, handle }
    }

    async fn connect(&self, monitor: &str, deadline: Duration) -> Result<(Qmp, Events), QmpError> {
        let place = std::fs::File::open(self.dir.path()).unwrap();
        let stream = socket::connect(place.as_fd(), monitor).await.unwrap();
        Qmp::connect(stream, deadline).await
    }

    fn ended(&self) -> Option<ExitStatus> {
        assert!(wait::exited(&self.handle, PATIENCE));
        self.handle.exit_status()
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if !self.handle.has_exited() {
            self.handle.signal(Signal::Kill).map(|_sent| ()).unwrap();
            self.ended();
        }
    }
}

/// Names of the events up to and including `last`.
async fn events_until(events: &mut Events, last: &str) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(incoming) = events.next().await {
        let Incoming::Event(event) = incoming else {
            continue;
        };
        names.push(event.name);
        if names.last().is_some_and(|name| name == last) {
            break;
        }
    }
    names
}

#[tokio::test]
async fn without_a_script_it_is_a_qemu_like_any_other() {
    let fake = Fake::start("");
    let (qmp, mut events) = fake.connect("qmp0", PATIENCE).await.unwrap();
    let (spare, _spare_events) = fake.connect("qmp1", PATIENCE).await.unwrap();
    assert_eq!(
        qmp.execute(&QueryStatus, PATIENCE).await.unwrap().status,
        RunState::Prelaunch
    );
    qmp.execute(&Cont, PATIENCE).await.unwrap();
    assert!(spare.execute(&QueryStatus, PATIENCE).await.unwrap().running);
    qmp.execute(&SystemPowerdown, PATIENCE).await.unwrap();
    assert_eq!(
        events_until(&mut events, "STOP").await,
        ["RESUME", "POWERDOWN", "SHUTDOWN", "STOP"]
    );
    assert_eq!(
        qmp.execute(&QueryStatus, PATIENCE).await.unwrap().status,
        RunState::Shutdown
    );
    assert_eq!(fake.file("serial.log"), "fake guest ready\r\n");
    let name = qmp.run("query-name", None, PATIENCE).await.unwrap();
    assert_eq!(name, serde_json::json!({"name": "web"}));
    let quit = qmp.execute(&Quit, PATIENCE).await;
    assert!(matches!(quit, Ok(_) | Err(QmpError::Closed)), "{quit:?}");
    assert_eq!(fake.ended(), Some(ExitStatus::Code(0)));
}

#[tokio::test]
async fn it_can_fail_before_the_greeting() {
    let fake = Fake::start("fail");
    assert_eq!(fake.ended(), Some(ExitStatus::Code(1)));
    assert!(
        fake.file("stderr")
            .contains("'nope' is not a valid device model name")
    );

    let fake = Fake::start("mute");
    assert!(matches!(
        fake.connect("qmp0", SOON).await,
        Err(QmpError::Greeting { discarded: 0, .. })
    ));

    let fake = Fake::start("late-greeting=100");
    assert!(matches!(
        fake.connect("qmp0", SOON).await,
        Err(QmpError::Greeting { .. })
    ));
    fake.connect("qmp0", PATIENCE).await.unwrap();

    let fake = Fake::start("close");
    assert!(matches!(
        fake.connect("qmp0", PATIENCE).await,
        Err(QmpError::Closed)
    ));

    let fake = Fake::start("reject-capabilities");
    assert!(matches!(
        fake.connect("qmp0", PATIENCE).await,
        Err(QmpError::Refused { .. })
    ));
}

#[tokio::test]
async fn it_can_answer_badly_or_not_at_all() {
    let fake = Fake::start("stale+long-reply");
    let (qmp, _events) = fake.connect("qmp0", PATIENCE).await.unwrap();
    let name = qmp.run("query-name", None, PATIENCE).await.unwrap();
    assert_eq!(name["name"].as_str().unwrap().len(), 200_000);
    // Three each: before the greeting, before the negotiation's answer, before this one.
    assert_eq!(qmp.discarded(), 9);

    let fake = Fake::start("silent");
    let (qmp, _events) = fake.connect("qmp0", PATIENCE).await.unwrap();
    assert!(matches!(
        qmp.execute(&QueryStatus, SOON).await,
        Err(QmpError::Deadline { .. })
    ));

    let fake = Fake::start("hang-stop+hang-quit");
    let (qmp, _events) = fake.connect("qmp0", PATIENCE).await.unwrap();
    assert!(matches!(
        qmp.execute(&Stop, SOON).await,
        Err(QmpError::Deadline { .. })
    ));
    assert!(matches!(
        qmp.execute(&Quit, SOON).await,
        Err(QmpError::Deadline { .. })
    ));
    qmp.execute(&QueryStatus, PATIENCE).await.unwrap();

    let fake = Fake::start("ignore-quit+ignore-powerdown");
    let (qmp, _events) = fake.connect("qmp0", PATIENCE).await.unwrap();
    qmp.execute(&Cont, PATIENCE).await.unwrap();
    qmp.execute(&SystemPowerdown, PATIENCE).await.unwrap();
    qmp.execute(&Quit, PATIENCE).await.unwrap();
    assert!(qmp.execute(&QueryStatus, PATIENCE).await.unwrap().running);
}

#[tokio::test]
async fn its_guest_can_end_in_many_ways() {
    let fake = Fake::start("segv");
    let (qmp, _events) = fake.connect("qmp0", PATIENCE).await.unwrap();
    qmp.execute(&Cont, PATIENCE).await.unwrap();
    assert_eq!(fake.ended(), Some(ExitStatus::Signal(11)));

    let fake = Fake::start("exit=3");
    let (qmp, _events) = fake.connect("qmp0", PATIENCE).await.unwrap();
    drop(qmp.execute(&Cont, PATIENCE).await);
    assert_eq!(fake.ended(), Some(ExitStatus::Code(3)));

    for (script, events_seen) in [
        ("poweroff", ["RESUME", "SHUTDOWN", "STOP"].as_slice()),
        ("panic", &["RESUME", "GUEST_PANICKED", "STOP"]),
        ("reset", &["RESUME", "RESET"]),
    ] {
        let fake = Fake::start(script);
        let (qmp, mut events) = fake.connect("qmp0", PATIENCE).await.unwrap();
        qmp.execute(&Cont, PATIENCE).await.unwrap();
        assert_eq!(
            events_until(&mut events, events_seen.last().unwrap()).await,
            events_seen
        );
    }
}

#[tokio::test]
async fn it_can_flood_and_babble() {
    let fake = Fake::start("flood=5000");
    let (qmp, mut events) = fake.connect("qmp0", PATIENCE).await.unwrap();
    qmp.execute(&Cont, PATIENCE).await.unwrap();
    qmp.execute(&QueryStatus, PATIENCE).await.unwrap();
    assert!(matches!(events.next().await, Some(Incoming::Lagged(lost)) if lost > 1000));

    let fake = Fake::start("garbage");
    let (qmp, mut events) = fake.connect("qmp0", PATIENCE).await.unwrap();
    drop(qmp.execute(&Cont, PATIENCE).await);
    while events.next().await.is_some() {}
    assert!(matches!(
        qmp.execute(&QueryStatus, PATIENCE).await,
        Err(QmpError::Closed)
    ));
}

#[test]
fn questions_about_options_are_answered_by_the_real_one() {
    let output = std::process::Command::new(built("fake_qemu"))
        .args(["-machine", "help"])
        .output()
        .unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("q35"));
}
