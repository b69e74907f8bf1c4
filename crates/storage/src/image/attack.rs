//! An attacker exchanges a directory and a symbolic link for as long as images are made, copied, snapshotted and deleted
//! through it. Nothing outside changes.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use maqet_process::identity::FileMark;
use maqet_spec::size::Size;
use maqet_spec::vm::DiskFormat;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, openat, renameat_with};
use tempfile::TempDir;

use super::snapshot::SnapshotFile;
use super::unnamed::Unnamed;
use super::{Deletion, Source, copy, create, delete, open_chain, overlay};
use crate::binary::Binaries;
use crate::error::StorageError;
use crate::meter::Meter;
use crate::place::Place;
use crate::policy::PathPolicy;

/// Attempts in all.
const ATTEMPTS: u32 = 100_000;
/// One of so many of each kind that starts a program; the variable asks for more of them, at the price of minutes.
const RARE: (&str, u32) = ("MAQET_ATTACK_RARE", 500);

/// What is attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Copy,
    Snapshot,
    Create,
    Overlay,
    /// An empty file that gets a name: creation less the program.
    File,
    Delete,
}

impl Kind {
    /// The kind of one attempt, where one of `rare` is of each kind that starts a program.
    const fn of(number: u32, rare: u32) -> Self {
        match number % rare {
            0 => Self::Copy,
            1 => Self::Snapshot,
            2 => Self::Create,
            3 => Self::Overlay,
            rest if rest % 2 == 0 => Self::File,
            _ => Self::Delete,
        }
    }
}

fn rare() -> u32 {
    let (variable, default) = RARE;
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
}

/// `inside/d` and `inside/link`, the link to a directory outside, change places all the time; `source` is a small image.
struct Scene {
    _guard: TempDir,
    root: PathBuf,
    /// Name of the directory outside.
    forbidden: &'static str,
    /// The directory `inside/d` was in the beginning, whatever its name.
    real: OwnedFd,
    policy: PathPolicy,
    binaries: Binaries,
    stop: Arc<AtomicBool>,
}

impl Scene {
    fn new(forbidden: &'static str, policy: impl Fn(&Path) -> PathPolicy) -> Self {
        // Names are made durable one by one; in memory that costs nothing.
        let guard = tempfile::tempdir_in("/dev/shm")
            .or_else(|_none| tempfile::tempdir())
            .unwrap();
        let root = fs::canonicalize(guard.path()).unwrap();
        fs::create_dir_all(root.join("inside/d")).unwrap();
        fs::create_dir(root.join(forbidden)).unwrap();
        symlink(root.join(forbidden), root.join("inside/link")).unwrap();
        let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Self {
            real: openat(CWD, root.join("inside/d"), directory, Mode::empty()).unwrap(),
            forbidden,
            policy: policy(&root),
            _guard: guard,
            root,
            binaries: Binaries::new(),
            stop: Arc::default(),
        }
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.at(self.forbidden).join(name)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The same file under one name inside and outside.
    fn both(&self, name: &str) -> FileMark {
        let outside = self.outside(name);
        let file = fs::File::open(&outside).unwrap();
        linkat(CWD, &outside, &self.real, name, AtFlags::empty()).unwrap();
        FileMark::of_fd(&file).unwrap()
    }

    fn attacker(&self) -> std::thread::JoinHandle<u64> {
        let (one, two, stop) = (
            self.at("inside/d"),
            self.at("inside/link"),
            Arc::clone(&self.stop),
        );
        std::thread::spawn(move || {
            let mut swaps = 0;
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        })
    }

    async fn image(&self, path: &Path) {
        let all = PathPolicy::new(None, vec![self.root.clone()], Vec::new());
        let made = create(path, DiskFormat::Qcow2, Size(1 << 20), &all, &self.binaries);
        made.await.unwrap();
    }

    fn make(&self, number: u32) -> Result<(), StorageError> {
        let path = self.at("inside/d").join(format!("made-{number}"));
        let place = Place::pin(&path, &self.policy)?;
        Unnamed::make(&place)?.publish(&place).map(drop)
    }

    fn delete(&self, mark: &FileMark) -> Result<(), StorageError> {
        let path = self.at("inside/d/both");
        let deleted = delete(&path, mark, true, &self.policy)?;
        assert!(self.outside("both").exists(), "deleted outside");
        if deleted == Deletion::Deleted {
            self.both("both");
        }
        Ok(())
    }

    async fn copy(&self, number: u32) -> Result<(), StorageError> {
        let chain = open_chain(&self.at("source"), DiskFormat::Qcow2, true, &self.policy)?;
        let source = Source {
            chain,
            format: DiskFormat::Qcow2,
        };
        let to = self.at("inside/d").join(format!("copy-{number}"));
        let format = DiskFormat::Qcow2;
        let meter = Meter::unread();
        copy(source, &to, format, &self.policy, &self.binaries, &meter)
            .await
            .map(drop)
    }

    async fn snapshot(&self) -> Result<(), StorageError> {
        let file = SnapshotFile::open(&self.at("inside/d/disk"), &self.policy)?;
        file.create("s1", &self.binaries).await?;
        file.delete("s1", &self.binaries).await
    }

    async fn create(&self, number: u32) -> Result<(), StorageError> {
        let path = self.at("inside/d").join(format!("image-{number}"));
        let format = DiskFormat::Qcow2;
        create(&path, format, Size(1 << 20), &self.policy, &self.binaries)
            .await
            .map(drop)
    }

    async fn overlay(&self, number: u32) -> Result<(), StorageError> {
        let path = self.at("inside/d").join(format!("overlay-{number}"));
        let source = self.at("source");
        let base = (source.as_path(), DiskFormat::Qcow2);
        overlay(&path, base, Size(1 << 20), &self.policy, &self.binaries)
            .await
            .map(drop)
    }

    async fn attempt(&self, kind: Kind, number: u32, mark: &FileMark) -> bool {
        let done = match kind {
            Kind::Copy => self.copy(number).await,
            Kind::Snapshot => self.snapshot().await,
            Kind::Create => self.create(number).await,
            Kind::Overlay => self.overlay(number).await,
            Kind::File => self.make(number),
            Kind::Delete => self.delete(mark),
        };
        done.is_ok()
    }

    /// All of it. Nothing outside may be another than before.
    async fn play(&self) {
        self.image(&self.at("source")).await;
        self.image(&self.at("inside/d/disk")).await;
        fs::copy(self.at("source"), self.outside("disk")).unwrap();
        fs::write(self.outside("both"), "both").unwrap();
        let mark = self.both("both");
        let victim = fs::read(self.outside("disk")).unwrap();
        let attacker = self.attacker();
        let (mut done, rare) = (BTreeMap::new(), rare());
        for number in 0..ATTEMPTS {
            let kind = Kind::of(number, rare);
            *done.entry(kind).or_insert(0_u32) += u32::from(self.attempt(kind, number, &mark).await);
        }
        self.stop.store(true, Ordering::Relaxed);
        let swaps = attacker.join().unwrap();
        println!("{swaps} exchanges; succeeded: {done:?}");
        let mut names: Vec<_> = fs::read_dir(self.outside(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["both", "disk"]);
        assert!(
            fs::read(self.outside("disk")).unwrap() == victim,
            "the image outside was written to"
        );
        assert!(
            done.values().all(|count| *count > 0) && swaps > 0,
            "{done:?} {swaps}"
        );
    }
}

#[tokio::test]
async fn nothing_happens_outside_of_a_root() {
    let roots = |root: &Path| vec![root.join("inside"), root.join("source")];
    let scene = Scene::new("outside", |root| PathPolicy::new(None, roots(root), Vec::new()));
    scene.play().await;
}

#[tokio::test]
async fn nothing_happens_where_the_policy_forbids() {
    let scene = Scene::new(".ssh", |root| {
        PathPolicy::new(Some(root.to_owned()), Vec::new(), Vec::new())
    });
    scene.play().await;
}
