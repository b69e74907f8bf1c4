//! New images on top of disks while QEMU runs.
//!
//! QEMU opens nothing by path: each image is opened here, checked to be the one on record, and handed over. One transaction then
//! puts all disks on their new images, or none. Whoever asked may go meanwhile: what has begun is done here to its end.

use std::time::Duration;

use maqet_process::identity::FileMark;
use maqet_process::point::{Point, pass};
use maqet_protocol::control::Empty;
use maqet_protocol::endpoint::server::IncomingCall;
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_protocol::runner::{ListTops, NewTop, StackImages, Tops};
use maqet_qmp::command::{
    AddFd, BlockdevAdd, BlockdevDel, QueryBlock, QueryNamedBlockNodes, RemoveFd, Transaction,
};
use maqet_qmp::{Command, Qmp, QmpError};
use maqet_spec::argv::nodes::{file_of, on_top};
use maqet_storage::StorageError;
use maqet_storage::image::{self, Image};
use tokio::time::timeout;

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
    /// What a call comes to.
    ///
    /// # Errors
    /// `conflict` when QEMU has other images than the client thinks, or an image is another file; `storage-failed` when one
    /// cannot be opened; as for [`passage::run`].
    pub(crate) async fn carry_out(self, call: IncomingCall) -> Result<serde_json::Value, Refusal> {
        if call.method == ListTops::NAME {
            return value(&self.list(&call.parse()?).await?);
        }
        let order: StackImages = call.parse()?;
        let limit = Duration::from_millis(order.timeout_ms).min(DEADLINE_MAX);
        // Never cut off between the images' nodes and the transaction by a deadline: each command has its own.
        match timeout(limit, self.prepare(&order)).await {
            Ok(prepared) => value(&self.stack(&order, prepared?).await?),
            Err(_elapsed) => {
                let words = format!("the images of `{}` cannot be opened in time", self.counter.name);
                Err(Refusal::new(RefusalCode::Timeout, words).vm(&*self.counter.name))
            }
        }
    }

    async fn list(&self, order: &ListTops) -> Result<Tops, Refusal> {
        let nodes = self.nodes().await?;
        let tops = order.disks.iter().filter_map(|disk| nodes.told(disk)).collect();
        Ok(Tops { tops })
    }

    async fn nodes(&self) -> Result<Nodes<'_>, Refusal> {
        let nodes = self.execute(&QueryNamedBlockNodes { flat: false }).await?;
        let devices = self.execute(&QueryBlock).await?;
        Ok(Nodes::new(&self.disks, nodes, devices))
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
        let (path, grounds) = (new.image.path.clone(), self.counter.grounds.clone());
        let opening = move || {
            let image = image::open(&path, false)?;
            grounds.policy()?.check(&image.path)?;
            let file = FileMark::of_fd(&image.fd);
            Ok::<_, StorageError>((image, file))
        };
        let opened = tokio::task::spawn_blocking(opening).await;
        let opened = opened.map_err(|error| self.unusable(new, RefusalCode::Internal, &error))?;
        let (image, file) = opened.map_err(|error| self.unusable(new, RefusalCode::StorageFailed, &error))?;
        let file = file.map_err(|error| self.unusable(new, RefusalCode::StorageFailed, &error))?;
        if !new.image.file.is_file(&file, true) {
            return Err(self.other(&new.disk.name).cause(format!("the new one is {file}")));
        }
        Ok(image)
    }

    fn unusable(&self, new: &NewTop, code: RefusalCode, error: &dyn std::error::Error) -> Refusal {
        let words = format!("the new image of disk `{}` cannot be used", new.disk.name);
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
            self.take_back(added).await;
            return Err(refusal);
        }
        Ok(Empty {})
    }

    /// The nodes, once nothing is left of work that was cut off, if they are what the client thinks.
    async fn settled(&self, order: &StackImages) -> Result<Nodes<'_>, Refusal> {
        let mut nodes = self.nodes().await?;
        let names = order.disks.iter().map(|new| &new.disk.name);
        let doubtful: Vec<String> = names.flat_map(|disk| nodes.doubtful(disk)).collect();
        if !doubtful.is_empty() {
            for node in &doubtful {
                self.forget(node).await?;
            }
            nodes = self.nodes().await?;
        }
        for new in &order.disks {
            let top = nodes.told(&new.disk.name);
            let is_known = top.is_some_and(|top| top.images == new.images && top.attached);
            if !is_known || !nodes.doubtful(&new.disk.name).is_empty() {
                return Err(self.other(&new.disk.name));
            }
        }
        Ok(nodes)
    }

    /// Takes a node away, with that of its file, unless it is in use.
    async fn forget(&self, node: &str) -> Result<(), Refusal> {
        for node_name in [node.to_owned(), file_of(node)] {
            match self.qmp.execute(&BlockdevDel { node_name }, COMMAND).await {
                Ok(_done) => {}
                Err(QmpError::Refused { description, .. }) => {
                    tracing::debug!(node, description, "a node stays");
                }
                Err(error) => return Err(passage::refusal(error, &self.counter)),
            }
        }
        Ok(())
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
    async fn take_back(&self, added: Vec<Added>) {
        for Added { node, set } in added {
            let forgotten = self.forget(&node).await;
            let fdset_id = set;
            let removed = self.execute(&RemoveFd { fdset_id, fd: None }).await;
            tracing::info!(node, ?forgotten, ?removed, "an image that came for nothing");
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
        done.map_err(|error| passage::refusal(error, &self.counter))
    }
}
