//! Snapshots in real images.

use std::process::Command;

use super::*;
use crate::image::damage::damage;

struct Scene {
    root: tempfile::TempDir,
    binaries: Binaries,
    policy: PathPolicy,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let home = std::fs::canonicalize(root.path()).unwrap();
        Self {
            root,
            binaries: Binaries::new(),
            policy: PathPolicy::new(Some(home), Vec::new(), Vec::new()),
        }
    }

    fn run(&self, program: &str, words: &[&str]) -> String {
        let mut command = Command::new(program);
        let done = command
            .current_dir(self.root.path())
            .args(words)
            .output()
            .unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn img(&self, words: &[&str]) {
        self.run("qemu-img", words);
    }

    /// Writes a pattern into the first MiB of an image.
    fn write(&self, name: &str, pattern: u8) {
        self.run(
            "qemu-io",
            &["-f", "qcow2", "-c", &format!("write -P {pattern} 0 1M"), name],
        );
    }

    /// Whether the first MiB has this pattern.
    fn has(&self, name: &str, pattern: u8) -> bool {
        let words = format!("read -P {pattern} 0 1M");
        let mut command = Command::new("qemu-io");
        command
            .current_dir(self.root.path())
            .args(["-f", "qcow2", "-c", &words, name]);
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(said.contains("bytes at offset 0"), "{said}");
        !said.contains("verification failed")
    }

    fn open(&self, name: &str) -> Result<SnapshotFile, StorageError> {
        SnapshotFile::open(&self.root.path().join(name), &self.policy)
    }
}

#[tokio::test]
async fn an_overlay_goes_back_to_what_it_was() {
    let scene = Scene::new();
    scene.img(&["create", "-q", "-f", "qcow2", "base.qcow2", "16M"]);
    scene.img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        "top.qcow2",
    ]);
    scene.write("top.qcow2", 1);
    let file = scene.open("top.qcow2").unwrap();
    // Only the file that was opened counts: neither its name nor what it stands on is looked for.
    scene.run("mv", &["base.qcow2", "base"]);
    scene.run("mv", &["top.qcow2", "elsewhere.qcow2"]);
    std::fs::write(scene.root.path().join("top.qcow2"), "a stranger").unwrap();
    file.create("before", &scene.binaries).await.unwrap();
    let listed = file.list(&scene.binaries).await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str()), (1, "before"));
    assert_eq!((listed[0].vm_state_bytes, listed[0].vm_clock_ms), (0, 0));
    assert!(listed[0].at_ms > 1_700_000_000_000, "{listed:?}");
    scene.run("mv", &["base", "base.qcow2"]);
    scene.write("elsewhere.qcow2", 2);
    file.apply("before", &scene.binaries).await.unwrap();
    assert!(scene.has("elsewhere.qcow2", 1));
    file.delete("before", &scene.binaries).await.unwrap();
    assert_eq!(file.list(&scene.binaries).await.unwrap(), []);
    assert_eq!(file.mend(&scene.binaries).await.unwrap(), None);
    assert!(scene.has("elsewhere.qcow2", 1));
    assert_eq!(
        std::fs::read(scene.root.path().join("top.qcow2")).unwrap(),
        b"a stranger"
    );
}

#[tokio::test]
async fn what_is_not_there_is_an_error() {
    let scene = Scene::new();
    scene.img(&["create", "-q", "-f", "qcow2", "one.qcow2", "1M"]);
    let file = scene.open("one.qcow2").unwrap();
    for failed in [
        file.apply("never", &scene.binaries).await,
        file.delete("never", &scene.binaries).await,
    ] {
        assert!(matches!(failed, Err(StorageError::Tool { .. })), "{failed:?}");
    }
    let full = file.room_for_snapshot(u64::MAX).await.unwrap_err();
    assert!(
        matches!(full, StorageError::NoSpace { needed: u64::MAX, .. }),
        "{full:?}"
    );
}

#[tokio::test]
async fn only_qcow2_images_in_allowed_places_have_snapshots() {
    let scene = Scene::new();
    scene.img(&["create", "-q", "-f", "raw", "raw.img", "1M"]);
    let refused = scene.open("raw.img").unwrap_err();
    assert!(matches!(refused, StorageError::NotQcow2 { .. }), "{refused:?}");
    let data = ["-o", "data_file=data.raw", "ext.qcow2", "1M"];
    scene.img(&[&["create", "-q", "-f", "qcow2"][..], &data].concat());
    let refused = scene.open("ext.qcow2").unwrap_err();
    assert!(matches!(refused, StorageError::DataFile { .. }), "{refused:?}");
    scene.img(&["create", "-q", "-f", "qcow2", "one.qcow2", "1M"]);
    let nowhere = PathPolicy::new(Some("/nonexistent".into()), Vec::new(), Vec::new());
    let path = scene.root.path().join("one.qcow2");
    let judged = SnapshotFile::open(&path, &nowhere);
    let scratch = path.starts_with("/tmp");
    assert!(
        scratch || matches!(judged, Err(StorageError::Denied(_))),
        "{judged:?}"
    );
}

#[test]
fn names_are_told_from_numbers_and_options() {
    for good in [
        "a",
        "before-upgrade",
        "v1.2_3",
        "1a",
        "2026-01-01",
        &"x".repeat(63),
    ] {
        assert!(is_name(good), "{good}");
    }
    for bad in [
        "",
        "1",
        "42",
        "-d",
        ".x",
        "a b",
        "a/b",
        "ä",
        "a\n",
        "a,b",
        &"x".repeat(64),
    ] {
        assert!(!is_name(bad), "{bad:?}");
    }
}

/// A repair may throw away what somebody could still save: only a person asks for one.
#[tokio::test]
async fn an_image_with_more_wrong_than_a_cut_leaves_is_not_touched() {
    let scene = Scene::new();
    scene.img(&["create", "-q", "-f", "qcow2", "one.qcow2", "1M"]);
    scene.write("one.qcow2", 1);
    let file = scene.open("one.qcow2").unwrap();
    damage(file.path());
    let before = std::fs::read(file.path()).unwrap();
    let found = file.mend(&scene.binaries).await.unwrap().unwrap();
    assert!(found.corruptions > found.flags, "{found:?}");
    assert!(std::fs::read(file.path()).unwrap() == before);
}

/// Every step, killed at a random moment of it: what is put right then holds what it held before or after.
#[tokio::test]
async fn a_step_that_is_killed_leaves_an_image_that_can_be_put_right() {
    let seed: u64 = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    println!("seed {seed}");
    let scene = Scene::new();
    // Small clusters make much to count.
    let options = ["-o", "cluster_size=512", "one.qcow2", "8M"];
    scene.img(&[&["create", "-q", "-f", "qcow2"][..], &options].concat());
    scene.write("one.qcow2", 1);
    let file = scene.open("one.qcow2").unwrap();
    file.create("kept", &scene.binaries).await.unwrap();
    let mut killed = 0;
    for round in 0..24_u64 {
        let mix = |salt: u64| (seed ^ (round * 3 + salt)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let limit = Duration::from_micros(500 + mix(0) % 20_000);
        scene.write("one.qcow2", 2);
        let cut = match round % 3 {
            0 => tokio::time::timeout(limit, file.create("new", &scene.binaries))
                .await
                .is_err(),
            1 => tokio::time::timeout(limit, file.apply("kept", &scene.binaries))
                .await
                .is_err(),
            _ => tokio::time::timeout(limit, file.delete("new", &scene.binaries))
                .await
                .is_err(),
        };
        killed += u32::from(cut);
        assert_eq!(file.mend(&scene.binaries).await.unwrap(), None, "round {round}");
        scene.run("qemu-img", &["check", "-q", "one.qcow2"]);
        let listed = file.list(&scene.binaries).await.unwrap();
        assert!(
            listed.iter().any(|one| one.name == "kept"),
            "round {round}: {listed:?}"
        );
        let loaded = round % 3 == 1 && scene.has("one.qcow2", 1);
        assert!(loaded || scene.has("one.qcow2", 2), "round {round}");
        // And the one that was there before still holds what it did.
        file.apply("kept", &scene.binaries).await.unwrap();
        assert!(scene.has("one.qcow2", 1), "round {round}");
    }
    println!("{killed} of 24 were killed");
    assert!(killed > 0);
}
