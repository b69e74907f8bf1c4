//! What a runner left behind when its QEMU was gone.

use std::fs;
use std::path::Path;

use maqet_protocol::runner::ExitNote;
use maqet_state::lifecycle::LastExit;

/// The end of one launch as its runner noted it; `None` when there is no note of that launch.
pub(crate) fn read(runtime: &Path, launch_id: &str) -> Option<LastExit> {
    let bytes = fs::read(runtime.join(ExitNote::FILE)).ok()?;
    match serde_json::from_slice::<ExitNote>(&bytes) {
        Ok(note) if note.launch_id == launch_id => Some(note.exit),
        Ok(_other_launch) => None,
        Err(error) => {
            tracing::warn!(path = %runtime.display(), %error, "the runner's note of its end is unreadable");
            None
        }
    }
}
