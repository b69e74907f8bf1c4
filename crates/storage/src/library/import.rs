//! How a file comes into the library.

use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use maqet_process::identity::FileMark;
use maqet_process::point::{Point, pass};
use maqet_spec::ImageName;
use maqet_spec::vm::DiskFormat;
use rustix::fs::{Mode, fchmod, fsync};

use super::assembly::Assembly;
use super::{FILE, Library, LibraryImage, MODE, RECORD, examine};
use crate::binary::Binaries;
use crate::error::StorageError;
use crate::image::{self, Algorithm, Chain, Checksum, Copied, Image, Source, blocking, counted};
use crate::meter::{Meter, Step};
use crate::policy::PathPolicy;

/// Room for what an image has beside its content, bytes: its directory, its record, and the list of what stands on it.
pub(super) const BESIDE_BYTES: u64 = 64 << 10;

/// What is to come in.
#[derive(Clone, Debug)]
pub struct Import {
    /// The file; absolute.
    pub file: PathBuf,
    /// The image's name.
    pub name: ImageName,
    /// What the file is; by its first bytes when nobody says.
    pub format: Option<DiskFormat>,
    /// What its checksum must be.
    pub checksum: Option<Checksum>,
    /// Now, milliseconds since 1970.
    pub at_ms: u64,
}

impl Library {
    /// Brings a copy of a file in. The file is opened once, and looked at before any program is: what refers to other files,
    /// is damaged, of another format, or larger than 1 PiB is refused. Nothing is left after any failure, or when the
    /// future is dropped.
    ///
    /// # Errors
    /// [`StorageError::Unsuitable`], [`StorageError::Checksum`], [`StorageError::ImageTaken`], [`StorageError::NoSpace`]; those of
    /// [`image::open`](fn@image::open) and [`image::copy`].
    pub async fn import(
        &self,
        order: &Import,
        policy: &PathPolicy,
        binaries: &Binaries,
        meter: &Meter,
    ) -> Result<LibraryImage, StorageError> {
        let root = self.open()?;
        if self.root.join(order.name.as_str()).symlink_metadata().is_ok() {
            return Err(StorageError::ImageTaken {
                name: order.name.to_string(),
            });
        }
        let (asked, expected) = (order.file.clone(), order.format);
        let opening = move || {
            let opened = image::open(&asked, true)?;
            let format = examine::admit(&opened, expected)?;
            stamp(&opened).map(|before| (opened, format, before))
        };
        let (opened, format, before) = blocking(&order.file, opening).await??;
        self.examine(order, &opened, format, binaries, meter).await?;
        // Asked before the assembly goes: what it frees would hide how little there was.
        let counted = |error| counted(error, BESIDE_BYTES, &self.root);
        let assembly = Assembly::begin(&root, &self.root).map_err(counted)?;
        pass(Point::ImportBegun);
        let source = Source {
            chain: Chain {
                top: again(&opened)?,
                below: Vec::new(),
            },
            format,
        };
        let to = assembly.path().join(FILE);
        let copied = image::copy(source, &to, DiskFormat::Qcow2, policy, binaries, meter).await?;
        pass(Point::ImportCopied);
        let copied_from = again(&opened)?;
        if blocking(&order.file, move || stamp(&copied_from)).await?? != before {
            return Err(unsuitable(&opened.path, "it was changed while it was copied"));
        }
        let image = describe(order, &opened.path, format, copied, meter).await?;
        let record = assembly.path().join(RECORD);
        let written = write(&record, &image).map_err(StorageError::file("write", &record));
        written.map_err(counted)?;
        pass(Point::ImportDescribed);
        assembly.publish(&order.name)?;
        pass(Point::ImportPlaced);
        Ok(image)
    }

    /// What takes reading the whole file: its checksum, and whether its tables are sound.
    async fn examine(
        &self,
        order: &Import,
        opened: &Image,
        format: DiskFormat,
        binaries: &Binaries,
        meter: &Meter,
    ) -> Result<(), StorageError> {
        if let Some(expected) = &order.checksum {
            let file = File::from(again(opened)?.fd);
            let found = image::digest(file, &opened.path, expected.algorithm(), meter).await?;
            if found != *expected {
                return Err(StorageError::Checksum {
                    path: opened.path.clone(),
                    expected: expected.to_string(),
                    found: found.to_string(),
                });
            }
        }
        meter.tell(Step::Checking, 0, 0);
        let checked = match image::check(again(opened)?, format, false, binaries).await {
            Err(StorageError::Tool { words, .. }) => {
                let words = words.lines().last().unwrap_or_default();
                return Err(unsuitable(
                    &opened.path,
                    &format!("qemu-img cannot read it: {words}"),
                ));
            }
            checked => checked?,
        };
        let faults = checked.corruptions + checked.check_errors;
        if faults > 0 {
            return Err(unsuitable(
                &opened.path,
                &format!("it is damaged, at {faults} places"),
            ));
        }
        Ok(())
    }
}

/// Hashes the copy and takes away the right to write to it.
async fn describe(
    order: &Import,
    source: &Path,
    source_format: DiskFormat,
    copied: Copied,
    meter: &Meter,
) -> Result<LibraryImage, StorageError> {
    let path = copied.path;
    let fail = |action| StorageError::file(action, &path);
    let copy = copied.file.try_clone().map_err(fail("open"))?;
    let blake3 = image::digest(copy, &path, Algorithm::Blake3, meter).await?;
    fchmod(&copied.file, Mode::from_raw_mode(MODE)).map_err(StorageError::file("protect", &path))?;
    let file = FileMark::of_fd(&copied.file).map_err(StorageError::Library)?;
    let durable = copied.file;
    blocking(&path, move || fsync(&durable))
        .await?
        .map_err(StorageError::file("write out", &path))?;
    Ok(LibraryImage {
        name: order.name.clone(),
        format: copied.format,
        virtual_bytes: copied.virtual_bytes,
        file_bytes: copied.file_bytes,
        blake3,
        file,
        source: source.to_owned(),
        source_format,
        source_checksum: order.checksum.clone(),
        imported_ms: order.at_ms,
    })
}

fn write(path: &Path, image: &LibraryImage) -> std::io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    let mut bytes = serde_json::to_vec_pretty(image)?;
    bytes.push(b'\n');
    file.write_all(&bytes)?;
    file.sync_all()
}

/// The same open file.
fn again(image: &Image) -> Result<Image, StorageError> {
    let fail = StorageError::file("open", &image.path);
    Ok(Image {
        fd: image.fd.try_clone().map_err(fail)?,
        path: image.path.clone(),
        file_id: image.file_id,
        file_bytes: image.file_bytes,
    })
}

/// What changes when somebody writes to a file: length, and both moments.
fn stamp(image: &Image) -> Result<[i64; 4], StorageError> {
    let fail = StorageError::file("look at", &image.path);
    let file = File::from(again(image)?.fd);
    let about: Metadata = file.metadata().map_err(fail)?;
    let length = i64::try_from(about.len()).unwrap_or(i64::MAX);
    Ok([length, about.mtime(), about.mtime_nsec(), about.ctime_nsec()])
}

fn unsuitable(path: &Path, reason: &str) -> StorageError {
    StorageError::Unsuitable {
        path: path.to_owned(),
        reason: reason.to_owned(),
        hint: None,
    }
}
