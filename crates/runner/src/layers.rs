//! New images on top of disks while QEMU runs, images that are merged into those below (see [`merging`]), and disks that come
//! (see [`plugging`]).
//!
//! QEMU opens nothing by path: each image is opened here, checked to be the one on record, and handed over. One transaction then
//! puts all disks on their new images, or none. Whoever asked may go meanwhile: what has begun is done here to its end, and
//! whoever asks then which images QEMU is on is told once that is so.

mod merging;
mod plugging;

use std::time::Duration;

use maqet_process::identity::FileMark;
use maqet_process::point::{Point, pass};
use maqet_protocol::control::Empty;
use maqet_protocol::endpoint::server::IncomingCall;
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{
    EndMerge, ListTops, MergeImage, NewTop, OpenedFile, PlugDisk, RunnerFact, StackImages, Tops,
};
use maqet_qmp::command::{
    AddFd, BlockdevAdd, BlockdevDel, QueryBlock, QueryJobs, QueryNamedBlockNodes, RemoveFd, Transaction,
};
use maqet_qmp::{Command, Qmp, QmpError};
use maqet_spec::argv::nodes::{file_of, on_top, place_of};
use maqet_storage::StorageError;
use maqet_storage::image::{self, Image};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use crate::mail::{Mail, News, post};
use crate::nodes::Nodes;
use crate::passage::{self, value};
use crate::place::because;
use crate::server::Counter;

/// Time for one command. QEMU waits for writes that are under way.
const COMMAND: Duration = Duration::from_mins(1);
/// Longest deadline a client may set.
const DEADLINE_MAX: Duration = Duration::from_mins(10);

/// One client's work.
#[derive(Debug)]
pub(crate) struct Work {
    /// The way to QEMU.
    pub(crate) qmp: Qmp,
    /// Whom it is about.
    pub(crate) counter: Counter,
    /// The disks, in the order of the spec.
    pub(crate) disks: Vec<String>,
}

/// An image that QEMU has, on top of nothing yet.
#[derive(Debug)]
struct Added {
    /// Its node.
    node: String,
    /// The descriptor set of its file.
    set: u64,
}

impl Work {
    /// What a call comes to; `facts` are what happens, from before the first command on.
    ///
    /// # Errors
    /// `conflict` when QEMU has other images than the client thinks, or an image is another file; `storage-failed` when one
    /// cannot be opened; as for [`crate::passage::run`].
    pub(crate) async fn carry_out(
        self,
        call: IncomingCall,
        facts: Receiver<RunnerFact>,
    ) -> Result<serde_json::Value, Refusal> {
        match call.method.as_str() {
            ListTops::NAME => {
                let _turn = self.counter.turn.lock().await;
                value(&self.list(&call.parse()?).await?)
            }
            MergeImage::NAME => value(&self.merge(call.parse()?, facts).await?),
            EndMerge::NAME => value(&self.end_merge(call.parse()?, facts).await?),
            PlugDisk::NAME => {
                let _turn = self.counter.turn.lock().await;
                value(&self.plug(&call.parse()?).await?)
            }
            _ => {
                let _turn = self.counter.turn.lock().await;
                value(&self.put_on_top(&call.parse()?).await?)
            }
        }
    }

    /// Never cut off between the images' nodes and the transaction by a deadline: each command has its own.
    async fn put_on_top(&self, order: &StackImages) -> Result<Empty, Refusal> {
        let limit = Duration::from_millis(order.timeout_ms).min(DEADLINE_MAX);
        let prepared = timeout(limit, self.prepare(order)).await;
        let images = prepared.unwrap_or_else(|_elapsed| {
            let words = format!("the images of `{}` cannot be opened in time", self.counter.name);
            Err(Refusal::new(RefusalCode::Timeout, words).vm(&*self.counter.name))
        });
        self.stack(order, images?).await
    }

    async fn list(&self, order: &ListTops) -> Result<Tops, Refusal> {
        let nodes = self.nodes().await?;
        let tops = order.disks.iter().filter_map(|disk| nodes.told(disk)).collect();
        let jobs = self.execute(&QueryJobs).await?;
        let merges = |disk: &&String| jobs.iter().any(|job| job.id == merging::job(disk));
        let merging = order.disks.iter().filter(merges).cloned().collect();
        Ok(Tops { tops, merging })
    }

    async fn nodes(&self) -> Result<Nodes<'_>, Refusal> {
        self.nodes_of(&self.disks).await
    }

    /// What QEMU has, where these are the disks.
    async fn nodes_of<'d>(&self, disks: &'d [String]) -> Result<Nodes<'d>, Refusal> {
        let nodes = self.execute(&QueryNamedBlockNodes { flat: false }).await?;
        let devices = self.execute(&QueryBlock).await?;
        Ok(Nodes::new(disks, nodes, devices))
    }

    /// Opens what comes on top.
    async fn prepare(&self, order: &StackImages) -> Result<Vec<Image>, Refusal> {
        let mut images = Vec::new();
        for new in &order.disks {
            images.push(self.open(new).await?);
        }
        Ok(images)
    }

    async fn open(&self, new: &NewTop) -> Result<Image, Refusal> {
        self.open_image(&new.disk.name, &new.image, false).await
    }

    /// Opens an image of a disk, which must be the one that is meant.
    async fn open_image(&self, disk: &str, meant: &OpenedFile, readonly: bool) -> Result<Image, Refusal> {
        let (path, grounds) = (meant.path.clone(), self.counter.grounds.clone());
        let opening = move || {
            let image = image::open(&path, readonly)?;
            grounds.policy()?.check(&image.path)?;
            let file = FileMark::of_fd(&image.fd);
            Ok::<_, StorageError>((image, file))
        };
        let opened = tokio::task::spawn_blocking(opening).await;
        let opened = opened.map_err(|error| self.unusable(disk, RefusalCode::Internal, &error))?;
        let (image, file) =
            opened.map_err(|error| self.unusable(disk, RefusalCode::StorageFailed, &error))?;
        let file = file.map_err(|error| self.unusable(disk, RefusalCode::StorageFailed, &error))?;
        if !meant.file.is_file(&file, true) {
            let cause = format!("`{}` is {file}", meant.path.display());
            return Err(self.other(disk).cause(cause));
        }
        Ok(image)
    }

    fn unusable(&self, disk: &str, code: RefusalCode, error: &dyn std::error::Error) -> Refusal {
        let words = format!("an image of disk `{disk}` cannot be used");
        because(Refusal::new(code, words).vm(&*self.counter.name), error)
    }

    async fn stack(&self, order: &StackImages, images: Vec<Image>) -> Result<Empty, Refusal> {
        let nodes = self.settled(order).await?;
        let mut added = Vec::new();
        let mut pairs = Vec::new();
        let mut result = Ok(());
        for (new, image) in order.disks.iter().zip(images) {
            let disk = &new.disk.name;
            let node = nodes.fresh(disk).ok_or_else(|| self.other(disk))?;
            result = self.add(new, image, &node, &mut added).await;
            if result.is_err() {
                break;
            }
            pairs.push((nodes.top(disk), node));
        }
        pass(Point::LayersAsked);
        if result.is_ok() {
            result = self.execute(&Transaction::overlays(&pairs)).await.map(drop);
        }
        pass(Point::LayersSwitched);
        if let Err(refusal) = result {
            self.unstack(added).await;
            return Err(refusal);
        }
        Ok(Empty {})
    }

    /// The nodes, once nothing is left of work that was cut off, if they are what the client thinks.
    async fn settled(&self, order: &StackImages) -> Result<Nodes<'_>, Refusal> {
        let expected = order.disks.iter().map(|new| (new.disk.name.as_str(), new.images));
        self.tidied(&expected.collect::<Vec<_>>()).await
    }

    /// The same for disks that have so many images each.
    /// Whoever calls has the turn: nodes of work that is under way are in nobody's use yet.
    async fn tidied(&self, expected: &[(&str, usize)]) -> Result<Nodes<'_>, Refusal> {
        let mut nodes = self.nodes().await?;
        let mut doubtful = false;
        for (disk, _images) in expected {
            doubtful |= self.forget_all(&nodes, disk).await?;
        }
        if doubtful {
            nodes = self.nodes().await?;
        }
        for (disk, images) in expected {
            let top = nodes.told(disk);
            let is_known = top.is_some_and(|top| top.images == *images && top.attached);
            if !is_known || !nodes.doubtful(disk).is_empty() {
                return Err(self.other(disk));
            }
        }
        Ok(nodes)
    }

    /// Takes away nodes of a disk that nothing uses; whether there may have been some.
    async fn forget_all(&self, nodes: &Nodes<'_>, disk: &str) -> Result<bool, Refusal> {
        let doubtful = nodes.doubtful(disk);
        for node in &doubtful {
            if let Some(file) = nodes.file(disk, node) {
                self.forget(node, &file.node, file.set).await?;
            }
        }
        Ok(!doubtful.is_empty())
    }

    /// Takes a node away, with that of its file and its descriptor, unless it is in use.
    async fn forget(&self, node: &str, file: &str, set: u64) -> Result<(), Refusal> {
        for node_name in [node, file].map(ToOwned::to_owned) {
            match self.qmp.execute(&BlockdevDel { node_name }, COMMAND).await {
                Ok(_done) => {}
                Err(QmpError::Refused { description, .. }) => {
                    tracing::debug!(node, description, "a node stays");
                    return Ok(());
                }
                Err(error) => return Err(passage::refusal(error, &self.counter)),
            }
        }
        let fdset_id = set;
        self.execute(&RemoveFd { fdset_id, fd: None }).await.map(drop)
    }

    /// Hands one image over and makes its nodes. What there is of it is among those `added`, whatever comes of it.
    async fn add(
        &self,
        new: &NewTop,
        image: Image,
        node: &str,
        added: &mut Vec<Added>,
    ) -> Result<(), Refusal> {
        let handed = self.qmp.hand_over(&AddFd::default(), image.fd, COMMAND).await;
        let set = handed
            .map_err(|error| passage::refusal(error, &self.counter))?
            .fdset_id;
        added.push(Added {
            node: node.to_owned(),
            set,
        });
        for options in on_top(&new.disk, node, set) {
            self.execute(&BlockdevAdd(options)).await?;
        }
        Ok(())
    }

    /// What was made for nothing; what cannot be taken away is taken away before the next one.
    async fn unstack(&self, added: Vec<Added>) {
        for Added { node, set } in added {
            let place = place_of(&node).map_or(0, |(place, _number)| place);
            for node_name in [node.clone(), file_of(&node, place)] {
                let deleted = self.execute(&BlockdevDel { node_name }).await;
                tracing::info!(node, ?deleted, "an image that came for nothing");
            }
            let fdset_id = set;
            let removed = self.execute(&RemoveFd { fdset_id, fd: None }).await;
            tracing::debug!(set, ?removed, "its descriptor");
        }
    }

    fn other(&self, disk: &str) -> Refusal {
        let name = &*self.counter.name;
        let words = format!("the QEMU of `{name}` has other images for disk `{disk}` than is on record");
        Refusal::new(RefusalCode::Conflict, words)
            .vm(name)
            .hint(format!("maqet restart {name}, then try again"))
    }

    async fn execute<C: Command>(&self, command: &C) -> Result<C::Reply, Refusal> {
        let done: Result<C::Reply, QmpError> = self.qmp.execute(command, COMMAND).await;
        match done {
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.refused(error).await),
        }
    }

    /// Why a command was not done. That QEMU does not answer is told, so that it is told as well when it does again.
    async fn refused(&self, error: QmpError) -> Refusal {
        if matches!(error, QmpError::Deadline { .. }) {
            post(&self.counter.desk, Mail::News(News::Silent(true))).await;
        }
        passage::refusal(error, &self.counter)
    }
}
