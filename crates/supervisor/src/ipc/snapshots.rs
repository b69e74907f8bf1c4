//! Calls about snapshots.

use maqet_protocol::control::{SnapshotCreate, SnapshotDelete, SnapshotList, SnapshotLoad};
use maqet_protocol::endpoint::server::IncomingCall;
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::snapshot::SnapshotAction;

use super::dispatch::{Reply, ask, find, once, value};
use super::{Desk, storage};
use crate::messages::SnapshotVm;
use crate::operation::Done;
use crate::snapshots::SnapshotOrder;

/// Carries out one of them.
pub(super) async fn carry_out(call: &IncomingCall, desk: &Desk) -> Reply {
    let (vm, order) = match call.method.as_str() {
        SnapshotCreate::NAME => created(call.parse()?),
        SnapshotLoad::NAME => loaded(call.parse()?),
        SnapshotDelete::NAME => deleted(call.parse()?),
        SnapshotList::NAME => listed(call.parse()?),
        _ => return storage::carry_out(call, desk).await,
    };
    once(order.key.clone(), desk, work(vm, order, desk)).await
}

async fn work(vm: String, order: SnapshotOrder, desk: &Desk) -> Reply {
    let vm = find(&vm, desk).await?;
    match ask(&vm, SnapshotVm(order)).await??.outcome().await? {
        Done::Snapshot(done) => value(&done),
        Done::Listed(listed) => value(&listed),
        Done::Started(_) | Done::Stopped(_) | Done::Removed(_) | Done::Maintained(_) => Err(Refusal::new(
            RefusalCode::Busy,
            "the VM was turned to something else meanwhile",
        )),
    }
}

fn created(call: SnapshotCreate) -> (String, SnapshotOrder) {
    let order = SnapshotOrder {
        action: Some(SnapshotAction::Create),
        name: call.name,
        disk: call.disk,
        memory: call.memory,
        overwrite: call.overwrite,
        external: call.external,
        key: call.key,
    };
    (call.vm, order)
}

fn loaded(call: SnapshotLoad) -> (String, SnapshotOrder) {
    let order = SnapshotOrder {
        action: Some(SnapshotAction::Load),
        name: call.name,
        disk: call.disk,
        memory: call.memory,
        overwrite: false,
        external: false,
        key: call.key,
    };
    (call.vm, order)
}

fn deleted(call: SnapshotDelete) -> (String, SnapshotOrder) {
    let order = SnapshotOrder {
        action: Some(SnapshotAction::Delete),
        name: call.name,
        disk: call.disk,
        memory: false,
        overwrite: false,
        external: false,
        key: call.key,
    };
    (call.vm, order)
}

fn listed(call: SnapshotList) -> (String, SnapshotOrder) {
    let order = SnapshotOrder {
        disk: call.disk,
        ..SnapshotOrder::list()
    };
    (call.vm, order)
}
