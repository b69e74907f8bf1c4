//! `maqet rm`.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use maqet_protocol::control::{List, RemovalStatus, Remove, Removed};

use super::each::{Each, Lines};
use crate::args::vm::RmArgs;
use crate::error::CliError;
use crate::session::{OPERATION_DEADLINE, Session, key};

/// Forgets VMs.
///
/// # Errors
/// The refusal; [`CliError::Usage`] when `--all` is neither confirmed nor can be.
pub(crate) async fn run(session: &Session<'_>, args: &RmArgs) -> Result<(), CliError> {
    let vms = if args.all {
        all(session, args).await?
    } else {
        args.vms.clone()
    };
    let each = Each {
        doing: "removing",
        line,
        name: |removed: &Removed| removed.vm.clone(),
        lines: Lines::Talk,
    };
    let remove = |vm| async move {
        let method = Remove {
            vm,
            force: args.force,
            delete_storage: args.delete_storage,
            keep_snapshots: args.keep_snapshots,
            key: Some(key()),
        };
        session.repeat(&method, OPERATION_DEADLINE).await
    };
    each.run(session, &vms, remove).await
}

fn line(removed: &Removed) -> String {
    let deleted = removed
        .deleted
        .iter()
        .map(|file| format!("\n  deleted {}", file.display()));
    let kept = removed
        .kept
        .iter()
        .map(|file| format!("\n  kept {}{}", file.display(), why(removed, file)));
    format!(
        "{}: removed{}",
        removed.vm,
        deleted.chain(kept).collect::<String>()
    )
}

fn why(removed: &Removed, file: &Path) -> String {
    let reason = removed.reasons.iter().find(|reason| reason.path == file);
    reason.map_or_else(String::new, |reason| format!(": {}", reason.why))
}

/// How far a removal is that has begun.
pub(crate) fn half_way(removal: &RemovalStatus) -> String {
    let named = |what: &str, images: &[PathBuf]| {
        let images: Vec<_> = images.iter().map(|path| path.display().to_string()).collect();
        (!images.is_empty()).then(|| format!("; {what}: {}", images.join(", ")))
    };
    let deleted = named("deleted", &removal.deleted).unwrap_or_default();
    let left = named("still there", &removal.left).unwrap_or_default();
    format!("began {} and is not done{deleted}{left}", removal.since)
}

/// What goes on with it.
pub(crate) fn go_on(vm: &str, removal: &RemovalStatus) -> String {
    let keep = if removal.keep_snapshots {
        " --keep-snapshots"
    } else {
        ""
    };
    format!("maqet rm {vm} --delete-storage{keep}")
}

/// The ids of all VMs, once it is confirmed that all of them are meant.
async fn all(session: &Session<'_>, args: &RmArgs) -> Result<Vec<String>, CliError> {
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !args.yes && !terminal {
        let force = if args.force { " --force" } else { "" };
        return Err(CliError::usage(
            "`rm --all` asks for confirmation, and there is no terminal to ask on",
            Some(&format!("maqet rm --all{force} --yes")),
        ));
    }
    let listed = session.ask(&List { status: None }).await?.vms;
    let names: Vec<&str> = listed.iter().map(|vm| vm.name.as_str()).collect();
    if !args.yes && !names.is_empty() {
        confirm(session, &names)?;
    }
    Ok(listed.into_iter().map(|vm| String::from(vm.id)).collect())
}

fn confirm(session: &Session<'_>, names: &[&str]) -> Result<(), CliError> {
    let count = names.len();
    session
        .output
        .confirm(&format!("remove {count} VMs ({})?", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Removed, RmArgs, line, run};
    use crate::fake::{self, ID, World};
    use crate::session::Session;

    #[test]
    fn what_was_asked_for_reaches_the_supervisor() {
        fake::run(async {
            let world = World::listening("stopped");
            let removed = json!({"id": ID, "vm": "web", "deleted": [], "kept": []});
            world.answers.lock().unwrap().insert("Remove", Ok(removed));
            let args = RmArgs {
                vms: vec!["web".to_owned()],
                all: false,
                force: false,
                delete_storage: true,
                keep_snapshots: true,
                yes: false,
            };
            let (settings, output) = (world.settings(), fake::output());
            run(&Session::new(&settings, &output), &args).await.unwrap();
            let call = world.calls_of("Remove").remove(0);
            assert_eq!(
                (&call["delete_storage"], &call["keep_snapshots"]),
                (&json!(true), &json!(true))
            );
        });
    }

    #[test]
    fn it_says_what_went_what_stayed_and_why() {
        let removed: Removed = serde_json::from_value(json!({
            "id": ID, "vm": "web", "deleted": ["/vm/root"], "kept": ["/vm/data", "/vm/iso"],
            "reasons": [{"path": "/vm/data", "why": "it holds a snapshot"}]
        }))
        .unwrap();
        let lines = [
            "web: removed",
            "  deleted /vm/root",
            "  kept /vm/data: it holds a snapshot",
            "  kept /vm/iso",
        ];
        assert_eq!(line(&removed), lines.join("\n"));
    }
}
