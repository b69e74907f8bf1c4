//! Opening an image with everything it stands on.
//!
//! QEMU opens no backing file by itself: it gets each image of the chain open, with its format. So nothing is guessed, no
//! image's words lead QEMU anywhere, and what was opened is what is used.

use std::fs::File;
use std::path::{Path, PathBuf};

use maqet_spec::vm::DiskFormat;

use super::header::Header;
use super::{Image, Tables, open};
use crate::error::StorageError;
use crate::policy::PathPolicy;

/// Most images below another. Each costs QEMU memory for its tables.
pub(super) const DEPTH_MAX: usize = 64;

/// An image and what it stands on.
#[derive(Debug)]
pub struct Chain {
    /// The image itself.
    pub top: Image,
    /// Below it, the nearest first; open for reading only.
    pub below: Vec<Layer>,
}

/// One image below another.
#[derive(Debug)]
pub struct Layer {
    /// Where it is, as the image above it says; absolute.
    pub named: PathBuf,
    /// The file.
    pub image: Image,
    /// Its format, as the image above it says.
    pub format: DiskFormat,
}

/// Opens an image and, following the words of qcow2 headers, all that it stands on.
///
/// What is written to, and what stands below, must be where the policy allows it: an image that came from elsewhere could
/// name any file as its backing file, and the guest would read it.
///
/// # Errors
/// As for [`open`](super::open()); [`StorageError::Denied`]; [`StorageError::NotQcow2`]; [`StorageError::DataFile`];
/// [`StorageError::Chain`] when the chain cannot be followed, [`StorageError::Backing`] when a file of it cannot be used.
pub fn open_chain(
    path: &Path,
    format: DiskFormat,
    readonly: bool,
    policy: &PathPolicy,
) -> Result<Chain, StorageError> {
    let top = open(path, readonly)?;
    if !readonly {
        policy.check(&top.path)?;
    }
    let mut below: Vec<Layer> = Vec::new();
    let mut next = under(&top, format)?;
    while let Some((path, format)) = next {
        let above = below.last().map_or(&top, |layer| &layer.image);
        let image = backing(above, &path, policy)?;
        let seen = std::iter::once(&top).chain(below.iter().map(|layer| &layer.image));
        if seen.clone().any(|other| other.file_id == image.file_id) {
            return Err(broken(above, "it stands on itself"));
        }
        if below.len() >= DEPTH_MAX {
            return Err(broken(&top, "it stands on more than 64 images"));
        }
        next = under(&image, format)?;
        below.push(Layer {
            named: path,
            image,
            format,
        });
    }
    Ok(Chain { top, below })
}

pub(super) fn backing(above: &Image, path: &Path, policy: &PathPolicy) -> Result<Image, StorageError> {
    let judged = |opened: Result<Image, StorageError>| {
        let found = opened
            .as_ref()
            .map_or_else(|_| sought(path), |image| image.path.clone());
        policy.check(&found)?;
        opened
    };
    judged(open(path, true)).map_err(|source| StorageError::Backing {
        path: above.path.clone(),
        backing: path.to_owned(),
        source: Box::new(source),
    })
}

/// Where a file that cannot be opened is, or would be: what is off limits is so whether it exists or not, and an image that
/// came from elsewhere is told nothing about it.
fn sought(path: &Path) -> PathBuf {
    let real = |above: &Path| Some(above.canonicalize().ok()?.join(path.strip_prefix(above).ok()?));
    path.ancestors().find_map(real).unwrap_or_else(|| path.to_owned())
}

/// Path and format of what an image stands on.
pub(super) fn under(
    image: &Image,
    format: DiskFormat,
) -> Result<Option<(PathBuf, DiskFormat)>, StorageError> {
    if format == DiskFormat::Raw {
        return Ok(None);
    }
    let fail = StorageError::file("read", &image.path);
    let file = File::from(image.fd.try_clone().map_err(fail)?);
    let header = match Header::read(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            let path = image.path.clone();
            return Err(StorageError::NotQcow2 { path });
        }
        read => read.map_err(StorageError::file("read", &image.path))?,
    };
    check_tables(image, &file)?;
    if header.data_file {
        let path = image.path.clone();
        return Err(StorageError::DataFile { path });
    }
    let Some(name) = header.backing else {
        return Ok(None);
    };
    let format = match header.backing_format.as_deref() {
        Some("qcow2") => DiskFormat::Qcow2,
        Some("raw") => DiskFormat::Raw,
        Some(_) => return Err(broken(image, "its backing file is neither qcow2 nor raw")),
        None => return Err(broken(image, "it does not say which format its backing file has")),
    };
    Ok(Some((located(image, &name)?, format)))
}

/// Refuses what QEMU would refuse in words of its own, or take for an empty disk.
fn check_tables(image: &Image, file: &File) -> Result<(), StorageError> {
    let fail = || StorageError::file("read", &image.path);
    let path = || image.path.clone();
    let tables = Tables::read(file).map_err(fail())?;
    let Some(tables) = tables else {
        return Err(StorageError::NotQcow2 { path: path() });
    };
    if tables.encrypted {
        return Err(StorageError::Encrypted { path: path() });
    }
    // Asked after the header: the file of an image in use grows before its header tells.
    let bytes = file.metadata().map_err(fail())?.len();
    match tables.unsound(bytes) {
        Some(reason) => Err(StorageError::Unsound { path: path(), reason }),
        None => Ok(()),
    }
}

/// Where a backing file is: relative to the image that names it. Names that QEMU would take for a protocol are no paths.
fn located(image: &Image, name: &str) -> Result<PathBuf, StorageError> {
    let first = name.split('/').next().unwrap_or_default();
    if first.contains(':') {
        return Err(broken(
            image,
            "its backing file is no file but a protocol's address",
        ));
    }
    if name.is_empty() || name.contains('\0') {
        return Err(broken(image, "the name of its backing file is no name"));
    }
    Ok(image.path.parent().unwrap_or(Path::new("/")).join(name))
}

fn broken(image: &Image, reason: &'static str) -> StorageError {
    StorageError::Chain {
        path: image.path.clone(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::*;

    struct Place {
        root: tempfile::TempDir,
        policy: PathPolicy,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let home = fs::canonicalize(root.path()).unwrap();
            let policy = PathPolicy::new(Some(home), Vec::new(), Vec::new());
            Self { root, policy }
        }

        fn at(&self, name: &str) -> PathBuf {
            fs::canonicalize(self.root.path()).unwrap().join(name)
        }

        fn img(&self, args: &[&str]) {
            let mut command = Command::new("qemu-img");
            let done = command.current_dir(self.root.path()).args(args).status();
            assert!(done.unwrap().success(), "{args:?}");
        }

        fn create(&self, args: &[&str]) {
            self.img(&[&["create", "-q", "-f", "qcow2"], args].concat());
        }

        fn open(&self, name: &str) -> Result<Chain, StorageError> {
            open_chain(&self.at(name), DiskFormat::Qcow2, false, &self.policy)
        }
    }

    #[test]
    fn every_image_of_a_chain_is_opened_with_its_format() {
        let place = Place::new();
        fs::create_dir(place.root.path().join("bases")).unwrap();
        place.img(&["create", "-q", "-f", "raw", "bases/base.raw", "1M"]);
        place.create(&["-b", "base.raw", "-F", "raw", "bases/middle.qcow2"]);
        place.create(&["-b", "bases/middle.qcow2", "-F", "qcow2", "top.qcow2"]);
        let chain = place.open("top.qcow2").unwrap();
        let layers: Vec<_> = chain
            .below
            .iter()
            .map(|layer| (layer.image.path.clone(), layer.format))
            .collect();
        let expected = [
            (place.at("bases/middle.qcow2"), DiskFormat::Qcow2),
            (place.at("bases/base.raw"), DiskFormat::Raw),
        ];
        assert_eq!(layers, expected);
        place.create(&["alone.qcow2", "1M"]);
        assert!(place.open("alone.qcow2").unwrap().below.is_empty());
        // An image that is declared raw refers to nothing.
        let raw = open_chain(&place.at("top.qcow2"), DiskFormat::Raw, false, &place.policy);
        assert!(raw.unwrap().below.is_empty());
    }

    #[test]
    fn chains_that_lead_astray_are_refused() {
        let place = Place::new();
        place.create(&["base", "1M"]);
        let reasons: [(&[&str], &str); 4] = [
            (
                &["-u", "-b", "./top", "-F", "qcow2", "top", "1M"],
                "stands on itself",
            ),
            (
                &["-u", "-b", "json:{}", "-F", "raw", "top", "1M"],
                "a protocol's address",
            ),
            (
                &["-u", "-b", "nbd://host/x", "-F", "raw", "top", "1M"],
                "a protocol's address",
            ),
            (
                &["-u", "-b", "base", "-F", "vmdk", "top", "1M"],
                "neither qcow2 nor raw",
            ),
        ];
        for (args, reason) in reasons {
            place.create(args);
            let error = place.open("top").unwrap_err();
            assert!(error.to_string().contains(reason), "{args:?}: {error}");
        }
        place.create(&["-o", "data_file=data", "top", "1M"]);
        assert!(matches!(place.open("top"), Err(StorageError::DataFile { .. })));
        fs::write(place.at("top"), "text").unwrap();
        assert!(matches!(place.open("top"), Err(StorageError::NotQcow2 { .. })));
    }

    #[test]
    fn a_backing_file_that_is_off_limits_missing_or_no_file_is_told_with_the_chain() {
        let place = Place::new();
        fs::create_dir(place.at(".ssh")).unwrap();
        fs::write(place.at(".ssh/id"), "key").unwrap();
        for (backing, denied) in [
            ("/etc/passwd", true),
            (".ssh/id", true),
            ("/etc/missing", true),
            ("/dev/null", true),
            ("/dev/missing", true),
            ("../../../../etc/missing", true),
            ("missing", false),
        ] {
            place.create(&["-u", "-b", backing, "-F", "raw", "top", "1M"]);
            let Err(StorageError::Backing { source, backing, .. }) = place.open("top") else {
                panic!("{backing} was opened");
            };
            assert_eq!(
                matches!(*source, StorageError::Denied(_)),
                denied,
                "{}",
                backing.display()
            );
        }
    }

    fn words(error: &dyn std::error::Error) -> String {
        match error.source() {
            Some(source) => format!("{error}: {}", words(source)),
            None => error.to_string(),
        }
    }

    #[test]
    fn encrypted_and_cut_images_are_told_before_qemu_sees_them() {
        let place = Place::new();
        place.create(&["secret", "1M"]);
        let secret = File::options().write(true).open(place.at("secret")).unwrap();
        // The method: LUKS.
        secret.write_all_at(&[0, 0, 0, 2], 32).unwrap();
        assert!(matches!(
            place.open("secret"),
            Err(StorageError::Encrypted { .. })
        ));
        place.create(&["whole", "1M"]);
        place.create(&["-b", "whole", "-F", "qcow2", "above"]);
        let bytes = fs::read(place.at("whole")).unwrap();
        for cut in [72, 104, 300, 65_536, bytes.len() - 1] {
            fs::write(place.at("whole"), &bytes[..cut]).unwrap();
            for name in ["whole", "above"] {
                let error = place.open(name).unwrap_err();
                let told = words(&error);
                assert!(
                    told.contains("lies outside the file") || told.contains("is not a qcow2"),
                    "{cut}: {told}"
                );
            }
        }
        fs::write(place.at("whole"), &bytes).unwrap();
        assert!(place.open("above").is_ok());
    }

    #[test]
    fn a_chain_has_an_end() {
        let place = Place::new();
        place.create(&["0", "1M"]);
        for number in 1..=DEPTH_MAX + 1 {
            let below = (number - 1).to_string();
            place.create(&["-u", "-b", &below, "-F", "qcow2", &number.to_string(), "1M"]);
        }
        assert_eq!(place.open(&DEPTH_MAX.to_string()).unwrap().below.len(), DEPTH_MAX);
        let error = place.open(&(DEPTH_MAX + 1).to_string()).unwrap_err();
        assert!(error.to_string().contains("more than 64"), "{error}");
    }
}
