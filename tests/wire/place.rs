//! The two sockets, with their secrets.

use std::fs;

use maqet_process::Signal;
use maqet_protocol::SocketRole;
use maqet_state::secret::Secret;
use maqet_state::store::Store;
use maqet_tests::{Guest, Running, Sandbox};

use crate::raw::Door;

/// A supervisor's socket.
pub(crate) fn control(sandbox: &Sandbox) -> Door {
    let text = fs::read_to_string(sandbox.data_dir().join("control.key")).unwrap();
    let bytes: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    Door {
        path: sandbox.runtime_dir().join("control.sock"),
        role: SocketRole::Control,
        secret: Secret::from_bytes(bytes.try_into().unwrap()),
        guarded: "List",
    }
}

/// The socket of the runner of a VM named `web` that was started just now. The secret is in the store, which can be
/// read once its supervisor is gone; the runner does not mind.
pub(crate) fn runner(sandbox: &Sandbox, supervisor: Running) -> Door {
    let id = Guest::tiny("web").start(sandbox);
    supervisor.signal(Signal::Term);
    supervisor.output().expect(0);
    let store = Store::open(&sandbox.data_dir().join("state.redb")).unwrap().store;
    let secret = store.secret(&id.parse().unwrap()).unwrap().unwrap();
    Door {
        path: sandbox.runtime_dir().join("vms").join(&id).join("runner.sock"),
        role: SocketRole::Runner(id.parse().unwrap()),
        secret,
        guarded: "Query",
    }
}
