//! Where the storm goes: VMs with disks, clients, and whoever does them violence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use maqet_process::{ProcessHandle, Signal};
use maqet_tests::monitor::Monitor;
use maqet_tests::truth::Kind;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Output, Running, Sandbox, qemu_img};
use serde_json::{Value, json};

use super::content::{Content, Done, may_have_changed};
use super::plan::{Fault, Order, VMS, Victim, WITH_RAW, Wave};
use crate::scene::{at_most, kill, process, signal};

/// Nobody does anything to this VM.
pub(super) const STEADY: &str = "steady";

/// The library's image that disks stand on.
pub(super) const BASE: &str = "base";

/// What is imported; a person's own file.
pub(super) const SOURCE: &str = "source.qcow2";

/// Where something is written to a disk, bytes from its beginning: behind what the library's image holds.
pub(super) const PLACE: usize = 2 << 20;

/// How long somebody who is to be hit may take to come.
const CATCH: std::time::Duration = std::time::Duration::from_millis(300);

/// The place.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) sandbox: Sandbox,
    pub(super) steady: ProcessHandle,
    /// What the disks of each VM may hold, with the id of that VM.
    pub(super) contents: BTreeMap<&'static str, (String, Content)>,
    /// Orders whose client was killed: they may be carried out yet.
    late: Vec<Done>,
    /// The last byte written.
    byte: u8,
}

/// A wave as it ended.
#[derive(Debug, Default)]
pub(super) struct Acted {
    pub(super) called: Vec<(Order, Output)>,
    pub(super) hit: Vec<Victim>,
}

impl Acted {
    pub(super) fn has_hit(&self, victim: Victim) -> bool {
        self.hit.contains(&victim)
    }
}

impl Place {
    /// A library with an image, a VM that runs and stands on it, and the others stored.
    pub(super) fn new() -> Self {
        let sandbox = Sandbox::new();
        let home = sandbox.home();
        let config = format!("on_exit: keep\nstorage: {{roots: [\"{}\"]}}\n", home.display());
        fs::write(sandbox.config(), config).unwrap();
        let source = home.join(SOURCE);
        qemu_img::create(&source, "qcow2", "8M");
        qemu_img::write(&source, 0xbb);
        sandbox
            .maqet(&["image", "import", SOURCE, "--name", BASE])
            .expect(0);
        guest(STEADY).start(&sandbox);
        let added = VMS.map(|vm| (vm, (guest(vm).add(&sandbox), Content::blank())));
        // Of one of them no image was made yet.
        for vm in &VMS[1..] {
            sandbox.maqet(&["start", vm]).expect(0);
        }
        Self {
            steady: process(&sandbox.status(STEADY)["pid"]),
            sandbox,
            contents: added.into(),
            late: Vec::new(),
            byte: 0,
        }
    }

    /// Takes a wave.
    pub(super) fn act(&mut self, wave: &Wave) -> Acted {
        if wave.tidies {
            self.tidy();
        }
        if wave.writes {
            for vm in VMS {
                self.write(vm);
            }
        }
        let listed = self.sandbox.json(&["ls"]);
        let orders = wave.orders.iter().map(|order| order.fitting(&listed));
        let calls: Vec<(Order, Running)> = orders
            .map(|order| {
                let running = self.call(&order);
                (order, running)
            })
            .collect();
        let mut acted = Acted::default();
        for fault in &wave.faults {
            if self.hurt(fault, &calls) {
                acted.hit.push(fault.victim);
            }
        }
        let ended = calls
            .into_iter()
            .map(|(order, running)| (order, running.output()));
        acted.called = ended.collect();
        self.expect(&acted);
        acted
    }

    fn call(&self, order: &Order) -> Running {
        let mut words = order.words();
        words.extend(["-o", "json"].map(str::to_owned));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.sandbox.spawn(&words)
    }

    /// Deletes what `storage orphaned` tells of.
    pub(super) fn tidy(&self) {
        for path in self.orphans() {
            if !path.ends_with(SOURCE) {
                fs::remove_file(&path).unwrap();
                // The directory of a VM that is gone, unless there is more in it.
                drop(fs::remove_dir(path.parent().unwrap()));
            }
        }
    }

    pub(super) fn orphans(&self) -> BTreeSet<PathBuf> {
        let told = self.sandbox.json(&["storage", "orphaned"]);
        let images = told["images"].as_array().unwrap().iter();
        images
            .map(|image| image["path"].as_str().unwrap().into())
            .collect()
    }

    /// The disks of a VM as `storage info` tells.
    pub(super) fn disks(&self, vm: &str) -> Vec<Value> {
        let told = self.sandbox.json(&["storage", "info", vm]);
        told["disks"].as_array().unwrap().clone()
    }

    /// Writes another byte to both disks, as a guest would.
    fn write(&mut self, vm: &str) {
        let Some((id, content)) = self.contents.get_mut(vm) else {
            return;
        };
        let told = self.sandbox.json(&["storage", "info", vm]);
        let disks: Vec<&Value> = told["disks"].as_array().unwrap().iter().take(2).collect();
        if !disks.iter().all(|disk| is_writable(disk)) {
            return;
        }
        self.byte = self.byte.wrapping_add(1).max(1);
        let words = format!("write -P {} {PLACE} 64k", self.byte);
        if disks[0]["holder"].is_null() {
            for disk in disks {
                write_at_rest(disk, &words);
            }
        } else if !write_running(&self.sandbox, id, &words) {
            return;
        }
        content.written(self.byte);
    }

    /// What may be so after the orders of a wave.
    fn expect(&mut self, acted: &Acted) {
        let mut done = std::mem::take(&mut self.late);
        let asked_twice = acted.has_hit(Victim::Supervisor);
        for (order, output) in &acted.called {
            if order.verb.is_of_content() && may_have_changed(output, asked_twice) {
                done.push((order.clone(), output.code));
            }
        }
        for (vm, (_, content)) in &mut self.contents {
            let own: Vec<Done> = done
                .iter()
                .filter(|(order, _)| order.vm == *vm)
                .cloned()
                .collect();
            content.after(&own);
        }
        self.late = done.into_iter().filter(|(_, code)| *code == 137).collect();
    }

    /// Does violence to somebody; tells whether anybody was there.
    fn hurt(&self, fault: &Fault, calls: &[(Order, Running)]) -> bool {
        at_most(&self.steady, fault.pause);
        let mut found = self.find(fault.victim, calls);
        if fault.victim == Victim::QemuImg && found.is_empty() {
            found = self.catch(calls);
        }
        found.retain(|process| !process.has_exited());
        if found.is_empty() {
            return false;
        }
        let victim = found.swap_remove(fault.place % found.len());
        match fault.stretch {
            None => kill(&[&victim]),
            Some(stretch) => {
                signal(&victim, Signal::Stop);
                at_most(&self.steady, stretch);
                signal(&victim, Signal::Cont);
            }
        }
        true
    }

    /// The next qemu-img that comes, as long as anybody waits for one.
    fn catch(&self, calls: &[(Order, Running)]) -> Vec<ProcessHandle> {
        let begun = std::time::Instant::now();
        wait::until("qemu-img, or nobody who wants it", PATIENCE, || {
            let found = self.find(Victim::QemuImg, calls);
            let over = calls.iter().all(|(_, call)| call.handle().has_exited());
            let enough = over || !found.is_empty() || begun.elapsed() > CATCH;
            if enough { Ok(found) } else { Err(()) }
        })
    }

    fn find(&self, victim: Victim, calls: &[(Order, Running)]) -> Vec<ProcessHandle> {
        if victim == Victim::Client {
            let clients = calls.iter().map(|(_, call)| call.handle().try_clone().unwrap());
            return clients.collect();
        }
        let steady = self.steady.pid();
        let found = self.sandbox.processes().into_iter();
        let found = found.filter(|process| match victim {
            Victim::Supervisor => Kind::of(process) == Kind::Supervisor,
            // One that is hit does the steady VM no harm.
            Victim::Runner => Kind::of(process) == Kind::Runner,
            Victim::Qemu => Kind::of(process) == Kind::Qemu && process.handle.pid() != steady,
            Victim::QemuImg => process.line.starts_with("qemu-img") || process.line.contains("/qemu-img "),
            Victim::Client => false,
        });
        found.map(|process| process.handle).collect()
    }
}

/// What each VM is: a disk on the library's image, at the place that maqet chooses, and one of its own.
fn guest(vm: &str) -> Guest {
    let data = if vm == WITH_RAW {
        format!("{{path: ./{vm}-data.raw, format: raw, size: 4M, interface: ide}}")
    } else {
        format!("{{path: ./{vm}-data.qcow2, size: 4M, interface: ide}}")
    };
    Guest::tiny(vm).options(&["ticks"]).line(&format!(
        "disks: {{root: {{from: {BASE}, interface: ide}}, data: {data}}}"
    ))
}

/// There, known, and nothing is wrong with it.
fn is_writable(disk: &Value) -> bool {
    disk["state"] == "ok" && disk["problem"].is_null()
}

pub(super) fn path_of(image: &Value) -> PathBuf {
    image["path"].as_str().unwrap().into()
}

fn write_at_rest(disk: &Value, words: &str) {
    let format = disk["chain"][0]["format"].as_str().unwrap();
    let mut command = Command::new("qemu-io");
    command.args(["-f", format, "-c", words]).arg(path_of(disk));
    let done = command.output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// False without anything written, when QEMU is not to be talked to.
fn write_running(sandbox: &Sandbox, id: &str, words: &str) -> bool {
    let socket = sandbox.runtime_dir().join("vms").join(id).join("qmp1.sock");
    if !socket.exists() {
        return false;
    }
    let mut monitor = Monitor::of(sandbox, id);
    let devices = monitor.run("query-block", &json!({})).unwrap();
    let with_disk = |device: &&Value| device.get("inserted").is_some();
    for device in devices.as_array().unwrap().iter().filter(with_disk).take(2) {
        for command in [words, "flush"] {
            let line = format!("qemu-io -d {} \"{command}\"", device["qdev"].as_str().unwrap());
            let line = json!({"command-line": line});
            let done = monitor.run("human-monitor-command", &line).unwrap();
            assert!(!done.as_str().unwrap().contains("rror"), "{line}: {done}");
        }
    }
    true
}
