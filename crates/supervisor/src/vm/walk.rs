//! Walking the stop ladder: the runner does it; a forced stop does without a runner that does not answer.

use std::rc::Rc;
use std::time::Duration;

use maqet_process::pidfd::ProcessHandle;
use maqet_process::signal::Signal;
use maqet_protocol::control::StopHow;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{Ended, StopQemu};
use maqet_state::clock;
use maqet_state::lifecycle::{Cause, LastExit};

use crate::link::RunnerLink;

/// The runner's own cap on extending a budget, and room for its last steps.
const LADDER_EXTENSION_MAX: Duration = Duration::from_mins(5 + 1);

/// Two seconds of QMP, then SIGKILL, then the wait for the kernel to free the memory.
const FORCED_DEADLINE: Duration = Duration::from_secs(12);

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
        let deadline = if self.order.force {
            FORCED_DEADLINE
        } else {
            Duration::from_millis(self.order.budget_ms) + LADDER_EXTENSION_MAX
        };
        match self.link.call(&self.order, deadline).await {
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
