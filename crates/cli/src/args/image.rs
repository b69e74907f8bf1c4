//! Arguments of `maqet image`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use maqet_spec::ImageName;
use maqet_spec::vm::DiskFormat;

/// `maqet image …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Bring a copy of an image into the library, for disks to stand on; returns when it is there whole
    Import(ImportArgs),
    /// List the library
    #[command(visible_alias = "list")]
    Ls,
    /// Delete images that no disk stands on
    Rm(ImagesArgs),
    /// Hold images, or all, against their checksums
    Verify(VerifyArgs),
}

/// `maqet image import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The image: qcow2, raw or ISO 9660
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Name in the library [default: the file's, without its ending]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<ImageName>,
    /// What the file is [default: what its first bytes say]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Checksum that the file must have: `blake3:…` or `sha256:…`
    #[arg(long, value_name = "SUM")]
    pub(crate) checksum: Option<String>,
}

/// Some images.
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// The images
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<ImageName>,
}

/// Some images, or all.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The images [default: all]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<ImageName>,
}

/// Format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// QEMU copy-on-write.
    Qcow2,
    /// Plain bytes.
    Raw,
}

impl From<Format> for DiskFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Qcow2 => Self::Qcow2,
            Format::Raw => Self::Raw,
        }
    }
}
