//! The machine that all sockets share.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, raise};
use serde_json::{Value, json};

use crate::options::Options;
use crate::script::{Guest, Script};

/// What the guest prints when it begins to run.
const GUEST_READY: &str = "fake guest ready\r\n";

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// How it was started.
    pub(crate) options: Options,
    /// What goes wrong.
    pub(crate) script: Script,
    state: Mutex<State>,
    ended: Sender<u8>,
}

#[derive(Debug)]
struct State {
    phase: &'static str,
    booted: bool,
    /// Clients out of negotiation mode: they are sent events.
    listening: Vec<UnixStream>,
    /// Client of the serial port.
    serial: Option<UnixStream>,
}

impl Machine {
    /// A machine that tells its exit code through `ended`.
    pub(crate) fn new(options: Options, script: Script, ended: Sender<u8>) -> Self {
        let phase = if options.paused { "prelaunch" } else { "running" };
        let state = State {
            phase,
            booted: false,
            listening: Vec::new(),
            serial: None,
        };
        Self {
            options,
            script,
            state: Mutex::new(state),
            ended,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// QEMU's name for what the machine does.
    pub(crate) fn run_state(&self) -> &'static str {
        self.lock().phase
    }

    /// Sends events to this client from now on.
    pub(crate) fn listen(&self, client: &UnixStream) -> io::Result<()> {
        let client = client.try_clone()?;
        self.lock().listening.push(client);
        Ok(())
    }

    /// Prints to this client from now on.
    pub(crate) fn attach_serial(&self, client: &UnixStream) -> io::Result<()> {
        self.lock().serial = Some(client.try_clone()?);
        Ok(())
    }

    /// Sends one line to one client, never into the middle of another line.
    pub(crate) fn say(&self, mut client: &UnixStream, line: &str) -> io::Result<()> {
        let _one_at_a_time = self.lock();
        client.write_all(format!("{line}\r\n").as_bytes())
    }

    fn emit(&self, name: &str, data: &Value) {
        self.broadcast(&event(name, data));
    }

    /// A client that hung up is forgotten, as QEMU does.
    fn broadcast(&self, line: &str) {
        let line = format!("{line}\r\n");
        self.lock()
            .listening
            .retain_mut(|client| client.write_all(line.as_bytes()).is_ok());
    }

    fn enter(&self, run_state: &'static str) {
        self.lock().phase = run_state;
        let name = if run_state == "running" { "RESUME" } else { "STOP" };
        self.emit(name, &Value::Null);
    }

    /// `stop`.
    pub(crate) fn pause(&self) {
        self.enter("paused");
    }

    /// `cont`, up to the point where the guest runs.
    pub(crate) fn resume(&self) {
        self.enter("running");
    }

    /// What the guest does once it runs. Called after `cont` was answered.
    pub(crate) fn boot(&self) -> anyhow::Result<()> {
        if std::mem::replace(&mut self.lock().booted, true) {
            return Ok(());
        }
        self.print(GUEST_READY.as_bytes())?;
        match self.script.guest {
            None => (),
            Some(Guest::Segv) => crash()?,
            Some(Guest::Exit(code)) => self.end(code)?,
            Some(Guest::PowerOff) => self.power_off("guest-shutdown")?,
            Some(Guest::Reset) => self.reset(true)?,
            Some(Guest::Panic) => {
                self.emit("GUEST_PANICKED", &json!({"action": "pause"}));
                self.enter("guest-panicked");
            }
            Some(Guest::Flood(count)) => self.flood(count),
            Some(Guest::Garbage) => self.broadcast("}{ this is not JSON"),
        }
        Ok(())
    }

    fn flood(&self, count: u32) {
        for number in 0..count {
            self.emit("FLOOD", &json!({"n": number}));
        }
    }

    /// Appends to the serial log and tells whoever is attached.
    pub(crate) fn print(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some(path) = &self.options.serial_log {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)?
                .write_all(bytes)?;
        }
        let mut state = self.lock();
        if state
            .serial
            .as_mut()
            .is_some_and(|client| client.write_all(bytes).is_err())
        {
            state.serial = None;
        }
        Ok(())
    }

    /// The power button.
    pub(crate) fn press_power(&self) -> anyhow::Result<()> {
        self.emit("POWERDOWN", &Value::Null);
        let hears = self.run_state() == "running" && !self.script.ignores_powerdown;
        if hears {
            self.power_off("guest-shutdown")
        } else {
            Ok(())
        }
    }

    /// A reset, by the guest or by `system_reset`.
    pub(crate) fn reset(&self, guest: bool) -> anyhow::Result<()> {
        if self.options.shuts_down_on_reboot && guest {
            return self.power_off("guest-reset");
        }
        if self.script.crashes_on_reset {
            crash()?;
        }
        let reason = if guest {
            "guest-reset"
        } else {
            "host-qmp-system-reset"
        };
        self.emit("RESET", &json!({"guest": guest, "reason": reason}));
        Ok(())
    }

    fn power_off(&self, reason: &str) -> anyhow::Result<()> {
        self.emit("SHUTDOWN", &json!({"guest": true, "reason": reason}));
        if self.options.pauses_on_shutdown {
            self.enter("shutdown");
            return Ok(());
        }
        self.end(0)
    }

    /// `quit`, once answered.
    pub(crate) fn quit(&self) -> anyhow::Result<()> {
        self.emit("SHUTDOWN", &json!({"guest": false, "reason": "host-qmp-quit"}));
        self.end(0)
    }

    fn end(&self, code: u8) -> anyhow::Result<()> {
        Ok(self.ended.send(code)?)
    }
}

/// Ends like a program with a bad pointer. The first signal only takes down Rust's own handler.
fn crash() -> anyhow::Result<()> {
    loop {
        raise(Signal::SIGSEGV)?;
    }
}

/// An event as QEMU writes it.
fn event(name: &str, data: &Value) -> String {
    let timestamp = json!({"seconds": 1_700_000_000, "microseconds": 1});
    let event = if data.is_null() {
        json!({"timestamp": timestamp, "event": name})
    } else {
        json!({"timestamp": timestamp, "event": name, "data": data})
    };
    event.to_string()
}
