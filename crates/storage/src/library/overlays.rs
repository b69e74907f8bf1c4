//! Which files were made on an image: it is not deleted under them, whoever has them by then.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use maqet_process::private::{self, Access};
use maqet_spec::ImageName;

use super::Library;
use super::import::BESIDE_BYTES;
use crate::error::StorageError;
use crate::image::{self, Header, counted};

/// Name of the list in the image's directory: a path in JSON on each line.
const LIST: &str = "overlays";

impl Library {
    /// A file is about to be made on this image. Noted before, so that none is ever unknown.
    ///
    /// # Errors
    /// [`StorageError::NoSpace`]; [`StorageError::File`] when it cannot be noted.
    pub fn note_overlay(&self, name: &ImageName, path: &Path) -> Result<(), StorageError> {
        let list = self.list(name);
        let mut line = serde_json::to_vec(path)
            .map_err(|error| StorageError::file("note an overlay in", &list)(std::io::Error::from(error)))?;
        line.push(b'\n');
        let noted = private::open(&list, Access::Append)
            .and_then(|mut file| file.write_all(&line).and_then(|()| file.sync_all()));
        let noted = noted.map_err(StorageError::file("note an overlay in", &list));
        noted.map_err(|error| counted(error, BESIDE_BYTES, &list))
    }

    /// Files that were made on this image and still stand on it, where they were made.
    ///
    /// # Errors
    /// [`StorageError::File`] when the list cannot be read.
    pub fn overlays(&self, name: &ImageName) -> Result<Vec<PathBuf>, StorageError> {
        let list = self.list(name);
        let file = match private::open(&list, Access::Read) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.map_err(StorageError::file("read", &list))?,
        };
        let base = self.path_of(name);
        let mut found = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(StorageError::file("read", &list))?;
            // A line that was cut off belongs to a file that was never made.
            let path = serde_json::from_str::<PathBuf>(&line).ok();
            found.extend(path.filter(|path| stands_on(path, &base)));
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn list(&self, name: &ImageName) -> PathBuf {
        self.root.join(name.as_str()).join(LIST)
    }
}

fn stands_on(path: &Path, base: &Path) -> bool {
    let Ok(opened) = image::open(path, true) else {
        return false;
    };
    let header = Header::read(&File::from(opened.fd));
    header.is_ok_and(|header| header.backing.is_some_and(|backing| Path::new(&backing) == base))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn qemu_img(args: &[&str], path: &Path) {
        let made = Command::new("qemu-img").args(args).arg(path).arg("1M").status();
        assert!(made.unwrap().success(), "{args:?}");
    }

    #[test]
    fn only_what_still_stands_on_an_image_counts() {
        let root = tempfile::tempdir().unwrap();
        let library = Library::new(root.path().join("images"));
        let name: ImageName = "base".parse().unwrap();
        std::fs::create_dir_all(root.path().join("images/base")).unwrap();
        let base = library.path_of(&name);
        qemu_img(&["create", "-q", "-f", "qcow2"], &base);
        assert_eq!(library.overlays(&name).unwrap(), Vec::<PathBuf>::new());

        let at = |name: &str| root.path().join(name);
        let standing = base.to_str().unwrap();
        for made in ["kept", "gone", "alone", "kept"] {
            library.note_overlay(&name, &at(made)).unwrap();
        }
        library.note_overlay(&name, &at("never made")).unwrap();
        for made in ["kept", "gone"] {
            qemu_img(
                &["create", "-q", "-f", "qcow2", "-b", standing, "-F", "qcow2"],
                &at(made),
            );
        }
        qemu_img(&["create", "-q", "-f", "qcow2"], &at("alone"));
        std::fs::remove_file(at("gone")).unwrap();
        assert_eq!(library.overlays(&name).unwrap(), [at("kept")]);
    }
}
