//! Host ports of a VM: checked and chosen before QEMU is started, and held until it has them.
//!
//! A TCP port is held by a bound socket that does not listen. A chosen one gets `SO_REUSEADDR` only after the bind,
//! so that nobody else's free port is ours, and QEMU, which always sets that flag, can bind beside it.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use maqet_protocol::control::PortStatus;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::vm::{Forward, Network, Transport};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

/// Ports held for a QEMU that has not bound them yet; dropping it lets them go.
#[derive(Debug, Default)]
pub(crate) struct HeldPorts(Vec<OwnedFd>);

/// Chooses `auto` ports in place and checks the fixed ones.
///
/// # Errors
/// `conflict`, with the port's name, when one is taken.
pub(crate) fn claim(networks: &mut [Network]) -> Result<HeldPorts, Refusal> {
    let mut held = HeldPorts::default();
    let mut forwards: Vec<&mut Forward> = networks
        .iter_mut()
        .flat_map(|network| &mut network.forwards)
        .collect();
    // Fixed ports first: no port is chosen that a later forward names.
    forwards.sort_by_key(|forward| forward.host_port.is_none());
    for forward in forwards {
        let (port, socket) = hold(forward).map_err(|errno| refusal(forward, errno))?;
        forward.host_port = Some(port);
        held.0.extend(socket);
    }
    Ok(held)
}

/// What is forwarded.
pub(crate) fn status(networks: &[Network]) -> Vec<PortStatus> {
    let forwards = networks.iter().flat_map(|network| &network.forwards);
    forwards
        .filter_map(|forward| {
            forward.host_port.map(|host_port| PortStatus {
                protocol: transport(forward).to_owned(),
                host_address: forward.host_address.to_string(),
                host_port,
                guest_port: forward.guest_port,
            })
        })
        .collect()
}

/// Host ports by network and forward, as QEMU's command line wants them.
pub(crate) fn numbers(networks: &[Network]) -> Vec<Vec<u16>> {
    let of = |network: &Network| {
        network
            .forwards
            .iter()
            .filter_map(|forward| forward.host_port)
            .collect()
    };
    networks.iter().map(of).collect()
}

fn transport(forward: &Forward) -> &'static str {
    match forward.protocol {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

/// Binds the port of a forward. A UDP socket cannot share its port with QEMU's, so that is only checked.
fn hold(forward: &Forward) -> Result<(u16, Option<OwnedFd>), Errno> {
    let kind = match forward.protocol {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    if forward.protocol == Transport::Tcp && forward.host_port.is_some() {
        // Connections of a former VM in TIME_WAIT do not occupy the port; a listener still does.
        set_socket_reuseaddr(&socket, true)?;
    }
    let address = SocketAddrV4::new(forward.host_address, forward.host_port.unwrap_or(0));
    bind(&socket, &address)?;
    let bound: SocketAddr = getsockname(&socket)?.try_into()?;
    match forward.protocol {
        Transport::Tcp => {
            set_socket_reuseaddr(&socket, true)?;
            Ok((bound.port(), Some(socket)))
        }
        Transport::Udp => Ok((bound.port(), None)),
    }
}

fn refusal(forward: &Forward, errno: Errno) -> Refusal {
    let wanted = forward
        .host_port
        .map_or_else(|| "a free port".to_owned(), |port| format!("port {port}"));
    let place = format!("{wanted} ({}) of {}", transport(forward), forward.host_address);
    if errno == Errno::ADDRINUSE {
        return Refusal::new(RefusalCode::Conflict, format!("host {place} is in use"))
            .hint("ss -lntup  # shows who listens there; `auto` lets maqet choose a port");
    }
    Refusal::new(RefusalCode::Conflict, format!("host {place} cannot be used")).cause(errno.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use maqet_spec::vm::NetworkKind;

    use super::*;

    fn network(protocol: Transport, host_port: Option<u16>) -> Network {
        Network {
            name: "lan".to_owned(),
            kind: NetworkKind::User,
            model: "virtio-net-pci".to_owned(),
            forwards: vec![Forward {
                protocol,
                host_address: Ipv4Addr::LOCALHOST,
                host_port,
                guest_port: 22,
            }],
        }
    }

    #[test]
    fn chosen_ports_are_held_but_leave_room_for_qemu() {
        let mut first = [network(Transport::Tcp, None)];
        let held = claim(&mut first).unwrap();
        let port = status(&first)[0].host_port;
        // Rust's listener sets SO_REUSEADDR, as QEMU does.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        drop(held);
        drop(listener);
    }

    #[test]
    fn many_choices_never_meet() {
        let mut all: Vec<u16> = Vec::new();
        let mut keep = Vec::new();
        for _ in 0..200 {
            let mut networks = [network(Transport::Tcp, None)];
            keep.push(claim(&mut networks).unwrap());
            all.push(status(&networks)[0].host_port);
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 200);
    }

    #[test]
    fn a_taken_port_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let refusal = claim(&mut [network(Transport::Tcp, Some(port))]).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Conflict);
        assert_eq!(
            refusal.message,
            format!("host port {port} (tcp) of 127.0.0.1 is in use")
        );
    }

    #[test]
    fn a_fixed_port_is_not_chosen_for_another_forward() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut networks = [network(Transport::Tcp, None), network(Transport::Tcp, Some(port))];
        let held = claim(&mut networks).unwrap();
        let ports: Vec<u16> = status(&networks).iter().map(|port| port.host_port).collect();
        assert_ne!(ports[0], ports[1]);
        assert_eq!(ports[1], port);
        drop(held);
    }

    #[test]
    fn udp_ports_are_chosen_too() {
        let mut networks = [network(Transport::Udp, None)];
        claim(&mut networks).unwrap();
        assert_eq!(status(&networks)[0].protocol, "udp");
        assert_ne!(status(&networks)[0].host_port, 0);
    }
}
