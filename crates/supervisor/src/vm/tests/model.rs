//! What must hold, said without a table: of what is shown, of every end, of the journal, and of what is left in the end.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use maqet_protocol::control::VmSummary;
use maqet_state::journal::JournalEntry;
use maqet_state::ledger::LedgerKind;
use maqet_state::lifecycle::{Activity, Cause, Status};
use maqet_state::record::VmRecord;

use super::play::Play;
use super::step::{End, Policy};
use super::world::{Launch, Qemu};
use crate::messages::{DescribeStore, InfoVm, ListVms};

/// Longer than any pause and any deadline of the product together with the one before it.
const SETTLED_WITHIN: Duration = Duration::from_mins(2);

/// How long the last look takes between two looks.
const LOOK: Duration = Duration::from_secs(1);

impl Play {
    /// What must hold at every moment at which nothing moves.
    pub(super) async fn check(&self) {
        for (launch, qemu) in self.world.qemus() {
            self.check_reason(&launch, &qemu);
        }
        if let Some(line) = self.line().await {
            self.check_line(&line);
        }
        self.check_images();
    }

    /// A QEMU that somebody was told of is ended only for a reason.
    fn check_reason(&self, launch: &Launch, qemu: &Qemu) {
        let lost = self.policy.ends_on_loss && launch.lost.get();
        if qemu.body.was_ended() && launch.acknowledged.get() && !launch.wanted.get().any() && !lost {
            let generation = launch.generation.get();
            self.world.blame(format!(
                "QEMU of launch {generation} was ended, and nobody asked for it"
            ));
        }
    }

    /// What `ls` shows, while the VM has an owner who answers.
    async fn line(&self) -> Option<VmSummary> {
        let owner = self.owner().await?;
        let shared = self.house().shared;
        let supervisor = self.house().supervisor;
        let lines = self
            .done(async move { supervisor.send(ListVms { status: None }).await })
            .await;
        owner.send(InfoVm).await.ok()?;
        drop(shared);
        let line = lines
            .unwrap()
            .vms
            .into_iter()
            .find(|line| line.id == self.world.vm);
        if line.is_none() {
            self.world.blame("the VM is not listed");
        }
        line
    }

    fn check_line(&self, line: &VmSummary) {
        let living = self.world.living_qemus();
        let mut running = living.iter().filter(|(_, qemu)| qemu.released.get());
        let shown = running.find(|(_, qemu)| Some(qemu.body.handle.pid()) == line.pid);
        let ends = line.last_exit.as_ref().map(|exit| exit.cause.leads_to());
        match (line.status, line.activity) {
            (Status::Running, Activity::Idle) => match shown {
                Some((launch, _)) => launch.acknowledged.set(true),
                None => self
                    .world
                    .blame(format!("shown as running, and no QEMU lives: {line:?}")),
            },
            (Status::Running, Activity::Starting) => {
                self.world.blame("shown as running before it was confirmed");
            }
            (_, Activity::Idle) if !living.is_empty() => {
                self.world
                    .blame(format!("QEMU lives, and is shown as not running: {line:?}"));
            }
            (Status::Stopped | Status::Failed, _) if ends != Some(line.status) => {
                self.world
                    .blame(format!("the status is not that of its cause: {line:?}"));
            }
            _ => {}
        }
    }

    /// What must hold once nothing is in anybody's way and everything had its time.
    pub(super) async fn finish(&self) {
        self.relieve().await;
        if !self.settles().await {
            self.world.blame("it does not come to rest");
        }
        self.check().await;
        self.check_answers();
        self.check_journal();
        match self.world.store.vm(&self.world.vm).unwrap() {
            Some(record) => self.check_kept(&record).await,
            None => self.check_removed(),
        }
    }

    async fn settles(&self) -> bool {
        let mut left = SETTLED_WITHIN;
        while !self.is_settled().await {
            self.pass(LOOK).await;
            let Some(less) = left.checked_sub(LOOK) else {
                return false;
            };
            left = less;
        }
        true
    }

    async fn is_settled(&self) -> bool {
        let removed = self.world.store.vm(&self.world.vm).unwrap().is_none();
        let answered = self.clients.borrow().iter().all(|client| client.is_answered());
        let rests = match self.line().await {
            Some(line) => {
                let due = line
                    .restart_state
                    .as_ref()
                    .is_some_and(|state| state.next_at.is_some());
                line.activity == Activity::Idle && line.silent_since.is_none() && !due
            }
            None => removed,
        };
        let written = self.house().state.send(DescribeStore).await.unwrap();
        let kept = written.status.read_only.is_some();
        answered && rests && !kept && self.is_durable() && !self.has_useless_processes()
    }

    /// A runner that was told nothing is there for a while.
    fn has_useless_processes(&self) -> bool {
        let rests = self.world.stored().is_none();
        rests && self.world.living_runners() > 0
    }

    /// What is shown is also in the store.
    fn is_durable(&self) -> bool {
        let board = self.house().shared.board.lines(None);
        let record = self.world.store.vm(&self.world.vm).unwrap();
        board.first().map(|line| line.status) == record.map(|record| record.status())
    }

    fn check_answers(&self) {
        for client in self
            .clients
            .borrow()
            .iter()
            .filter(|client| client.answers() != 1)
        {
            self.world.blame(format!("not one answer: {}", client.story()));
        }
    }

    async fn check_kept(&self, record: &VmRecord) {
        let world = &self.world;
        self.check_ledger(record);
        self.check_half_removed(record);
        if world.runners().iter().any(|runner| runner.body.is_zombie()) {
            world.blame("a zombie of a runner is left");
        }
        let line = self.line().await;
        let status = line.as_ref().map(|line| line.status);
        if status != Some(record.status()) {
            world.blame(format!("shown as {status:?}, on record as {:?}", record.status()));
        }
        match record.state.launch() {
            Some(launch) => {
                let pids = line.and_then(|line| line.pid.zip(line.runner_pid));
                let runners = world.runners();
                let runner = runners.iter().find(|runner| runner.body.lives());
                let runner = runner.map(|runner| runner.body.handle.pid());
                let qemus = world.living_qemus();
                let qemu = qemus.first().map(|(_, qemu)| qemu.body.handle.pid());
                let on_record = launch.qemu.as_ref().map(|qemu| (qemu.pid, launch.runner.pid));
                let really = qemu.zip(runner);
                if really.is_none() || pids != really || on_record != really || !launch.is_confirmed() {
                    world.blame(format!("really {really:?}, shown {pids:?}, on record {launch:?}"));
                }
            }
            None if !world.living_qemus().is_empty() || world.living_runners() > 0 => {
                world.blame("a VM at rest has processes");
            }
            None => self.check_left(),
        }
    }

    /// The ledger names what there is: the directories of a VM at rest, and processes, sockets and port of one that runs.
    fn check_ledger(&self, record: &VmRecord) {
        let lines = self.world.store.ledger().unwrap();
        let count = |kind| lines.iter().filter(|line| line.kind == kind).count();
        let found = [
            LedgerKind::Directory,
            LedgerKind::Process,
            LedgerKind::Socket,
            LedgerKind::Port,
            LedgerKind::File,
        ]
        .map(count);
        let runs = record.state.launch().is_some();
        let due = if runs { [2, 2, 4, 1, 0] } else { [2, 0, 0, 0, 0] };
        let living = lines.iter().filter_map(|line| line.identity.as_ref());
        let all_live = living.into_iter().all(|identity| self.world.lives(identity.pid));
        if found != due || !all_live {
            self.world
                .blame(format!("the ledger of a VM that runs: {runs}: {lines:?}"));
        }
    }

    /// No socket stays of what has ended.
    fn check_left(&self) {
        let runtime = self.places.vm_runtime(&self.world.vm);
        for entry in std::fs::read_dir(runtime).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|end| end == "sock") {
                self.world.blame(format!("{} is left", entry.path().display()));
            }
        }
    }

    fn check_removed(&self) {
        let world = &self.world;
        self.check_deleted();
        let places = [self.places.vm_runtime(&world.vm), self.places.vm_data(&world.vm)];
        if places.iter().any(|place| place.exists()) {
            world.blame("a directory of a removed VM is left");
        }
        if !world.living_qemus().is_empty() || world.living_runners() > 0 {
            world.blame("a removed VM has processes");
        }
        if !world.store.ledger().unwrap().is_empty() {
            world.blame("the ledger names what a removed VM had");
        }
        if !self.house().shared.board.lines(None).is_empty() {
            world.blame("a removed VM is listed");
        }
    }

    /// The chain holds, and every launch begins once and ends once, for a cause that fits what happened.
    fn check_journal(&self) {
        self.world.store.verify_journal().unwrap();
        let mut open = None;
        let mut last = 0;
        for entry in self.journal() {
            match entry.kind.as_str() {
                "vm.starting" => {
                    let generation = entry.data["generation"].as_u64().unwrap();
                    self.check_beginning(generation, open, last);
                    (open, last) = (Some(generation), generation);
                }
                "vm.stopped" | "vm.failed" => self.check_end(&entry, open.take()),
                "vm.running" if open.is_none() => self.world.blame("it runs without a launch"),
                _ => {}
            }
        }
    }

    fn check_beginning(&self, generation: u64, open: Option<u64>, last: u64) {
        if open.is_some() || generation <= last {
            let before = format!("{open:?} is open, {last} was last");
            self.world.blame(format!("launch {generation} begins, {before}"));
        }
    }

    fn check_end(&self, entry: &JournalEntry, open: Option<u64>) {
        let cause: Cause = serde_json::from_value(entry.data["cause"].clone()).unwrap();
        // A launch that could not be written, or that made no runner, ends without having begun.
        let unwritten = cause == Cause::StartFailed || self.wore.get();
        match open {
            Some(generation) => self.check_cause(generation, cause),
            None if unwritten => {}
            None => self.world.blame(format!("an end without a launch: {entry:?}")),
        }
    }

    pub(super) fn journal(&self) -> Vec<JournalEntry> {
        self.world.store.events(None, 100_000).unwrap()
    }

    fn check_cause(&self, generation: u64, cause: Cause) {
        let launches = self.world.launches.borrow();
        let Some(launch) = launches
            .iter()
            .find(|launch| launch.generation.get() == generation)
        else {
            // It never came to a gate.
            if !matches!(cause, Cause::StartFailed | Cause::Stop) {
                self.world
                    .blame(format!("launch {generation} made no gate and is told as {cause}"));
            }
            return;
        };
        let allowed = causes(launch, self.policy);
        if !allowed.contains(&cause) {
            self.world.blame(format!(
                "launch {generation} is told as {cause}, and could be {allowed:?}"
            ));
        }
    }
}

/// The causes that an end may be told as: first what the runner noted, else what the kernel and the intent tell.
fn causes(launch: &Rc<Launch>, policy: Policy) -> BTreeSet<Cause> {
    let wanted = launch.wanted.get();
    let end = launch.qemu.borrow().as_ref().and_then(|qemu| qemu.end.get());
    let mut causes = BTreeSet::new();
    if !launch.acknowledged.get() {
        causes.insert(Cause::StartFailed);
    }
    let noted = launch.noted.get();
    if launch.bereft.get() {
        // Nobody is left who could ask the kernel.
        causes.extend(noted);
    }
    let noted = noted.filter(|noted| *noted != Cause::EndedUnknown);
    causes.extend(noted);
    let in_order = matches!(end, Some(End::ShutDown | End::Panicked | End::Exited(0)));
    let unsure = noted.is_none() || launch.late.get() || launch.lost.get() || launch.bereft.get();
    if unsure {
        causes.insert(by_kernel(end));
    }
    if wanted.stop && (unsure || in_order || !launch.acknowledged.get()) {
        causes.insert(Cause::Stop);
    }
    // Without a runner that answers, it is the supervisor that ends QEMU.
    if wanted.force && (unsure || in_order || end.is_none()) {
        causes.insert(Cause::StopForced);
    }
    if (launch.bereft.get() && noted.is_none()) || (policy.ends_on_loss && launch.lost.get()) {
        causes.insert(Cause::RunnerLost);
    }
    causes
}

fn by_kernel(end: Option<End>) -> Cause {
    match end {
        Some(End::Crashed) => Cause::QemuCrashed,
        Some(End::Exited(_) | End::ShutDown | End::Panicked) => Cause::QemuExited,
        Some(End::Killed | End::Event | End::Silent(_)) | None => Cause::QemuKilled,
    }
}
