//! Calls about disks.

use maqet_protocol::control::StorageAccept;
use maqet_protocol::endpoint::server::IncomingCall;
use maqet_protocol::method::Method;

use super::dispatch::{Reply, ask, find, value};
use super::{Desk, store};
use crate::messages::AcceptDisk;

/// Carries out one of them.
pub(super) async fn carry_out(call: &IncomingCall, desk: &Desk) -> Reply {
    match call.method.as_str() {
        StorageAccept::NAME => {
            let StorageAccept { vm, disk } = call.parse()?;
            let vm = find(&vm, desk).await?;
            value(&ask(&vm, AcceptDisk(disk)).await??)
        }
        _ => store::carry_out(call, desk).await,
    }
}
