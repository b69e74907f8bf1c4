//! Helpers of QEMU, which serve its shares by virtiofs: their program, and their end.

use std::path::PathBuf;
use std::time::Duration;

use maqet_process::identity::Liveness;
use maqet_process::pidfd::ProcessHandle;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_spec::VmSpec;
use maqet_spec::vm::ShareKind;
use maqet_state::record::Helper;
use maqet_storage::virtiofsd::find;
use tokio::time::timeout;

use crate::launch::collect;
use crate::link::chain;
use crate::recovery::look_for;
use crate::shared::Shared;

/// A virtiofsd whose QEMU is gone ends by itself within milliseconds.
const BY_ITSELF: Duration = Duration::from_secs(2);
/// One that is killed waits for the disk or server that its share is on.
const KILLED: Duration = Duration::from_secs(2);

/// The program for the shares of a spec; `None` when they need none.
///
/// # Errors
/// With `code`, when there is none on this host.
pub(crate) fn program(spec: &VmSpec, shared: &Shared, code: RefusalCode) -> Result<Option<PathBuf>, Refusal> {
    let Some(share) = spec.shares.iter().find(|share| share.kind == ShareKind::Virtiofs) else {
        return Ok(None);
    };
    let found = find(&shared.binaries, shared.settings.storage.virtiofsd.as_deref());
    match found {
        Ok(binary) => Ok(Some(binary.path)),
        Err(error) => Err(
            Refusal::new(code, format!("share `{}` needs virtiofsd", share.name))
                .vm(spec.name.as_str())
                .cause(chain(&error))
                .hint(error.hint().unwrap_or_else(|| "write `type: 9p`".to_owned())),
        ),
    }
}

/// Sees off what is left of a launch whose QEMU is gone.
pub(crate) async fn see_off(helpers: &[Helper], shared: &Shared) {
    for helper in helpers {
        if let Liveness::Alive(handle) = look_for(&helper.identity) {
            end(&handle, BY_ITSELF, shared).await;
        }
    }
}

/// Ends one helper, unless it does so by itself within the time. One that cannot be ended is not waited for: it is hung in
/// the kernel, on a disk or a server that its share is on.
pub(crate) async fn end(handle: &ProcessHandle, by_itself: Duration, shared: &Shared) {
    if let Ok(Ok(())) = timeout(by_itself, handle.exited()).await {
        return collect(handle, shared);
    }
    tracing::warn!(pid = handle.pid(), "ending a virtiofsd whose QEMU is gone");
    if let Err(error) = handle.signal(maqet_process::Signal::Kill) {
        return tracing::error!(pid = handle.pid(), %error, "cannot end a virtiofsd");
    }
    match timeout(KILLED, handle.exited()).await {
        Ok(Ok(())) => collect(handle, shared),
        other => tracing::error!(pid = handle.pid(), ?other, "a virtiofsd does not end"),
    }
}
