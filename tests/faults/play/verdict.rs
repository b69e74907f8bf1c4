//! What may be so after a round, and what may not.

use nix::libc::SIGABRT;
use serde_json::Value;

use super::{Outcome, Phase, Victim};

/// Holds a VM that has come to rest to what was done to it.
pub(crate) fn judge(phase: Phase, outcome: &Outcome, vm: Option<&Value>) -> Result<(), String> {
    let round = Round { phase, outcome };
    round.answer()?;
    let Some(vm) = vm else {
        let may_be_gone = phase == Phase::Remove;
        return may_be_gone
            .then_some(())
            .ok_or_else(|| "the VM is gone".to_owned());
    };
    round.fate(vm)?;
    round.reason(vm)
}

struct Round<'a> {
    phase: Phase,
    outcome: &'a Outcome,
}

impl Round<'_> {
    fn hit(&self, victim: Victim) -> bool {
        self.outcome.hit.contains(&victim)
    }

    /// A client that lives gets an answer, and only the death of the launch itself makes it a bad one.
    fn answer(&self) -> Result<(), String> {
        let launches = matches!(self.phase, Phase::Start | Phase::Restart);
        let may_fail = launches && (self.hit(Victim::Runner) || self.hit(Victim::Qemu));
        match self.outcome.code {
            None | Some(0) => Ok(()),
            Some(code) if self.outcome.excused.contains(&code) => Ok(()),
            Some(137) if self.hit(Victim::Cli) => Ok(()),
            Some(1) if may_fail => Ok(()),
            Some(code) => Err(format!("the client ended with {code}")),
        }
    }

    /// What was acknowledged is so.
    fn fate(&self, vm: &Value) -> Result<(), String> {
        let running = vm["status"] == "running";
        let same = vm["pid"].as_i64() == self.outcome.before;
        let acknowledged = self.outcome.code == Some(0);
        let spared = !self.hit(Victim::Qemu);
        let right = match self.phase {
            Phase::Run if spared => running && same,
            Phase::Run => !running,
            Phase::Start if acknowledged && spared => running,
            Phase::Restart if acknowledged && spared => running && !same,
            Phase::Stop | Phase::Kill if acknowledged => !running,
            Phase::Remove if acknowledged => false,
            Phase::Start if self.outcome.code == Some(1) => !running,
            Phase::Start | Phase::Restart | Phase::Stop | Phase::Kill | Phase::Remove => true,
        };
        right.then_some(()).ok_or_else(|| format!("wrong status: {vm}"))
    }

    /// The cause of an end is one that fits.
    fn reason(&self, vm: &Value) -> Result<(), String> {
        if self.outcome.last_exit.as_ref() == Some(&vm["last_exit"]) {
            // What came before may have had any reason.
            return Ok(());
        }
        let cause = vm["last_exit"]["cause"].as_str().unwrap_or_default();
        let killed = matches!(cause, "qemu-killed" | "runner-lost" | "ended-unknown");
        let fits = match vm["status"].as_str() {
            Some("running" | "created") => true,
            Some("stopped") => self.phase != Phase::Run && matches!(cause, "stop" | "stop-forced"),
            Some("failed") if cause == "start-failed" => {
                matches!(self.phase, Phase::Start | Phase::Restart)
            }
            Some("failed") if crashed(vm) => self.phase != Phase::Run && self.hit(Victim::Runner),
            Some("failed") => killed && self.hit(Victim::Qemu),
            _ => false,
        };
        fits.then_some(()).ok_or_else(|| format!("wrong cause: {vm}"))
    }
}

/// QEMU took itself down. QEMU 7.2 does now and then (`BH 'monitor_accept_input' leaked, aborting`) when the client of its
/// monitor goes away at the moment in which it quits; then that is the truth about it.
pub(super) fn crashed(vm: &Value) -> bool {
    vm["last_exit"]["cause"] == "qemu-crashed" && vm["last_exit"]["signal"] == SIGABRT
}
