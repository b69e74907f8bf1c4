//! What a VM shows of itself.

use maqet_protocol::control::{
    AutostartStatus, DiskProblem, DiskStatus, DiskTrouble, LogFiles, RestartState, SandboxStatus, VmStatus,
    VmSummary,
};
use maqet_protocol::runner::Running;
use maqet_spec::vm::{Accel, Disk, DiskFormat, DiskInterface, RestartWhen, Sandbox};
use maqet_state::clock;
use maqet_state::upkeep::Autostart;

use super::VmActor;
use crate::snapshots::how_to_agree;
use crate::soundness;

impl VmActor {
    /// Puts the line `ls` shows on the board.
    pub(super) fn show(&self) {
        let line = self.summary();
        self.shared.leases.follow(&line);
        self.shared.board.show(line);
    }

    /// What `ls` shows.
    pub(super) fn summary(&self) -> VmSummary {
        let spec = &self.record.spec;
        let running = self.running();
        let untold = self.untold_end();
        let status = match &untold {
            Some(exit) => exit.cause.leads_to(),
            None => self.record.state.shown(self.activity),
        };
        let launch = self
            .record
            .state
            .launch()
            .filter(|_| status == maqet_state::lifecycle::Status::Running);
        VmSummary {
            id: self.record.id.clone(),
            name: self.name().to_owned(),
            status,
            activity: self.activity,
            run_state: running
                .filter(|_| untold.is_none())
                .map(|running| running.run_state.clone()),
            pid: launch
                .and_then(|launch| launch.qemu.as_ref())
                .map(|qemu| qemu.pid),
            runner_pid: launch.map(|launch| launch.runner.pid),
            since: untold.as_ref().map_or(self.record.since, |exit| exit.at),
            uptime_s: launch.map(|_| clock::now().since(self.record.since).as_secs()),
            memory: spec.memory.0,
            cpus: spec.cpus,
            restart: spec.restart.policy.as_str().to_owned(),
            restart_state: self.restart_state(),
            autostart: self.record.autostart.map(told),
            last_exit: untold.or_else(|| self.record.last_exit.clone()),
            silent_since: self.live.as_ref().and_then(|live| live.silence.since()),
            removal: self.removal(),
        }
    }

    /// The end of a QEMU that is dead and of which no runner has told yet, as far as the kernel knows: it is not shown
    /// as running. Not while something is done to the VM, which will tell.
    fn untold_end(&self) -> Option<maqet_state::lifecycle::LastExit> {
        let live = self.live.as_ref().filter(|live| live.exit.is_none())?;
        let dead = self.records_ends() && live.qemu.has_exited();
        if dead { self.exit_unaided() } else { None }
    }

    /// How far the restart policy is; `None` without one.
    fn restart_state(&self) -> Option<RestartState> {
        let policy = self.record.spec.restart;
        let upkeep = &self.record.upkeep;
        (policy.policy != RestartWhen::Never).then(|| RestartState {
            tries: upkeep.tries(policy, clock::now()),
            tries_max: policy.tries,
            window_s: policy.window.as_secs(),
            next_at: upkeep.next_at.filter(|_| self.record.removal.is_none()),
            gave_up: upkeep.gave_up.is_some(),
        })
    }

    /// What the runner said of a running QEMU.
    pub(super) fn running(&self) -> Option<&Running> {
        self.live.as_ref().and_then(|live| live.running.as_ref())
    }

    /// What `status` shows.
    pub(super) fn describe(&self) -> VmStatus {
        let spec = &self.record.spec;
        let running = self.running();
        let data = self.shared.places.vm_data(&self.record.id);
        let accel = match spec.accel {
            Accel::Auto => "auto",
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        };
        VmStatus {
            summary: self.summary(),
            accel: running.map_or_else(|| accel.to_owned(), |running| running.accel.clone()),
            disks: self.disks(),
            shares: self.shares(),
            ports: running.map(|running| running.ports.clone()).unwrap_or_default(),
            sandbox: running.map_or_else(|| requested(spec.sandbox), |running| running.sandbox.clone()),
            logs: LogFiles {
                serial: data.join("serial.log"),
                qemu: data.join("qemu.log"),
                runner: data.join("runner.log"),
                virtiofsd: Some(data.join("virtiofsd.log")),
            },
            qemu_version: running.map(|running| running.qemu_version.clone()),
        }
    }

    /// What is wrong with a disk: what is on record counts more than what goes on.
    pub(super) fn trouble(&self, disk: &Disk) -> Option<DiskTrouble> {
        let (vm, health) = (self.name(), &self.record.health);
        let damage = health.of(&disk.path).map(|damage| DiskTrouble {
            problem: DiskProblem::Damaged,
            detail: Some(damage.found.clone()),
            since: damage.at,
            accepted: damage.accepted,
            hint: Some(soundness::how_to_mend(vm, &disk.name, self.live.is_some())),
        });
        let cut_off = health.between(&disk.path).map(|load| DiskTrouble {
            problem: DiskProblem::Damaged,
            detail: Some(format!(
                "loading the snapshot `{}` was cut off, and the disks may hold different moments",
                load.snapshot
            )),
            since: load.at,
            accepted: false,
            hint: Some(how_to_agree(vm, &load.snapshot)),
        });
        // A load mends what the tables of an image that is used as it is do not say.
        let damage = damage.filter(|damage| !damage.accepted || cut_off.is_none());
        let damage = damage.or(cut_off);
        let now = self.live.as_ref().and_then(|live| live.troubles.get(&disk.name));
        damage.or_else(|| now.cloned())
    }

    fn disks(&self) -> Vec<DiskStatus> {
        let format = |format| match format {
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Raw => "raw",
        };
        let interface = |interface| match interface {
            DiskInterface::Virtio => "virtio",
            DiskInterface::Scsi => "scsi",
            DiskInterface::Sata => "sata",
            DiskInterface::Ide => "ide",
            DiskInterface::Nvme => "nvme",
            DiskInterface::None => "none",
        };
        let disks = self.record.spec.disks.iter().map(|disk| DiskStatus {
            name: disk.name.clone(),
            path: disk.path.clone(),
            format: format(disk.format).to_owned(),
            interface: interface(disk.interface).to_owned(),
            readonly: disk.readonly,
            file: self.record.files.get(&disk.path).and_then(|known| known.file),
            made: self.record.files.get(&disk.path).is_some_and(|known| known.made),
            trouble: self.trouble(disk),
        });
        disks.collect()
    }
}

/// A VM's autostart as it is told.
pub(super) fn told(autostart: Autostart) -> AutostartStatus {
    AutostartStatus {
        order: autostart.order,
        delay_ms: super::start::millis(autostart.delay),
    }
}

fn requested(sandbox: Sandbox) -> SandboxStatus {
    SandboxStatus {
        requested: sandbox.as_str().to_owned(),
        ..SandboxStatus::default()
    }
}
