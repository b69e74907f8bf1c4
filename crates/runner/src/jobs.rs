//! QEMU's jobs, whose states are heard from its events.

use std::time::Duration;

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::RunnerFact;
use maqet_qmp::command::{JobDismiss, JobInfo, QueryJobs};
use maqet_qmp::{Command, Qmp, QmpError};
use tokio::sync::mpsc::Receiver;

use crate::passage;
use crate::server::Counter;

/// Time for one command: QEMU's monitor rests while memory is written, so that whoever calls bounds all of its work instead.
const COMMAND: Duration = Duration::from_hours(6);

/// The jobs of one QEMU, as one client's work follows them.
#[derive(Debug)]
pub(crate) struct Jobs<'w> {
    /// The way to QEMU.
    pub(crate) qmp: &'w Qmp,
    /// What happens, from before the first command on.
    pub(crate) facts: Receiver<RunnerFact>,
    /// Whom it is about.
    pub(crate) counter: &'w Counter,
}

impl Jobs<'_> {
    /// The job of this name, if there is one.
    ///
    /// # Errors
    /// As for [`passage::refusal`].
    pub(crate) async fn find(&self, id: &str) -> Result<Option<JobInfo>, Refusal> {
        let jobs = self.execute(&QueryJobs).await?;
        Ok(jobs.into_iter().find(|job| job.id == id))
    }

    /// Waits until a job is in one of these states, or has ended.
    ///
    /// # Errors
    /// `qmp-failed` for one that QEMU does not know; `not-answering` when QEMU is gone.
    pub(crate) async fn reach(&mut self, id: &str, states: &[&str]) -> Result<JobInfo, Refusal> {
        loop {
            let Some(job) = self.find(id).await? else {
                return Err(self.failed("QEMU does not know how the job ended"));
            };
            if job.status == "concluded" || states.contains(&job.status.as_str()) {
                return Ok(job);
            }
            self.next_change(id).await?;
        }
    }

    /// Waits for a job's end and takes it from QEMU's list.
    ///
    /// # Errors
    /// `qmp-failed` with QEMU's words for one that has failed; as for [`Self::reach`].
    pub(crate) async fn end(&mut self, id: &str) -> Result<(), Refusal> {
        let job = self.reach(id, &[]).await?;
        self.execute(&JobDismiss { id: id.to_owned() }).await?;
        match job.error {
            None => Ok(()),
            Some(words) => Err(self.failed(words)),
        }
    }

    /// Returns when the job is in another state.
    async fn next_change(&mut self, id: &str) -> Result<(), Refusal> {
        loop {
            match self.facts.recv().await {
                Some(RunnerFact::QmpEvent { name, data })
                    if name == "JOB_STATUS_CHANGE" && data.get("id").is_some_and(|of| of == id) =>
                {
                    return Ok(());
                }
                Some(RunnerFact::QemuExited { .. }) | None => {
                    let message = format!("the QEMU of `{}` is gone", self.counter.name);
                    return Err(Refusal::new(RefusalCode::NotAnswering, message).vm(&*self.counter.name));
                }
                Some(_) => {}
            }
        }
    }

    fn failed(&self, words: impl Into<String>) -> Refusal {
        Refusal::new(RefusalCode::QmpFailed, words).vm(&*self.counter.name)
    }

    /// Runs a command.
    ///
    /// # Errors
    /// As for [`passage::refusal`].
    pub(crate) async fn execute<C: Command>(&self, command: &C) -> Result<C::Reply, Refusal> {
        let done: Result<C::Reply, QmpError> = self.qmp.execute(command, COMMAND).await;
        done.map_err(|error| passage::refusal(error, self.counter))
    }
}
