//! Room for disks to grow, by file system.
//!
//! Images are sparse: all of them together may promise more than there is, and often do. That is no fault as long as there is
//! room for what guests write until somebody looks again. So a file system is told of when less is free in it than its disks can
//! still grow, and less than [`FREE_LOW`]: a guest that unpacks an upgrade writes as much in a few minutes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use maqet_protocol::control::{DiskStorage, VmStorage};

use super::{Check, Outcome};
use crate::render::units;

/// Less than this is little, bytes.
const FREE_LOW: u64 = 1 << 30;
/// Less than this, bytes, and a guest that writes is halted.
const FREE_NONE: u64 = 1 << 20;

/// What the disks of one file system need, and have.
#[derive(Debug)]
struct Volume {
    /// One of them.
    path: PathBuf,
    disks: usize,
    /// Bytes that they can still take.
    growth: u64,
    /// Bytes that are free.
    free: u64,
}

pub(super) fn checks(storages: &[VmStorage]) -> Vec<Check> {
    let mut volumes: BTreeMap<u64, Volume> = BTreeMap::new();
    for disk in storages.iter().flat_map(|storage| &storage.disks) {
        if let Some((device, found)) = volume_of(disk) {
            volumes
                .entry(device)
                .and_modify(|volume| {
                    volume.disks += found.disks;
                    volume.growth = volume.growth.saturating_add(found.growth);
                    volume.free = volume.free.min(found.free);
                })
                .or_insert(found);
        }
    }
    volumes.values().filter_map(check).collect()
}

/// The device of a disk that a guest writes to, and what it needs there.
fn volume_of(disk: &DiskStorage) -> Option<(u64, Volume)> {
    let image = disk.chain.first().filter(|_| !disk.readonly)?;
    let volume = Volume {
        path: disk.path.clone(),
        disks: 1,
        growth: image.virtual_bytes.saturating_sub(image.actual_bytes),
        free: disk.free_bytes?,
    };
    Some((image.file.id.dev, volume))
}

fn check(volume: &Volume) -> Option<Check> {
    let Volume {
        path,
        disks,
        growth,
        free,
    } = volume;
    if *free >= FREE_LOW.min(*growth) {
        return None;
    }
    let outcome = if *free < FREE_NONE {
        Outcome::Fail
    } else {
        Outcome::Warn
    };
    let (free, growth) = (units::size(*free), units::size(*growth));
    let whose = match disks {
        1 => "a disk that can".to_owned(),
        count => format!("{count} disks that can"),
    };
    let what = format!("{free} free for {whose} still grow by {growth}");
    let check = Check::new("disk-space", outcome, what).at(&path.display());
    Some(check.hint("make room there: a guest that finds none is halted until there is"))
}
