//! The serial port: echoes what it is sent.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::machine::Machine;

/// Serves clients one after the other, for as long as the machine is there.
pub(crate) fn serve(machine: &Machine, listener: &UnixListener) {
    while let Ok((client, _)) = listener.accept() {
        // A client that goes away in the middle of anything is not our trouble.
        drop(echo(machine, &client));
    }
}

fn echo(machine: &Machine, mut client: &UnixStream) -> std::io::Result<()> {
    machine.attach_serial(client)?;
    let mut buffer = [0; 4096];
    loop {
        let count = client.read(&mut buffer)?;
        match buffer.get(..count) {
            None | Some([]) => return Ok(()),
            Some(read) => machine.print(read)?,
        }
    }
}
