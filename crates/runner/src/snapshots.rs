//! Snapshots by QEMU, while the guest runs.
//!
//! Without memory one `transaction` makes the snapshot on every disk or on none. With memory, and to go back, QEMU has jobs;
//! their end is heard from its events. A job that another runner began, or whose caller has gone, is waited for first.

use std::time::Duration;

use maqet_process::point::{Point, pass};
use maqet_protocol::control::{Empty, SnapshotEntry};
use maqet_protocol::endpoint::server::IncomingCall;
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{ListSnapshots, RunSnapshot, SnapshotEntries, SnapshotStep};
use maqet_qmp::Command;
use maqet_qmp::command::{DeleteInternalSnapshot, SnapshotInfo};
use maqet_qmp::command::{
    QueryBlock, QueryNamedBlockNodes, QueryStatus, SnapshotJob, SnapshotLoad, SnapshotSave, Transaction,
};
use maqet_state::clock::Timestamp;
use tokio::time::timeout;

use crate::jobs::Jobs;
use crate::nodes::Nodes;
use crate::passage::value;

/// Name of the job in QEMU; one at a time.
const JOB: &str = "maqet-snapshot";
/// Time for a list. QEMU answers at once, unless it writes memory that somebody else wanted kept, or is frozen.
const LIST: Duration = Duration::from_secs(10);
/// Longest deadline a client may set.
const DEADLINE_MAX: Duration = Duration::from_hours(6);

/// One client's work.
#[derive(Debug)]
pub(crate) struct Work<'w> {
    /// The way to QEMU, and what becomes of its jobs.
    pub(crate) jobs: Jobs<'w>,
    /// The disks, in the order of the spec.
    pub(crate) disks: &'w [String],
}

impl Work<'_> {
    /// What a call comes to.
    ///
    /// # Errors
    /// As for [`Self::list`] and [`Self::run`].
    pub(crate) async fn carry_out(self, call: &IncomingCall) -> Result<serde_json::Value, Refusal> {
        if call.method == ListSnapshots::NAME {
            return value(&self.list(call.parse()?).await?);
        }
        value(&self.run(call.parse()?).await?)
    }

    /// The snapshots of these disks.
    ///
    /// # Errors
    /// As for [`crate::passage::run`].
    async fn list(self, order: ListSnapshots) -> Result<SnapshotEntries, Refusal> {
        let counter = self.jobs.counter;
        timeout(LIST, self.look(order)).await.unwrap_or_else(|_elapsed| {
            let name = &*counter.name;
            let message = format!("the QEMU of `{name}` does not answer, or is busy with its memory");
            let refusal = Refusal::new(RefusalCode::Timeout, message)
                .vm(name)
                .state("running");
            Err(refusal.hint(format!("try again, or: maqet status {name}")))
        })
    }

    async fn look(mut self, order: ListSnapshots) -> Result<SnapshotEntries, Refusal> {
        self.await_old_job().await?;
        let known = self.execute(&QueryNamedBlockNodes { flat: false }).await?;
        let devices = self.execute(&QueryBlock).await?;
        let nodes = Nodes::new(self.disks, known.clone(), devices);
        let mut entries = Vec::new();
        for disk in order.disks {
            let top = nodes.top(&disk);
            let image = known.iter().find(|node| node.node_name.as_ref() == Some(&top));
            let told = image.into_iter().flat_map(|node| node.image.snapshots.clone());
            entries.extend(told.map(|snapshot| entry(&disk, snapshot)));
        }
        let status = self.execute(&QueryStatus).await?;
        Ok(SnapshotEntries {
            entries,
            run_state: Some(status.status.as_str().to_owned()),
        })
    }

    /// The order with the nodes that disks have now in the place of disks.
    async fn on_nodes(&self, mut order: RunSnapshot) -> Result<RunSnapshot, Refusal> {
        let known = self.execute(&QueryNamedBlockNodes { flat: false }).await?;
        let devices = self.execute(&QueryBlock).await?;
        let nodes = Nodes::new(self.disks, known, devices);
        order.disks.iter_mut().for_each(|disk| *disk = nodes.top(disk));
        order.vmstate = order.vmstate.map(|disk| nodes.top(&disk));
        Ok(order)
    }

    /// One step.
    ///
    /// # Errors
    /// As for [`crate::passage::run`]; `timeout` when a job is not done in time: it goes on in QEMU.
    async fn run(mut self, order: RunSnapshot) -> Result<Empty, Refusal> {
        let limit = Duration::from_millis(order.timeout_ms).min(DEADLINE_MAX);
        let name = self.jobs.counter.name.clone();
        let work = async {
            self.await_old_job().await?;
            pass(Point::SnapshotAsked);
            let order = self.on_nodes(order).await?;
            self.step(order).await
        };
        timeout(limit, work).await.unwrap_or_else(|_elapsed| {
            let message = format!("the snapshot was not done within {} s", limit.as_secs());
            Err(Refusal::new(RefusalCode::Timeout, message)
                .vm(&*name)
                .state("running"))
        })?;
        Ok(Empty {})
    }

    async fn step(&mut self, order: RunSnapshot) -> Result<(), Refusal> {
        match order.step {
            SnapshotStep::Create if order.vmstate.is_none() => {
                let transaction = Transaction::internal_snapshots(&order.disks, &order.name);
                self.execute(&transaction).await.map(drop)
            }
            SnapshotStep::Create => {
                let job = job(order);
                self.execute(&SnapshotSave(job)).await?;
                pass(Point::SnapshotJob);
                self.jobs.end(JOB).await
            }
            SnapshotStep::Load => self.load(order).await,
            SnapshotStep::Delete => {
                for device in order.disks {
                    let name = order.name.clone();
                    self.execute(&DeleteInternalSnapshot { device, name }).await?;
                }
                Ok(())
            }
        }
    }

    /// QEMU stops the guest for it, and lets it go on only when it has succeeded.
    async fn load(&mut self, order: RunSnapshot) -> Result<(), Refusal> {
        let before = self.execute(&QueryStatus).await?;
        self.execute(&SnapshotLoad(job(order))).await?;
        pass(Point::SnapshotJob);
        let Err(refusal) = self.jobs.end(JOB).await else {
            return Ok(());
        };
        let after = self.execute(&QueryStatus).await?;
        if before.running && !after.running {
            let name = &self.jobs.counter.name;
            return Err(refusal
                .cause("the guest was stopped for it and stays so: its disks may be between two states")
                .hint(format!(
                    "load a snapshot of `{name}` again, or: maqet stop {name} --force"
                )));
        }
        Err(refusal)
    }

    /// A job whose end nobody took: it is waited for; how it ended shows in the images.
    async fn await_old_job(&mut self) -> Result<(), Refusal> {
        if self.jobs.find(JOB).await?.is_none() {
            return Ok(());
        }
        tracing::info!("a snapshot that somebody else began is waited for");
        if let Err(refusal) = self.jobs.end(JOB).await {
            if refusal.code != RefusalCode::QmpFailed {
                return Err(refusal);
            }
            tracing::warn!(%refusal, "a snapshot that somebody else began has failed");
        }
        Ok(())
    }

    async fn execute<C: Command>(&self, command: &C) -> Result<C::Reply, Refusal> {
        self.jobs.execute(command).await
    }
}

fn job(order: RunSnapshot) -> SnapshotJob {
    SnapshotJob {
        job_id: JOB.to_owned(),
        tag: order.name,
        vmstate: order.vmstate.unwrap_or_default(),
        devices: order.disks,
    }
}

fn entry(disk: &str, told: SnapshotInfo) -> SnapshotEntry {
    let ms = |seconds: u64, nanos: u64| seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000);
    SnapshotEntry {
        disk: disk.to_owned(),
        id: told.id,
        name: told.name,
        at: Timestamp(ms(told.date_sec, told.date_nsec)),
        vm_state_bytes: told.vm_state_size,
        vm_clock_ms: ms(told.vm_clock_sec, told.vm_clock_nsec),
    }
}
