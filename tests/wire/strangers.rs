//! Clients that do not know the secret, do not keep to the handshake, or are somebody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use maqet_protocol::handshake::Side;
use maqet_protocol::varlink::FRAME_BYTES_MAX_UNPROVEN;
use maqet_state::secret::Secret;
use maqet_tests::Sandbox;
use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;
use serde_json::json;

use crate::place;
use crate::raw::{Door, assert_refused};

#[test]
fn the_control_socket_keeps_strangers_out() {
    let sandbox = Sandbox::new();
    let supervisor = sandbox.supervisor();
    besiege(&place::control(&sandbox));
    let log = supervisor.stderr();
    assert!(log.contains("authentication failed"), "{log}");
    assert!(log.contains(&format!("uid={}", geteuid().as_raw())), "{log}");
    // Nobody was let in, and nobody was kept out for it.
    sandbox.maqet(&["ls", "--no-autostart"]).expect(0);
}

#[test]
fn a_runners_socket_keeps_strangers_out() {
    let sandbox = Sandbox::new();
    let door = place::runner(&sandbox, sandbox.supervisor());
    besiege(&door);
    assert_eq!(sandbox.status("web")["status"], "running");
}

/// Everything a stranger tries; at the end a friend comes in.
fn besiege(door: &Door) {
    unproven(door);
    wrong_proofs(door);
    recorded_session(door);
    out_of_turn(door);
    bad_frames(door);
    other_user(door);
    let mut friend = door.connect();
    friend.authenticate(&door.secret);
    let reply = friend.ask_guarded(door);
    assert_eq!(reply.get("error"), None, "{reply}");
}

fn unproven(door: &Door) {
    let mut raw = door.connect();
    assert_refused(&raw.ask_guarded(door));
    assert_refused(&raw.ask(&raw.method("NoSuchMethod"), &json!({})));
    let info = raw.ask("org.varlink.service.GetInfo", &json!({}));
    let interfaces = &info["parameters"]["interfaces"];
    assert_eq!(
        interfaces,
        &json!(["org.varlink.service", door.role.interface()]),
        "{info}"
    );
    // It was told, not cut off: it may still do it right.
    raw.authenticate(&door.secret);
}

fn wrong_proofs(door: &Door) {
    let strange = Secret::from_bytes([7; 32]);
    let mut guess = door.connect();
    let (_, transcript) = guess.hello();
    assert_refused(&guess.prove(&transcript.proof(Side::Client, &strange)));
    guess.assert_closed();

    let mut reflected = door.connect();
    let (reply, _) = reflected.hello();
    assert_refused(&reflected.prove(&reply.server_proof));
    reflected.assert_closed();

    // The server's nonce is fresh for each connection: a proof for one says nothing on another.
    let (mut first, mut second) = (door.connect(), door.connect());
    let (_, transcript) = first.hello();
    second.hello();
    assert_refused(&second.prove(&transcript.proof(Side::Client, &door.secret)));
    second.assert_closed();
}

fn recorded_session(door: &Door) {
    let mut honest = door.connect();
    honest.authenticate(&door.secret);
    honest.ask_guarded(door);
    let recorded = std::mem::take(&mut honest.sent);

    let mut thief = door.connect();
    let mut frames = recorded.iter().cloned();
    thief.send(frames.next().unwrap());
    assert!(thief.read().unwrap().get("error").is_none());
    thief.send(frames.next().unwrap());
    assert_refused(&thief.read().unwrap());
    thief.assert_closed();

    let mut all_at_once = door.connect();
    let bytes: Vec<u8> = recorded
        .iter()
        .flat_map(|frame| frame.to_string().into_bytes().into_iter().chain([0]))
        .collect();
    all_at_once.bytes(&bytes).unwrap();
    all_at_once.read().unwrap();
    assert_refused(&all_at_once.read().unwrap());
    all_at_once.assert_closed();
}

fn out_of_turn(door: &Door) {
    let mut unasked = door.connect();
    assert_refused(&unasked.prove(&"ab".repeat(32)));
    unasked.assert_closed();

    let mut twice = door.connect();
    let hello = json!({"version": 1, "client_nonce": "ab".repeat(32)});
    twice.ask(&twice.method("Hello"), &hello);
    assert_refused(&twice.ask(&twice.method("Hello"), &hello));
    twice.assert_closed();

    let mut elsewhere = door.connect();
    let other = json!({"version": 1, "client_nonce": "ab".repeat(32), "vm": "0".repeat(32)});
    assert_refused(&elsewhere.ask(&elsewhere.method("Hello"), &other));
    elsewhere.assert_closed();
}

fn bad_frames(door: &Door) {
    // More than an unproven peer may send: refused without waiting for the end of it.
    let mut flood = door.connect();
    flood.bytes(&vec![b' '; FRAME_BYTES_MAX_UNPROVEN + 1]).unwrap();
    flood.assert_closed();

    let mut nonsense = door.connect();
    nonsense.bytes(b"{\"method\":\0").unwrap();
    nonsense.assert_closed();

    // Half a frame, then silence: cut off when the time for the handshake is over.
    let mut half = door.connect();
    half.bytes(b"{\"method\":").unwrap();
    half.assert_closed();

    // Half a frame, then gone.
    let mut torn = door.connect();
    torn.bytes(b"{\"method\":").unwrap();
    torn.cut();
}

/// The user id counts even for somebody who knows the secret and for whom every directory is open.
fn other_user(door: &Door) {
    let nobody = Uid::from_raw(65534);
    if !geteuid().is_root() {
        complain("refusal of other user ids NOT EXERCISED: only root can become somebody else");
        return;
    }
    let closed = open_up(&door.path);
    std::thread::scope(|scope| {
        // The kernel keeps credentials per thread: this one alone becomes nobody.
        scope.spawn(|| {
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let mut raw = door.connect();
            assert_refused(&raw.ask("org.varlink.service.GetInfo", &json!({})));
            raw.assert_closed();
        });
    });
    for (path, mode) in closed {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Opens the socket and all directories above it to everybody; returns what to set back.
fn open_up(socket: &Path) -> Vec<(&Path, u32)> {
    let private = socket.ancestors().filter_map(|path| {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        (mode & 0o777 == mode & 0o770).then_some((path, mode))
    });
    let private: Vec<_> = private.collect();
    for (path, mode) in &private {
        fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o777)).unwrap();
    }
    private
}

/// Said where it is seen even when the test passes.
fn complain(words: &str) {
    use std::io::Write;
    std::io::stderr()
        .write_all(format!("WARNING: {words}\n").as_bytes())
        .unwrap();
}
