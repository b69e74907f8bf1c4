//! What a runner left behind when its QEMU was gone.

use std::io::Read;
use std::path::Path;

use maqet_process::private::{self, Access};
use maqet_protocol::runner::ExitNote;
use maqet_state::lifecycle::LastExit;

/// Most that is read of a note, bytes.
const NOTE_BYTES_MAX: u64 = 1 << 20;

/// The end of one launch as its runner noted it; `None` when there is no note of that launch.
pub(crate) fn read(runtime: &Path, launch_id: &str) -> Option<LastExit> {
    let file = private::open(&runtime.join(ExitNote::FILE), Access::Read).ok()?;
    match serde_json::from_reader::<_, ExitNote>(file.take(NOTE_BYTES_MAX)) {
        Ok(note) if note.launch_id == launch_id => Some(note.exit),
        Ok(_other_launch) => None,
        Err(error) => {
            tracing::warn!(path = %runtime.display(), %error, "the runner's note of its end is unreadable");
            None
        }
    }
}
