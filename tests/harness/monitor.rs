//! QEMU's spare monitor, spoken to directly: what a QEMU does that was taken over from inside.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// A connection to the spare monitor of a VM.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the spare monitor of the VM with this id.
    #[track_caller]
    pub fn of(sandbox: &Sandbox, id: &str) -> Self {
        let path = sandbox.runtime_dir().join("vms").join(id).join("qmp1.sock");
        let stream = UnixStream::connect(path).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        let mut monitor = Self { stream, lines };
        monitor.next();
        monitor.run("qmp_capabilities", &json!({})).unwrap();
        monitor
    }

    /// Runs a command; an error is QEMU's description of it, or that it hung up.
    ///
    /// # Errors
    /// QEMU's words.
    pub fn run(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        self.send(command, arguments, None)
    }

    /// Hands a descriptor over as set `set`.
    ///
    /// # Errors
    /// QEMU's words.
    pub fn add_fd(&mut self, fd: BorrowedFd<'_>, set: u32) -> Result<Value, String> {
        self.send("add-fd", &json!({"fdset-id": set}), Some(fd))
    }

    fn send(
        &mut self,
        command: &str,
        arguments: &Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value, String> {
        let text = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        let fds: Vec<i32> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        let bytes = [IoSlice::new(text.as_bytes())];
        let sent = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &bytes,
            rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        let sent = sent.map_err(|error| error.to_string())?;
        self.stream
            .write_all(text.as_bytes().get(sent..).unwrap_or_default())
            .map_err(|error| error.to_string())?;
        loop {
            let Some(answer) = self.next() else {
                return Err("QEMU hung up".to_owned());
            };
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                return Err(error["desc"].as_str().unwrap_or_default().to_owned());
            }
        }
    }

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }
}
