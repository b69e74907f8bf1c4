//! The tiny guest: 64 KiB of firmware that boots in milliseconds, for `doctor --boot` and for tests.
//!
//! Its source, `guest/tiny.S`, tells what it prints and which options it takes. Machines: `pc` and `q35` of
//! `qemu-system-x86_64`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use maqet_process::private::{self, Access};

/// The image for QEMU's `-bios`: 64 KiB, or empty when maqet was built on a host that is not x86-64.
pub const TINY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tiny.bin"));

/// First line the guest prints, without the line end.
pub const READY: &str = "maqet tiny guest ready";

/// Sectors of 512 bytes that the option `write` fills, from the first of the disk on.
pub const WRITTEN_SECTORS: u16 = 64;

/// Writes the image to `path`, replacing what is there.
///
/// # Errors
///
/// `Unsupported` if this build has no image, else what writing the file met.
pub fn write_image(path: &Path) -> io::Result<()> {
    std::fs::write(path, image()?)
}

fn image() -> io::Result<&'static [u8]> {
    if TINY.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this maqet was built without the tiny guest",
        ));
    }
    Ok(TINY)
}

/// The image in a private directory that is made for it; written there anew when it is another one, so that a VM that
/// reads it never sees half of it.
///
/// # Errors
/// As [`write_image`]; `Other` for a directory that is not ours alone.
pub fn keep_image(directory: &Path) -> io::Result<PathBuf> {
    let path = directory.join("tiny.bin");
    if std::fs::read(&path).is_ok_and(|found| found == TINY) {
        return Ok(path);
    }
    drop(maqet_process::directory::open_private(directory).map_err(io::Error::other)?);
    let fresh = directory.join("tiny.bin.new");
    private::open(&fresh, Access::Rewrite)?.write_all(image()?)?;
    std::fs::rename(&fresh, &path)?;
    Ok(path)
}

/// QEMU arguments that hand `options`, for example `["ticks", "ignore-acpi"]`, to the guest; none for no options,
/// because QEMU refuses an empty text.
pub fn option_args(options: &[&str]) -> Vec<String> {
    if options.is_empty() {
        return Vec::new();
    }
    vec![
        "-fw_cfg".to_owned(),
        format!("name=opt/maqet/tiny,string={}", options.join(" ")),
    ]
}

/// What the option `write` leaves in the sector with this number, below [`WRITTEN_SECTORS`].
pub fn written_sector(number: u16) -> [u8; 512] {
    let line = format!("maqet-sect-{number:04}\n");
    let mut sector = [0; 512];
    for (place, byte) in sector.iter_mut().zip(line.bytes().cycle()) {
        *place = byte;
    }
    sector
}
