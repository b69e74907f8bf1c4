//! Who asks, and what an answer promises.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use actix::{Addr, MailboxError};
use maqet_protocol::control::StopHow;
use maqet_protocol::refusal::{Refusal, RefusalCode};

use super::play::Play;
use super::step::Wish;
use super::world::Wanted;
use crate::messages::{
    DescribeVm, Enabling, FindVm, RemoveVm, RestartVm, SetAutostart, StartVm, StopBy, StopVm, Switch,
    SwitchVm,
};
use crate::operation::{Accepted, Done};
use crate::supervisor::SupervisorActor;
use crate::vm::VmActor;

/// One request.
pub(super) struct Client {
    pub(super) wish: Wish,
    pub(super) number: usize,
    answers: RefCell<Vec<String>>,
    /// Somebody who should have answered was lost meanwhile.
    bereft: Cell<bool>,
}

/// What one is told.
enum Answer {
    Done(Done),
    /// Something that promises nothing that lasts.
    Said,
    Refused(Refusal),
    /// Nobody is there, or nobody knows any more.
    Lost,
}

impl Client {
    pub(super) fn new(wish: Wish, number: usize) -> Rc<Self> {
        Rc::new(Self {
            wish,
            number,
            answers: RefCell::default(),
            bereft: Cell::default(),
        })
    }

    pub(super) fn is_answered(&self) -> bool {
        !self.answers.borrow().is_empty()
    }

    pub(super) fn bereave(&self) {
        self.bereft.set(true);
    }

    /// Which ends it asks for.
    pub(super) fn wanted(&self) -> Wanted {
        let force = matches!(self.wish, Wish::ForceStop | Wish::ForceRemove | Wish::Discard);
        let stop = force || matches!(self.wish, Wish::Stop | Wish::StopWithin(_) | Wish::Restart);
        Wanted { stop, force }
    }

    pub(super) async fn ask(self: Rc<Self>, play: Rc<Play>, supervisor: Addr<SupervisorActor>) {
        let before = play.world.launches.borrow().len();
        let answer = match find(&play, &supervisor).await {
            Ok(owner) => asked(self.wish, &owner).await.unwrap_or(Answer::Lost),
            Err(answer) => answer,
        };
        self.answers.borrow_mut().push(words(&answer));
        self.judge(&play, &answer, before);
        play.note_wishes();
    }

    /// What was said must be so.
    fn judge(&self, play: &Play, answer: &Answer, before: usize) {
        let world = &play.world;
        let blame = |what: &str| world.blame(format!("client {}, {:?}: {what}", self.number, self.wish));
        match answer {
            Answer::Done(Done::Started(started)) => {
                let qemus = world.qemus().into_iter();
                let named = qemus
                    .rev()
                    .find(|(_, qemu)| Some(qemu.body.handle.pid()) == started.pid);
                match named {
                    Some((launch, qemu)) if qemu.released.get() => launch.acknowledged.set(true),
                    _ => blame("was told of a start, and no QEMU is its"),
                }
            }
            Answer::Done(Done::Stopped(report)) => {
                let earlier = world.launches.borrow()[..before].to_vec();
                let lives = |launch: &Rc<_>| {
                    world
                        .living_qemus()
                        .iter()
                        .any(|(other, _)| Rc::ptr_eq(other, launch))
                };
                if earlier.iter().any(lives) {
                    blame("was told of a stop, and QEMU lives");
                }
                if report.how != StopHow::Already && !play.wore.get() && is_on_record(play, before) {
                    blame("was told of a stop that is not in the store");
                }
            }
            Answer::Done(Done::Removed(removed)) => {
                play.check_told(removed);
                if world.store.vm(&world.vm).unwrap().is_some() {
                    blame("was told of a removal, and the record is there");
                }
                if !world.living_qemus().is_empty() || world.living_runners() > 0 {
                    blame("was told of a removal, and a process lives");
                }
            }
            Answer::Refused(refusal) if refusal.code == RefusalCode::Internal => {
                blame(&format!("was told of a defect: {refusal:?}"));
            }
            Answer::Lost if !self.bereft.get() && world.store.vm(&world.vm).unwrap().is_some() => {
                blame("got no answer");
            }
            Answer::Done(Done::Snapshot(_) | Done::Listed(_)) => blame("was told of a snapshot"),
            Answer::Done(Done::Maintained(_)) | Answer::Said | Answer::Refused(_) | Answer::Lost => {}
        }
    }

    /// The request, for people.
    pub(super) fn story(&self) -> String {
        format!(
            "client {} {:?}: {:?}",
            self.number,
            self.wish,
            self.answers.borrow()
        )
    }

    /// What it was told.
    pub(super) fn answer(&self) -> String {
        self.answers.borrow().join("; ")
    }

    /// How often it was answered.
    pub(super) fn answers(&self) -> usize {
        self.answers.borrow().len()
    }
}

/// Whether a launch that was there before, and that somebody had ended, is on record as running.
fn is_on_record(play: &Play, before: usize) -> bool {
    let stored = play.world.stored();
    let launches = play.world.launches.borrow();
    let mut ended = launches[..before].iter().filter(|launch| launch.ordered.get());
    stored.is_some_and(|stored| ended.any(|launch| launch.id == stored.launch_id))
}

async fn find(play: &Play, supervisor: &Addr<SupervisorActor>) -> Result<Addr<VmActor>, Answer> {
    let id = play.world.vm.as_str().to_owned();
    match supervisor.send(FindVm(id)).await {
        Ok(Ok(found)) if found.vm.connected() => Ok(found.vm),
        Ok(Ok(_being_rebuilt)) => Err(Answer::Refused(Refusal::new(RefusalCode::Busy, "try again"))),
        Ok(Err(refusal)) => Err(Answer::Refused(refusal)),
        Err(_closed) => Err(Answer::Lost),
    }
}

fn removal(wish: Wish) -> RemoveVm {
    RemoveVm {
        keep_snapshots: false,
        force: wish != Wish::Remove,
        delete_storage: wish == Wish::Discard,
        key: None,
    }
}

async fn asked(wish: Wish, owner: &Addr<VmActor>) -> Result<Answer, MailboxError> {
    let stop = |timeout_ms, force| StopVm {
        timeout_ms,
        force,
        key: None,
        by: StopBy::Person,
    };
    let accepted = match wish {
        Wish::Start => owner.send(StartVm { key: None }).await?,
        Wish::Stop => owner.send(stop(None, false)).await?,
        Wish::StopWithin(time) => owner.send(stop(Some(time), false)).await?,
        Wish::ForceStop => owner.send(stop(None, true)).await?,
        Wish::Restart => {
            let restart = RestartVm {
                timeout_ms: None,
                key: None,
            };
            owner.send(restart).await?
        }
        Wish::Remove | Wish::ForceRemove | Wish::Discard => owner.send(removal(wish)).await?,
        Wish::Pause | Wish::Resume | Wish::Reset | Wish::Status | Wish::Enable => {
            return looked(wish, owner).await;
        }
    };
    Ok(followed(accepted).await)
}

async fn looked(wish: Wish, owner: &Addr<VmActor>) -> Result<Answer, MailboxError> {
    let switch = match wish {
        Wish::Pause => Some(Switch::Pause),
        Wish::Resume => Some(Switch::Resume),
        Wish::Reset => Some(Switch::Reset),
        Wish::Start
        | Wish::Stop
        | Wish::StopWithin(_)
        | Wish::ForceStop
        | Wish::Restart
        | Wish::Remove
        | Wish::ForceRemove
        | Wish::Discard
        | Wish::Status
        | Wish::Enable => None,
    };
    if let Some(switch) = switch {
        let changed = owner.send(SwitchVm(switch)).await?;
        return Ok(changed.map_or_else(Answer::Refused, |_changed| Answer::Said));
    }
    if wish == Wish::Status {
        owner.send(DescribeVm).await?;
        return Ok(Answer::Said);
    }
    let (order, delay) = (None, None);
    let set = owner.send(SetAutostart(Enabling::On { order, delay })).await?;
    Ok(set.map_or_else(Answer::Refused, |_set| Answer::Said))
}

async fn followed(accepted: Result<Accepted, Refusal>) -> Answer {
    let outcome = match accepted {
        Ok(accepted) => accepted.outcome().await,
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(done) => Answer::Done(done),
        // Its owner is gone.
        Err(refusal) if refusal.message.contains("lost by a defect in the supervisor") => Answer::Lost,
        Err(refusal) => Answer::Refused(refusal),
    }
}

fn words(answer: &Answer) -> String {
    match answer {
        Answer::Done(Done::Started(started)) if started.already => "runs already".to_owned(),
        Answer::Done(Done::Started(_)) => "started".to_owned(),
        Answer::Done(Done::Stopped(report)) => format!("stopped, {:?}", report.how),
        Answer::Done(Done::Removed(_)) => "removed".to_owned(),
        Answer::Done(Done::Snapshot(_) | Done::Listed(_)) => "snapshot".to_owned(),
        Answer::Done(Done::Maintained(_)) => "worked on disks".to_owned(),
        Answer::Said => "done".to_owned(),
        Answer::Refused(refusal) => format!("refused: {refusal} {:?}", refusal.causes),
        Answer::Lost => "lost".to_owned(),
    }
}
