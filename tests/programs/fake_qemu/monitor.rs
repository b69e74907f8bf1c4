//! One QMP socket: one client at a time.

use std::io::{BufReader, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::machine::Machine;

/// Size of a long reply, bytes.
const LONG_REPLY_BYTES: usize = 200_000;

/// Time between hanging up and the end of `leave-on-stop`.
const LEAVING: Duration = Duration::from_millis(300);

/// Serves clients one after the other, for as long as the machine is there.
pub(crate) fn serve(machine: &Machine, listener: &UnixListener) {
    while let Ok((client, _)) = listener.accept() {
        // A client that goes away in the middle of anything is not our trouble.
        drop(
            Session {
                machine,
                client: &client,
                negotiated: false,
            }
            .run(),
        );
    }
}

struct Session<'a> {
    machine: &'a Machine,
    client: &'a UnixStream,
    negotiated: bool,
}

/// What becomes of a command.
enum Outcome {
    Return(Value),
    Error(&'static str, String),
    Nothing,
}

impl Session<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let script = &self.machine.script;
        if script.closes {
            return Ok(());
        }
        if script.mute {
            return self.listen_only();
        }
        if let Some(delay) = script.greeting_delay
            && self.hung_up_within(delay)?
        {
            return Ok(());
        }
        if script.stale {
            self.say_stale()?;
        }
        self.machine.say(self.client, &greeting())?;
        let reader = BufReader::new(self.client);
        for command in serde_json::Deserializer::from_reader(reader).into_iter::<Value>() {
            self.obey(&command?)?;
        }
        Ok(())
    }

    /// Takes what comes and says nothing.
    fn listen_only(&self) -> anyhow::Result<()> {
        let mut client = self.client;
        let mut ignored = [0; 4096];
        while client.read(&mut ignored)? > 0 {}
        Ok(())
    }

    /// Waits; hanging up is reported without being asked for.
    fn hung_up_within(&self, delay: Duration) -> anyhow::Result<bool> {
        let mut fds = [PollFd::new(self.client.as_fd(), PollFlags::empty())];
        Ok(poll(&mut fds, PollTimeout::try_from(delay)?)? > 0)
    }

    fn say_stale(&self) -> anyhow::Result<()> {
        for id in [json!("predecessor-1"), json!(1), json!({"a": 1})] {
            self.machine.say(
                self.client,
                &json!({"return": {"stale": true}, "id": id}).to_string(),
            )?;
        }
        Ok(())
    }

    fn obey(&mut self, command: &Value) -> anyhow::Result<()> {
        let name = command["execute"].as_str().unwrap_or_default();
        let outcome = self.decide(name)?;
        if self.machine.script.stale && self.negotiated {
            self.say_stale()?;
        }
        let reply = match outcome {
            Outcome::Nothing => return Ok(()),
            Outcome::Return(value) => json!({"return": value, "id": command["id"]}),
            Outcome::Error(class, words) => {
                json!({"error": {"class": class, "desc": words}, "id": command["id"]})
            }
        };
        self.machine.say(self.client, &reply.to_string())?;
        self.follow_up(name)
    }

    fn decide(&mut self, name: &str) -> anyhow::Result<Outcome> {
        let script = &self.machine.script;
        if !self.negotiated {
            return self.negotiate(name);
        }
        let unanswered = script.silent
            || (script.hangs_on_quit && name == "quit")
            || (script.hangs_on_stop && name == "stop");
        if unanswered {
            return Ok(Outcome::Nothing);
        }
        match name {
            "stop" if script.leaves_on_stop => return self.leave(),
            "stop" => self.machine.pause(),
            "cont" => self.machine.resume(),
            _ => (),
        }
        Ok(self.answer(name))
    }

    /// As a QEMU that was told to quit before: the connection ends first, the process when the kernel has freed its memory.
    fn leave(&self) -> anyhow::Result<Outcome> {
        self.client.shutdown(Shutdown::Both)?;
        poll(&mut [], PollTimeout::try_from(LEAVING)?)?;
        self.machine.quit()?;
        Ok(Outcome::Nothing)
    }

    fn negotiate(&mut self, name: &str) -> anyhow::Result<Outcome> {
        if name != "qmp_capabilities" {
            let words = "Expecting capabilities negotiation with 'qmp_capabilities'".to_owned();
            return Ok(Outcome::Error("CommandNotFound", words));
        }
        if self.machine.script.rejects_capabilities {
            return Ok(Outcome::Error(
                "GenericError",
                "capabilities are not to my taste".to_owned(),
            ));
        }
        self.negotiated = true;
        self.machine.listen(self.client)?;
        Ok(Outcome::Return(json!({})))
    }

    fn answer(&self, name: &str) -> Outcome {
        let running = self.machine.run_state() == "running";
        let value = match name {
            "stop" | "cont" | "quit" | "system_powerdown" | "system_reset" => json!({}),
            "query-status" => {
                json!({"status": self.machine.run_state(), "singlestep": false, "running": running})
            }
            "query-version" => version(),
            "query-name" if self.machine.script.long_reply => json!({"name": "x".repeat(LONG_REPLY_BYTES)}),
            "query-name" => json!({"name": self.machine.options.name}),
            "query-kvm" => json!({"enabled": false, "present": true}),
            "query-cpus-fast" => {
                json!([{"cpu-index": 0, "thread-id": std::process::id(), "target": "x86_64"}])
            }
            "query-block"
            | "query-blockstats"
            | "query-jobs"
            | "query-named-block-nodes"
            | "query-fdsets" => json!([]),
            "human-monitor-command" => json!(""),
            _ => {
                let words = format!("The command {name} has not been found");
                return Outcome::Error("CommandNotFound", words);
            }
        };
        Outcome::Return(value)
    }

    /// What a command causes after its reply.
    fn follow_up(&self, name: &str) -> anyhow::Result<()> {
        match name {
            "cont" => self.machine.boot(),
            "quit" if !self.machine.script.ignores_quit => self.machine.quit(),
            "system_powerdown" => self.machine.press_power(),
            "system_reset" => self.machine.reset(false),
            _ => Ok(()),
        }
    }
}

fn version() -> Value {
    json!({"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "fake"})
}

fn greeting() -> String {
    json!({"QMP": {"version": version(), "capabilities": ["oob"]}}).to_string()
}
