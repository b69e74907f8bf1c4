//! The Linux guest: Debian's kernel and an initial RAM disk with busybox; see `guests/linux/init` for its words.

use std::path::PathBuf;
use std::process::Command;

/// Its directory, with `vmlinux` and `initrd.img`: where `scripts/test` put it, else built now (cached for all later runs).
pub fn directory() -> PathBuf {
    if let Some(dir) = std::env::var_os("MAQET_TEST_LINUX_GUEST") {
        return PathBuf::from(dir);
    }
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/guests/linux/build");
    let output = Command::new(build).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{build}: {said}");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
}

/// The line of a description that boots it with these words on its command line.
pub fn kernel(words: &str) -> String {
    let dir = directory();
    format!(
        "kernel: {{image: {}, initrd: {}, append: 'console=ttyS0 quiet {words}'}}",
        dir.join("vmlinux").display(),
        dir.join("initrd.img").display(),
    )
}
