//! What an image holds is written into the one below it, while the guest goes on.
//!
//! An image in the middle is nobody's but QEMU's: its job does all of it. The one on top takes what the guest writes. Once both hold
//! the same the guest is halted, nothing is written to either, and whoever has the record says with which the disk goes on
//! ([`EndMerge`]). Until then QEMU's death changes nothing: both are the whole disk.
//!
//! An image below is open for reading; its descriptor is exchanged for one that writes. QEMU locks by descriptor, so that
//! the old one has to go first.

use std::time::Duration;

use maqet_process::point::{Point, pass};
use maqet_protocol::control::Empty;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{EndMerge, MergeImage, Merging, OpenedFile, RunnerFact};
use maqet_qmp::RunState;
use maqet_qmp::command::{
    AddFd, BlockCommit, BlockdevReopen, Cont, JobCancel, JobComplete, JobFinalize, JobInfo, QueryFdsets,
    QueryStatus, RemoveFd, Stop,
};
use maqet_spec::argv::nodes::file_options;
use maqet_spec::vm::Disk;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{COMMAND, Work};
use crate::jobs::Jobs;
use crate::mail::{Ask, Connection, Mail, post};
use crate::nodes::{FileNode, Nodes};
use crate::passage;

/// Longest deadline a client may set.
const MERGE_MAX: Duration = Duration::from_hours(6);

/// Name of the job of a disk.
pub(super) fn job(disk: &str) -> String {
    format!("maqet-merge-{disk}")
}

/// Nodes that a merge is about.
#[derive(Debug)]
struct Plan {
    top: String,
    merged: String,
    base: String,
    above: Option<String>,
}

impl Plan {
    fn new(order: &MergeImage, nodes: &Nodes<'_>) -> Option<Self> {
        let mut chain = nodes.order(&order.disk.name).into_iter();
        let top = chain.clone().next()?;
        let above = order
            .depth
            .checked_sub(1)
            .and_then(|depth| chain.clone().nth(depth));
        let merged = chain.nth(order.depth)?;
        let base = chain.next()?;
        Some(Self {
            top,
            merged,
            base,
            above,
        })
    }
}

/// An image that writes for as long as a merge takes.
#[derive(Debug)]
struct Lent<'o> {
    file: FileNode,
    image: &'o OpenedFile,
}

impl Work {
    /// Merges one image into the one below.
    ///
    /// # Errors
    /// `wrong-state` for a guest that is halted by something else than a person; `timeout`; as for [`Work::carry_out`].
    pub(super) async fn merge(
        &self,
        order: MergeImage,
        facts: Receiver<RunnerFact>,
    ) -> Result<Merging, Refusal> {
        let disk = &order.disk.name;
        let mut jobs = self.jobs(facts);
        // One that was begun for somebody else has an end of its own.
        self.cancel(&mut jobs, disk).await?;
        let nodes = {
            let _turn = self.counter.turn.lock().await;
            self.tidied(&[(disk, order.images)]).await?
        };
        let plan = Plan::new(&order, &nodes).ok_or_else(|| self.other(disk))?;
        self.check_state(&jobs).await?;
        let limit = Duration::from_millis(order.timeout_ms).min(MERGE_MAX);
        let merged = timeout(limit, self.run(&mut jobs, &order, &plan, &nodes)).await;
        let refusal = match merged {
            Ok(Ok(merging)) => return Ok(merging),
            Ok(Err(refusal)) => refusal,
            Err(_elapsed) => {
                let words = format!("disk `{disk}` was not merged within {} s", limit.as_secs());
                Refusal::new(RefusalCode::Timeout, words).vm(&*self.counter.name)
            }
        };
        self.give_up(&mut jobs, disk).await;
        Err(refusal)
    }

    /// What cannot be given up now is, by whoever comes next.
    async fn give_up(&self, jobs: &mut Jobs<'_>, disk: &str) {
        let cancelled = self.cancel(jobs, disk).await;
        tracing::info!(disk, ?cancelled, "a merge is given up");
    }

    fn jobs(&self, facts: Receiver<RunnerFact>) -> Jobs<'_> {
        Jobs {
            qmp: &self.qmp,
            facts,
            counter: &self.counter,
        }
    }

    async fn run(
        &self,
        jobs: &mut Jobs<'_>,
        order: &MergeImage,
        plan: &Plan,
        nodes: &Nodes<'_>,
    ) -> Result<Merging, Refusal> {
        let id = job(&order.disk.name);
        let lent = self.lend_all(order, plan, nodes).await?;
        let above = plan.above.as_ref();
        jobs.execute(&BlockCommit {
            job_id: id.clone(),
            device: plan.top.clone(),
            top_node: above.map(|_above| plan.merged.clone()),
            base_node: plan.base.clone(),
            backing_file: above.map(|_above| order.base.path.display().to_string()),
            auto_dismiss: false,
            auto_finalize: above.is_some(),
        })
        .await?;
        pass(Point::LayersMerging);
        if above.is_none() {
            return self.even_out(jobs, &id).await;
        }
        let merged = jobs.end(&id).await;
        for lent in &lent {
            // One that stays open for writing is not written to.
            let back = self.exchange(&order.disk, lent, true).await;
            tracing::debug!(
                node = lent.file.node,
                ?back,
                "an image is read again, and not written to"
            );
        }
        merged?;
        if let Some(file) = nodes.file(&order.disk.name, &plan.merged) {
            self.forget(&plan.merged, &file.node, file.set).await?;
        }
        Ok(Merging { waits: false })
    }

    /// Of an image that the guest writes to: halts the guest once both hold nearly the same, and has them hold the same.
    async fn even_out(&self, jobs: &mut Jobs<'_>, id: &str) -> Result<Merging, Refusal> {
        self.reach(jobs, id, "ready").await?;
        jobs.execute(&Stop).await?;
        jobs.execute(&JobComplete { id: id.to_owned() }).await?;
        self.reach(jobs, id, "pending").await?;
        pass(Point::LayersEven);
        Ok(Merging { waits: true })
    }

    async fn reach(&self, jobs: &mut Jobs<'_>, id: &str, state: &str) -> Result<(), Refusal> {
        let reached = jobs.reach(id, &[state]).await?;
        if reached.status == state {
            return Ok(());
        }
        jobs.end(id).await?;
        let words = "QEMU has ended the merge before it was done";
        Err(Refusal::new(RefusalCode::QmpFailed, words).vm(&*self.counter.name))
    }

    /// Has the images written to that a merge writes to.
    async fn lend_all<'o>(
        &self,
        order: &'o MergeImage,
        plan: &Plan,
        nodes: &Nodes<'_>,
    ) -> Result<Vec<Lent<'o>>, Refusal> {
        let above = plan.above.as_ref().zip(order.above.as_ref());
        let mut all = Vec::new();
        for (node, image) in std::iter::once((&plan.base, &order.base)).chain(above) {
            let file = nodes.file(&order.disk.name, node);
            let file = file.ok_or_else(|| self.other(&order.disk.name))?;
            if !file.readonly {
                continue;
            }
            let image = Lent { file, image };
            self.exchange(&order.disk, &image, false).await?;
            all.push(image);
        }
        Ok(all)
    }

    /// Exchanges the descriptor of an image for one that writes, or one that does not.
    async fn exchange(&self, disk: &Disk, lent: &Lent<'_>, readonly: bool) -> Result<(), Refusal> {
        let FileNode { node, set, .. } = &lent.file;
        let image = self.open_image(&disk.name, lent.image, readonly).await?;
        let sets = self.execute(&QueryFdsets).await?;
        let own = sets.into_iter().filter(|known| known.fdset_id == *set);
        let old: Vec<i64> = own.flat_map(|set| set.fds).map(|fd| fd.fd).collect();
        let fdset_id = Some(*set);
        let handed = self.qmp.hand_over(&AddFd { fdset_id }, image.fd, COMMAND).await;
        handed.map_err(|error| passage::refusal(error, &self.counter))?;
        for fd in old {
            let (fdset_id, fd) = (*set, Some(fd));
            self.execute(&RemoveFd { fdset_id, fd }).await?;
        }
        let options = vec![file_options(disk, node, *set, readonly)];
        self.execute(&BlockdevReopen { options }).await.map(drop)
    }

    /// Has a disk go on with as many images as it has on record.
    ///
    /// # Errors
    /// `conflict` when it does not; as for [`Work::carry_out`].
    pub(super) async fn end_merge(
        &self,
        order: EndMerge,
        facts: Receiver<RunnerFact>,
    ) -> Result<Empty, Refusal> {
        let disk = &order.disk;
        let mut jobs = self.jobs(facts);
        let id = job(disk);
        self.turn(&mut jobs, &order, &id).await?;
        pass(Point::LayersTurned);
        {
            let _turn = self.counter.turn.lock().await;
            self.tidied(&[(disk, order.images)]).await?;
        }
        self.let_go(&mut jobs, &id).await?;
        Ok(Empty {})
    }

    /// Has the job of a disk, if there is one, end with or without anything having come of it.
    async fn turn(&self, jobs: &mut Jobs<'_>, order: &EndMerge, id: &str) -> Result<(), Refusal> {
        let Some(found) = jobs.find(id).await? else {
            return Ok(());
        };
        let images = self.nodes().await?.told(&order.disk).map_or(0, |top| top.images);
        if found.status == "pending" && order.images + 1 == images {
            jobs.execute(&JobFinalize { id: id.to_owned() }).await?;
        } else {
            self.stop_job(jobs, id).await?;
        }
        jobs.reach(id, &[]).await.map(drop)
    }

    /// Ends the job of a disk, if there is one, without anything having come of it.
    async fn cancel(&self, jobs: &mut Jobs<'_>, disk: &str) -> Result<(), Refusal> {
        let id = job(disk);
        self.stop_job(jobs, &id).await?;
        self.let_go(jobs, &id).await
    }

    async fn stop_job(&self, jobs: &Jobs<'_>, id: &str) -> Result<(), Refusal> {
        match jobs.find(id).await? {
            Some(JobInfo { status, .. }) if status != "concluded" => {
                let id = id.to_owned();
                jobs.execute(&JobCancel { id }).await.map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Lets the guest run that was halted for a job which has ended. As long as the job is in QEMU's list the guest may be
    /// halted for it, whoever dies.
    async fn let_go(&self, jobs: &mut Jobs<'_>, id: &str) -> Result<(), Refusal> {
        if jobs.find(id).await?.is_none() {
            return Ok(());
        }
        jobs.reach(id, &[]).await?;
        self.let_run(jobs).await?;
        match jobs.end(id).await {
            Err(refusal) if refusal.code != RefusalCode::QmpFailed => Err(refusal),
            ended => {
                tracing::info!(id, ?ended, "a merge has ended");
                Ok(())
            }
        }
    }

    /// A guest that runs, or that a person has halted, can be halted for a moment.
    async fn check_state(&self, jobs: &Jobs<'_>) -> Result<(), Refusal> {
        let status = jobs.execute(&QueryStatus).await?.status;
        if status == RunState::Running || (status == RunState::Paused && self.is_held().await) {
            return Ok(());
        }
        let name = &*self.counter.name;
        let words = format!("the guest of `{name}` is halted ({})", status.as_str());
        Err(Refusal::new(RefusalCode::WrongState, words)
            .vm(name)
            .state("running")
            .hint(format!("maqet status {name}")))
    }

    /// Lets the guest run that was halted for a merge.
    async fn let_run(&self, jobs: &Jobs<'_>) -> Result<(), Refusal> {
        let status = jobs.execute(&QueryStatus).await?.status;
        if status == RunState::Paused && !self.is_held().await {
            jobs.execute(&Cont).await?;
        }
        Ok(())
    }

    /// Whether a person has the guest halted.
    async fn is_held(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        let ask = Mail::Ask(Connection::NONE, Ask::Held(answer));
        post(&self.counter.desk, ask).await;
        matches!(answered.await, Ok(Ok(true)))
    }
}
