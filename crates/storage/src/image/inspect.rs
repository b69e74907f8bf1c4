//! Looking into an image.

use std::ffi::OsString;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_process::confine::Access;
use maqet_process::identity::FileId;
use maqet_spec::vm::DiskFormat;
use serde::Deserialize;

use super::{QEMU_IMG, format_name, open};
use crate::binary::Binaries;
use crate::error::StorageError;
use crate::tool::Tool;

/// Time qemu-img has to read a header.
const INSPECT_LIMIT: Duration = Duration::from_secs(20);
/// Number of the image in qemu-img.
const FILE_NUMBER: i32 = 3;
/// `QFI\xfb`, which every qcow2 image begins with.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Where the incompatible features of a version 3 header are, and the bit for an external data file.
const FEATURES_OFFSET: u64 = 72;
const DATA_FILE_FEATURE: u64 = 1 << 2;

/// What an image says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Where it really is, symbolic links resolved.
    pub path: PathBuf,
    /// Device and inode.
    pub file_id: FileId,
    /// Its format, as asked for: never guessed.
    pub format: DiskFormat,
    /// Size the guest sees, bytes.
    pub virtual_bytes: u64,
    /// Bytes it takes on the disk.
    pub actual_bytes: u64,
    /// Name of the backing file as written in the image. Refuse it unless it was declared.
    pub backing: Option<String>,
    /// Whether it was not closed properly, or is open now.
    pub dirty: bool,
}

/// The part of qemu-img's answer that is used.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    #[serde(default)]
    actual_size: u64,
    backing_filename: Option<String>,
    #[serde(default)]
    dirty_flag: bool,
}

/// Looks into an image of a known format. Neither backing files nor data files are opened; an image in use may be
/// looked at.
///
/// # Errors
/// [`StorageError::DataFile`] for an image that keeps its data elsewhere; [`StorageError::Tool`] when it is not of
/// that format or damaged; otherwise as for [`open()`].
pub async fn inspect(
    path: &Path,
    format: DiskFormat,
    binaries: &Binaries,
) -> Result<Inspection, StorageError> {
    let image = open(path, true)?;
    let file = std::fs::File::from(image.fd);
    if format == DiskFormat::Qcow2 && has_data_file(&file).map_err(StorageError::file("read", &image.path))? {
        return Err(StorageError::DataFile { path: image.path });
    }
    let program = binaries.lookup(QEMU_IMG)?;
    let inside = format!("/proc/self/fd/{FILE_NUMBER}");
    let args = [
        "info",
        "--force-share",
        "--output=json",
        "-f",
        format_name(format),
        &inside,
    ];
    let tool = Tool {
        program: &program.path,
        args: args.map(OsString::from).to_vec(),
        fds: vec![(file.into(), FILE_NUMBER)],
        limit: INSPECT_LIMIT,
        cpu_seconds: Some(INSPECT_LIMIT.as_secs()),
        access: Some(Access::Read),
    };
    let answer = tool.output().await?;
    let info: Info = serde_json::from_str(&answer).map_err(|error| StorageError::Answer {
        program: program.path,
        reason: error.to_string(),
    })?;
    Ok(Inspection {
        path: image.path,
        file_id: image.file_id,
        format,
        virtual_bytes: info.virtual_size,
        actual_bytes: info.actual_size,
        backing: info.backing_filename,
        dirty: info.dirty_flag,
    })
}

/// Whether a qcow2 header names an external data file, which qemu-img would open. False for what is no qcow2.
fn has_data_file(file: &std::fs::File) -> std::io::Result<bool> {
    let mut start = [0_u8; 8];
    if read_at(file, &mut start, 0)? < start.len() || !start.starts_with(&QCOW2_MAGIC) {
        return Ok(false);
    }
    if start.ends_with(&2_u32.to_be_bytes()) {
        return Ok(false);
    }
    let mut features = [0_u8; 8];
    let read = read_at(file, &mut features, FEATURES_OFFSET)?;
    Ok(read == features.len() && u64::from_be_bytes(features) & DATA_FILE_FEATURE != 0)
}

fn read_at(file: &std::fs::File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    match file.read_exact_at(buffer, offset) {
        Ok(()) => Ok(buffer.len()),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn qemu_img(directory: &Path, args: &[&str]) {
        let status = Command::new(QEMU_IMG)
            .current_dir(directory)
            .args(args)
            .status()
            .unwrap();
        assert!(status.success(), "{args:?}");
    }

    #[tokio::test]
    async fn images_tell_format_size_and_backing() {
        let root = tempfile::tempdir().unwrap();
        let binaries = Binaries::new();
        qemu_img(root.path(), &["create", "-q", "-f", "qcow2", "base.qcow2", "16M"]);
        let overlay = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            "base.qcow2",
            "top.qcow2",
        ];
        qemu_img(root.path(), &overlay);
        let base = inspect(&root.path().join("base.qcow2"), DiskFormat::Qcow2, &binaries)
            .await
            .unwrap();
        assert_eq!(
            (base.virtual_bytes, base.backing, base.dirty),
            (16 << 20, None, false)
        );
        assert!(base.actual_bytes > 0 && base.actual_bytes < 1 << 20);
        // Its backing file is not opened: it may as well be gone.
        std::fs::remove_file(root.path().join("base.qcow2")).unwrap();
        let top = inspect(&root.path().join("top.qcow2"), DiskFormat::Qcow2, &binaries)
            .await
            .unwrap();
        assert_eq!(top.backing.as_deref(), Some("base.qcow2"));
        // A qcow2 image declared raw is raw: nothing in it is followed.
        let raw = inspect(&root.path().join("top.qcow2"), DiskFormat::Raw, &binaries)
            .await
            .unwrap();
        assert_eq!((raw.format, raw.backing), (DiskFormat::Raw, None));
    }

    #[tokio::test]
    async fn data_files_and_strangers_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let binaries = Binaries::new();
        let external = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "data_file=data.raw",
            "ext.qcow2",
            "1M",
        ];
        qemu_img(root.path(), &external);
        let error = inspect(&root.path().join("ext.qcow2"), DiskFormat::Qcow2, &binaries)
            .await
            .unwrap_err();
        assert!(matches!(error, StorageError::DataFile { .. }), "{error:?}");
        for (name, text) in [("text", "not an image"), ("empty", ""), ("magic", "QFI\u{fb}")] {
            std::fs::write(root.path().join(name), text).unwrap();
            let error = inspect(&root.path().join(name), DiskFormat::Qcow2, &binaries)
                .await
                .unwrap_err();
            assert!(matches!(error, StorageError::Tool { .. }), "{error:?}");
        }
        let missing = inspect(&root.path().join("missing"), DiskFormat::Raw, &binaries).await;
        assert!(matches!(missing, Err(StorageError::File { .. })));
    }
}
