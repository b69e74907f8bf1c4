//! Work that waits for people's file systems, beside the one thread that everything else lives on.
//!
//! A network disk that hangs holds up whoever asks it for as long as it hangs. So each VM's files are asked by one thread at a
//! time, and whoever asks next waits without a thread: however often people ask, what hangs takes one thread a VM, and
//! never those that the store needs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::id::VmId;
use tokio::sync::Semaphore;

/// One thread for blocking work, taken in turns.
#[derive(Clone, Debug)]
pub(crate) struct Aside(Arc<Semaphore>);

impl Default for Aside {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Aside {
    /// Carries out blocking work when it is its turn. Dropping the future gives up the waiting, not work that has begun.
    ///
    /// # Errors
    /// `internal` when the work panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = Arc::clone(&self.0).acquire_owned().await;
        let working = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        working.await.map_err(|panic| {
            let message = "work on files came to no end";
            Refusal::new(RefusalCode::Internal, message).cause(panic.to_string())
        })
    }

    /// The answer to a question that nobody depends on: none while something else is under way, or after `limit`.
    pub(crate) fn glance<T: Send + 'static>(
        &self,
        limit: Duration,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + 'static {
        let asked = Arc::clone(&self.0).try_acquire_owned().ok().map(|turn| {
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                question()
            })
        });
        async move { tokio::time::timeout(limit, asked?).await.ok()?.ok() }
    }
}

/// Every VM's thread.
#[derive(Debug, Default)]
pub(crate) struct Asides {
    vms: RefCell<BTreeMap<VmId, Aside>>,
    /// For work that goes through the files of all VMs.
    pub(crate) all: Aside,
}

impl Asides {
    /// A VM's.
    pub(crate) fn of(&self, id: &VmId) -> Aside {
        self.vms.borrow_mut().entry(id.clone()).or_default().clone()
    }

    /// The VM is gone.
    pub(crate) fn forget(&self, id: &VmId) {
        self.vms.borrow_mut().remove(id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_question_that_hangs_is_given_up_and_not_asked_again_meanwhile() {
        let aside = Aside::default();
        let (release, hanging) = mpsc::channel::<()>();
        assert_eq!(aside.glance(SHORT, move || hanging.recv().is_ok()).await, None);
        assert_eq!(aside.glance(LONG, || panic!("asked")).await, None::<()>);
        let mut next = Box::pin(aside.run(|| 7));
        assert!(tokio::time::timeout(SHORT, &mut next).await.is_err());
        release.send(()).unwrap();
        assert_eq!(next.await.unwrap(), 7);
        assert_eq!(aside.glance(LONG, || 8).await, Some(8));
    }

    #[tokio::test]
    async fn what_panics_is_told_and_gives_up_its_turn() {
        let aside = Aside::default();
        let refused: Result<(), Refusal> = aside.run(|| panic!("a defect, on purpose")).await;
        assert_eq!(refused.unwrap_err().code, RefusalCode::Internal);
        assert_eq!(aside.run(|| 7).await.unwrap(), 7);
    }

    #[test]
    fn a_vm_has_one_until_it_is_forgotten() {
        let (asides, id): (Asides, VmId) = (Asides::default(), "0".repeat(32).parse().unwrap());
        assert!(Arc::ptr_eq(&asides.of(&id).0, &asides.of(&id).0));
        let old = asides.of(&id);
        asides.forget(&id);
        assert!(!Arc::ptr_eq(&old.0, &asides.of(&id).0));
    }
}
