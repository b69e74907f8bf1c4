//! Disks in trouble while QEMU runs, and when a guest that waits for room is let run again. Pure: time comes from outside.
//!
//! QEMU halts a guest whose write finds the host's disk full. Nobody announces that there is room again, so it is looked
//! for, with growing pauses; and a guest that was let run counts as running only once it has not been halted again at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use maqet_protocol::control::{DiskProblem, DiskTrouble};
use maqet_qmp::RunState;
use maqet_qmp::command::BlockInfo;
use maqet_state::clock::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use crate::nodes::disk_of;

/// First pause before room is looked for; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// How long a guest that was let run must run: a write that was held up is tried again at once.
const CONFIRMED: Duration = Duration::from_secs(1);

/// What is wrong with the disks of one QEMU.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// Names of the disks, in the order of the spec.
    names: Vec<String>,
    disks: BTreeMap<String, DiskTrouble>,
    stall: Option<Stall>,
}

/// A guest that QEMU has halted because the host's disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stall {
    step: Step,
    due: Instant,
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Room is looked for when it is due.
    Waiting,
    /// Somebody is looking.
    Looking,
    /// It runs, and counts as running when it is due.
    Confirming,
}

/// A change to be told: a disk, and what is wrong with it now.
pub(crate) type Told = (String, Option<DiskTrouble>);

/// What is to be done when something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// Look for room for these disks, and let the guest run if there is.
    Look(Vec<String>),
    /// The guest runs again: tell.
    Over(Vec<Told>),
}

/// What is wanted of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// Go on.
    Run,
    /// Rest until a person lets it go on.
    Rest,
    /// QEMU is being ended.
    End,
}

impl Troubles {
    /// Nothing is wrong with these disks, of which QEMU speaks as nodes.
    pub(crate) fn of(images: &[(String, PathBuf)]) -> Self {
        Self {
            names: images.iter().map(|(name, _path)| name.clone()).collect(),
            ..Self::default()
        }
    }

    /// There is a disk more, the last one, at this place.
    pub(crate) fn learn(&mut self, place: usize, disk: String) {
        self.names.truncate(place);
        self.names.push(disk);
    }

    fn disk(&self, node: &str) -> String {
        disk_of(node, &self.names).unwrap_or(node).to_owned()
    }

    /// What is wrong now.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &DiskTrouble)> {
        self.disks.iter()
    }

    /// When [`Self::due`] wants to be asked.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.stall
            .filter(|stall| stall.step != Step::Looking)
            .map(|stall| stall.due)
    }

    /// QEMU told of a failed access that it passed on to the guest, or of a damaged image.
    pub(crate) fn event(&mut self, name: &str, data: &Value, at: Timestamp) -> Option<Told> {
        let word = |key: &str| {
            data.get(key)
                .and_then(Value::as_str)
                .filter(|word| !word.is_empty())
        };
        let disk = self.disk(word("node-name").or_else(|| word("device"))?);
        let (problem, detail) = match name {
            "BLOCK_IMAGE_CORRUPTED" => (DiskProblem::Damaged, word("msg").map(ToOwned::to_owned)),
            // One that halts the guest is seen by its run state.
            "BLOCK_IO_ERROR" if word("action") != Some("stop") => {
                let (operation, reason) = (word("operation")?, word("reason")?);
                let detail = format!("a {operation} failed: {reason}; the guest was told");
                (DiskProblem::Error, Some(detail))
            }
            _ => return None,
        };
        self.put(disk, problem, detail, at)
    }

    /// What QEMU says of its disks while it is halted by an error.
    pub(crate) fn halted(&mut self, blocks: &[BlockInfo], at: Timestamp, now: Instant) -> Vec<Told> {
        let told: Vec<Told> = blocks
            .iter()
            .filter_map(|block| self.halted_by(block, at))
            .collect();
        let full = |trouble: &DiskTrouble| trouble.problem == DiskProblem::HostFull;
        if !self.disks.values().any(full) {
            return told;
        }
        self.stall = Some(match self.stall {
            // Let run too early: there is still no room.
            Some(stall) if stall.step == Step::Confirming => stall.again(now),
            Some(stall) => stall,
            None => Stall {
                step: Step::Waiting,
                due: now + PAUSE,
                pause: PAUSE,
            },
        });
        told
    }

    fn halted_by(&mut self, block: &BlockInfo, at: Timestamp) -> Option<Told> {
        let problem = match block.io_status.as_deref() {
            Some("nospace") => DiskProblem::HostFull,
            Some("failed") => DiskProblem::Error,
            Some(_) | None => return None,
        };
        let disk = self.disk(block.inserted.as_ref()?.node_name.as_ref()?);
        let detail = (problem == DiskProblem::Error).then(|| "the guest is halted".to_owned());
        self.put(disk, problem, detail, at)
    }

    /// Nothing to tell when it was so already.
    fn put(
        &mut self,
        disk: String,
        problem: DiskProblem,
        detail: Option<String>,
        at: Timestamp,
    ) -> Option<Told> {
        let same = |known: &DiskTrouble| (known.problem, &known.detail) == (problem, &detail);
        if self.disks.get(&disk).is_some_and(same) {
            return None;
        }
        let trouble = DiskTrouble {
            problem,
            detail,
            since: at,
            accepted: false,
            hint: None,
        };
        self.disks.insert(disk.clone(), trouble.clone());
        Some((disk, Some(trouble)))
    }

    /// The guest runs, whoever let it: soon it counts.
    pub(crate) fn runs(&mut self, run_state: &RunState, now: Instant) {
        let confirming = self.stall.is_some_and(|stall| stall.step == Step::Confirming);
        if *run_state != RunState::Running || confirming || self.full().is_empty() {
            return;
        }
        self.stall = Some(Stall {
            step: Step::Confirming,
            due: now + CONFIRMED,
            pause: self.stall.map_or(PAUSE, |stall| stall.pause),
        });
    }

    /// Something may be due.
    pub(crate) fn due(&mut self, run_state: &RunState, wants: Wants, now: Instant) -> Due {
        let Some(stall) = self.stall.filter(|stall| now >= stall.due) else {
            return Due::Nothing;
        };
        match (stall.step, run_state) {
            (Step::Looking, _) => Due::Nothing,
            (Step::Confirming, RunState::Running) => Due::Over(self.over()),
            (Step::Confirming, RunState::IoError) => {
                self.stall = Some(stall.again(now));
                Due::Nothing
            }
            // It waits for a person as well; when he lets it go on, that is seen.
            (Step::Waiting, RunState::IoError) if wants == Wants::Rest => {
                self.stall = Some(stall.again(now));
                Due::Nothing
            }
            (Step::Waiting, RunState::IoError) if wants == Wants::Run => {
                self.stall = Some(Stall {
                    step: Step::Looking,
                    ..stall
                });
                Due::Look(self.full())
            }
            // Somebody has decided otherwise.
            (Step::Waiting | Step::Confirming, _) => {
                self.stall = None;
                Due::Nothing
            }
        }
    }

    /// It was let run.
    pub(crate) fn let_run(&mut self, now: Instant) {
        self.stall = self.stall.map(|stall| Stall {
            step: Step::Confirming,
            due: now + CONFIRMED,
            ..stall
        });
    }

    /// Nobody let it run: there was no room, or QEMU did not take the command.
    pub(crate) fn no_room(&mut self, now: Instant) {
        self.stall = self.stall.map(|stall| match stall.step {
            Step::Looking => stall.again(now),
            Step::Waiting | Step::Confirming => stall,
        });
    }

    fn full(&self) -> Vec<String> {
        let full = self
            .disks
            .iter()
            .filter(|(_, trouble)| trouble.problem == DiskProblem::HostFull);
        full.map(|(disk, _)| disk.clone()).collect()
    }

    fn over(&mut self) -> Vec<Told> {
        self.stall = None;
        let full = self.full();
        self.disks.retain(|disk, _| !full.contains(disk));
        full.into_iter().map(|disk| (disk, None)).collect()
    }
}

impl Stall {
    fn again(self, now: Instant) -> Self {
        let pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
        Self {
            step: Step::Waiting,
            due: now + pause + jitter(pause),
            pause,
        }
    }
}

/// Up to a quarter of the pause, other for every runner: those that wait for one disk do not all look at once.
fn jitter(pause: Duration) -> Duration {
    pause / 4 * (std::process::id() % 16) / 16
}

#[cfg(test)]
mod tests {
    use maqet_qmp::command::Medium;
    use serde_json::json;

    use super::*;

    const AT: Timestamp = Timestamp(1);

    fn block(disk: &str, status: &str) -> BlockInfo {
        BlockInfo {
            device: String::new(),
            qdev: None,
            io_status: Some(status.to_owned()),
            inserted: Some(Medium {
                file: "f".to_owned(),
                node_name: Some(disk.to_owned()),
                readonly: false,
                driver: "qcow2".to_owned(),
            }),
        }
    }

    fn problem(told: &[Told]) -> Vec<(&str, Option<DiskProblem>)> {
        told.iter()
            .map(|(disk, trouble)| (disk.as_str(), trouble.as_ref().map(|trouble| trouble.problem)))
            .collect()
    }

    fn stalled(now: Instant) -> Troubles {
        let mut troubles = Troubles::default();
        let told = troubles.halted(&[block("data", "ok"), block("root", "nospace")], AT, now);
        assert_eq!(problem(&told), [("root", Some(DiskProblem::HostFull))]);
        troubles
    }

    #[test]
    fn room_is_looked_for_with_growing_pauses() {
        let mut now = Instant::now();
        let mut troubles = stalled(now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let due = troubles.due_at().unwrap();
            pauses.push((due - now).as_secs());
            now = due;
            assert_eq!(
                troubles.due(&RunState::IoError, Wants::Run, now),
                Due::Look(vec!["root".to_owned()])
            );
            assert_eq!(troubles.due_at(), None);
            assert_eq!(troubles.due(&RunState::IoError, Wants::Run, now), Due::Nothing);
            troubles.no_room(now);
        }
        assert_eq!(pauses[..2], [1, 2]);
        assert!(pauses.is_sorted() && pauses[8] <= 75, "{pauses:?}");
    }

    #[test]
    fn it_is_over_once_the_guest_has_run_for_a_while() {
        let now = Instant::now();
        let mut troubles = stalled(now);
        let later = now + PAUSE;
        assert!(matches!(
            troubles.due(&RunState::IoError, Wants::Run, later),
            Due::Look(_)
        ));
        troubles.runs(&RunState::Running, later);
        assert_eq!(troubles.due(&RunState::Running, Wants::Run, later), Due::Nothing);
        // Halted again at once: nothing is told, and the next pause is longer.
        assert!(troubles.halted(&[block("root", "nospace")], AT, later).is_empty());
        assert!(troubles.due_at().unwrap() >= later + 2 * PAUSE);
        troubles.runs(&RunState::Running, later);
        let over = troubles.due(&RunState::Running, Wants::Run, later + CONFIRMED);
        assert_eq!(over, Due::Over(vec![("root".to_owned(), None)]));
        assert_eq!((troubles.due_at(), troubles.iter().count()), (None, 0));
    }

    #[test]
    fn a_guest_that_was_let_run_and_is_halted_unseen_is_looked_after_again() {
        let now = Instant::now();
        let mut troubles = stalled(now);
        let later = now + PAUSE;
        assert!(matches!(
            troubles.due(&RunState::IoError, Wants::Run, later),
            Due::Look(_)
        ));
        troubles.let_run(later);
        let later = later + CONFIRMED;
        assert_eq!(troubles.due(&RunState::IoError, Wants::Run, later), Due::Nothing);
        assert!(troubles.due_at().unwrap() >= later + 2 * PAUSE);
    }

    #[test]
    fn whoever_ends_or_pauses_it_has_the_say() {
        let now = Instant::now();
        for (run_state, wants) in [(RunState::Paused, Wants::Run), (RunState::IoError, Wants::End)] {
            let mut troubles = stalled(now);
            assert_eq!(troubles.due(&run_state, wants, now + PAUSE), Due::Nothing);
            assert_eq!(troubles.due_at(), None);
            assert_eq!(troubles.iter().count(), 1);
        }
    }

    #[test]
    fn a_person_who_halted_it_lets_it_go_on() {
        let now = Instant::now();
        let mut troubles = stalled(now);
        let mut later = now;
        for _ in 0..3 {
            later = troubles.due_at().unwrap();
            assert_eq!(troubles.due(&RunState::IoError, Wants::Rest, later), Due::Nothing);
        }
        troubles.runs(&RunState::Running, later);
        let over = troubles.due(&RunState::Running, Wants::Run, later + CONFIRMED);
        assert_eq!(problem_of(&over), [("root", None)]);
        // One that was paused while it was confirmed is confirmed when it runs again.
        let mut troubles = stalled(now);
        assert_eq!(
            troubles.due(&RunState::Paused, Wants::Rest, now + PAUSE),
            Due::Nothing
        );
        troubles.runs(&RunState::Running, later);
        let over = troubles.due(&RunState::Running, Wants::Run, later + CONFIRMED);
        assert_eq!(problem_of(&over), [("root", None)]);
    }

    fn problem_of(due: &Due) -> Vec<(&str, Option<DiskProblem>)> {
        match due {
            Due::Over(told) => problem(told),
            Due::Nothing | Due::Look(_) => panic!("{due:?}"),
        }
    }

    #[test]
    fn other_errors_are_told_once_and_never_waited_for() {
        let mut troubles = Troubles::default();
        let told = troubles.halted(&[block("root", "failed")], AT, Instant::now());
        assert_eq!(problem(&told), [("root", Some(DiskProblem::Error))]);
        assert_eq!(troubles.due_at(), None);
        let data = json!({"node-name": "data", "device": "", "operation": "read", "action": "report",
            "reason": "Input/output error"});
        let (disk, trouble) = troubles.event("BLOCK_IO_ERROR", &data, AT).unwrap();
        assert_eq!(
            (disk.as_str(), trouble.unwrap().problem),
            ("data", DiskProblem::Error)
        );
        assert_eq!(troubles.event("BLOCK_IO_ERROR", &data, AT), None);
        let data =
            json!({"node-name": "data", "device": "", "msg": "Preventing invalid write", "fatal": true});
        let (_, trouble) = troubles.event("BLOCK_IMAGE_CORRUPTED", &data, AT).unwrap();
        assert_eq!(trouble.unwrap().problem, DiskProblem::Damaged);
        assert_eq!(
            troubles.event(
                "BLOCK_IO_ERROR",
                &json!({"node-name": "data", "action": "stop"}),
                AT
            ),
            None
        );
        assert_eq!(troubles.event("RESUME", &Value::Null, AT), None);
    }
}
