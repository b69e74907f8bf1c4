//! Making images, beside the `qemu-img` that has to do it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use maqet_spec::size::Size;
use maqet_spec::vm::DiskFormat;
use maqet_storage::binary::Binaries;
use maqet_storage::image::{create, overlay};
use maqet_storage::policy::PathPolicy;
use tokio::runtime::{Builder, Runtime};

use crate::{Work, timed};

/// What the guest sees.
const SIZE: Size = Size(10 << 30);

/// A directory for images, and what maqet needs to make them.
pub(crate) struct Images {
    directory: PathBuf,
    policy: PathPolicy,
    binaries: Binaries,
    runtime: Runtime,
}

impl Images {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        let directory = directory.join("images");
        std::fs::create_dir(&directory).context("make a directory for images")?;
        let images = Self {
            policy: PathPolicy::new(None, vec![directory.clone()], Vec::new()),
            directory,
            binaries: Binaries::new(),
            runtime: Builder::new_current_thread().enable_all().build()?,
        };
        images.bare(&images.at("base"), &[])?;
        Ok(images)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// As a person makes one that survives a power cut.
    fn bare(&self, image: &Path, words: &[&str]) -> Result<()> {
        let made = Command::new("qemu-img")
            .current_dir(&self.directory)
            .args(["create", "-q", "-f", "qcow2"])
            .args(words)
            .arg(image)
            .arg(SIZE.0.to_string())
            .status()
            .context("run qemu-img")?;
        ensure!(made.success(), "qemu-img create: {made}");
        File::open(image)?.sync_all()?;
        File::open(&self.directory)?.sync_all()?;
        Ok(())
    }

    fn forget(&self) -> Result<()> {
        std::fs::remove_file(self.at("bare"))?;
        Ok(std::fs::remove_file(self.at("maqet"))?)
    }

    /// Each kind once.
    fn round(&self, work: &mut [Work; 2]) -> Result<()> {
        let [empty, linked] = work;
        let (image, base) = (self.at("maqet"), self.at("base"));
        let format = DiskFormat::Qcow2;
        empty.bare.push(timed(|| self.bare(&self.at("bare"), &[]))?.0);
        let made = create(&image, format, SIZE, &self.policy, &self.binaries);
        empty.maqet.push(timed(|| Ok(self.runtime.block_on(made)?))?.0);
        self.forget()?;
        let words = ["-b", "base", "-F", "qcow2"];
        linked.bare.push(timed(|| self.bare(&self.at("bare"), &words))?.0);
        let made = overlay(&image, (&base, format), SIZE, &self.policy, &self.binaries);
        linked.maqet.push(timed(|| Ok(self.runtime.block_on(made)?))?.0);
        self.forget()
    }

    /// So many rounds of both kinds.
    pub(crate) fn rounds(&self, count: usize) -> Result<[Work; 2]> {
        let floor = "qemu-img create, file and name synced";
        let mut work = [
            Work::new("empty image, 10G", floor),
            Work::new("linked clone, 10G", floor),
        ];
        for _ in 0..count {
            self.round(&mut work)?;
        }
        Ok(work)
    }
}
