//! Images with errors in their tables, for tests.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Says of the first clusters of a qcow2 image that nobody uses them.
pub(super) fn damage(image: &Path) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let read = |offset| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_be_bytes(bytes)
    };
    let counts = read(read(48));
    file.write_all_at(&[0; 8], counts).unwrap();
}
