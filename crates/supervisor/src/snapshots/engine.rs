//! Who does the steps of work on snapshots, and the one way in which all of it comes to its end.

use maqet_process::point::{Point, pass};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::snapshot::{SnapshotAction, SnapshotWork};

use super::files::Files;
use super::live::Live;
use super::plan::{self, End, Found, Settlement, Step};

/// Who does the steps.
#[derive(Debug)]
pub(crate) enum Engine {
    /// qemu-img, in the images.
    Files(Files),
    /// QEMU.
    Live(Live),
}

/// How work came to its end.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) result: Result<(), Refusal>,
    /// Nothing half-made is left.
    pub(super) settled: bool,
    /// A load by a QEMU that lives has reached some disks and not others, maybe.
    pub(super) between: bool,
}

impl Ended {
    const fn settled(result: Result<(), Refusal>) -> Self {
        Self {
            result,
            settled: true,
            between: false,
        }
    }

    const fn unsettled(result: Result<(), Refusal>) -> Self {
        Self {
            result,
            settled: false,
            between: false,
        }
    }
}

impl Engine {
    pub(super) const fn is_live(&self) -> bool {
        match self {
            Self::Files(_) => false,
            Self::Live(_) => true,
        }
    }

    /// Whether one of the images is damaged, and a person wants it used as it is.
    pub(super) fn has_accepted_damage(&self) -> bool {
        match self {
            Self::Files(files) => files.has_accepted_damage(),
            Self::Live(_) => false,
        }
    }

    pub(super) async fn list(&self) -> Result<Found, Refusal> {
        match self {
            Self::Files(files) => files.list().await,
            Self::Live(live) => live.list().await,
        }
    }

    async fn take(&self, step: &Step) -> Result<(), Refusal> {
        match self {
            Self::Files(files) => files.take(step).await,
            Self::Live(live) => live.take(step).await,
        }
    }

    pub(super) async fn mend(&self) -> Result<(), Refusal> {
        match self {
            Self::Files(files) => files.mend().await,
            // QEMU has the images, and no step of its is cut off while it lives.
            Self::Live(_) => Ok(()),
        }
    }

    /// Begins and settles; what fails is taken back.
    pub(super) async fn work(&self, work: &SnapshotWork) -> Ended {
        let begun = match plan::begin(work) {
            Some(step) => self.take(&step).await,
            None => Ok(()),
        };
        pass(Point::SnapshotBegun);
        match begun {
            Ok(()) => self.conclude(work).await,
            Err(refusal) if work.is_load_by_qemu() => self.not_loaded(refusal).await,
            Err(refusal) => self.back_out(work, refusal).await,
        }
    }

    /// After a step that failed. Where it has come about nevertheless, that is the truth.
    async fn back_out(&self, work: &SnapshotWork, refusal: Refusal) -> Ended {
        match self.take_back(work).await {
            Ok(End::Reached) => {
                tracing::warn!(work = ?work, %refusal, "work on a snapshot was said to have failed, and is done");
                Ended::settled(Ok(()))
            }
            Ok(End::Before) => Ended::settled(Err(refusal)),
            Ok(End::KeptAs) => Ended::settled(Err(self.kept_as(work, refusal))),
            Err(second) => Ended::unsettled(Err(refusal.cause(second.message))),
        }
    }

    /// A load by QEMU has no way back: what it left is told.
    async fn not_loaded(&self, refusal: Refusal) -> Ended {
        let failed = refusal.code == RefusalCode::QmpFailed;
        match self.is_between(failed).await {
            Ok(between) => Ended {
                between,
                ..Ended::settled(Err(refusal))
            },
            Err(second) => Ended::unsettled(Err(refusal.cause(second.message))),
        }
    }

    /// Whether a load by QEMU that has `failed`, or whose end is not known, may have left disks of two moments.
    pub(super) async fn is_between(&self, failed: bool) -> Result<bool, Refusal> {
        match self {
            Self::Files(_) => Ok(true),
            Self::Live(live) => live.is_between(failed).await,
        }
    }

    async fn conclude(&self, work: &SnapshotWork) -> Ended {
        let refusal = match self.settle(work).await {
            Ok(End::Reached) => return Ended::settled(Ok(())),
            Ok(End::Before | End::KeptAs) => {
                Refusal::new(RefusalCode::StorageFailed, "the snapshot did not come about")
            }
            Err(refusal) => refusal,
        };
        if work.action != SnapshotAction::Load || work.live {
            return self.back_out(work, refusal).await;
        }
        match self.retreat(work).await {
            Ok(()) => Ended::settled(Err(refusal)),
            Err(second) => Ended::unsettled(Err(refusal.cause(second.message))),
        }
    }

    pub(super) async fn take_back(&self, work: &SnapshotWork) -> Result<End, Refusal> {
        self.mend().await?;
        if work.replaces_memory() {
            // Memory was not kept just now: no second attempt will do better than what is there.
            return self.resign(work).await;
        }
        self.settle(work).await
    }

    /// Looks at what the images hold and brings the work to its end.
    pub(super) async fn settle(&self, work: &SnapshotWork) -> Result<End, Refusal> {
        if work.replaces_memory() && !self.is_live() {
            return self.resign(work).await;
        }
        let settlement = plan::settle(work, &self.list().await?);
        self.carry_out(settlement).await
    }

    /// The same for a new snapshot with memory in the place of an old one, if it cannot be made once more.
    async fn resign(&self, work: &SnapshotWork) -> Result<End, Refusal> {
        let settlement = plan::replacement::resign(work, &self.list().await?);
        self.carry_out(settlement).await
    }

    async fn carry_out(&self, settlement: Settlement) -> Result<End, Refusal> {
        for step in &settlement.steps {
            self.take(step).await?;
        }
        Ok(settlement.end)
    }

    /// The old snapshot is gone, and the new one is there under the name of its keeper.
    fn kept_as(&self, work: &SnapshotWork, refusal: Refusal) -> Refusal {
        let (vm, keeper) = (self.vm(), work.keeper());
        refusal
            .cause(format!(
                "the new snapshot is whole and kept as `{keeper}`; the old one is gone"
            ))
            .hint(format!(
                "maqet snapshot load {vm} {keeper} --memory goes back to it"
            ))
    }

    pub(super) fn vm(&self) -> &str {
        match self {
            Self::Files(files) => files.vm(),
            Self::Live(live) => &live.vm,
        }
    }

    pub(super) async fn retreat(&self, work: &SnapshotWork) -> Result<(), Refusal> {
        for step in plan::retreat(work) {
            self.take(&step).await?;
        }
        Ok(())
    }
}
