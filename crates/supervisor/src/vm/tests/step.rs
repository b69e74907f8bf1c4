//! What may happen to a VM, and in which order: the scripts that are played.

use proptest::prelude::*;

/// One thing that happens, and how far the product gets before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A client asks.
    Ask(Wish),
    /// Something becomes of the runner.
    Runner(Fate),
    /// Something becomes of QEMU.
    Qemu(End),
    /// From now on the guest takes a stop like this.
    Guest(Guest),
    /// From now on starts go like this.
    Starts(Starts),
    /// The disk under the store.
    Disk(Disk),
    /// The VM's actor panics.
    Panic,
    /// The supervisor is killed, and another one comes.
    Kill,
    /// Everything that can happen by itself happens, for so many milliseconds.
    Pass(u64),
    /// The actors get so many turns, and no time passes.
    Turns(u8),
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Start,
    Stop,
    StopWithin(u64),
    ForceStop,
    Restart,
    Remove,
    ForceRemove,
    /// `rm --force --delete-storage`.
    Discard,
    Pause,
    Resume,
    Reset,
    Status,
    Enable,
}

/// What may become of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It does nothing any more, and neither does any that comes after it.
    Freezes,
    /// A frozen one does one thing.
    Stirs,
    /// All go on.
    Thaws,
    /// It is killed.
    Dies,
    /// Its connections break.
    HangsUp,
    /// No runner can be spawned.
    CannotBe,
    /// One can be again.
    CanBe,
}

/// How a QEMU may end, or what it may tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Killed,
    Crashed,
    Exited(i32),
    ShutDown,
    Panicked,
    /// It does not end; it tells an event.
    Event,
    /// It does not end; its runner finds it silent, or hears of it again.
    Silent(bool),
}

/// How a guest takes a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Guest {
    /// It shuts down at once.
    #[default]
    Obeys,
    /// It does not, and QEMU quits once the budget is used up.
    Dawdles,
    /// QEMU answers nothing.
    Mute,
}

/// How a start goes once it gets to QEMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Starts {
    /// Well.
    #[default]
    Well,
    /// The runner refuses to prepare it.
    Unprepared,
    /// QEMU ends with an error.
    Fail,
}

/// What becomes of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    /// The n-th write or flush from now fails, once.
    Fails(u64),
    /// Nothing can be written.
    Full,
    /// There is room again.
    Room,
}

/// What a VM's spec says about ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// `restart: on-failure`, else `never`.
    pub(super) restarts: bool,
    /// `on_runner_loss: stop`, else `adopt`.
    pub(super) ends_on_loss: bool,
    /// `stop.on_timeout: kill`, else `keep`.
    pub(super) kills: bool,
}

/// Any policy.
pub(super) fn policy() -> impl Strategy<Value = Policy> {
    let rarely = || prop::bool::weighted(0.25);
    (rarely(), rarely(), rarely()).prop_map(|(restarts, ends_on_loss, kills)| Policy {
        restarts,
        ends_on_loss,
        kills,
    })
}

/// Any script.
pub(super) fn script() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..40)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => wish().prop_map(Step::Ask),
        4 => fate().prop_map(Step::Runner),
        3 => end().prop_map(Step::Qemu),
        1 => prop_oneof![Just(Guest::Obeys), Just(Guest::Dawdles), Just(Guest::Mute)].prop_map(Step::Guest),
        1 => prop_oneof![2 => Just(Starts::Well), 1 => Just(Starts::Unprepared), 1 => Just(Starts::Fail)]
            .prop_map(Step::Starts),
        1 => prop_oneof![(1_u64..12).prop_map(Disk::Fails), Just(Disk::Full), Just(Disk::Room)]
            .prop_map(Step::Disk),
        1 => Just(Step::Panic),
        1 => Just(Step::Kill),
        6 => prop_oneof![4 => Just(60), 2 => Just(1_100), 1 => Just(5_500), 1 => Just(31_000)]
            .prop_map(Step::Pass),
        4 => (0_u8..30).prop_map(Step::Turns),
    ]
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        6 => Just(Wish::Start),
        4 => Just(Wish::Stop),
        1 => Just(Wish::StopWithin(500)),
        2 => Just(Wish::ForceStop),
        2 => Just(Wish::Restart),
        1 => Just(Wish::Remove),
        1 => Just(Wish::ForceRemove),
        2 => Just(Wish::Discard),
        1 => Just(Wish::Pause),
        1 => Just(Wish::Resume),
        1 => Just(Wish::Reset),
        1 => Just(Wish::Status),
        1 => Just(Wish::Enable),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Freezes),
        4 => Just(Fate::Stirs),
        2 => Just(Fate::Thaws),
        3 => Just(Fate::Dies),
        1 => Just(Fate::HangsUp),
        1 => Just(Fate::CannotBe),
        1 => Just(Fate::CanBe),
    ]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        3 => Just(End::Killed),
        1 => Just(End::Crashed),
        1 => (0..2).prop_map(End::Exited),
        2 => Just(End::ShutDown),
        1 => Just(End::Panicked),
        1 => Just(End::Event),
        1 => any::<bool>().prop_map(End::Silent),
    ]
}
