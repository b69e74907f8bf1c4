//! Walking the stop ladder: the runner does it; a forced stop does without a runner that does not answer.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use maqet_process::pidfd::ProcessHandle;
use maqet_process::signal::Signal;
use maqet_protocol::control::StopHow;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{Ended, Query, StopQemu};
use maqet_state::clock;
use maqet_state::lifecycle::{Cause, LastExit};

use crate::link::RunnerLink;

/// The runner's own cap on extending a budget, and room for its last steps.
const LADDER_EXTENSION_MAX: Duration = Duration::from_mins(5 + 1);

/// Two seconds of QMP, then SIGKILL, then the wait for the kernel to free the memory.
const FORCED_DEADLINE: Duration = Duration::from_secs(12);

/// A runner answers from memory; one that takes longer than this is frozen.
const PRESENCE_DEADLINE: Duration = Duration::from_secs(2);

/// Longest pause between two looks at a runner that walks its ladder; the first is [`PRESENCE_DEADLINE`], each further
/// one doubles it.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// A process that has lost its connections is gone well before; one that is not is frozen.
const AFTERMATH_DEADLINE: Duration = Duration::from_secs(1);

/// What the future of a stop needs; it runs beside the mailbox.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) name: String,
    pub(super) link: Rc<RunnerLink>,
    pub(super) qemu: ProcessHandle,
    pub(super) runner: Option<ProcessHandle>,
    pub(super) order: StopQemu,
}

impl Walk {
    /// Asks the runner; a forced stop does without it when it does not answer.
    pub(super) async fn run(self) -> Result<Ended, Refusal> {
        let ended = self
            .ended()
            .await
            .map_err(|refusal| self.still_running(refusal))?;
        self.qemu.exited().await.map_err(|error| {
            Refusal::new(RefusalCode::Internal, "cannot wait for QEMU's end").cause(error.to_string())
        })?;
        Ok(ended)
    }

    async fn ended(&self) -> Result<Ended, Refusal> {
        match self.asked().await {
            Err(refusal) if self.order.force && refusal.code == RefusalCode::NotAnswering => {
                self.kill().await
            }
            Err(refusal) if refusal.code == RefusalCode::NotAnswering => {
                self.aftermath().await;
                Err(refusal)
            }
            result => result,
        }
    }

    /// Has the runner walk the ladder. One that does not even say that it is there is not waited for.
    async fn asked(&self) -> Result<Ended, Refusal> {
        let budget = Duration::from_millis(self.order.budget_ms);
        let deadline = match (self.order.force, self.order.hard) {
            (true, _) => FORCED_DEADLINE,
            (false, true) => budget + FORCED_DEADLINE,
            (false, false) => budget + LADDER_EXTENSION_MAX,
        };
        self.present().await?;
        self.walked(deadline).await
    }

    /// Whether the runner says anything at all.
    async fn present(&self) -> Result<(), Refusal> {
        match self.link.call(&Query {}, PRESENCE_DEADLINE).await {
            Err(refusal) if refusal.code == RefusalCode::NotAnswering => Err(refusal),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Waits for the ladder's end for as long as the runner says that it is there: one that freezes on the way is not
    /// given the minutes of a guest that takes its time.
    async fn walked(&self, deadline: Duration) -> Result<Ended, Refusal> {
        let mut walking = pin!(self.link.call(&self.order, deadline));
        let mut pause = PRESENCE_DEADLINE;
        loop {
            match tokio::time::timeout(pause, &mut walking).await {
                Ok(ended) => return ended,
                Err(_elapsed) => pause = pause.saturating_mul(2).min(LOOK_MAX),
            }
            let absent = tokio::select! {
                ended = &mut walking => return ended,
                present = self.present() => present.err(),
            };
            if let Some(refusal) = absent {
                // One that is about to leave takes no more calls; its answer is on the way.
                let answer = tokio::time::timeout(AFTERMATH_DEADLINE, walking).await;
                return answer.unwrap_or(Err(refusal));
            }
        }
    }

    /// The connection to a dying process ends a moment before the process does: whoever judges the error next must
    /// see it dead.
    async fn aftermath(&self) {
        let runner = async {
            match &self.runner {
                Some(runner) => runner.exited().await,
                None => Ok(()),
            }
        };
        let either = async {
            tokio::select! {
                exited = self.qemu.exited() => exited,
                exited = runner => exited,
            }
        };
        let seen = tokio::time::timeout(AFTERMATH_DEADLINE, either).await;
        tracing::debug!(vm = self.name, ?seen, "a runner did not answer");
    }

    /// The runner is frozen or gone: SIGKILL through the verified pidfd, then the runner's turn.
    async fn kill(&self) -> Result<Ended, Refusal> {
        let failed = |error: maqet_process::error::ProcessError| {
            Refusal::new(RefusalCode::Internal, "cannot end QEMU").cause(error.to_string())
        };
        let sent = self.qemu.signal(Signal::Kill).map_err(failed)?;
        tracing::warn!(vm = self.name, ?sent, "ended QEMU without its runner");
        self.qemu.exited().await.map_err(failed)?;
        if let Some(runner) = &self.runner {
            let sent = runner.signal(Signal::Kill).map_err(failed)?;
            tracing::warn!(vm = self.name, ?sent, "ended a runner that does not answer");
        }
        let exit = LastExit {
            cause: Cause::StopForced,
            at: clock::now(),
            exit_code: None,
            signal: Some(nix::libc::SIGKILL),
            detail: Some("the runner did not answer; unflushed writes may be lost".to_owned()),
        };
        Ok(Ended {
            how: StopHow::Killed,
            exit,
        })
    }

    fn still_running(&self, refusal: Refusal) -> Refusal {
        if refusal.hint.is_some() {
            refusal
        } else {
            refusal.hint(format!("maqet stop --force {}", self.name))
        }
    }
}
