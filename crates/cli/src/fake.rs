//! A supervisor for tests: the real wire and the real handshake, over a world that a test writes down.

use std::collections::{HashMap, HashSet};
use std::fs::Permissions;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use maqet_process::{directory, socket};
use maqet_protocol::control::{Event, Events};
use maqet_protocol::endpoint::server::{IncomingCall, ServerConnection, ServerIdentity};
use maqet_protocol::handshake::SocketRole;
use maqet_protocol::interface::CONTROL_INTERFACES;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::secret::Secret;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::args::Global;
use crate::output::Output;
use crate::settings::{KEY_FILE, SOCKET_FILE, Settings};

/// Id of the only VM, `web`.
pub(crate) const ID: &str = "0123456789abcdef0123456789abcdef";

/// What the supervisor knows, and how it misbehaves.
#[derive(Debug)]
pub(crate) struct World {
    directory: TempDir,
    /// Answer of `Status`.
    pub(crate) status: Mutex<Value>,
    /// Answers of other methods, by bare name.
    pub(crate) answers: Mutex<HashMap<&'static str, Result<Value, Refusal>>>,
    /// Methods on which the connection breaks, once each.
    pub(crate) dies_on: Mutex<HashSet<&'static str>>,
    /// Calls received: bare name and parameters.
    pub(crate) calls: Mutex<Vec<(String, Value)>>,
    events: watch::Sender<Vec<Event>>,
}

impl World {
    /// A world with one VM in this status, and directories for a supervisor that does not listen yet.
    pub(crate) fn with(status: &str) -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        let private = Permissions::from_mode(0o700);
        for name in ["data", "run", "logs"] {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(path, private.clone()).unwrap();
        }
        let world = Self {
            status: Mutex::new(status_of(&directory, status)),
            directory,
            answers: Mutex::default(),
            dies_on: Mutex::default(),
            calls: Mutex::default(),
            events: watch::Sender::default(),
        };
        world.write_key(&"07".repeat(32));
        Arc::new(world)
    }

    /// A world whose supervisor listens.
    pub(crate) fn listening(status: &str) -> Arc<Self> {
        let world = Self::with(status);
        world.listen();
        world
    }

    /// Lets the supervisor listen.
    pub(crate) fn listen(self: &Arc<Self>) {
        let settings = self.settings();
        let runtime_dir = directory::open_private(&settings.runtime_dir).unwrap();
        let listener = socket::bind_listener(runtime_dir.as_fd(), SOCKET_FILE).unwrap();
        socket::listen(&listener, 16).unwrap();
        let listener = UnixListener::from_std(listener.into()).unwrap();
        let identity = ServerIdentity::new(SocketRole::Control, Secret::from_bytes([7; 32]));
        let (world, identity) = (Arc::clone(self), Arc::new(identity));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = ServerConnection::accept(stream, Arc::clone(&identity), CONTROL_INTERFACES);
                tokio::spawn(Arc::clone(&world).serve(connection));
            }
        });
    }

    /// Where everything is.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            data_dir: self.directory.path().join("data"),
            runtime_dir: self.directory.path().join("run"),
            config: None,
            supervisor_bin: None,
            autostart: false,
        }
    }

    /// The guest's serial log.
    pub(crate) fn serial_log(&self) -> std::path::PathBuf {
        self.directory.path().join("logs/serial.log")
    }

    /// Writes the secret of the control socket, as digits.
    pub(crate) fn write_key(&self, digits: &str) {
        let path = self.settings().data_dir.join(KEY_FILE);
        std::fs::write(&path, format!("{digits}\n")).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes an event to the journal; `vm.…` events about a status change that too.
    pub(crate) fn happens(&self, kind: &str, data: &Value) {
        let status = match kind {
            "vm.running" | "vm.stopped" | "vm.failed" => kind.strip_prefix("vm."),
            _ => None,
        };
        if let Some(status) = status {
            *self.status.lock().unwrap() = status_of(&self.directory, status);
        }
        self.events.send_modify(|events| {
            let mut event =
                json!({"cursor": events.len() + 1, "at": "2026-01-02T03:04:05Z", "vm": "web", "id": ID});
            event
                .as_object_mut()
                .unwrap()
                .extend(data.as_object().unwrap().clone());
            event["kind"] = json!(kind);
            events.push(serde_json::from_value(event).unwrap());
        });
    }

    /// Parameters of every call of one method.
    pub(crate) fn calls_of(&self, method: &str) -> Vec<Value> {
        let calls = self.calls.lock().unwrap();
        let calls = calls.iter().filter(|(name, _)| name == method);
        calls.map(|(_, parameters)| parameters.clone()).collect()
    }

    async fn serve(self: Arc<Self>, mut connection: ServerConnection) {
        while let Ok(Some(call)) = connection.next_call().await {
            let name = call.method.rsplit('.').next().unwrap_or_default().to_owned();
            self.calls
                .lock()
                .unwrap()
                .push((name.clone(), Value::Object(call.parameters.clone())));
            if self.dies_on.lock().unwrap().remove(name.as_str()) {
                return;
            }
            if name == "Events" {
                return self.stream(connection, &call).await;
            }
            match self.answer(&name) {
                Ok(answer) => connection.reply(&answer).await.unwrap(),
                Err(refusal) => connection.refuse(&refusal).await.unwrap(),
            }
        }
    }

    fn answer(&self, name: &str) -> Result<Value, Refusal> {
        if let Some(answer) = self.answers.lock().unwrap().get(name) {
            return answer.clone();
        }
        match name {
            "Status" => Ok(self.status.lock().unwrap().clone()),
            "Info" => Ok(json!({"id": ID, "spec": spec()})),
            "SupervisorStatus" => Ok(self.about()),
            _ => Err(Refusal::new(
                RefusalCode::Internal,
                format!("the test has no answer to `{name}`"),
            )),
        }
    }

    fn about(&self) -> Value {
        json!({
            "pid": 1, "version": "0", "since": "2026-01-02T03:04:05Z", "data_dir": "/d", "runtime_dir": "/r",
            "vms": 1, "running": 0, "memory": 1, "cursor": self.events.borrow().len(),
        })
    }

    async fn stream(&self, mut connection: ServerConnection, call: &IncomingCall) {
        let query: Events = call.parse().unwrap();
        let mut sent = usize::try_from(query.since.unwrap_or_default()).unwrap();
        let mut news = self.events.subscribe();
        loop {
            let events: Vec<Event> = news.borrow_and_update().iter().skip(sent).cloned().collect();
            sent += events.len();
            if !tell(&mut connection, events).await {
                return;
            }
            if !query.follow {
                return connection
                    .reply(&json!({"event": null}))
                    .await
                    .unwrap_or_default();
            }
            tokio::select! {
                _ = connection.closed() => return,
                changed = news.changed() => changed.unwrap(),
            }
        }
    }
}

/// Sends events; false when the connection is to end.
async fn tell(connection: &mut ServerConnection, events: Vec<Event>) -> bool {
    for event in events {
        let hangs_up = event.kind == "test.hang-up";
        if hangs_up || connection.reply_more(&json!({"event": event})).await.is_err() {
            return false;
        }
    }
    true
}

fn status_of(directory: &TempDir, status: &str) -> Value {
    let logs = directory.path().join("logs");
    let last_exit = match status {
        "stopped" => json!({"cause": "stop", "at": "2026-01-02T03:04:05Z"}),
        "failed" => {
            json!({"cause": "qemu-crashed", "at": "2026-01-02T03:04:05Z", "signal": 11, "detail": "last words"})
        }
        _ => Value::Null,
    };
    json!({
        "id": ID, "name": "web", "status": status, "activity": "idle", "since": "2026-01-02T03:04:05Z",
        "memory": 1, "cpus": 1, "restart": "never", "last_exit": last_exit, "accel": "tcg", "disks": [], "ports": [],
        "sandbox": {"requested": "off", "seccomp": false, "no_new_privs": false, "landlock_abi": null},
        "logs": {"serial": logs.join("serial.log"), "qemu": logs.join("qemu.log"), "runner": logs.join("runner.log")},
    })
}

fn spec() -> Value {
    let source = maqet_spec::Source::new("web.yaml", "/", "name: web\n");
    let spec = maqet_spec::load(&[source], &[], &maqet_spec::LoadOptions::default()).unwrap();
    serde_json::to_value(spec).unwrap()
}

/// Output that shows nothing but errors.
pub(crate) fn output() -> Output {
    Output::new(&Global {
        quiet: true,
        ..Global::default()
    })
}

/// Runs a test with real sockets, and never for ever.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let deadline = std::time::Duration::from_secs(30);
    runtime.block_on(async { tokio::time::timeout(deadline, test).await.unwrap() })
}
