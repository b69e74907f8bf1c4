//! `port=N`: a TCP service of the guest answers behind a forwarded port.
//!
//! QEMU's user network accepts a connection before the guest has: that it opens proves nothing. The guest's own answer
//! is seen in QEMU's list of connections (`info usernet`), or in the first byte, or in a refusal that closes it again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use maqet_protocol::control::{PortStatus, Qmp};
use serde_json::json;
use tokio::net::TcpStream;

use super::Watched;
use crate::args::condition::Condition;
use crate::backoff::Backoff;
use crate::commands::status::describe;
use crate::error::CliError;
use crate::session::QUESTION_DEADLINE;

/// First and longest pause between two attempts: nobody announces that a guest listens.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Looks at one open connection before another is tried: the guest may have dropped the first one unseen.
const LOOKS_MAX: u32 = 20;

/// Waits until the guest accepts a connection.
///
/// # Errors
/// [`CliError::Impossible`] when no TCP port of the running VM leads there, [`CliError::Ended`] when the VM ends.
pub(super) async fn answers(
    mut watched: Watched<'_>,
    condition: &Condition,
    port: u16,
) -> Result<(), CliError> {
    loop {
        let now = watched.news.borrow_and_update().clone();
        if now.ended.is_some() || now.removed {
            return Err(watched.hopeless(condition).await);
        }
        if !now.running {
            watched.changed().await?;
            continue;
        }
        let ports = describe(watched.session, &watched.vm).await?.ports;
        let Some(forward) = find(&ports, port) else {
            if watched.news.has_changed().unwrap_or(false) {
                continue;
            }
            return Err(impossible(watched.vm, port, &ports));
        };
        let (session, vm) = (watched.session, watched.vm.clone());
        let knock = knock(Knock {
            session,
            vm: &vm,
            forward,
        });
        tokio::select! {
            answered = knock => return answered,
            changed = watched.changed() => changed?,
        }
    }
}

/// The TCP forward that the number means: a guest port before a host port.
fn find(ports: &[PortStatus], port: u16) -> Option<&PortStatus> {
    let tcp = || ports.iter().filter(|forward| forward.protocol == "tcp");
    tcp()
        .find(|forward| forward.guest_port == port)
        .or_else(|| tcp().find(|forward| forward.host_port == port))
}

fn impossible(vm: String, port: u16, ports: &[PortStatus]) -> CliError {
    let all: Vec<String> = ports
        .iter()
        .map(|forward| {
            format!(
                "{}:{}->{}",
                forward.protocol, forward.host_port, forward.guest_port
            )
        })
        .collect();
    let forwarded = if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    };
    CliError::Impossible {
        vm,
        reason: format!("no TCP port {port} is forwarded (forwarded: {forwarded})"),
        hint: Some(format!(
            "add `forwards: [\"tcp:127.0.0.1:auto:{port}\"]` to a network"
        )),
    }
}

/// One forward of one running VM.
#[derive(Clone, Copy)]
struct Knock<'a> {
    session: &'a crate::session::Session<'a>,
    vm: &'a str,
    forward: &'a PortStatus,
}

async fn knock(knock: Knock<'_>) -> Result<(), CliError> {
    let address = address(knock.forward)?;
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    loop {
        if let Ok(stream) = TcpStream::connect(address).await
            && is_accepted(knock, &stream).await?
        {
            return Ok(());
        }
        backoff.wait().await;
    }
}

/// Whether the guest took this connection. False when it was refused, or is not taken for long.
async fn is_accepted(knock: Knock<'_>, stream: &TcpStream) -> Result<bool, CliError> {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    for _ in 0..LOOKS_MAX {
        match tokio::time::timeout(backoff.pause(), first_byte(stream)).await {
            Ok(Ok(read)) => return Ok(read > 0),
            Ok(Err(_)) => return Ok(false),
            Err(_) => {}
        }
        if is_established(knock).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Waits for a byte without taking it; 0 when the other end closed.
async fn first_byte(stream: &TcpStream) -> io::Result<usize> {
    stream.peek(&mut [0]).await
}

/// Whether QEMU counts a connection on this port as accepted by the guest.
async fn is_established(knock: Knock<'_>) -> Result<bool, CliError> {
    let question = Qmp {
        vm: knock.vm.to_owned(),
        command: "human-monitor-command".to_owned(),
        arguments: Some(json!({"command-line": "info usernet"})),
        timeout_ms: None,
    };
    let answer = knock.session.repeat(&question, QUESTION_DEADLINE).await?.value;
    Ok(lists_established(
        answer.as_str().unwrap_or_default(),
        knock.forward,
    ))
}

/// Looks for `TCP[ESTABLISHED] FD HOST HOST_PORT GUEST GUEST_PORT …`.
fn lists_established(usernet: &str, forward: &PortStatus) -> bool {
    let host_port = forward.host_port.to_string();
    let guest_port = forward.guest_port.to_string();
    usernet.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [state, _, _, host, _, guest, ..] = words.as_slice() else {
            return false;
        };
        *state == "TCP[ESTABLISHED]" && *host == host_port && *guest == guest_port
    })
}

/// Where to knock: a forward on every address is reached on the loopback one.
fn address(forward: &PortStatus) -> Result<SocketAddr, CliError> {
    let host = match forward.host_address.as_str() {
        "" | "0.0.0.0" => "127.0.0.1",
        other => other,
    };
    let host = host.parse().map_err(|error| {
        let error = io::Error::new(io::ErrorKind::InvalidData, format!("`{host}`: {error}"));
        CliError::call("read the address of a forwarded port")(error)
    })?;
    Ok(SocketAddr::new(host, forward.host_port))
}

#[cfg(test)]
mod tests {
    use super::{PortStatus, find, lists_established};

    fn forward(protocol: &str, host_port: u16, guest_port: u16) -> PortStatus {
        PortStatus {
            protocol: protocol.to_owned(),
            host_address: "127.0.0.1".to_owned(),
            host_port,
            guest_port,
        }
    }

    #[test]
    fn guest_ports_win_over_host_ports() {
        let ports = [
            forward("udp", 22, 22),
            forward("tcp", 80, 8080),
            forward("tcp", 8081, 80),
        ];
        assert_eq!(find(&ports, 80).unwrap().host_port, 8081);
        assert_eq!(find(&ports, 8081).unwrap().guest_port, 80);
        assert_eq!(find(&ports, 22), None);
    }

    #[test]
    fn only_what_the_guest_accepted_counts() {
        let usernet = "Hub -1 (lan):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
            TCP[ESTABLISHED]   15       127.0.0.1  2222       10.0.2.15    22     0     0\r\n  \
            TCP[SYN_SENT]      16       127.0.0.1  2223       10.0.2.15    23     0     0\r\n  \
            TCP[HOST_FORWARD]  12       127.0.0.1  2224       10.0.2.15    24     0     0\r\n";
        let ready = [(2222, 22), (2223, 23), (2224, 24), (2222, 23)]
            .map(|(host, guest)| lists_established(usernet, &forward("tcp", host, guest)));
        assert_eq!(ready, [true, false, false, false]);
    }
}
