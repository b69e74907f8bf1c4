//! Copies are whole, stand alone, or are not there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use tempfile::TempDir;

use super::super::open_chain;
use super::*;

const MIB: u64 = 1 << 20;

struct Bench {
    _guard: TempDir,
    root: PathBuf,
    policy: PathPolicy,
    binaries: Binaries,
}

impl Bench {
    fn new() -> Self {
        let guard = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(guard.path()).unwrap();
        fs::create_dir(root.join("to")).unwrap();
        let policy = PathPolicy::new(Some(root.clone()), Vec::new(), Vec::new());
        Self {
            _guard: guard,
            root,
            policy,
            binaries: Binaries::new(),
        }
    }

    fn img(&self, args: &[&str]) {
        let done = Command::new(QEMU_IMG)
            .current_dir(&self.root)
            .args(args)
            .stdout(std::process::Stdio::null())
            .status();
        assert!(done.unwrap().success(), "{args:?}");
    }

    /// Three images on each other, each with something of its own.
    fn chain(&self) {
        let mut bytes = vec![0_u8; 8 << 20];
        for (at, byte) in bytes.iter_mut().enumerate().take(3 << 20) {
            *byte = u8::try_from(at * 7 % 251).unwrap();
        }
        fs::write(self.root.join("base.raw"), bytes).unwrap();
        let overlay = ["create", "-q", "-f", "qcow2", "-b"];
        self.img(&[&overlay[..], &["base.raw", "-F", "raw", "middle", "16M"]].concat());
        self.img(&[&overlay[..], &["middle", "-F", "qcow2", "top"]].concat());
        for (image, pattern, at) in [("middle", "0x11", "1M"), ("top", "0x22", "12M")] {
            let write = format!("write -q -P {pattern} {at} 1M");
            let done = Command::new("qemu-io")
                .current_dir(&self.root)
                .args(["-f", "qcow2", "-c", &write, image])
                .status();
            assert!(done.unwrap().success());
        }
    }

    fn source(&self, name: &str, format: DiskFormat) -> Source {
        let chain = open_chain(&self.root.join(name), format, true, &self.policy).unwrap();
        Source { chain, format }
    }

    async fn copy(&self, source: Source, name: &str, format: DiskFormat) -> Result<Copied, StorageError> {
        let to = self.root.join("to").join(name);
        copy(
            source,
            &to,
            format,
            &self.policy,
            &self.binaries,
            &Meter::unread(),
        )
        .await
    }

    fn made(&self) -> usize {
        fs::read_dir(self.root.join("to")).unwrap().count()
    }

    /// Whether a guest would read the same from both.
    fn same(&self, a: &str, format_a: &str, b: &str, format_b: &str) -> bool {
        let compared = Command::new(QEMU_IMG)
            .current_dir(&self.root)
            .args(["compare", "-q", "-f", format_a, "-F", format_b, a, b])
            .status();
        compared.unwrap().success()
    }
}

#[tokio::test]
async fn a_chain_becomes_one_image_in_either_format() {
    let bench = Bench::new();
    bench.chain();
    for (name, format) in [("c.qcow2", DiskFormat::Qcow2), ("c.raw", DiskFormat::Raw)] {
        let source = bench.source("top", DiskFormat::Qcow2);
        assert_eq!(source.chain.below.len(), 2);
        let copied = bench.copy(source, name, format).await.unwrap();
        let metadata = fs::metadata(&copied.path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o600, 1));
        assert_eq!(copied.file_id, FileId::of(&metadata));
        assert_eq!(
            (copied.virtual_bytes, copied.file_bytes),
            (16 * MIB, metadata.len())
        );
        assert!(bench.same("top", "qcow2", &format!("to/{name}"), format_name(format)));
        let alone = open_chain(&copied.path, format, false, &bench.policy).unwrap();
        assert!(alone.below.is_empty());
        // Zeros take no room: 3 + 1 + 1 MiB were written.
        assert!(metadata.blocks() * 512 < 6 * MIB, "{}", metadata.blocks());
    }
    assert_eq!(bench.made(), 2);
}

#[tokio::test]
async fn progress_rises_to_the_whole() {
    let bench = Bench::new();
    bench.chain();
    let source = bench.source("top", DiskFormat::Qcow2);
    let (meter, mut progress) = Meter::new();
    let seen = tokio::spawn(async move {
        let mut seen = vec![*progress.borrow()];
        while progress.changed().await.is_ok() {
            seen.push(*progress.borrow());
        }
        seen
    });
    let to = bench.root.join("to/c");
    copy(
        source,
        &to,
        DiskFormat::Qcow2,
        &bench.policy,
        &bench.binaries,
        &meter,
    )
    .await
    .unwrap();
    drop(meter);
    let seen = seen.await.unwrap();
    assert!(seen.is_sorted_by_key(|progress| progress.done), "{seen:?}");
    let last = seen.last().unwrap();
    assert_eq!(last.step, Step::Copying);
    assert!(
        last.total > 5 * MIB && last.done > last.total / 100 * 99,
        "{last:?}"
    );
}

#[tokio::test]
async fn a_taken_name_a_forbidden_place_and_a_damaged_source_leave_nothing() {
    let bench = Bench::new();
    bench.chain();
    let source = || bench.source("top", DiskFormat::Qcow2);
    fs::write(bench.root.join("to/taken"), "precious").unwrap();
    let taken = bench.copy(source(), "taken", DiskFormat::Raw).await;
    assert!(matches!(taken, Err(StorageError::Exists { .. })), "{taken:?}");
    let meter = Meter::unread();
    let etc = Path::new("/etc/maqet-test");
    let denied = copy(
        source(),
        etc,
        DiskFormat::Raw,
        &bench.policy,
        &bench.binaries,
        &meter,
    )
    .await;
    assert!(matches!(denied, Err(StorageError::Denied(_))), "{denied:?}");
    // Tables that lead nowhere.
    let damaged = File::options()
        .read(true)
        .write(true)
        .open(bench.root.join("top"))
        .unwrap();
    let mut table = [0; 8];
    damaged.read_exact_at(&mut table, 40).unwrap();
    damaged
        .write_all_at(&[0xff; 8], u64::from_be_bytes(table))
        .unwrap();
    let broken = bench.copy(source(), "broken", DiskFormat::Raw).await;
    assert!(matches!(broken, Err(StorageError::Tool { .. })), "{broken:?}");
    assert_eq!(
        fs::read_to_string(bench.root.join("to/taken")).unwrap(),
        "precious"
    );
    assert_eq!(bench.made(), 1);
}

#[tokio::test]
async fn what_is_given_up_ends_and_leaves_nothing() {
    let bench = Bench::new();
    bench.chain();
    for turns in 0..40 {
        let source = bench.source("top", DiskFormat::Qcow2);
        let mut copying = Box::pin(bench.copy(source, "c", DiskFormat::Raw));
        let mut left = turns;
        // Dropped after so many times of being woken: at every step sooner or later.
        let ended = std::future::poll_fn(|context| {
            left -= 1;
            match copying.as_mut().poll(context) {
                std::task::Poll::Ready(_) => std::task::Poll::Ready(true),
                std::task::Poll::Pending if left <= 0 => std::task::Poll::Ready(false),
                std::task::Poll::Pending => std::task::Poll::Pending,
            }
        })
        .await;
        drop(copying);
        // Given up while it gets its name, which nothing undoes, it is there: whole.
        if ended || bench.made() == 1 {
            assert!(turns > 3);
            return assert!(bench.same("top", "qcow2", "to/c", "raw"));
        }
        assert_eq!(bench.made(), 0, "after {turns} turns");
    }
}

/// A tmpfs of our own, when we may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at)
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg(&self.0).status();
        assert!(ended.is_ok_and(|status| status.success()));
    }
}

#[tokio::test]
async fn a_full_disk_is_told_with_numbers_and_leaves_nothing() {
    let bench = Bench::new();
    bench.chain();
    let policy = PathPolicy::new(None, vec![bench.root.clone()], Vec::new());
    let source = || bench.source("top", DiskFormat::Qcow2);
    for format in [DiskFormat::Qcow2, DiskFormat::Raw] {
        // One for each: the kernel lets go of what was confined a moment after the program is gone.
        let Some(_disk) = SmallDisk::mount(bench.root.join("to"), "2m") else {
            println!("not tested here: mounting is not allowed");
            return;
        };
        let to = bench.root.join("to/c");
        let meter = Meter::unread();
        let refused = copy(source(), &to, format, &policy, &bench.binaries, &meter).await;
        let Err(StorageError::NoSpace { needed, free, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(needed > 5 * MIB && free == 2 * MIB, "{format:?} {needed} {free}");
        // Past that check, it fills up under qemu-img's hands.
        let place = Place::pin(&to, &policy).unwrap();
        let unnamed = Unnamed::make(&place).unwrap();
        let job = Job {
            place: &place,
            needed: 7 * MIB,
            format,
        };
        let program = bench.binaries.lookup(QEMU_IMG).unwrap();
        let error = job
            .write(&source(), &unnamed.file, &program, &meter)
            .await
            .unwrap_err();
        assert!(
            matches!(error, StorageError::NoSpace { needed, free, .. } if needed == 7 * MIB && free < MIB),
            "{error:?}"
        );
        drop(unnamed);
        assert_eq!(bench.made(), 0);
    }
}

#[test]
fn progress_is_read_in_whatever_pieces_it_comes() {
    let text = b"    (0.00/100%)\r    (12.34/100%)\r    (100.00/100%)\r\n";
    for size in 1..text.len() {
        let mut permille = Permille::default();
        let seen: Vec<u64> = text
            .chunks(size)
            .filter_map(|piece| permille.after(piece))
            .collect();
        assert_eq!(seen.last(), Some(&1000), "{size}");
        assert!(seen.is_sorted(), "{seen:?}");
    }
    let mut permille = Permille::default();
    assert_eq!(permille.after(&[b'x'; 10_000]), None);
    assert!(permille.kept.len() <= LINE_BYTES_MAX);
    assert_eq!(permille.after(b"\r(5.55/100%)\r"), Some(55));
}
