//! What an image says of itself.

use std::fs::File;
use std::os::fd::AsFd;

use super::Image;
use super::header::Header;
use crate::error::StorageError;

/// Whether the header of a qcow2 image says that it was not closed in order, or that QEMU has found it damaged.
///
/// # Errors
/// [`StorageError::NotQcow2`]; [`StorageError::File`] when it cannot be read.
pub fn is_suspect(image: &Image) -> Result<bool, StorageError> {
    let copy = image.fd.as_fd().try_clone_to_owned();
    let file = File::from(copy.map_err(StorageError::file("read", &image.path))?);
    match Header::read(&file) {
        Ok(header) => Ok(header.dirty || header.corrupt),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(StorageError::NotQcow2 {
            path: image.path.clone(),
        }),
        Err(error) => Err(StorageError::file("read", &image.path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::open;

    #[test]
    fn both_bits_count_and_other_files_are_none() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("disk");
        let mut header = vec![0_u8; 512];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        header[103] = 104;
        for (bits, expected) in [(0, false), (1, true), (2, true), (8, false)] {
            header[79] = bits;
            std::fs::write(&path, &header).unwrap();
            assert_eq!(
                is_suspect(&open(&path, true).unwrap()).unwrap(),
                expected,
                "{bits}"
            );
        }
        std::fs::write(&path, "text").unwrap();
        let refused = is_suspect(&open(&path, true).unwrap());
        assert!(
            matches!(refused, Err(StorageError::NotQcow2 { .. })),
            "{refused:?}"
        );
    }
}
