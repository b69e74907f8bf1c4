//! Chains of real images, merged by the real qemu-img.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::super::open_chain;
use super::*;

struct Scene {
    _guard: tempfile::TempDir,
    root: PathBuf,
    policy: PathPolicy,
    binaries: Binaries,
}

impl Scene {
    /// `root.raw` below `middle` below `top`, each with a byte of its own at the beginning of its own MiB.
    fn new() -> Self {
        let guard = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(guard.path()).unwrap();
        let scene = Self {
            _guard: guard,
            policy: PathPolicy::new(Some(root.clone()), Vec::new(), Vec::new()),
            root,
            binaries: Binaries::new(),
        };
        scene.run("qemu-img", &["create", "-q", "-f", "raw", "root.raw", "4M"]);
        scene.run(
            "qemu-img",
            &[
                "create", "-q", "-f", "qcow2", "-b", "root.raw", "-F", "raw", "middle",
            ],
        );
        scene.run(
            "qemu-img",
            &[
                "create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top", "6M",
            ],
        );
        scene.run("qemu-io", &["-f", "raw", "-c", "write -P 1 0 3M", "root.raw"]);
        scene.run("qemu-io", &["-f", "qcow2", "-c", "write -P 2 1M 2M", "middle"]);
        scene.run(
            "qemu-io",
            &[
                "-f",
                "qcow2",
                "-c",
                "write -P 3 2M 64k",
                "-c",
                "write -P 4 5M 64k",
                "top",
            ],
        );
        scene
    }

    fn run(&self, program: &str, args: &[&str]) {
        let done = Command::new(program)
            .current_dir(&self.root)
            .args(args)
            .output()
            .unwrap();
        assert!(done.status.success(), "{program} {args:?}: {done:?}");
    }

    fn chain(&self, name: &str) -> Chain {
        open_chain(&self.root.join(name), DiskFormat::Qcow2, false, &self.policy).unwrap()
    }

    fn content(&self, name: &str, format: &str) -> Vec<u8> {
        self.run(
            "qemu-img",
            &["convert", "-f", format, "-O", "raw", name, "content"],
        );
        fs::read(self.root.join("content")).unwrap()
    }

    async fn merge(&self, name: &str) -> Result<(), StorageError> {
        let (meter, told) = Meter::new();
        let merged = merge(self.chain(name), &self.policy, &self.binaries, &meter).await;
        let last = *told.borrow();
        let whole = last.step == Step::Merging && last.total > 0 && last.done == last.total / 1000 * 1000;
        assert!(merged.is_err() || whole, "{last:?}");
        merged
    }
}

#[tokio::test]
async fn the_base_shows_what_the_image_showed_which_stays_as_it_is() {
    let scene = Scene::new();
    let before = scene.content("top", "qcow2");
    assert_eq!([0, 1 << 20, 2 << 20, 5 << 20].map(|at| before[at]), [1, 2, 3, 4]);
    let below = fs::read(scene.root.join("root.raw")).unwrap();
    scene.merge("top").await.unwrap();
    assert!(
        scene.content("middle", "qcow2") == before,
        "the base has other bytes"
    );
    assert!(scene.content("top", "qcow2") == before, "the image changed");
    assert!(
        fs::read(scene.root.join("root.raw")).unwrap() == below,
        "what is further below changed"
    );
    // Once more is the same; and down to the raw file.
    scene.merge("top").await.unwrap();
    scene.merge("middle").await.unwrap();
    assert!(
        fs::read(scene.root.join("root.raw")).unwrap() == before,
        "the raw file has other bytes"
    );
    for name in ["top", "middle"] {
        scene.run("qemu-img", &["check", "-q", name]);
    }
    scene.run("qemu-img", &["create", "-q", "-f", "qcow2", "alone", "1M"]);
    let alone = scene.merge("alone").await;
    assert!(matches!(alone, Err(StorageError::Chain { .. })), "{alone:?}");
}

#[tokio::test]
async fn an_image_stands_on_another_that_shows_the_same() {
    let scene = Scene::new();
    let before = scene.content("top", "qcow2");
    scene.merge("middle").await.unwrap();
    let base = scene.root.join("root.raw");
    let top = scene.chain("top").top;
    stand_on(top, (&base, DiskFormat::Raw), &scene.binaries)
        .await
        .unwrap();
    let chain = scene.chain("top");
    assert_eq!(chain.below.len(), 1);
    assert_eq!(chain.below[0].image.path, base);
    fs::remove_file(scene.root.join("middle")).unwrap();
    assert!(
        scene.content("top", "qcow2") == before,
        "the disk has other bytes"
    );
}
