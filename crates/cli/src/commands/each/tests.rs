//! Several VMs at once.

use maqet_protocol::refusal::{Refusal, RefusalCode};

use super::{Each, Lines, forbid};
use crate::error::CliError;
use crate::exit::Exit;
use crate::fake::{self, World};
use crate::session::{Session, refused};

fn work(vms: &[&str]) -> Result<(), CliError> {
    let each = Each {
        doing: "trying",
        line: String::clone,
        name: String::clone,
        lines: Lines::Talk,
    };
    let vms: Vec<String> = vms.iter().map(|vm| (*vm).to_owned()).collect();
    fake::run(async {
        let world = World::with("created");
        let (settings, output) = (world.settings(), fake::output());
        let session = Session::new(&settings, &output);
        each.run(&session, &vms, |vm| async move {
            // The first one ends last, so that order of ending and order of naming differ.
            if vm == "missing" {
                tokio::task::yield_now().await;
            }
            match vm.as_str() {
                "missing" => Err(refused(Refusal::new(RefusalCode::VmNotFound, "no VM `missing`"))),
                "busy" => Err(refused(Refusal::new(RefusalCode::Busy, "`busy` is busy"))),
                _ => Ok(vm),
            }
        })
        .await
    })
}

#[test]
fn all_well() {
    work(&["a", "b"]).unwrap();
}

#[test]
fn the_only_error_is_the_runs_own() {
    let error = work(&["missing"]).unwrap_err();
    assert_eq!(error.code(), "vm-not-found");
}

#[test]
fn the_code_is_that_of_the_first_one_named() {
    let error = work(&["a", "missing", "busy", "b"]).unwrap_err();
    assert_eq!(error.to_string(), "2 of 4 VMs failed");
    assert_eq!(error.exit(), Exit::NotFound);
    assert_eq!(work(&["busy", "missing"]).unwrap_err().exit(), Exit::Busy);
}

#[test]
fn strict_makes_already_an_error() {
    forbid(true, false, "web", "running").unwrap();
    forbid(false, true, "web", "running").unwrap();
    let report = forbid(true, true, "web", "running").unwrap_err().report();
    assert_eq!((report.exit, report.state.as_deref()), (3, Some("running")));
}
