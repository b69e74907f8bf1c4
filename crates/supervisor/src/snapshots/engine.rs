//! Who does the steps of work on snapshots, and the one way in which all of it comes to its end.

use maqet_process::point::{Point, pass};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::snapshot::{SnapshotAction, SnapshotWork};

use super::files::Files;
use super::live::Live;
use super::plan::{self, Found, Step};

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
            Err(refusal) => match self.take_back(work).await {
                Ok(()) => Ended::settled(Err(refusal)),
                Err(second) => Ended::unsettled(Err(refusal.cause(second.message))),
            },
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
            Ok(true) => return Ended::settled(Ok(())),
            Ok(false) => Refusal::new(RefusalCode::StorageFailed, "the snapshot did not come about"),
            Err(refusal) => refusal,
        };
        let back = if work.action == SnapshotAction::Load && !work.live {
            self.retreat(work).await
        } else {
            self.take_back(work).await
        };
        if back.is_ok() {
            Ended::settled(Err(refusal))
        } else {
            Ended::unsettled(Err(refusal))
        }
    }

    async fn take_back(&self, work: &SnapshotWork) -> Result<(), Refusal> {
        self.mend().await?;
        self.settle(work).await.map(drop)
    }

    /// Looks at what the images hold and brings the work to its end; whether what was wanted has come about.
    pub(super) async fn settle(&self, work: &SnapshotWork) -> Result<bool, Refusal> {
        let settlement = plan::settle(work, &self.list().await?);
        for step in &settlement.steps {
            self.take(step).await?;
        }
        Ok(settlement.achieved)
    }

    pub(super) async fn retreat(&self, work: &SnapshotWork) -> Result<(), Refusal> {
        for step in plan::retreat(work) {
            self.take(&step).await?;
        }
        Ok(())
    }
}
