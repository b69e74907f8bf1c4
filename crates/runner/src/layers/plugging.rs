//! A disk more while QEMU runs: its images by descriptor, then a device.
//!
//! The device comes last, because QEMU takes it away again only with the guest's help. Whatever was cut off before it is taken
//! away, by whoever has made it or by whoever comes next, so that the same may be asked for again.

use std::time::Duration;

use maqet_process::identity::FileMark;
use maqet_process::point::{Point, pass};
use maqet_protocol::control::Empty;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::PlugDisk;
use maqet_qmp::command::{AddFd, BlockdevAdd, BlockdevDel, DeviceAdd, QueryFdsets, RemoveFd};
use maqet_spec::argv::nodes::{below, file_of};
use maqet_spec::argv::plug;
use maqet_spec::vm::{Disk, DiskFormat, DiskInterface};
use maqet_storage::StorageError;
use maqet_storage::image::{self, Chain, Image};
use tokio::time::timeout;

use super::{COMMAND, DEADLINE_MAX, Work};
use crate::mail::{Mail, News, post};
use crate::nodes::Nodes;

/// Numbers of the descriptor sets of such disks: QEMU gives out the lowest that are free, and never comes this far.
const SETS_FIRST: u64 = 1_000_000;

/// Numbers kept for one disk: its own image, then what it stands on.
const SETS_PER_DISK: u64 = 1_000;

/// A disk on its way to QEMU.
#[derive(Clone, Copy, Debug)]
struct Coming<'o> {
    order: &'o PlugDisk,
    disk: &'o Disk,
    /// Its place among the disks of the spec.
    place: usize,
}

impl Coming<'_> {
    /// Number of the descriptor set of an image; the disk's own is at depth 0.
    fn set(&self, depth: usize) -> u64 {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let first = number(self.place).saturating_mul(SETS_PER_DISK);
        SETS_FIRST.saturating_add(first).saturating_add(number(depth))
    }

    /// Whether QEMU has it, all of it.
    fn is_there(&self, nodes: &Nodes<'_>) -> bool {
        let told = nodes.told(&self.disk.name);
        told.is_some_and(|top| top.attached || self.disk.interface == DiskInterface::None)
    }

    /// Whether QEMU has a node of its name that is not of its image: somebody else made it.
    fn is_anothers(&self, nodes: &Nodes<'_>) -> bool {
        let name = &self.disk.name;
        let own = nodes.file(name, name).is_some_and(|file| file.set == self.set(0));
        nodes.is_known(name) && !own
    }

    /// Names of its nodes that QEMU may have, each before what it stands on.
    fn nodes(&self, known: usize) -> Vec<String> {
        let own = [self.disk.name.clone(), file_of(&self.disk.name, self.place)];
        let below = (1..=known).flat_map(|depth| {
            let node = below(self.place, depth);
            let file = file_of(&node, self.place);
            [node, file]
        });
        own.into_iter().chain(below).collect()
    }
}

impl Work {
    /// Gives QEMU a disk.
    ///
    /// # Errors
    /// `conflict` when QEMU has other disks than the client thinks, or a file is another one; `storage-failed` when one cannot be
    /// opened; as for [`Work::carry_out`].
    pub(super) async fn plug(&self, order: &PlugDisk) -> Result<Empty, Refusal> {
        let names: Vec<String> = order.spec.disks.iter().map(|disk| disk.name.clone()).collect();
        let coming = self.coming(order, &names)?;
        let nodes = self.nodes_of(&names).await?;
        if coming.is_anothers(&nodes) {
            let (disk, name) = (&order.disk, &*self.counter.name);
            let words = format!("the QEMU of `{name}` has a block node `{disk}` that is not of this disk");
            let refusal = Refusal::new(RefusalCode::Conflict, words).vm(name);
            return Err(refusal.hint("give the disk another name with `--disk`"));
        }
        if !coming.is_there(&nodes) {
            self.bring(coming).await?;
        }
        let (disk, path) = (coming.disk.name.clone(), coming.disk.path.clone());
        let place = coming.place;
        post(
            &self.counter.desk,
            Mail::News(News::Plugged { place, disk, path }),
        )
        .await;
        Ok(Empty {})
    }

    /// The disk, which comes after those that are known here. One that was on its way to QEMU when this runner took over may be
    /// known as well, whether it has come or not.
    fn coming<'o>(&self, order: &'o PlugDisk, names: &[String]) -> Result<Coming<'o>, Refusal> {
        let last = order.spec.disks.last().filter(|disk| disk.name == order.disk);
        let before = names.split_last().map_or(names, |(_last, before)| before);
        match last {
            Some(disk) if self.disks.starts_with(before) && self.disks.len() <= names.len() => Ok(Coming {
                order,
                disk,
                place: before.len(),
            }),
            Some(_) | None => Err(self.other(&order.disk)),
        }
    }

    async fn bring(&self, coming: Coming<'_>) -> Result<(), Refusal> {
        self.clear(coming).await?;
        let limit = Duration::from_millis(coming.order.timeout_ms).min(DEADLINE_MAX);
        let chain = timeout(limit, self.open_chain(coming)).await;
        let chain = chain.unwrap_or_else(|_elapsed| {
            let words = format!(
                "the images of disk `{}` cannot be opened in time",
                coming.disk.name
            );
            Err(Refusal::new(RefusalCode::StorageFailed, words).vm(&*self.counter.name))
        })?;
        let given = self.give(coming, chain).await;
        pass(Point::PlugDone);
        match given {
            Ok(()) => Ok(()),
            Err(refusal) => self.take_back(coming, refusal).await,
        }
    }

    /// What QEMU did not do in time it may have done by now. Otherwise nothing is left of the disk, or it is not known what is.
    async fn take_back(&self, coming: Coming<'_>, refusal: Refusal) -> Result<(), Refusal> {
        let names = [coming.disk.name.clone()];
        if coming.is_there(&self.nodes_of(&names).await?) {
            return Ok(());
        }
        self.clear(coming).await.map_err(|unknown| {
            let words = format!("what is left of disk `{}` in QEMU is not known", coming.disk.name);
            let told = Refusal::new(RefusalCode::Internal, words).vm(&*self.counter.name);
            told.cause(unknown.message).cause(refusal.message.clone())
        })?;
        Err(refusal)
    }

    /// Opens its images, which must be those that were looked at.
    async fn open_chain(&self, coming: Coming<'_>) -> Result<Chain, Refusal> {
        let (disk, grounds) = (coming.disk.clone(), self.counter.grounds.clone());
        let opening = move || {
            let policy = grounds.policy()?;
            image::open_chain(&disk.path, disk.format, disk.readonly, &policy)
        };
        let name = &coming.disk.name;
        let opened = tokio::task::spawn_blocking(opening).await;
        let opened = opened.map_err(|error| self.unusable(name, RefusalCode::Internal, &error))?;
        let chain =
            opened.map_err(|error: StorageError| self.unusable(name, RefusalCode::StorageFailed, &error))?;
        self.recognize(coming, &chain)?;
        Ok(chain)
    }

    fn recognize(&self, coming: Coming<'_>, chain: &Chain) -> Result<(), Refusal> {
        let own = (coming.disk.path.as_path(), &chain.top);
        let below = chain.below.iter();
        let below = below.map(|layer| (layer.named.as_path(), &layer.image));
        for (path, image) in std::iter::once(own).chain(below) {
            let file = FileMark::of_fd(&image.fd);
            let file =
                file.map_err(|error| self.unusable(&coming.disk.name, RefusalCode::StorageFailed, &error))?;
            let mut meant = coming.order.files.iter();
            if !meant.any(|meant| meant.path == path && meant.file.is_file(&file, true)) {
                let words = format!("disk `{}` was exchanged meanwhile", coming.disk.name);
                let refusal = Refusal::new(RefusalCode::Conflict, words).vm(&*self.counter.name);
                return Err(refusal.cause(format!("`{}` is {file}", path.display())));
            }
        }
        Ok(())
    }

    /// Images, the deepest first, then the device.
    async fn give(&self, coming: Coming<'_>, chain: Chain) -> Result<(), Refusal> {
        let Chain { top, below } = chain;
        let sets: Vec<(DiskFormat, u64)> = below
            .iter()
            .zip(1..)
            .map(|(layer, depth)| (layer.format, coming.set(depth)))
            .collect();
        let images: Vec<Image> = std::iter::once(top)
            .chain(below.into_iter().map(|layer| layer.image))
            .collect();
        for (depth, image) in images.into_iter().enumerate().rev() {
            let set = AddFd {
                fdset_id: Some(coming.set(depth)),
            };
            if let Err(error) = self.qmp.hand_over(&set, image.fd, COMMAND).await {
                return Err(self.refused(error).await);
            }
        }
        let nodes = plug::nodes(coming.disk, coming.place, coming.set(0), &sets);
        for options in nodes.into_iter().flatten() {
            self.execute(&BlockdevAdd(options)).await?;
        }
        pass(Point::PlugImages);
        match plug::device(&coming.order.spec, &coming.disk.name) {
            Some(device) => self.execute(&DeviceAdd(device)).await.map(drop),
            None => Ok(()),
        }
    }

    /// Takes away what there is of a disk that has no device.
    async fn clear(&self, coming: Coming<'_>) -> Result<(), Refusal> {
        let names = [coming.disk.name.clone()];
        let nodes = self.nodes_of(&names).await?;
        for node_name in coming.nodes(nodes.count()) {
            if nodes.is_known(&node_name) {
                self.execute(&BlockdevDel { node_name }).await?;
            }
        }
        let own = coming.set(0)..coming.set(0).saturating_add(SETS_PER_DISK);
        for set in self.execute(&QueryFdsets).await? {
            let fdset_id = set.fdset_id;
            if own.contains(&fdset_id) {
                self.execute(&RemoveFd { fdset_id, fd: None }).await?;
            }
        }
        Ok(())
    }
}
