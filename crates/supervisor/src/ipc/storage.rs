//! Calls about disks.

use maqet_protocol::control::{
    StorageAccept, StorageAttach, StorageClone, StorageInfo, StorageOrphaned, StorageResize, StorageVerify,
};
use maqet_protocol::endpoint::server::IncomingCall;
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};

use super::dispatch::{Reply, ask, find, once, value};
use super::{Desk, store};
use crate::maintenance::Wanted;
use crate::messages::{
    AcceptDisk, AttachDisk, CloneDisk, DescribeDisks, LookForOrphans, ResizeDisk, VerifyDisks,
};
use crate::operation::{Accepted, Done, Maintained};
use crate::vm::tie;

/// Carries out one of them.
pub(super) async fn carry_out(call: &IncomingCall, desk: &Desk) -> Reply {
    match call.method.as_str() {
        StorageAccept::NAME => {
            let StorageAccept { vm, disk } = call.parse()?;
            let vm = find(&vm, desk).await?;
            value(&ask(&vm, AcceptDisk(disk)).await??)
        }
        StorageInfo::NAME => {
            let vm = find(&call.parse::<StorageInfo>()?.vm, desk).await?;
            value(&ask(&vm, DescribeDisks).await??)
        }
        StorageOrphaned::NAME => {
            call.parse::<StorageOrphaned>()?;
            value(&ask(&desk.supervisor, LookForOrphans).await??)
        }
        _ => carry_out_work(call, desk).await,
    }
}

/// What takes its time.
async fn carry_out_work(call: &IncomingCall, desk: &Desk) -> Reply {
    match call.method.as_str() {
        StorageVerify::NAME => verify(call.parse()?, desk).await,
        StorageResize::NAME => resize(call.parse()?, desk).await,
        StorageAttach::NAME => attach(call.parse()?, desk).await,
        StorageClone::NAME => clone(call.parse()?, desk).await,
        _ => store::carry_out(call, desk).await,
    }
}

async fn verify(StorageVerify { vm, repair }: StorageVerify, desk: &Desk) -> Reply {
    let vm = find(&vm, desk).await?;
    follow(ask(&vm, VerifyDisks { repair }).await??).await
}

async fn resize(resize: StorageResize, desk: &Desk) -> Reply {
    let StorageResize {
        vm,
        disk,
        bytes,
        add,
        shrink,
        key,
    } = resize;
    once(key.clone(), desk, async {
        let vm = find(&vm, desk).await?;
        let wanted = Wanted { bytes, add, shrink };
        follow(ask(&vm, ResizeDisk { disk, wanted, key }).await??).await
    })
    .await
}

async fn attach(StorageAttach { vm, disk, key }: StorageAttach, desk: &Desk) -> Reply {
    once(key.clone(), desk, async {
        let vm = find(&vm, desk).await?;
        let order = AttachDisk {
            disk: Box::new(disk),
            key,
        };
        follow(ask(&vm, order).await??).await
    })
    .await
}

/// A client that hangs up drops this, and with it the work.
async fn clone(clone: StorageClone, desk: &Desk) -> Reply {
    let StorageClone {
        vm,
        disk,
        path,
        format,
    } = clone;
    if !path.is_absolute() {
        let refusal = Refusal::new(RefusalCode::InvalidCall, "a clone needs an absolute path");
        return Err(refusal.parameter("path"));
    }
    let vm = find(&vm, desk).await?;
    let (_wanted, cancelled) = tie();
    let order = CloneDisk {
        disk,
        path,
        format,
        cancelled,
    };
    follow(ask(&vm, order).await??).await
}

/// Waits for the end of work on disks.
async fn follow(accepted: Accepted) -> Reply {
    match accepted.outcome().await? {
        Done::Maintained(Maintained::Verified(verified)) => value(&verified),
        Done::Maintained(Maintained::Resized(resized)) => value(&resized),
        Done::Maintained(Maintained::Attached(attached)) => value(&attached),
        Done::Maintained(Maintained::Cloned(cloned)) => value(&cloned),
        Done::Started(_) | Done::Stopped(_) | Done::Removed(_) | Done::Snapshot(_) | Done::Listed(_) => {
            let message = "the VM was turned to something else meanwhile";
            Err(Refusal::new(RefusalCode::Busy, message).hint("try again"))
        }
    }
}
