//! Images are made whole or not at all.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

fn directory() -> (TempDir, PathBuf, PathPolicy) {
    let directory = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(directory.path()).unwrap();
    let policy = PathPolicy::new(None, vec![path.clone()], Vec::new());
    (directory, path, policy)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What [`Draft::begin`] makes where there is room.
fn drafted(place: Place, file: Unnamed, virtual_bytes: u64) -> Draft {
    Draft {
        place,
        file,
        virtual_bytes,
        free_bytes: 0,
        needed: needed_bytes(DiskFormat::Qcow2, virtual_bytes),
    }
}

#[tokio::test]
async fn both_formats_are_made_private_and_right() {
    let (_guard, root, policy) = directory();
    let binaries = Binaries::new();
    for (name, format) in [("a.qcow2", DiskFormat::Qcow2), ("b.raw", DiskFormat::Raw)] {
        let path = root.join(name);
        let created = create(&path, format, Size(10 * MIB + 1), &policy, &binaries)
            .await
            .unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(
            (created.file_id, created.path.as_path()),
            (FileId::of(&metadata), path.as_path())
        );
        assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o600, 1));
        assert_eq!(created.virtual_bytes, 10 * MIB + 512);
        assert!(created.free_bytes > 0);
        let seen = super::super::inspect(&path, format, &binaries).await.unwrap();
        assert_eq!((seen.virtual_bytes, seen.backing), (created.virtual_bytes, None));
        let check = Command::new(QEMU_IMG)
            .args(["check", "-q", "-f", "qcow2"])
            .arg(&path)
            .status()
            .unwrap();
        assert_eq!(check.success(), format == DiskFormat::Qcow2);
    }
    assert_eq!(names(&root), ["a.qcow2", "b.raw"]);
}

#[tokio::test]
async fn a_taken_name_is_left_alone_whatever_it_is() {
    let (_guard, root, policy) = directory();
    let binaries = Binaries::new();
    fs::write(root.join("file"), "precious").unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    symlink("file", root.join("link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    for name in ["file", "dir", "link", "dangling"] {
        let error = create(&root.join(name), DiskFormat::Raw, Size(MIB), &policy, &binaries)
            .await
            .unwrap_err();
        assert!(matches!(error, StorageError::Exists { .. }), "{name}: {error:?}");
    }
    // Also when it appears after the first look.
    for make in [Unnamed::make, Unnamed::make_named] {
        let place = Place::pin(&root.join("file"), &policy).unwrap();
        let error = make(&place).unwrap().publish(&place).unwrap_err();
        assert!(matches!(error, StorageError::Exists { .. }), "{error:?}");
    }
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "precious");
    assert_eq!(names(&root), ["dangling", "dir", "file", "link"]);
}

#[tokio::test]
async fn without_unnamed_files_it_works_too_and_cleans_up() {
    let (_guard, root, policy) = directory();
    let binaries = Binaries::new();
    let place = Place::pin(&root.join("disk"), &policy).unwrap();
    drop(Unnamed::make_named(&place).unwrap());
    assert!(names(&root).is_empty());
    let file = Unnamed::make_named(&place).unwrap();
    assert_eq!(names(&root).len(), 1);
    let draft = drafted(place, file, MIB);
    draft.write_with_qemu_img(&[], &binaries).await.unwrap();
    draft.named().await.unwrap();
    assert_eq!(names(&root), ["disk"]);
    assert!(
        super::super::inspect(&root.join("disk"), DiskFormat::Qcow2, &binaries)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_failing_or_missing_qemu_img_leaves_nothing() {
    let (_guard, root, policy) = directory();
    let path = root.join("disk");
    let nowhere = Binaries::with_path(&root);
    let missing = create(&path, DiskFormat::Qcow2, Size(MIB), &policy, &nowhere).await;
    assert!(matches!(missing, Err(StorageError::NoBinary { .. })));
    let too_big = create(
        &path,
        DiskFormat::Qcow2,
        Size(u64::MAX),
        &policy,
        &Binaries::new(),
    )
    .await;
    assert!(too_big.is_err());
    assert!(names(&root).is_empty());
}

/// A tmpfs of our own, when we may mount one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory.path());
        let mounted = command.stderr(std::process::Stdio::null()).status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        assert!(
            Command::new("umount")
                .arg(self.0.path())
                .status()
                .is_ok_and(|status| status.success())
        );
    }
}

#[tokio::test]
async fn a_full_disk_is_told_with_numbers_and_leaves_nothing() {
    let Some(disk) = SmallDisk::mount("128k") else {
        println!("not tested here: mounting is not allowed");
        return;
    };
    let root = fs::canonicalize(disk.0.path()).unwrap();
    let policy = PathPolicy::new(None, vec![root.clone()], Vec::new());
    let path = root.join("disk.qcow2");
    let error = create(
        &path,
        DiskFormat::Qcow2,
        Size(64 * MIB),
        &policy,
        &Binaries::new(),
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error, StorageError::NoSpace { free: 131_072, needed, .. } if needed > MIB),
        "{error:?}"
    );
    assert!(error.to_string().contains("131072 free"), "{error}");
    // Past that check, the disk fills up under qemu-img's hands.
    for make in [Unnamed::make, Unnamed::make_named] {
        let place = Place::pin(&path, &policy).unwrap();
        let file = make(&place).unwrap();
        let draft = drafted(place, file, 64 * MIB);
        let error = draft
            .write_with_qemu_img(&[], &Binaries::new())
            .await
            .unwrap_err();
        drop(draft);
        let told = matches!(error, StorageError::NoSpace { free, needed, .. } if free < needed);
        assert!(told, "{error:?}");
        assert!(names(&root).is_empty());
    }
}
