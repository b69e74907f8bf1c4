//! Host ports that somebody has, as the kernel lists them: for telling, like [`crate::census`].

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use crate::error::ProcessError;

/// State of a TCP socket that listens, as the kernel's tables write it.
const LISTENS: &str = "0A";

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Ports of this network namespace that are listened on (TCP) or bound (UDP) for IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoundPorts(BTreeMap<(Protocol, SocketAddrV4), Vec<u64>>);

impl BoundPorts {
    /// Asks the kernel.
    ///
    /// # Errors
    /// [`ProcessError::File`] without a readable `/proc/net`.
    pub fn look() -> Result<Self, ProcessError> {
        let mut found = Self::default();
        for (protocol, table) in [(Protocol::Tcp, "/proc/net/tcp"), (Protocol::Udp, "/proc/net/udp")] {
            let table = Path::new(table);
            let rows = fs::read_to_string(table).map_err(ProcessError::file("read", table))?;
            found.take(protocol, &rows);
        }
        Ok(found)
    }

    fn take(&mut self, protocol: Protocol, rows: &str) {
        for (address, inode) in rows.lines().skip(1).filter_map(|row| bound(protocol, row)) {
            self.0.entry((protocol, address)).or_default().push(inode);
        }
    }

    /// Inodes of the sockets that have this port at this address, or at all of them; none when nobody has it.
    pub fn at(&self, protocol: Protocol, address: SocketAddrV4) -> impl Iterator<Item = u64> {
        let everywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, address.port());
        let mut places = vec![address, everywhere];
        places.dedup();
        let sockets = places
            .into_iter()
            .filter_map(move |place| self.0.get(&(protocol, place)));
        sockets.flatten().copied()
    }
}

/// One row: `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 12345 1 ...`.
fn bound(protocol: Protocol, row: &str) -> Option<(SocketAddrV4, u64)> {
    let mut fields = row.split_ascii_whitespace();
    let (local, _remote, state) = (fields.nth(1)?, fields.next()?, fields.next()?);
    if protocol == Protocol::Tcp && state != LISTENS {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    // The address is in the order of this host's bytes.
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    Some((SocketAddrV4::new(address.into(), port), inode))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, UdpSocket};

    use super::*;
    use crate::census;

    fn v4(address: SocketAddr) -> SocketAddrV4 {
        match address {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => panic!("{address}"),
        }
    }

    #[test]
    fn a_port_that_is_had_is_seen_with_its_socket_until_it_is_let_go() {
        let own = i32::try_from(std::process::id()).unwrap();
        let has = |protocol, address| {
            let links = census::descriptors(own).unwrap();
            let sockets: Vec<u64> = BoundPorts::look().unwrap().at(protocol, address).collect();
            sockets
                .iter()
                .map(|inode| links.contains(&format!("socket:[{inode}]").into()))
                .collect::<Vec<_>>()
        };
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = v4(tcp.local_addr().unwrap());
        assert_eq!(has(Protocol::Tcp, place), [true]);
        assert!(has(Protocol::Udp, place).is_empty());
        drop(tcp);
        assert!(has(Protocol::Tcp, place).is_empty());
        let everywhere = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        assert_eq!(
            has(Protocol::Udp, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)),
            [true]
        );
    }

    #[test]
    fn connections_are_no_ports_that_are_had() {
        let row = "   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 77 1 0";
        assert_eq!(bound(Protocol::Tcp, row), None);
        assert_eq!(bound(Protocol::Udp, row).map(|(_, inode)| inode), Some(77));
        assert_eq!(bound(Protocol::Tcp, "nonsense"), None);
    }
}
