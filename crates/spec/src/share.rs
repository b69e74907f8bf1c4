//! Directories of the host that a guest can mount.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One shared directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Name within the VM, `[a-z][a-z0-9-]{0,30}`.
    pub name: String,
    /// The directory; absolute path.
    pub path: PathBuf,
    /// What the guest mounts it by: 1 to 31 of `A-Z a-z 0-9 . _ -`.
    pub tag: String,
    /// How it reaches the guest.
    #[serde(rename = "type")]
    pub kind: ShareKind,
    /// The guest cannot write.
    #[serde(default)]
    pub readonly: bool,
    /// Whose files those of the guest are; always [`ShareSecurity::Passthrough`] by virtiofs.
    pub security: ShareSecurity,
}

/// How a directory reaches the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareKind {
    /// 9P over virtio, by QEMU itself.
    #[default]
    #[serde(rename = "9p")]
    Plan9,
    /// FUSE over virtio, by a virtiofsd of its own.
    #[serde(rename = "virtiofs")]
    Virtiofs,
}

/// Whose files those of the guest are. The words are QEMU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareSecurity {
    /// The user's; owner, mode and kind as the guest sees them are in extended attributes.
    #[default]
    MappedXattr,
    /// The user's; owner, mode and kind are in files beside them.
    MappedFile,
    /// The user's, with the guest's modes and links; what the guest says of owners is dropped.
    None,
    /// The guest's, as far as the user may: without being root a guest cannot change owners.
    Passthrough,
}

impl ShareKind {
    /// The word for it in a file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plan9 => "9p",
            Self::Virtiofs => "virtiofs",
        }
    }
}

impl ShareSecurity {
    /// Every one, with the word for it in a file.
    pub const ALL: [(&'static str, Self); 4] = [
        ("mapped-xattr", Self::MappedXattr),
        ("mapped-file", Self::MappedFile),
        ("none", Self::None),
        ("passthrough", Self::Passthrough),
    ];
}

impl fmt::Display for ShareSecurity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(_, other)| other == self);
        formatter.write_str(found.map_or("", |(word, _)| word))
    }
}
