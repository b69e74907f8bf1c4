//! `maqet logs`.

use super::status;
use crate::args::vm::LogsArgs;
use crate::error::CliError;
use crate::session::Session;
use crate::tail::{self, Tail};
use crate::watch::Watch;

/// Prints a log of a VM, its bytes as they are.
///
/// # Errors
/// The refusal; [`CliError::Io`] when the log cannot be read.
pub(crate) async fn run(session: &Session<'_>, args: &LogsArgs) -> Result<(), CliError> {
    let logs = status::describe(session, &args.vm).await?.logs;
    let path = if args.virtiofsd {
        // A supervisor that does not tell has it there as well.
        let beside = logs.qemu.with_file_name("virtiofsd.log");
        logs.virtiofsd.unwrap_or(beside)
    } else if args.qemu {
        logs.qemu
    } else if args.runner {
        logs.runner
    } else {
        logs.serial
    };
    let print = |part: &[u8]| session.output.bytes(part).map(|()| false);
    if args.follow {
        // The watch comes first, so that nothing is written between reading and watching.
        let mut watch = Watch::on(&path)?;
        return tail::follow(&mut Tail::open(&path, 0)?, &mut watch, print).await;
    }
    let mut tail = Tail::open(&path, 0)?;
    let mut empty = true;
    loop {
        let part = tail.read()?;
        if part.is_empty() {
            break;
        }
        empty = false;
        session.output.bytes(&part)?;
    }
    if empty {
        session
            .output
            .say(&format!("nothing in `{}` yet", path.display()))?;
    }
    Ok(())
}
