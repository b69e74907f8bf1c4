//! Peers that the kernel says something against, whatever they know.

use std::io;

use rustix::thread::set_thread_res_uid;

use super::*;

const STRANGER: u32 = 65_534;

#[tokio::test]
async fn a_reported_inode_must_be_the_real_one() {
    let (mut raw, server) = raw();
    let reported = own_inode().unwrap_or(0) + 1;
    let hello = json!({"version": 1, "client_nonce": "ab".repeat(32), "client_inode": reported});
    let reply = raw.ask("org.maqet.Control.Hello", hello).await;
    let Some(seen) = own_inode() else {
        assert_eq!(reply.error, None, "a kernel without pidfs cannot tell");
        return;
    };
    assert_unauthenticated(&reply);
    assert_eq!(
        failure(server).await,
        AuthenticationError::Inode { reported, seen }
    );
}

#[tokio::test]
async fn a_refused_process_may_not_even_ask() {
    let refused = own_inode();
    let identity = ServerIdentity::new(SocketRole::Control, secret());
    let (mut raw, server) = raw_against(identity.refusing(move |inode| Some(inode) == refused));
    if refused.is_none() {
        return raw.authenticate().await;
    }
    assert_unauthenticated(&raw.ask("org.varlink.service.GetInfo", json!({})).await);
    assert!(raw.is_closed().await);
    assert_eq!(failure(server).await, AuthenticationError::RefusedProcess);
}

/// Both ends of a pair carry the credentials of the thread that made it.
fn pair_of(uid: u32) -> io::Result<(UnixStreamStd, UnixStreamStd)> {
    let thread = std::thread::spawn(move || {
        let uid = rustix::process::Uid::from_raw(uid);
        set_thread_res_uid(uid, uid, uid)?;
        let (near, far) = UnixStreamStd::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        Ok((near, far))
    });
    thread.join().unwrap()
}

type UnixStreamStd = std::os::unix::net::UnixStream;

#[tokio::test]
async fn another_user_is_refused_whatever_it_knows() {
    let own = rustix::process::getuid().as_raw();
    // Root can become a stranger. Anybody else is one in the eyes of a server of another user.
    let (peer, server_uid) = if own == 0 { (STRANGER, 0) } else { (own, own + 1) };
    let (near, far) = pair_of(peer).unwrap();
    let identity = ServerIdentity {
        uid: server_uid,
        ..ServerIdentity::new(SocketRole::Control, secret())
    };
    let server = until_first_call(serve_as(identity, UnixStream::from_std(far).unwrap()));
    let near = UnixStream::from_std(near).unwrap();
    let refused = Client::connect(near, SocketRole::Control, &secret(), DEADLINE)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, ProtocolError::Authentication(AuthenticationError::ByPeer { error, .. })
        if error == "org.maqet.Control.AuthenticationFailed"),
        "{refused:?}"
    );
    assert_eq!(
        failure(server).await,
        AuthenticationError::ForeignUid {
            uid: peer,
            own: server_uid
        }
    );
}

#[tokio::test]
async fn root_may_connect_to_any_users_socket() {
    if rustix::process::getuid().as_raw() != 0 {
        return; // Only root can play root.
    }
    let identity = ServerIdentity {
        uid: STRANGER,
        ..ServerIdentity::new(SocketRole::Control, secret())
    };
    let (mut raw, _server) = raw_against(identity);
    raw.authenticate().await;
}
