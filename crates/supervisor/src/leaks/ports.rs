//! Whose the host ports in the ledger are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::path::PathBuf;

use maqet_process::ProcessError;
use maqet_process::census::{self, Glimpse};
use maqet_process::ports::{BoundPorts, Protocol};
use maqet_state::id::VmId;
use maqet_state::ledger::{LedgerEntry, LedgerKind};

use super::known::Known;

/// What the kernel says of ports and of who has them. Nothing is looked at without ports in the ledger, and of processes
/// other than QEMUs nothing while every port is its own QEMU's.
#[derive(Debug, Default)]
pub(super) struct Ports {
    bound: BoundPorts,
    /// What each VM's QEMU has open; VMs without one, or with one that cannot be looked into, are missing.
    qemus: BTreeMap<VmId, BTreeSet<PathBuf>>,
    /// Who has which socket.
    holders: BTreeMap<PathBuf, i32>,
}

impl Ports {
    pub(super) fn look(known: &Known, processes: &[Glimpse]) -> Result<Self, ProcessError> {
        let lines: Vec<_> = known
            .lines
            .iter()
            .filter(|line| line.kind == LedgerKind::Port)
            .collect();
        if lines.is_empty() {
            return Ok(Self::default());
        }
        let mut ports = Self {
            bound: BoundPorts::look()?,
            ..Self::default()
        };
        let owners: BTreeSet<_> = lines.iter().filter_map(|line| line.id.as_ref()).collect();
        for id in owners {
            let qemu = known.vms.get(id).and_then(|held| held.qemu);
            if let Some(open) = qemu.and_then(|pid| census::descriptors(pid).ok()) {
                ports.qemus.insert(id.clone(), open.into_iter().collect());
            }
        }
        if lines
            .iter()
            .any(|line| !ports.sockets(line).is_empty() && !ports.is_qemus(line))
        {
            ports.holders = holders(processes);
        }
        Ok(ports)
    }

    /// Whether somebody has the port of this line, who if that can be told, and whether it is its VM's QEMU.
    pub(super) fn of(&self, line: &LedgerEntry) -> (Option<bool>, Option<i32>, bool) {
        let sockets = self.sockets(line);
        let holder = sockets
            .iter()
            .find_map(|socket| self.holders.get(socket))
            .copied();
        (Some(!sockets.is_empty()), holder, self.is_qemus(line))
    }

    fn is_qemus(&self, line: &LedgerEntry) -> bool {
        let open = line.id.as_ref().and_then(|id| self.qemus.get(id));
        open.is_some_and(|open| self.sockets(line).iter().any(|socket| open.contains(socket)))
    }

    fn sockets(&self, line: &LedgerEntry) -> Vec<PathBuf> {
        let Some((protocol, address)) = parse(&line.what) else {
            return Vec::new();
        };
        let inodes = self.bound.at(protocol, address);
        inodes.map(|inode| format!("socket:[{inode}]").into()).collect()
    }
}

fn holders(processes: &[Glimpse]) -> BTreeMap<PathBuf, i32> {
    let open = processes.iter().flat_map(|glimpse| {
        let links = census::descriptors(glimpse.pid).unwrap_or_default();
        links.into_iter().map(|link| (link, glimpse.pid))
    });
    open.collect()
}

/// `tcp:127.0.0.1:2222`.
fn parse(what: &str) -> Option<(Protocol, SocketAddrV4)> {
    let (protocol, address) = what.split_once(':')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some((protocol, address.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_as_the_ledger_names_it() {
        let place = "127.0.0.1:2222".parse().unwrap();
        assert_eq!(parse("tcp:127.0.0.1:2222"), Some((Protocol::Tcp, place)));
        assert_eq!(parse("udp:127.0.0.1:2222"), Some((Protocol::Udp, place)));
        for odd in ["tcp:2222", "sctp:127.0.0.1:2222", "tcp:::1:22", ""] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }
}
