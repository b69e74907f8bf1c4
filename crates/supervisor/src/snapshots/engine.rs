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
}

impl Engine {
    pub(super) const fn is_live(&self) -> bool {
        match self {
            Self::Files(_) => false,
            Self::Live(_) => true,
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
            Err(refusal) => match self.take_back(work).await {
                Ok(()) => Ended {
                    result: Err(refusal),
                    settled: true,
                },
                Err(second) => Ended {
                    result: Err(refusal.cause(second.message)),
                    settled: false,
                },
            },
        }
    }

    async fn conclude(&self, work: &SnapshotWork) -> Ended {
        let refusal = match self.settle(work).await {
            Ok(true) => {
                return Ended {
                    result: Ok(()),
                    settled: true,
                };
            }
            Ok(false) => Refusal::new(RefusalCode::StorageFailed, "the snapshot did not come about"),
            Err(refusal) => refusal,
        };
        let back = if work.action == SnapshotAction::Load && !work.live {
            self.retreat(work).await
        } else {
            self.take_back(work).await
        };
        let settled = back.is_ok();
        Ended {
            result: Err(refusal),
            settled,
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
