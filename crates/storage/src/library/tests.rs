//! What comes in is sound and whole, what is refused leaves nothing.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::{FileExt, symlink};
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::binary::Binaries;
use crate::policy::PathPolicy;

const MIB: u64 = 1 << 20;

struct Bench {
    _guard: TempDir,
    root: PathBuf,
    library: Library,
    policy: PathPolicy,
    binaries: Binaries,
}

impl Bench {
    fn new() -> Self {
        let guard = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(guard.path()).unwrap();
        Self {
            _guard: guard,
            library: Library::new(root.join("images")),
            policy: PathPolicy::new(None, vec![root.clone()], Vec::new()),
            binaries: Binaries::new(),
            root,
        }
    }

    fn img(&self, args: &[&str]) {
        let mut command = Command::new("qemu-img");
        command.current_dir(&self.root).args(args);
        let done = command.stdout(std::process::Stdio::null()).status();
        assert!(done.unwrap().success(), "{args:?}");
    }

    /// An image with something in it.
    fn sound(&self, name: &str) {
        fs::write(self.root.join("content"), vec![7_u8; 1 << 20]).unwrap();
        self.img(&["convert", "-f", "raw", "-O", "qcow2", "content", name]);
    }

    async fn import(&self, file: &str, format: Option<DiskFormat>) -> Result<LibraryImage, StorageError> {
        let order = Import {
            file: self.root.join(file),
            name: name("base"),
            format,
            checksum: None,
            at_ms: 1,
        };
        let meter = Meter::unread();
        self.library
            .import(&order, &self.policy, &self.binaries, &meter)
            .await
    }

    /// The reason of a refusal that leaves nothing.
    async fn refused(&self, file: &str, format: Option<DiskFormat>) -> String {
        let error = self.import(file, format).await.unwrap_err();
        assert_eq!(self.left(), 0, "{file}: {error}");
        format!("{error}; {}", error.hint().unwrap_or_default())
    }

    fn left(&self) -> usize {
        fs::read_dir(self.root.join("images")).map_or(0, Iterator::count)
    }

    /// A sound image with some bytes changed.
    async fn patched(&self, offset: u64, bytes: &[u8]) -> String {
        self.sound("patched");
        let file = File::options().write(true).open(self.root.join("patched"));
        file.unwrap().write_all_at(bytes, offset).unwrap();
        self.refused("patched", None).await
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

#[tokio::test]
async fn an_image_comes_in_describes_itself_and_goes() {
    let bench = Bench::new();
    bench.sound("debian.qcow2");
    let image = bench.import("debian.qcow2", None).await.unwrap();
    assert_eq!(
        (image.virtual_bytes, image.source_format),
        (MIB, DiskFormat::Qcow2)
    );
    assert_eq!(bench.library.find(&name("base")).unwrap(), image);
    assert_eq!(bench.library.names().unwrap(), [name("base")]);
    let path = bench.library.path_of(&name("base"));
    assert_eq!(bench.library.name_of(&path), Some(name("base")));
    let about = fs::metadata(&path).unwrap();
    assert_eq!((about.mode() & 0o7777, about.nlink()), (0o400, 1));
    assert_eq!(image.file.id.inode, about.ino());
    let compared = Command::new("qemu-img")
        .args(["compare", "-q", "-f", "qcow2", "-F", "qcow2"])
        .arg(&path)
        .arg(bench.root.join("debian.qcow2"))
        .status();
    assert!(compared.unwrap().success());
    let again = bench.import("debian.qcow2", None).await;
    assert!(matches!(again, Err(StorageError::ImageTaken { .. })), "{again:?}");
    assert_eq!(bench.left(), 1);
    bench.library.remove(&name("base")).unwrap();
    assert_eq!(bench.left(), 0);
    for gone in [
        bench.library.find(&name("base")).map(drop),
        bench.library.remove(&name("base")),
    ] {
        assert!(matches!(gone, Err(StorageError::NoImage { .. })), "{gone:?}");
    }
    assert_eq!(bench.left(), 0);
}

#[tokio::test]
async fn raw_files_and_isos_come_in_as_what_they_are() {
    let bench = Bench::new();
    let mut iso = vec![0_u8; 40_960];
    iso[32_769..32_774].copy_from_slice(b"CD001");
    fs::write(bench.root.join("a.iso"), &iso).unwrap();
    let image = bench.import("a.iso", None).await.unwrap();
    assert_eq!(
        (image.source_format, image.virtual_bytes),
        (DiskFormat::Raw, 40_960)
    );
    bench.library.remove(&name("base")).unwrap();
    let mut partitioned = vec![0_u8; 4096];
    partitioned[510..512].copy_from_slice(b"\x55\xaa");
    fs::write(bench.root.join("partitioned"), &partitioned).unwrap();
    let image = bench.import("partitioned", None).await.unwrap();
    assert_eq!(
        (image.source_format, image.virtual_bytes),
        (DiskFormat::Raw, 4096)
    );
    bench.library.remove(&name("base")).unwrap();
    // A raw disk may begin with whatever its guest wrote, also with what looks like an image.
    bench.sound("disk");
    let image = bench.import("disk", Some(DiskFormat::Raw)).await.unwrap();
    assert!(image.virtual_bytes < MIB * 3 / 2 && image.virtual_bytes > MIB);
}

#[tokio::test]
async fn what_refers_elsewhere_is_refused() {
    let bench = Bench::new();
    let overlay = ["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b"];
    for backing in [
        "/etc/passwd",
        "json:{\"driver\":\"file\"}",
        "nbd://host/x",
        "./evil",
        "fd:0",
    ] {
        bench.img(&[&overlay[..], &[backing, "evil", "1M"]].concat());
        let said = bench.refused("evil", None).await;
        assert!(said.contains("it stands on another file"), "{said}");
    }
    bench.img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "data_file=data.raw",
        "evil2",
        "1M",
    ]);
    let said = bench.refused("evil2", None).await;
    assert!(said.contains("keeps its data in another file"), "{said}");
}

#[tokio::test]
async fn damaged_and_oversized_images_are_refused() {
    let bench = Bench::new();
    let huge = (8_u64 << 60).to_be_bytes();
    for (offset, bytes, reason) in [
        (24, &huge[..], "up to 1 PiB"),
        (24, &[0; 8], "it has no size"),
        (4, &[0, 0, 0, 9], "header is damaged"),
        (4, &[0, 0, 0, 1], "qcow image of version 1"),
        (20, &[0, 0, 0, 40], "its clusters have 2^40 bytes"),
        (32, &[0, 0, 0, 1], "encrypted"),
        (36, &[0xff; 4], "table of clusters lies outside"),
        (40, &[0xff; 8], "table of clusters lies outside"),
        (48, &[0x7f; 8], "table of reference counts lies outside"),
        (60, &[0, 0xff, 0xff, 0xff], "table of snapshots lies outside"),
        (79, &[2], "marked it as damaged"),
        // An unknown feature; a second level and reference counts that lead nowhere.
        (76, &[0x80], "qemu-img cannot read it"),
        (0x30_000, &[0x80, 0, 0, 0xff, 0, 0, 0, 0], "it is damaged"),
        (0x20_000, &[0; 16], "it is damaged"),
    ] {
        let said = bench.patched(offset, bytes).await;
        assert!(said.contains(reason), "{offset}: {said}");
    }
    bench.sound("whole");
    let whole = fs::read(bench.root.join("whole")).unwrap();
    for cut in [1, 4, 71, 100, 4096, 0x10_000, 0x30_100, whole.len() / 2] {
        fs::write(bench.root.join("cut"), &whole[..cut]).unwrap();
        let refused = bench.refused("cut", Some(DiskFormat::Qcow2)).await;
        assert!(refused.contains("is not imported"), "{cut}: {refused}");
    }
    let sparse = File::create(bench.root.join("sparse")).unwrap();
    if sparse.set_len(1 << 51).is_ok() {
        let said = bench.refused("sparse", None).await;
        assert!(said.contains("up to 1 PiB"), "{said}");
    }
}

#[tokio::test]
async fn what_is_something_else_is_named() {
    let bench = Bench::new();
    for (bytes, reason) in [
        (
            &b"KDMV0000"[..],
            "it is a VMDK image; convert it first: qemu-img convert -f vmdk",
        ),
        (b"<<< Oracle VM VirtualBox", "a VDI image"),
        (b"\x1f\x8b\x08", "compressed with gzip; unpack it first: gunzip"),
        (b"\xfd7zXZ\0\0", "unpack it first: unxz"),
        (b"\x28\xb5\x2f\xfd\x04", "unpack it first: unzstd"),
        (b"", "it is empty"),
        (b"some text", "is called a qcow2 image and is none"),
    ] {
        fs::write(bench.root.join("x.qcow2"), bytes).unwrap();
        let said = bench.refused("x.qcow2", None).await;
        assert!(said.contains(reason), "{said}");
    }
    // What it is to be converted with may be copied into a shell.
    fs::write(bench.root.join("x; id .vmdk"), "KDMV0000").unwrap();
    let said = bench.refused("x; id .vmdk", None).await;
    assert!(said.contains("/x; id .vmdk' new.qcow2"), "{said}");
    let mut tar = vec![0_u8; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    fs::write(bench.root.join("x.ova"), tar).unwrap();
    assert!(bench.refused("x.ova", None).await.contains("a tar archive"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        bench.root.join("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    symlink("/dev/zero", bench.root.join("device")).unwrap();
    fs::create_dir(bench.root.join("directory")).unwrap();
    for (file, kind) in [
        ("fifo", "a FIFO"),
        ("device", "a character device"),
        ("directory", "a directory"),
    ] {
        let said = bench.refused(file, None).await;
        assert!(said.contains(kind), "{said}");
    }
}

#[tokio::test]
async fn a_checksum_is_held_against_the_file() {
    let bench = Bench::new();
    fs::write(bench.root.join("abc"), "abc").unwrap();
    let sum = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let order = |checksum: &str| Import {
        file: bench.root.join("abc"),
        name: name("base"),
        format: Some(DiskFormat::Raw),
        checksum: Some(checksum.parse().unwrap()),
        at_ms: 1,
    };
    let meter = Meter::unread();
    let wrong = order(&sum.replace("ba78", "0000"));
    let refused = bench
        .library
        .import(&wrong, &bench.policy, &bench.binaries, &meter)
        .await;
    assert!(
        matches!(refused, Err(StorageError::Checksum { .. })),
        "{refused:?}"
    );
    assert_eq!(bench.left(), 0);
    let image = bench
        .library
        .import(&order(sum), &bench.policy, &bench.binaries, &meter)
        .await
        .unwrap();
    assert_eq!(image.source_checksum.unwrap().to_string(), sum);
}

#[tokio::test]
async fn a_change_is_found_by_a_verification() {
    let bench = Bench::new();
    bench.sound("debian.qcow2");
    bench.import("debian.qcow2", None).await.unwrap();
    let meter = Meter::unread();
    let base = name("base");
    let problems = || async {
        bench
            .library
            .verify(&base, &meter)
            .await
            .unwrap()
            .problems
            .join("; ")
    };
    assert_eq!(problems().await, "");
    let path = bench.library.path_of(&base);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(problems().await.contains("may be written to (mode 600)"));
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 0x50_000).unwrap();
    assert!(problems().await.contains("its content has changed"));
    file.set_len(0x50_000).unwrap();
    assert!(problems().await.contains("its file is another"));
    fs::remove_file(&path).unwrap();
    assert!(problems().await.contains("its file: No such file"));
    fs::write(path.with_file_name(RECORD), "{}").unwrap_or_else(|_readonly| {
        fs::remove_file(path.with_file_name(RECORD)).unwrap();
    });
    assert!(problems().await.contains("its record"));
    bench.library.remove(&base).unwrap();
    assert_eq!(bench.left(), 0);
}

#[tokio::test]
async fn what_was_cut_off_is_told_from_what_is_being_made() {
    let bench = Bench::new();
    bench.sound("debian.qcow2");
    bench.import("debian.qcow2", None).await.unwrap();
    let root = bench.library.open().unwrap();
    let assembly = Assembly::begin(&root, &bench.library.root).unwrap();
    assert!(bench.library.unfinished().unwrap().is_empty());
    let left = bench.library.root.join(".new-0123456789abcdef");
    fs::create_dir(&left).unwrap();
    fs::write(left.join(FILE), "half").unwrap();
    assert_eq!(bench.library.unfinished().unwrap(), [left]);
    assert_eq!(bench.library.names().unwrap(), [name("base")]);
    assert_eq!(bench.library.sweep().unwrap(), 1);
    assert_eq!(bench.left(), 2);
    drop(assembly);
    assert_eq!(bench.left(), 1);
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing() {
    let bench = Bench::new();
    bench.sound("debian.qcow2");
    for turns in 1..60 {
        let mut importing = Box::pin(bench.import("debian.qcow2", None));
        let mut left = turns;
        let ended = std::future::poll_fn(|context| {
            left -= 1;
            match importing.as_mut().poll(context) {
                std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
                std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(None),
                std::task::Poll::Pending => std::task::Poll::Pending,
            }
        })
        .await;
        drop(importing);
        if let Some(done) = ended {
            done.unwrap();
            assert!(turns > 6);
            return assert_eq!(bench.left(), 1);
        }
        assert_eq!(bench.left(), 0, "after {turns} turns");
    }
    panic!("it did not come to its end");
}
