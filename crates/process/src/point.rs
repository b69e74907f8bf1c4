//! Fail points: the steps at which a test may hold a process, to kill it or another there.
//!
//! A point is passed without a trace unless this crate is built for tests (feature `fail-points`, never in a release
//! build) and the environment names a directory ([`DIRECTORY`]) that holds a FIFO of the point's name. Then whoever
//! passes opens the FIFO, which lasts until the test opens it too, and goes on once the test lets go of it. So the
//! kernel brings both together: nobody sleeps, nobody polls, and no signal is sent.
//!
//! `docs/architecture/testing.md` lists the points; a test holds that page to [`Point::ALL`].

use std::ffi::OsString;

/// Variable that names the directory of FIFOs. The programs hand it on to whatever they start.
pub const DIRECTORY: &str = "MAQET_FAIL_POINTS";

/// Declares the points once: variant, name, process, what has happened and what has not.
macro_rules! points {
    ($($variant:ident, $name:literal, $process:literal, $what:literal;)*) => {
        /// A step of a start, a stop, an adoption, a recovery, a removal, of work on disks or images, or of a copy or a
        /// restoration of the store.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $(#[doc = $what] $variant,)*
        }

        impl Point {
            /// All points, in the order in which a VM's life passes them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name of its FIFO: the operation and the step.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Who passes it: `supervisor`, `runner` or `gate`.
            pub const fn process(self) -> &'static str {
                match self { $(Self::$variant => $process,)* }
            }

            /// What has happened there, and what has not.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

points! {
    StartBegun, "start-begun", "supervisor", "files are in place, nothing was spawned";
    RunnerSpawned, "start-runner-spawned", "supervisor", "the runner waits for GO, nobody knows of it";
    RunnerBegun, "start-runner-begun", "runner", "the runner has not asked for GO";
    LaunchRecorded, "start-launch-recorded", "supervisor", "commit 1 is durable, GO was not given";
    RunnerGo, "start-runner-go", "runner", "GO was taken, nothing is bound";
    RunnerListens, "start-runner-listens", "runner", "the runner listens, and has not said so";
    RunnerReady, "start-runner-ready", "supervisor", "the runner answers, nothing was ordered";
    PrepareAsked, "start-prepare-asked", "runner", "a launch was ordered, no port is claimed";
    SocketsBound, "start-sockets-bound", "runner", "QEMU's sockets are bound, no disk is open";
    DisksOpened, "start-disks-opened", "runner", "all is open, no gate was spawned";
    GateBegun, "start-gate-begun", "gate", "the gate is there and confines nothing yet";
    GateSpawned, "start-gate-spawned", "runner", "the gate was spawned, nobody has heard of it";
    GateListens, "start-gate-listens", "gate", "the gate listens, and has not said so";
    GateReported, "start-gate-reported", "gate", "the gate waits for its release";
    GateStands, "start-gate-stands", "runner", "the gate's identity is known to the runner alone";
    GateNamed, "start-gate-named", "supervisor", "the gate's identity is known and not durable";
    QemuRecorded, "start-qemu-recorded", "supervisor", "commit 2 is durable, nothing is released";
    ReleaseAsked, "start-release-asked", "runner", "the release was ordered, the launch is not noted";
    LaunchNoted, "start-launch-noted", "runner", "the launch is noted, the gate is shut";
    GateOpened, "start-gate-opened", "runner", "the gate was told to become QEMU";
    GateReleased, "start-gate-released", "gate", "the gate is about to exec QEMU";
    MonitorConnected, "monitor-connected", "runner", "somebody answers on the monitor, the peer is not checked";
    MonitorGreeted, "monitor-greeted", "runner", "QEMU has greeted, the guest does not run";
    GuestRuns, "start-guest-runs", "runner", "`cont` was answered, nobody was told";
    StartAnswered, "start-answered", "supervisor", "the runner says it runs, nothing is confirmed";
    StopIntended, "stop-intended", "supervisor", "the intent is durable, the runner was not asked";
    StopAsked, "stop-asked", "runner", "a stop was ordered, the ladder has not begun";
    QuitDue, "stop-quit-due", "runner", "the disks are flushed, `quit` was not sent";
    EndSeen, "end-seen", "runner", "QEMU is gone, nothing is noted";
    EndNoted, "end-noted", "runner", "the end is noted, nobody was told";
    RunnerLeaves, "end-runner-leaves", "runner", "all was told, the runner's socket is there";
    StopWalked, "stop-walked", "supervisor", "QEMU is gone, the end is not recorded";
    StopRecorded, "stop-recorded", "supervisor", "the end is durable, nobody was answered";
    AdopterSpawned, "adopt-runner-spawned", "supervisor", "the new runner waits for GO, nobody knows of it";
    AdopterRecorded, "adopt-runner-recorded", "supervisor", "the new runner is durable, GO was not given";
    AdopterReady, "adopt-runner-ready", "supervisor", "the new runner answers and has nothing to look after";
    AdoptAsked, "adopt-asked", "runner", "the new runner was told whom to take over";
    AdoptDone, "adopt-done", "runner", "the new runner has QEMU, nobody was told";
    Adopted, "adopt-answered", "supervisor", "the new runner has QEMU, nothing is confirmed";
    RecoveryBegun, "recovery-begun", "supervisor", "the store is read, nobody was asked";
    RecoverySettled, "recovery-settled", "supervisor", "every VM is settled, nobody listens";
    LayersIntended, "layers-intended", "supervisor", "work on images on top of others is durable, none was touched";
    LayerDone, "layer-done", "supervisor", "one image on top of another is made or merged, not recorded";
    LayersMade, "layers-made", "supervisor", "images for a QEMU that runs are durable and recorded, it was not told";
    LayersAsked, "layers-asked", "runner", "QEMU has new images, and its disks are not on them";
    LayersSwitched, "layers-switched", "runner", "QEMU has put its disks on new images, or has refused to; nobody else knows";
    LayersMerging, "layers-merging", "runner", "QEMU writes an image into the one below, or has";
    LayersEven, "layers-even", "runner", "two images hold the same and the guest is halted, nobody has said with which it goes on";
    LayersTurned, "layers-turned", "runner", "QEMU has gone on with one of two images, the guest is still halted";
    LayersRecorded, "layers-recorded", "supervisor", "what disks stand on is recorded, what nobody needs is still there";
    PlugIntended, "plug-intended", "supervisor", "the disk that a QEMU which runs is to get is recorded, it was not told";
    PlugImages, "plug-images", "runner", "QEMU has the images of a new disk, and no device";
    PlugDone, "plug-done", "runner", "QEMU has a new disk, or has refused it; nobody else knows";
    PlugAnswered, "plug-answered", "supervisor", "the runner says what came of a new disk, that is not recorded";
    SnapshotIntended, "snapshot-intended", "supervisor", "work on a snapshot is durable, no image was touched";
    SnapshotAsked, "snapshot-asked", "runner", "QEMU is to do a step, and was not told";
    SnapshotJob, "snapshot-job", "runner", "QEMU has a job with memory, how it ends is not known";
    SnapshotDisk, "snapshot-disk", "supervisor", "qemu-img has done one step in one image";
    SnapshotBegun, "snapshot-begun", "supervisor", "the first step was done or has failed, it is not settled";
    SnapshotSettled, "snapshot-settled", "supervisor", "the images are settled, that is not recorded";
    DiskNoted, "disk-noted", "supervisor", "the library knows what will stand on its image, nothing was made";
    ImageWritten, "image-written", "supervisor", "a new image is complete and durable, it has no name";
    ImageNamed, "image-named", "supervisor", "a new image has its name, nobody was told";
    WorkBegun, "work-begun", "supervisor", "work on disks was taken on, nothing was touched";
    WorkDone, "work-done", "supervisor", "work on disks is done, that is not recorded";
    WorkRecorded, "work-recorded", "supervisor", "what came of work on disks is durable, nobody was answered";
    ImportBegun, "import-begun", "supervisor", "a file was examined, its image has a temporary name and is empty";
    ImportCopied, "import-copied", "supervisor", "the copy is complete under a temporary name, it has no record";
    ImportDescribed, "import-described", "supervisor", "copy and record are complete under a temporary name";
    ImportPlaced, "import-placed", "supervisor", "an image is in the library, nobody was told";
    DiscardBegun, "discard-begun", "supervisor", "nothing stands on an image that is to go, it has its name";
    DiscardAside, "discard-aside", "supervisor", "an image has a temporary name, its files are there";
    DiscardDone, "discard-done", "supervisor", "an image is gone, nobody was told";
    InfoAsked, "info-asked", "supervisor", "somebody asks what the VM should be, and was not told";
    CopyWritten, "copy-written", "supervisor", "the copy of the store is durable and has no name";
    CopyNamed, "copy-named", "supervisor", "the copy has its name, nobody was told";
    RestoreFilled, "restore-filled", "supervisor", "the new store is complete, the old one is in its place";
    RestoreSetAside, "restore-set-aside", "supervisor", "the old store has its second name, the new one has not its own";
    RestorePlaced, "restore-placed", "supervisor", "the new store is in its place, nobody was told";
    RemoveBegun, "remove-begun", "supervisor", "the removal was taken on, everything is there";
    RemoveIntended, "remove-intended", "supervisor", "it is durable that images go, everything is there";
    RemoveImage, "remove-image-gone", "supervisor", "one image of the VM is deleted, the next is there";
    FilesGone, "remove-files-gone", "supervisor", "the VM's directories are gone, its record is not";
    RecordGone, "remove-record-gone", "supervisor", "the record is gone, nobody was answered";
}

/// Passes a point. Where a test holds it, this returns when the test lets go.
///
/// # Panics
/// When the test writes a byte into the FIFO first: what a defect at that step would do.
#[cfg(all(feature = "fail-points", debug_assertions))]
pub fn pass(point: Point) {
    use std::io::Read;

    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    // Most points of a test have no FIFO. Whatever else keeps one from being held shows in the test, which waits for it.
    if let Ok(mut held) = std::fs::File::open(std::path::Path::new(&directory).join(point.name())) {
        let ordered = matches!(held.read(&mut [0]), Ok(1));
        assert!(!ordered, "a defect on purpose, at `{}`", point.name());
    }
}

/// Passes a point: nothing, in a build that is not for tests.
#[cfg(not(all(feature = "fail-points", debug_assertions)))]
#[inline]
pub const fn pass(_point: Point) {}

/// What a process that is confined must still be able to read, to be held there.
pub(crate) fn place() -> Option<std::path::PathBuf> {
    handed_on().map(|(_, directory)| directory.into())
}

/// The variable to hand on to a program that gets an environment of its own.
pub(crate) fn handed_on() -> Option<(OsString, OsString)> {
    if cfg!(all(feature = "fail-points", debug_assertions)) {
        std::env::var_os(DIRECTORY).map(|directory| (DIRECTORY.into(), directory))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Point;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }

    #[cfg(not(feature = "fail-points"))]
    #[test]
    fn without_the_feature_nothing_is_handed_on() {
        assert_eq!(super::handed_on(), None);
    }
}
