//! Both ends against each other over a real socket.

use std::sync::Arc;
use std::time::Duration;

use maqet_state::secret::Secret;
use tokio::net::UnixStream;

use super::client::Client;
use super::server::{ServerConnection, ServerIdentity};
use crate::control::{Empty, Events, List, Listed, SupervisorStop};
use crate::handshake::SocketRole;
use crate::interface::CONTROL_INTERFACES;
use crate::method::Method;

pub(super) const DEADLINE: Duration = Duration::from_secs(20);

pub(super) fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

pub(super) fn serve(stream: UnixStream) -> ServerConnection {
    let identity = ServerIdentity::new(SocketRole::Control, secret());
    ServerConnection::accept(stream, Arc::new(identity), CONTROL_INTERFACES)
}

#[tokio::test]
async fn a_client_and_a_server_with_the_same_secret_talk() {
    let (near, far) = UnixStream::pair().unwrap();
    let server = tokio::spawn(async move {
        let mut connection = serve(far);
        let call = connection.next_call().await.unwrap().unwrap();
        assert_eq!(call.method, List::NAME);
        assert_eq!(call.parse::<List>().unwrap(), List::default());
        connection.reply(&Listed { vms: Vec::new() }).await.unwrap();
        let call = connection.next_call().await.unwrap().unwrap();
        assert_eq!(call.method, SupervisorStop::NAME);
        connection.reply(&Empty {}).await.unwrap();
        let call = connection.next_call().await.unwrap().unwrap();
        assert_eq!(call.method, Events::NAME);
        connection.closed().await.unwrap();
    });
    let mut client = Client::connect(near, SocketRole::Control, &secret(), DEADLINE)
        .await
        .unwrap();
    let listed = client.call(&List::default(), Some(DEADLINE)).await.unwrap();
    assert_eq!(listed.vms, Vec::new());
    client.call(&SupervisorStop {}, None).await.unwrap();
    let stream = client
        .stream(&Events {
            follow: true,
            ..Events::default()
        })
        .await
        .unwrap();
    drop(stream);
    server.await.unwrap();
}
