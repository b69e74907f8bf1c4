//! What a VM may be after a step, from what it was and what was done to it.

use std::time::Duration;

use serde_json::Value;

use super::plan::Deed;
use crate::play::{Outcome, Phase, Victim, judge};

/// Codes of a client that met somebody frozen, or a full disk: it failed, it has to try again, its time was up.
const TROUBLED: &[i32] = &[1, 5, 124];

/// Codes of a client whose switch or QMP command met somebody who was killed: those, a wrong state, a lost supervisor.
const SWITCH_HIT: [i32; 6] = [0, 1, 3, 5, 6, 124];

/// All that has to do with one VM in one step.
#[derive(Clone, Debug)]
pub(super) struct Fate {
    /// Its line before; `None` when it was not there.
    pub(super) before: Option<Value>,
    /// What a client wanted of it.
    pub(super) deed: Option<Deed>,
    /// How that client ended.
    pub(super) code: Option<i32>,
    /// Who was killed that has to do with it.
    pub(super) hit: Vec<Victim>,
    /// Somebody was frozen, or the disk was full.
    pub(super) troubled: bool,
    /// It may start by itself.
    pub(super) self_willed: bool,
}

impl Fate {
    /// Holds the line after the step to it.
    pub(super) fn judge(&self, after: Option<&Value>) -> Result<(), String> {
        match (&self.before, self.deed.and_then(Deed::phase)) {
            (None, _) => self.appeared(after),
            (Some(before), Some(phase)) => self.done(before, phase, after),
            (Some(before), None) => self
                .answered(before)
                .and_then(|()| self.left_alone(before, after)),
        }
    }

    fn hit(&self, victim: Victim) -> bool {
        self.hit.contains(&victim)
    }

    fn is_clean(&self) -> bool {
        self.hit.is_empty() && !self.troubled
    }

    /// How else than well its client may end. One that is being started by its policy just now has no time for anything
    /// else; a client asks a second supervisor, and no third.
    fn excused(&self) -> &'static [i32] {
        let supervisors = self.hit.iter().filter(|hit| **hit == Victim::Supervisor);
        match (self.troubled, supervisors.count() > 1) {
            (true, false) => TROUBLED,
            (true, true) => &[1, 5, 6, 124],
            (false, true) => &[5, 6],
            (false, false) if self.self_willed => &[5],
            (false, false) => &[],
        }
    }

    /// It was not there: only an `add` brings it, and one that was acknowledged has.
    fn appeared(&self, after: Option<&Value>) -> Result<(), String> {
        let right = match (self.deed, self.code, after) {
            (Some(Deed::Add), Some(0), Some(_)) => true,
            (Some(Deed::Add), Some(0), None) => false,
            (Some(Deed::Add), code, _) => {
                let killed = code == Some(137) && self.hit(Victim::Cli);
                let refused = code.is_some_and(|code| self.excused().contains(&code));
                killed || refused
            }
            (_, _, there) => there.is_none(),
        };
        right
            .then_some(())
            .ok_or_else(|| format!("wrongly there or not: {self:?}"))
    }

    /// Started, stopped, removed: as in a round, unless it is so already.
    fn done(&self, before: &Value, phase: Phase, after: Option<&Value>) -> Result<(), String> {
        let outcome = Outcome {
            hit: self.hit.clone(),
            before: before["pid"].as_i64(),
            last_exit: Some(before["last_exit"].clone()),
            code: self.code,
            excused: self.excused(),
            crashed: false,
            settled: Duration::ZERO,
        };
        match judge(phase, &outcome, after) {
            Err(why) if !(self.self_willed && after.is_some()) => Err(why),
            // Beside what was done to it, it may have been started by its policy.
            Err(why) if self.is_clean() => Err(why),
            Ok(()) | Err(_) => self.same_if_only_started(before, phase, after),
        }
    }

    fn same_if_only_started(
        &self,
        before: &Value,
        phase: Phase,
        after: Option<&Value>,
    ) -> Result<(), String> {
        let ran = before["status"] == "running";
        let another = after.is_some_and(|after| after["pid"] != before["pid"]);
        if ran && phase == Phase::Start && another && !self.hit(Victim::Qemu) {
            return Err(format!("a start of what runs changed its QEMU: {after:?}"));
        }
        Ok(())
    }

    /// A switch is thrown in a VM that runs, refused in one that does not.
    fn answered(&self, before: &Value) -> Result<(), String> {
        let (Some(deed), Some(code)) = (self.deed, self.code) else {
            return Ok(());
        };
        if code == 137 && self.hit(Victim::Cli) {
            return Ok(());
        }
        let is_switch = !matches!(deed, Deed::Enable | Deed::Disable | Deed::Add);
        let running = before["status"] == "running";
        let right = match (is_switch, self.is_clean()) {
            (true, true) if self.self_willed => [0, 3, 5].contains(&code),
            (true, true) => code == if running { 0 } else { 3 },
            (true, false) => SWITCH_HIT.contains(&code),
            (false, _) => code == 0 || self.excused().contains(&code),
        };
        right
            .then_some(())
            .ok_or_else(|| format!("{deed:?} of {before} ended with {code}"))
    }

    /// It runs on if it ran, unless its QEMU was hit; it rests if it rested.
    fn left_alone(&self, before: &Value, after: Option<&Value>) -> Result<(), String> {
        let Some(after) = after else {
            return Err(format!("gone by itself: {before}"));
        };
        if before["status"] != "running" {
            let same = |key: &str| before[key] == after[key];
            let unchanged = same("status") && same("last_exit");
            return (unchanged || self.self_willed)
                .then_some(())
                .ok_or_else(|| format!("changed by itself: {before} became {after}"));
        }
        if self.self_willed && self.hit(Victim::Qemu) && restarted(after) {
            return Ok(());
        }
        let outcome = Outcome {
            hit: self.hit.clone(),
            before: before["pid"].as_i64(),
            last_exit: Some(before["last_exit"].clone()),
            code: None,
            excused: &[],
            crashed: false,
            settled: Duration::ZERO,
        };
        judge(Phase::Run, &outcome, Some(after))
    }
}

/// Its policy has started it again, or tried to.
fn restarted(after: &Value) -> bool {
    after["status"] == "running" || after["last_exit"]["cause"] == "start-failed"
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Deed, Fate};
    use crate::play::Victim;

    fn running(pid: i64) -> Value {
        json!({"status": "running", "pid": pid, "last_exit": null})
    }

    fn failed(cause: &str) -> Value {
        json!({"status": "failed", "pid": null, "last_exit": {"cause": cause, "at": cause}})
    }

    fn fate(before: Option<Value>, deed: Option<(Deed, i32)>, hit: &[Victim]) -> Fate {
        Fate {
            before,
            deed: deed.map(|(deed, _)| deed),
            code: deed.map(|(_, code)| code),
            hit: hit.to_vec(),
            troubled: false,
            self_willed: false,
        }
    }

    #[test]
    fn what_nobody_touched_is_what_it_was() {
        let fate = fate(Some(running(7)), None, &[Victim::Supervisor, Victim::Runner]);
        assert!(fate.judge(Some(&running(7))).is_ok());
        assert!(fate.judge(Some(&running(8))).is_err());
        assert!(fate.judge(Some(&failed("qemu-killed"))).is_err());
        assert!(fate.judge(None).is_err());
    }

    #[test]
    fn a_killed_qemu_is_told_as_killed() {
        let fate = fate(Some(running(7)), None, &[Victim::Qemu]);
        assert!(fate.judge(Some(&failed("qemu-killed"))).is_ok());
        assert!(fate.judge(Some(&failed("qemu-exited"))).is_err());
        assert!(fate.judge(Some(&running(7))).is_err());
    }

    #[test]
    fn what_was_acknowledged_is_so() {
        let stop = fate(Some(running(7)), Some((Deed::Stop, 0)), &[Victim::Supervisor]);
        assert!(stop.judge(Some(&running(7))).is_err());
        let start = fate(Some(failed("qemu-killed")), Some((Deed::Start, 0)), &[]);
        assert!(start.judge(Some(&failed("qemu-killed"))).is_err());
        assert!(start.judge(Some(&running(8))).is_ok());
        let remove = fate(Some(running(7)), Some((Deed::Remove, 0)), &[]);
        assert!(remove.judge(None).is_ok());
        assert!(remove.judge(Some(&failed("stop-forced"))).is_err());
        let add = fate(None, Some((Deed::Add, 0)), &[]);
        assert!(add.judge(None).is_err());
    }

    #[test]
    fn a_start_of_what_runs_changes_nothing() {
        let start = fate(Some(running(7)), Some((Deed::Start, 0)), &[]);
        assert!(start.judge(Some(&running(7))).is_ok());
        assert!(start.judge(Some(&running(8))).is_err());
    }

    #[test]
    fn a_switch_is_refused_where_nothing_runs() {
        let pause = |code| fate(Some(failed("qemu-killed")), Some((Deed::Pause, code)), &[]);
        assert!(pause(3).judge(Some(&failed("qemu-killed"))).is_ok());
        assert!(pause(0).judge(Some(&failed("qemu-killed"))).is_err());
    }

    #[test]
    fn one_that_starts_by_itself_may_be_busy_with_it() {
        let mut restart = fate(Some(failed("qemu-killed")), Some((Deed::Restart, 5)), &[]);
        assert!(restart.judge(Some(&running(8))).is_err());
        restart.self_willed = true;
        assert!(restart.judge(Some(&running(8))).is_ok());
    }

    #[test]
    fn a_client_survives_one_supervisor() {
        let lost = |hit: &[Victim]| fate(Some(running(7)), Some((Deed::Start, 6)), hit);
        assert!(lost(&[Victim::Supervisor]).judge(Some(&running(7))).is_err());
        assert!(lost(&[Victim::Supervisor; 2]).judge(Some(&running(7))).is_ok());
    }

    #[test]
    fn an_answer_has_to_be_one_that_the_circumstances_excuse() {
        let mut stop = fate(Some(running(7)), Some((Deed::Stop, 124)), &[]);
        assert!(stop.judge(Some(&running(7))).is_err());
        stop.troubled = true;
        assert!(stop.judge(Some(&running(7))).is_ok());
    }
}
