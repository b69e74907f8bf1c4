//! What a wave is going to do.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

/// VMs that everything is done to.
pub(super) const VMS: [&str; 3] = [WITH_RAW, "db", "mail"];

/// The second disk of this one is raw: no snapshot can be inside of it.
pub(super) const WITH_RAW: &str = "web";

/// Names of snapshots.
const NAMES: [&str; 2] = ["one", "two"];

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    Add,
    Start,
    Stop,
    Kill,
    Remove,
    RemoveStorage,
    RemoveButSnapshots,
    Create,
    CreateMemory,
    CreateExternal,
    Replace,
    Load,
    LoadMemory,
    Delete,
    Clone,
    Attach,
    Plug,
    Resize,
    Verify,
    Repair,
    Import,
    Discard,
    Look,
}

impl Verb {
    /// The more often something is here, the more often it is done.
    const DEALT: [Self; 41] = [
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Start,
        Self::Stop,
        Self::Stop,
        Self::Stop,
        Self::Kill,
        Self::Remove,
        Self::RemoveStorage,
        Self::RemoveButSnapshots,
        Self::Create,
        Self::Create,
        Self::CreateMemory,
        Self::CreateMemory,
        Self::CreateExternal,
        Self::CreateExternal,
        Self::CreateExternal,
        Self::Replace,
        Self::Load,
        Self::Load,
        Self::Load,
        Self::LoadMemory,
        Self::LoadMemory,
        Self::Delete,
        Self::Delete,
        Self::Delete,
        Self::Clone,
        Self::Clone,
        Self::Attach,
        Self::Plug,
        Self::Plug,
        Self::Plug,
        Self::Resize,
        Self::Resize,
        Self::Verify,
        Self::Repair,
        Self::Import,
        Self::Discard,
        Self::Look,
    ];
}

/// One order of one client.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) verb: Verb,
    pub(super) vm: &'static str,
    /// Name of a snapshot, where one is needed.
    pub(super) name: &'static str,
    /// Name of a disk, where one is needed.
    pub(super) disk: &'static str,
    /// A number that no other wave has, and one of a wave before.
    pub(super) numbers: (u64, u64),
}

impl Order {
    /// The same, as far as it makes sense: a VM that is not there can only be added, one that does not run has no memory.
    pub(super) fn fitting(&self, listed: &Value) -> Self {
        let mut listed = listed.as_array().unwrap().iter();
        let line = listed.find(|line| line["name"] == self.vm);
        let runs = line.is_some_and(|line| line["status"] == "running");
        let of_library = matches!(self.verb, Verb::Import | Verb::Discard);
        let of_memory = matches!(self.verb, Verb::CreateMemory | Verb::LoadMemory);
        let verb = if line.is_none() && !of_library {
            Verb::Add
        } else if of_memory && !runs {
            Verb::Start
        } else {
            self.verb
        };
        Self { verb, ..self.clone() }
    }

    /// The words of `maqet`.
    pub(super) fn words(&self) -> Vec<String> {
        let (vm, name, disk) = (self.vm, self.name, self.disk);
        let (own, other) = self.numbers;
        let line = match self.verb {
            Verb::Add => format!("add {vm}.yaml"),
            Verb::Start => format!("start {vm}"),
            Verb::Stop => format!("stop {vm}"),
            Verb::Kill => format!("stop {vm} --force"),
            Verb::Remove => format!("rm {vm} --force --yes"),
            Verb::RemoveStorage => format!("rm {vm} --force --yes --delete-storage"),
            Verb::RemoveButSnapshots => {
                format!("rm {vm} --force --yes --delete-storage --keep-snapshots")
            }
            Verb::Create => format!("snapshot create {vm} {name}{}", self.inside()),
            Verb::CreateMemory => format!("snapshot create {vm} {name} --memory"),
            Verb::CreateExternal => format!("snapshot create {vm} {name} --external"),
            Verb::Replace => format!("snapshot create {vm} {name} --overwrite{}", self.inside()),
            Verb::Load => format!("snapshot load {vm} {name}"),
            Verb::LoadMemory => format!("snapshot load {vm} {name} --memory"),
            Verb::Delete => format!("snapshot delete {vm} {name}"),
            Verb::Clone => format!("storage clone {vm} {disk} copy{own}.qcow2 --format qcow2"),
            Verb::Attach => format!("storage attach {vm} copy{other}.qcow2 --disk more --interface ide"),
            Verb::Plug => format!("storage attach {vm} copy{other}.qcow2 --disk plug{}", own % 2),
            Verb::Resize => format!("storage resize {vm} {disk} +1M"),
            Verb::Verify => format!("storage verify {vm}"),
            Verb::Repair => format!("storage verify {vm} --repair"),
            Verb::Import => format!("image import source.qcow2 --name extra{}", own % 2),
            Verb::Discard => format!(
                "image rm {}",
                ["base", "extra0", "extra1"][usize::from(own % 3 > 0)]
            ),
            Verb::Look => format!("storage info {vm}"),
        };
        line.split(' ').map(str::to_owned).collect()
    }

    /// A snapshot inside the images can only be of disks that are qcow2.
    fn inside(&self) -> &'static str {
        if self.is_of_root() { " --disk root" } else { "" }
    }

    /// The snapshot that it makes is of one disk.
    pub(super) fn is_of_root(&self) -> bool {
        self.vm == WITH_RAW && matches!(self.verb, Verb::Create | Verb::Replace)
    }
}

/// Who is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Victim {
    Supervisor,
    Runner,
    Qemu,
    QemuImg,
    Client,
}

/// Violence to somebody, if anybody is there.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) victim: Victim,
    /// Which of them.
    pub(super) place: usize,
    /// Pause before it.
    pub(super) pause: Duration,
    /// For how long it is stopped; killed without.
    pub(super) stretch: Option<Duration>,
}

/// Orders that are given at once, and violence meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Wave {
    pub(super) orders: Vec<Order>,
    pub(super) faults: Vec<Fault>,
    /// Something is written to the disks before it.
    pub(super) writes: bool,
    /// What nobody has is deleted before it, as a person would.
    pub(super) tidies: bool,
}

impl Wave {
    /// The wave of this number.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let orders = (0..random.random_range(1..=4))
            .map(|_| order(&mut random, number))
            .collect();
        let faults = (0..random.random_range(0..=3))
            .map(|_| fault(&mut random))
            .collect();
        Self {
            orders,
            faults,
            writes: random.random_bool(0.7),
            tidies: random.random_bool(0.3),
        }
    }
}

fn order(random: &mut StdRng, number: u64) -> Order {
    Order {
        verb: *Verb::DEALT.choose(random).unwrap(),
        vm: VMS.choose(random).unwrap(),
        name: NAMES.choose(random).unwrap(),
        disk: ["root", "data"].choose(random).unwrap(),
        numbers: (number, random.random_range(0..=number)),
    }
}

fn fault(random: &mut StdRng) -> Fault {
    let victims = [
        Victim::Supervisor,
        Victim::Supervisor,
        Victim::Runner,
        Victim::Qemu,
        Victim::QemuImg,
        Victim::QemuImg,
        Victim::Client,
    ];
    let millis = |random: &mut StdRng, most| Duration::from_millis(random.random_range(0..most));
    Fault {
        victim: *victims.choose(random).unwrap(),
        place: random.random_range(0..8),
        pause: millis(random, 250),
        stretch: random.random_bool(0.3).then(|| millis(random, 400)),
    }
}
