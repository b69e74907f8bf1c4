//! One process per VM, QEMU's parent.
//!
//! Started by the supervisor and gated itself: it does nothing until GO brings the VM's secret over an inherited
//! channel. Then it binds its socket, has QEMU's gate made ([`launch`]), lets it become QEMU when the supervisor has
//! QEMU's identity on disk, and from then on owns the way to QEMU's monitor: it multiplexes commands, reports facts
//! and ends QEMU. It outlives its supervisor; QEMU outlives it, and a later runner takes QEMU over.
//!
//! [`session`] is the one task that knows; [`ladder`], [`ending`], [`policy`] and the bound of [`logs`] are decisions
//! without any doing; [`server`] is the way in, [`monitor`] the way to QEMU.
//!
//! **Invariant:** nothing is let run before somebody who proved to know the secret said so; a launch whose owner is
//! gone before that leaves nothing.
//! **Invariant:** QEMU's end is noted on disk before anybody is told.
//! **Invariant:** an idle runner makes no wakeup.

mod accel;
mod args;
mod barred;
mod channel;
mod confinement;
mod disks;
mod ending;
mod grounds;
mod jobs;
mod ladder;
mod launch;
mod layers;
mod logs;
mod mail;
mod monitor;
mod nodes;
mod notes;
mod oom;
mod passage;
mod place;
mod policy;
mod ports;
mod qemu;
mod server;
mod session;
mod shares;
mod snapshots;
mod troubles;
mod virtiofsd;
mod watchers;
mod written;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use maqet_process::gate::{self, GateArgs};
use maqet_process::identity::FileId;
use maqet_process::point::{Point, pass};
use maqet_process::{directory, signal, socket, spawn};
use maqet_state::secret::Secret;
use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{SignalKind, signal as on_signal};
use tokio::sync::{mpsc, watch};

use crate::args::Args;
use crate::barred::Barred;
use crate::channel::Channel;
use crate::grounds::Grounds;
use crate::mail::{Desk, MAILBOX_CAPACITY, Mail, News, post};
use crate::place::{Directory, Place, RUNNER_SOCKET};
use crate::server::Counter;
use crate::session::Session;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Exit code of a gate that was called wrongly; the gate's own codes are those of a shell.
const GATE_MISUSED: u8 = 125;

/// Does the work of the program `maqet-runner`, in either of its modes.
pub fn run() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "gate") {
        return stand_gate(words);
    }
    match work(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the runner ends");
            ExitCode::FAILURE
        }
    }
}

fn stand_gate(words: impl Iterator<Item = OsString>) -> ExitCode {
    match GateArgs::parse(words) {
        Ok(args) => ExitCode::from(gate::run(args).exit_code()),
        Err(error) => {
            begin_log();
            tracing::error!(%error, "gate");
            ExitCode::from(GATE_MISUSED)
        }
    }
}

/// The supervisor makes stderr the runner's log file.
fn begin_log() {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // A log that cannot be written, on a full disk for instance, would be complained of by `eprintln!`, which
        // panics when stderr is that same log.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("the log had begun already");
    }
}

fn work(args: &Args) -> anyhow::Result<()> {
    begin_log();
    let mut channel = Channel::inherited().context("descriptor 3 is not the supervisor's channel")?;
    signal::reset_mask()?;
    spawn::become_session_leader()?;
    umask(Mode::from_bits_truncate(0o077));
    pass(Point::RunnerBegun);
    let Some(secret) = channel.wait().context("wait for GO")? else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(serve(args, channel, secret));
    // Threads that still copy a log end by themselves; nobody waits for them.
    runtime.shutdown_background();
    done
}

async fn serve(args: &Args, channel: Channel, secret: Secret) -> anyhow::Result<()> {
    pass(Point::RunnerGo);
    let directory = directory::open_private(&args.runtime_dir)?;
    let place = Place {
        vm: args.vm.clone(),
        name: args.name.as_str().into(),
        launch_id: args.launch_id.as_str().into(),
        directory: Directory::new(directory),
    };
    let listener = bind(&place.directory())?;
    let (desk, inbox) = mpsc::channel(MAILBOX_CAPACITY);
    heed_signals(&desk)?;
    let fresh = heed_calls(args.runtime_dir.clone(), place.directory.clone(), &desk)?;
    pass(Point::RunnerListens);
    drop(channel);
    let (barred, grounds) = (Barred::default(), Grounds::default());
    let identity = server::identity(place.vm.clone(), secret, barred.clone());
    let counter = Counter {
        desk: desk.clone(),
        name: Arc::clone(&place.name),
        grounds: grounds.clone(),
        turn: Arc::default(),
    };
    let (end, over) = watch::channel(false);
    let session = async {
        Session::new(place, desk, barred, grounds).run(inbox).await;
        end.send_replace(true);
    };
    let (served, ()) = tokio::join!(server::serve(listener, fresh, identity, counter, over), session);
    served.context("serve the runner's socket")
}

/// The runner's own socket, listening.
fn bind(directory: &OwnedFd) -> anyhow::Result<OwnedFd> {
    let listener = socket::bind_listener(directory.as_fd(), RUNNER_SOCKET)?;
    socket::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// SIGURG tells that the socket cannot be found: its directory, or it, was deleted. Both are made again; what QEMU bound
/// there is gone for good.
fn heed_calls(path: PathBuf, directory: Directory, desk: &Desk) -> anyhow::Result<mpsc::Receiver<OwnedFd>> {
    let mut calls = on_signal(SignalKind::from_raw(libc::SIGURG))?;
    let (found, fresh) = mpsc::channel(1);
    let desk = desk.clone();
    tokio::spawn(async move {
        while calls.recv().await.is_some() {
            let listener = match appear(&path, &directory) {
                Ok(Some(listener)) => listener,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the socket cannot be put back");
                    continue;
                }
            };
            let taken = found.send(listener).await.is_ok();
            if !taken || !post(&desk, Mail::News(News::Moved)).await {
                return;
            }
        }
    });
    Ok(fresh)
}

/// A new listener, unless the present one is where it belongs.
fn appear(path: &Path, directory: &Directory) -> anyhow::Result<Option<OwnedFd>> {
    let opened = directory::open_private(path)?;
    let same = FileId::of_fd(&opened)? == FileId::of_fd(directory.present())?;
    if same && path.join(RUNNER_SOCKET).symlink_metadata().is_ok() {
        return Ok(None);
    }
    let listener = bind(&opened)?;
    directory.replace(opened);
    tracing::warn!(path = %path.display(), "the runner's socket was gone; it is back");
    Ok(Some(listener))
}

/// SIGTERM and SIGINT bring the VM to its end, as at logout and host shutdown.
fn heed_signals(desk: &Desk) -> anyhow::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = on_signal(kind)?;
        let desk = desk.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() && post(&desk, Mail::News(News::Terminate)).await {}
        });
    }
    Ok(())
}
