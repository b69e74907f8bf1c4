//! What a file is, by its bytes, and whether it may come into the library. Nothing in it is believed, and no program has
//! looked at it yet.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use maqet_spec::shell::word;
use maqet_spec::vm::DiskFormat;

use crate::error::StorageError;
use crate::image::{Header, Image, Tables};

/// Most that an image may be large, bytes: 1 PiB. What is larger is a mistake or an attack.
const SIZE_MAX: u64 = 1 << 50;
/// Where an ISO 9660 file system says what it is.
const ISO_OFFSET: u64 = 32_769;
/// Where raw disks and the file systems that lie on them without a partition table say what they are.
const DISKS: [(u64, &[u8]); 10] = [
    // A boot sector: a partition table of a PC, FAT, NTFS, isolinux.
    (510, b"\x55\xaa"),
    // GPT, on sectors of 512 and of 4096 bytes.
    (512, b"EFI PART"),
    (4096, b"EFI PART"),
    // ext2, ext3, ext4.
    (0x438, b"\x53\xef"),
    (0, b"XFSB"),
    (0x1_0040, b"_BHRfS_M"),
    // F2FS.
    (0x400, b"\x10\x20\xf5\xf2"),
    // SquashFS.
    (0, b"hsqs"),
    // LVM.
    (512, b"LABELONE"),
    // ISO 9660.
    (ISO_OFFSET, ISO_MAGIC),
];
const ISO_MAGIC: &[u8] = b"CD001";
/// Where a tar archive does.
const TAR_OFFSET: u64 = 257;
/// How much of the beginning is looked at, bytes.
const START_BYTES: usize = 512;
/// How a file begins, what it is then, and with which program it becomes an image.
const FOREIGN: [(&[u8], &str, &str); 15] = [
    (b"KDMV", "a VMDK image", "qemu-img convert -f vmdk"),
    (b"COWD", "a VMDK image", "qemu-img convert -f vmdk"),
    (b"# Disk Desc", "a VMDK description", "qemu-img convert -f vmdk"),
    (b"<<< ", "a VDI image", "qemu-img convert -f vdi"),
    (b"vhdxfile", "a VHDX image", "qemu-img convert -f vhdx"),
    (b"conectix", "a VHD image", "qemu-img convert -f vpc"),
    (b"QED\0", "a QED image", "qemu-img convert -f qed"),
    (b"LUKS\xba\xbe", "an encrypted image", "cryptsetup open"),
    (
        b"WithoutFreeSpace",
        "a Parallels image",
        "qemu-img convert -f parallels",
    ),
    (b"\x1f\x8b", "compressed with gzip", "gunzip"),
    (b"\xfd7zXZ\0", "compressed with xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd"),
    (b"BZh", "compressed with bzip2", "bunzip2"),
    (b"PK\x03\x04", "a ZIP archive", "unzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
];

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Qcow2,
    OldQcow,
    /// What it is and what makes an image of it.
    Foreign(&'static str, &'static str),
    Iso,
    /// A raw disk.
    Disk,
    /// Nothing that can be told: perhaps a raw disk that is empty yet.
    Unknown,
}

/// The format of a file that may come in. `said` is what its owner says of it.
pub(super) fn admit(image: &Image, said: Option<DiskFormat>) -> Result<DiskFormat, StorageError> {
    let file = File::from(
        image
            .fd
            .try_clone()
            .map_err(StorageError::file("open", &image.path))?,
    );
    let refuse = |reason: String, hint: Option<String>| StorageError::Unsuitable {
        path: image.path.clone(),
        reason,
        hint,
    };
    if image.file_bytes == 0 {
        return Err(refuse("it is empty".to_owned(), None));
    }
    let kind = kind(&file).map_err(StorageError::file("read", &image.path))?;
    let format = format_of(kind, said.or_else(|| called(image))).map_err(|(reason, hint)| {
        let hint = hint.map(|hint| hint.replace("FILE", &word(&image.path)));
        refuse(reason, hint)
    })?;
    let reason = match format {
        DiskFormat::Raw => too_large(image.file_bytes),
        DiskFormat::Qcow2 => {
            let read = unsound(&file, image.file_bytes).map_err(StorageError::file("read", &image.path));
            read?
        }
    };
    reason.map_or(Ok(format), |reason| Err(refuse(reason, None)))
}

/// What its name says it is.
fn called(image: &Image) -> Option<DiskFormat> {
    let ending = image.path.extension()?.to_str()?.to_ascii_lowercase();
    matches!(ending.as_str(), "qcow2" | "qcow").then_some(DiskFormat::Qcow2)
}

type Refused = (String, Option<String>);

fn format_of(kind: Kind, said: Option<DiskFormat>) -> Result<DiskFormat, Refused> {
    use DiskFormat::Raw;
    match (kind, said) {
        (Kind::Qcow2, None | Some(DiskFormat::Qcow2)) => Ok(DiskFormat::Qcow2),
        (Kind::Iso | Kind::Disk, None)
        | (Kind::Qcow2 | Kind::Iso | Kind::Disk | Kind::Unknown, Some(Raw)) => Ok(Raw),
        (Kind::Unknown, None) => Err((
            "nothing in it says that it is a disk".to_owned(),
            Some("if it is a raw disk: --format raw".to_owned()),
        )),
        (Kind::OldQcow, _) => {
            let hint = "convert it first: qemu-img convert -f qcow -O qcow2 FILE new.qcow2";
            Err((
                "it is a qcow image of version 1".to_owned(),
                Some(hint.to_owned()),
            ))
        }
        (Kind::Foreign(what, program), _) if program.starts_with("qemu-img") => {
            let hint = format!("convert it first: {program} -O qcow2 FILE new.qcow2");
            Err((format!("it is {what}"), Some(hint)))
        }
        (Kind::Foreign(what, program), _) => Err((
            format!("it is {what}"),
            Some(format!("unpack it first: {program} FILE")),
        )),
        (Kind::Iso, Some(DiskFormat::Qcow2)) => {
            let reason = "it is called a qcow2 image and is an ISO 9660 file system";
            Err((reason.to_owned(), Some("say what it is: --format raw".to_owned())))
        }
        (Kind::Disk | Kind::Unknown, Some(DiskFormat::Qcow2)) => {
            let reason = "it is called a qcow2 image and is none";
            Err((
                reason.to_owned(),
                Some("if it is a raw disk: --format raw".to_owned()),
            ))
        }
    }
}

fn kind(file: &File) -> io::Result<Kind> {
    let start = read(file, 0, START_BYTES)?;
    if start.starts_with(b"QFI\xfb") {
        let version = start.get(4..8);
        return Ok(if version == Some(&[0, 0, 0, 1]) {
            Kind::OldQcow
        } else {
            Kind::Qcow2
        });
    }
    let foreign = FOREIGN.iter().find(|(magic, _, _)| start.starts_with(magic));
    if let Some((_, what, program)) = foreign {
        return Ok(Kind::Foreign(what, program));
    }
    if read(file, TAR_OFFSET, 5)? == b"ustar" {
        return Ok(Kind::Foreign("a tar archive", "tar -xf"));
    }
    let mut kind = Kind::Unknown;
    for (offset, magic) in DISKS {
        if read(file, offset, magic.len())? == magic {
            kind = if magic == ISO_MAGIC { Kind::Iso } else { Kind::Disk };
        }
    }
    Ok(kind)
}

fn too_large(bytes: u64) -> Option<String> {
    (bytes > SIZE_MAX).then(|| format!("it is {bytes} bytes large; up to 1 PiB is taken"))
}

/// Why a qcow2 image is not taken, as far as its header tells.
fn unsound(file: &File, file_bytes: u64) -> io::Result<Option<String>> {
    let header = match Header::read(file) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Ok(Some("its header is damaged".to_owned()));
        }
        header => header?,
    };
    if let Some(backing) = header.backing {
        return Ok(Some(format!(
            "it stands on another file, `{}`",
            backing.escape_debug()
        )));
    }
    let simple = [
        (header.data_file, "it keeps its data in another file"),
        (header.corrupt, "QEMU has marked it as damaged"),
        (header.virtual_bytes == 0, "it has no size"),
    ];
    if let Some((_, reason)) = simple.iter().find(|(is_so, _)| *is_so) {
        return Ok(Some((*reason).to_owned()));
    }
    let Some(tables) = Tables::read(file)? else {
        return Ok(Some("its header is cut off".to_owned()));
    };
    let encrypted = tables.encrypted.then(|| "it is encrypted".to_owned());
    let outside = || tables.unsound(file_bytes);
    Ok(too_large(header.virtual_bytes).or(encrypted).or_else(outside))
}

/// So many bytes, or as many as there are.
fn read(file: &File, offset: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset + u64::try_from(filled).unwrap_or_default();
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
