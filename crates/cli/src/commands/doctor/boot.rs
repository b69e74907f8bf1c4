//! `maqet doctor --boot`: the built-in tiny guest through the whole stack, once with each accelerator.

use std::path::Path;
use std::time::{Duration, Instant};

use maqet_protocol::control::{
    Add, List, Remove, Start, Started, Stop, StopHow, StopReport, TinyGuest, VmSummary, WriteTinyGuest,
};
use maqet_spec::VmSpec;
use serde::Serialize;

use crate::args::condition::Condition;
use crate::commands::wait::{Wanted, until};
use crate::error::CliError;
use crate::progress;
use crate::render::{table, units};
use crate::session::{Session, key};
use crate::{journal, specification};

/// How the names of these VMs begin; then come the accelerator and the process that made them.
const NAME_PREFIX: &str = "maqet-boot-";

/// Accelerators that are tried, in this order.
const ACCELS: [&str; 2] = ["tcg", "kvm"];

/// Time for one step. The guest takes milliseconds; a host that is thrashing takes longer.
const STEP_DEADLINE: Duration = Duration::from_mins(1);

/// Time the guest gets to shut itself down, milliseconds.
const STOP_MS: u64 = 20_000;

const HEADER: [&str; 6] = ["ACCEL", "WORKS", "RUNNING", "FIRST WORD", "STOPPED", "WHY NOT"];

/// How it went with one accelerator.
#[derive(Debug, Serialize)]
struct Boot {
    accel: &'static str,
    /// The guest ran, spoke, and shut down when asked to.
    works: bool,
    /// Milliseconds from the request to a running QEMU.
    running_ms: Option<u64>,
    /// Milliseconds from the request to the guest's first line on its serial port.
    first_word_ms: Option<u64>,
    /// Milliseconds from the request to stop to the end of QEMU.
    stopped_ms: Option<u64>,
    /// How it ended.
    how: Option<StopHow>,
    /// Why it does not work, outermost first.
    why: Vec<String>,
}

/// Boots the guest with each accelerator. It is well when one of them works, and nothing is left afterwards.
///
/// # Errors
/// The refusal; [`CliError::Unhealthy`] when none works.
pub(super) async fn run(session: &Session<'_>) -> Result<(), CliError> {
    let guest = session.ask(&WriteTinyGuest {}).await?;
    let boots = progress::during(
        session.output,
        "booting the tiny guest",
        interruptible(session, &guest),
    )
    .await?;
    session.output.answer(&boots, || text(&boots), || names(&boots))?;
    if boots.iter().any(|boot| boot.works) {
        return Ok(());
    }
    Err(CliError::Unhealthy {
        what: "no accelerator runs a guest".to_owned(),
        hint: Some("maqet doctor".to_owned()),
    })
}

/// Whatever ends the boots, their VMs are taken away. After SIGKILL of this process the next `cleanup` does it.
async fn interruptible(session: &Session<'_>, guest: &TinyGuest) -> Result<Vec<Boot>, CliError> {
    let names = ACCELS.map(|accel| (accel, format!("{NAME_PREFIX}{accel}-{}", std::process::id())));
    let booted = tokio::select! {
        booted = boot_all(session, guest, &names) => Ok(booted),
        pressed = tokio::signal::ctrl_c() => {
            pressed.map_err(CliError::call("wait for signals"))?;
            Err(CliError::Declined)
        }
    };
    for (_accel, name) in &names {
        remove(session, name).await?;
    }
    booted
}

async fn boot_all(session: &Session<'_>, guest: &TinyGuest, names: &[(&'static str, String)]) -> Vec<Boot> {
    let mut boots = Vec::new();
    for (accel, name) in names {
        let mut boot = Boot {
            accel,
            works: false,
            running_ms: None,
            first_word_ms: None,
            stopped_ms: None,
            how: None,
            why: Vec::new(),
        };
        match tokio::time::timeout(STEP_DEADLINE * 2, one(session, guest, name, &mut boot)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => boot.why = words(&error),
            Err(_elapsed) => boot
                .why
                .push(format!("it did not end within {:?}", STEP_DEADLINE * 2)),
        }
        boots.push(boot);
    }
    boots
}

/// One accelerator: add, start, first word, stop. What was reached stays in `boot` when a step fails.
async fn one(session: &Session<'_>, guest: &TinyGuest, name: &str, boot: &mut Boot) -> Result<(), CliError> {
    let spec = describe(&guest.path, name, boot.accel)?;
    let add = Add {
        spec,
        key: Some(key()),
    };
    let added = session.repeat(&add, STEP_DEADLINE).await?;
    let since = journal::newest(session).await?;
    let begun = Instant::now();
    let start = Start {
        vm: added.id.to_string(),
        key: Some(key()),
    };
    let started: Started = session.repeat(&start, STEP_DEADLINE).await?;
    boot.running_ms = Some(started.took_ms);
    first_word(session, &added.name, &guest.ready, since).await?;
    boot.first_word_ms = u64::try_from(begun.elapsed().as_millis()).ok();
    let stop = Stop {
        vm: added.id.to_string(),
        timeout_ms: Some(STOP_MS),
        force: false,
        key: Some(key()),
    };
    let stopped: StopReport = session.repeat(&stop, STEP_DEADLINE).await?;
    boot.stopped_ms = Some(stopped.took_ms);
    boot.how = Some(stopped.how);
    boot.works = stopped.how == StopHow::Guest;
    if !boot.works {
        boot.why
            .push("the guest did not shut down when it was asked to".to_owned());
    }
    Ok(())
}

async fn first_word(session: &Session<'_>, vm: &str, word: &str, since: u64) -> Result<(), CliError> {
    let wanted = Wanted {
        vms: vec![vm.to_owned()],
        conditions: vec![Condition::Serial(regex::escape(word))],
        any: false,
        since: Some(since),
    };
    match tokio::time::timeout(STEP_DEADLINE, until(session, &wanted)).await {
        Ok(held) => held.map(drop),
        Err(_elapsed) => Err(CliError::Impossible {
            vm: vm.to_owned(),
            reason: "QEMU runs, and the guest says nothing".to_owned(),
            hint: None,
        }),
    }
}

fn describe(image: &Path, name: &str, accel: &str) -> Result<VmSpec, CliError> {
    let firmware = serde_json::Value::from(image.to_string_lossy().into_owned());
    let text = format!("name: {name}\nmachine: pc\naccel: {accel}\nmemory: 16M\nfirmware: {firmware}\n");
    specification::of_text("the tiny guest", &text)
}

/// The reasons of a failure, outermost first.
fn words(error: &CliError) -> Vec<String> {
    let report = error.report();
    std::iter::once(report.message).chain(report.causes).collect()
}

/// Takes a VM away, running or not; one that is not there is fine.
async fn remove(session: &Session<'_>, name: &str) -> Result<(), CliError> {
    let listed = session.ask(&List { status: None }).await?.vms;
    let Some(vm) = listed.into_iter().find(|vm| vm.name == name) else {
        return Ok(());
    };
    let remove = Remove {
        keep_snapshots: false,
        vm: vm.id.to_string(),
        force: true,
        delete_storage: false,
        key: Some(key()),
    };
    session.repeat(&remove, STEP_DEADLINE).await.map(drop)
}

/// VMs of a `doctor --boot` whose process is gone.
pub(crate) fn forsaken(vms: &[VmSummary]) -> impl Iterator<Item = &VmSummary> {
    vms.iter().filter(|vm| {
        let owner = vm
            .name
            .strip_prefix(NAME_PREFIX)
            .and_then(|rest| rest.split_once('-'));
        let pid =
            owner.and_then(|(accel, pid)| pid.parse().ok().filter(|_pid: &i32| ACCELS.contains(&accel)));
        pid.is_some_and(|pid| matches!(maqet_process::ProcessHandle::open(pid), Ok(None)))
    })
}

/// Takes the VMs of a `doctor --boot` away that was killed.
///
/// # Errors
/// The refusal.
pub(crate) async fn remove_forsaken(session: &Session<'_>) -> Result<Vec<String>, CliError> {
    let listed = session.ask(&List { status: None }).await?.vms;
    let names: Vec<String> = forsaken(&listed).map(|vm| vm.name.clone()).collect();
    for name in &names {
        remove(session, name).await?;
    }
    Ok(names)
}

fn names(boots: &[Boot]) -> String {
    let works = boots.iter().filter(|boot| boot.works);
    works.map(|boot| boot.accel).collect::<Vec<_>>().join("\n")
}

fn text(boots: &[Boot]) -> String {
    let shown =
        |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| units::duration(Duration::from_millis(ms)));
    let row = |boot: &Boot| {
        vec![
            boot.accel.to_owned(),
            if boot.works { "yes" } else { "no" }.to_owned(),
            shown(boot.running_ms),
            shown(boot.first_word_ms),
            shown(boot.stopped_ms),
            boot.why.join(": ").replace('\n', " | "),
        ]
    };
    table::columns(&HEADER, boots.iter().map(row))
}
