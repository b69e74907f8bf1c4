//! `maqet snapshot`.

use maqet_protocol::control::{
    SnapshotCreate, SnapshotDelete, SnapshotDone, SnapshotInfo, SnapshotList, SnapshotLoad,
};
use maqet_protocol::method::Method;
use maqet_state::snapshot::SnapshotAction;

use crate::args::snapshot::{Action, Request, SnapshotArgs};
use crate::error::CliError;
use crate::progress;
use crate::render::{table, units};
use crate::session::{OPERATION_DEADLINE, Session, key};

const HEADER: [&str; 7] = ["NAME", "DISKS", "KIND", "MEMORY", "MADE", "VM CLOCK", "COMPLETE"];

/// Makes, loads, deletes or lists snapshots.
///
/// # Errors
/// The refusal; a usage error for words that make no sense.
pub(crate) async fn run(session: &Session<'_>, args: &SnapshotArgs) -> Result<(), CliError> {
    let Request {
        action,
        vm,
        name,
        disk,
        memory,
    } = args.request()?;
    let key = Some(key());
    match action {
        Action::List => list(session, &SnapshotList { vm, disk }).await,
        Action::Create => {
            let (overwrite, external) = (args.overwrite, args.external);
            let method = SnapshotCreate {
                vm,
                name,
                disk,
                memory,
                overwrite,
                external,
                key,
            };
            work(session, &method, "making a snapshot").await
        }
        Action::Load => {
            let method = SnapshotLoad {
                vm,
                name,
                disk,
                memory,
                key,
            };
            work(session, &method, "loading a snapshot").await
        }
        Action::Delete => {
            let method = SnapshotDelete { vm, name, disk, key };
            let working = session.repeat(&method, OPERATION_DEADLINE);
            let label = "deleting a snapshot";
            let done = progress::following(session, &method.vm, label, working).await?;
            tell(session, &done)
        }
    }
}

async fn work<M>(session: &Session<'_>, method: &M, label: &str) -> Result<(), CliError>
where
    M: Method<Reply = SnapshotDone>,
{
    let working = session.repeat(method, OPERATION_DEADLINE);
    let done = progress::during(session.output, label, working).await?;
    tell(session, &done)
}

fn tell(session: &Session<'_>, done: &SnapshotDone) -> Result<(), CliError> {
    if done.memory_left_out {
        session
            .output
            .say("the disks are as they were; the memory kept with the snapshot was not loaded")?;
    }
    session.output.answer(done, || line(done), || done.name.clone())
}

/// `web: snapshot before made of root, data with memory, 80 ms`.
fn line(done: &SnapshotDone) -> String {
    let what = match done.action {
        SnapshotAction::Create => "made of",
        SnapshotAction::Load => "loaded into",
        SnapshotAction::Delete => "deleted from",
    };
    let memory = if done.memory { " with memory" } else { "" };
    let disks = done.disks.join(", ");
    format!(
        "{}: snapshot {} {what} {disks}{memory}, {} ms",
        done.vm, done.name, done.took_ms
    )
}

async fn list(session: &Session<'_>, method: &SnapshotList) -> Result<(), CliError> {
    // Work that was cut off is settled first, which takes as long as work does.
    let asking = session.repeat(method, OPERATION_DEADLINE);
    let listed = progress::during(session.output, "looking for snapshots", asking)
        .await?
        .snapshots;
    let names = || {
        listed
            .iter()
            .map(|one| one.name.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    };
    session
        .output
        .answer(&listed, || table::columns(&HEADER, listed.iter().map(row)), names)
}

fn row(snapshot: &SnapshotInfo) -> Vec<String> {
    let or_dash = |amount: u64, shown: String| if amount == 0 { "-".to_owned() } else { shown };
    let clock = units::duration(std::time::Duration::from_millis(snapshot.vm_clock_ms));
    vec![
        snapshot.name.clone(),
        snapshot.disks.join(","),
        snapshot.kind.as_str().to_owned(),
        or_dash(snapshot.vm_state_bytes, units::size(snapshot.vm_state_bytes)),
        units::second(snapshot.at),
        or_dash(snapshot.vm_clock_ms, clock),
        complete(snapshot),
    ]
}

/// Whether it can be loaded as it is, and what is in the way.
fn complete(snapshot: &SnapshotInfo) -> String {
    match &snapshot.below {
        Some(external) => format!("below {external}"),
        None => if snapshot.complete { "yes" } else { "no" }.to_owned(),
    }
}
