//! A Linux guest whose snapshots are cut off by the death of everybody: it boots, and its disk keeps the last number that it
//! had written and synced.
#![cfg(debug_assertions)]

use std::ops::RangeInclusive;

use maqet_process::ProcessHandle;
use maqet_process::point::Point;
use maqet_tests::{Held, Sandbox, linux, qemu_img, truth, wait};
use regex::Regex;
use serde_json::Value;

use crate::scene::{kill, say};

/// A guest that counts on its disk.
struct Linux(Sandbox);

impl Linux {
    fn counting() -> Self {
        let sandbox = Sandbox::new();
        let yaml = format!(
            "name: linux\nmachine: q35\naccel: tcg\nmemory: 256M\n{}\n\
             disks: {{root: {{path: ./linux.qcow2, size: 8M}}}}\n",
            linux::kernel("maqet.count")
        );
        let file = sandbox.write_vm("linux", &yaml).display().to_string();
        sandbox.maqet(&["add", &file, "--start"]).expect(0);
        let scene = Self(sandbox);
        scene.counts_on();
        scene
    }

    /// Numbers that the guest has printed after this word.
    fn printed(&self, word: &str) -> Vec<u64> {
        let line = Regex::new(&format!(r"(?m)^maqet {word} (\d+)\s")).unwrap();
        let log = self.0.maqet(&["logs", "linux"]).expect(0).stdout;
        let found = line.captures_iter(&log);
        found.map(|found| found[1].parse().unwrap()).collect()
    }

    /// Waits until it counts further; returns the last number that is on its disk for sure.
    fn counts_on(&self) -> u64 {
        let seen = self.printed("count").len();
        wait::until("the guest counts", wait::PATIENCE * 2, || {
            let counts = self.printed("count");
            if counts.len() > seen + 2 {
                Ok(*counts.last().unwrap())
            } else {
                Err(counts)
            }
        })
    }

    /// Boots; what it finds on its disk is one of these.
    fn boots_with(&self, kept: RangeInclusive<u64>, after: &str) {
        let boots = self.printed("found:").len();
        self.0.maqet(&["start", "linux"]).expect(0);
        let found = wait::until("the guest finds what it wrote", wait::PATIENCE * 2, || {
            let found = self.printed("found:");
            found.get(boots).copied().ok_or(found)
        });
        let counts = self.printed("count");
        assert!(
            kept.contains(&found),
            "{after}: {found}, not of {kept:?}: {counts:?}"
        );
        self.counts_on();
    }

    fn process(pid: &Value) -> ProcessHandle {
        let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
        ProcessHandle::open(pid).unwrap().unwrap()
    }

    /// Kills supervisor, runner and QEMU at this point of an operation; returns the last number the guest had printed.
    fn cut_off(&self, words: &[&str], point: Point) -> u64 {
        let status = self.0.status("linux");
        let supervisor = &self.0.json(&["supervisor", "status"])["pid"];
        let all = [supervisor, &status["runner_pid"], &status["pid"]].map(Self::process);
        let mut held = Held::at(&self.0, point);
        let client = self.0.spawn(words);
        held.reached();
        say(&format!("{words:?} at {}", point.name()));
        kill(&[client.handle(), &all[0], &all[1], &all[2]]);
        drop(held);
        truth::settled(&self.0);
        *self.printed("count").last().unwrap()
    }

    fn boots_after(&self, words: &[&str], point: Point) {
        let last = self.cut_off(words, point);
        // The next one may be on the disk and not printed.
        self.boots_with(last..=last + 1, &format!("{words:?} at {}", point.name()));
    }

    fn snapshot(&self, words: &[&str]) {
        self.0.maqet(&[&["snapshot"], words].concat()).expect(0);
    }
}

#[test]
fn a_linux_guest_boots_with_what_it_wrote_whatever_was_cut_off() {
    let scene = Linux::counting();
    scene.boots_after(&["snapshot", "create", "linux", "plain"], Point::SnapshotBegun);
    scene.boots_after(
        &["snapshot", "create", "linux", "mem", "--memory"],
        Point::SnapshotJob,
    );
    let before = scene.counts_on();
    scene.snapshot(&["create", "linux", "keep", "--memory"]);
    let after = *scene.printed("count").last().unwrap();
    scene.counts_on();
    let load = ["snapshot", "load", "linux", "keep", "--memory"];
    scene.cut_off(&load, Point::SnapshotJob);
    // Its disk may be of two moments: not booted until somebody says which.
    scene.0.maqet(&["start", "linux"]).expect(3);
    scene.snapshot(&["load", "linux", "keep"]);
    scene.boots_with(before..=after + 1, "a load that was cut off");
    scene.boots_after(&["snapshot", "delete", "linux", "keep"], Point::SnapshotBegun);
    for left in scene.0.json(&["snapshot", "list", "linux"]).as_array().unwrap() {
        scene.snapshot(&["delete", "linux", left["name"].as_str().unwrap()]);
    }
    scene.boots_after(
        &["snapshot", "create", "linux", "out", "--external"],
        Point::LayersSwitched,
    );
    scene.snapshot(&["create", "linux", "more", "--external"]);
    scene.counts_on();
    scene.boots_after(&["snapshot", "delete", "linux", "more"], Point::LayersEven);
    scene.0.maqet(&["kill", "linux"]).expect(0);
    for image in scene.0.json(&["storage", "info", "linux"])["disks"][0]["chain"]
        .as_array()
        .unwrap()
    {
        let path = image["path"].as_str().unwrap();
        assert_eq!(qemu_img::check(path.as_ref()), qemu_img::Found::Clean, "{path}");
    }
}
