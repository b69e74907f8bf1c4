//! The future a VM's actor lives in, which outlives the actor's panic.
//!
//! Left to itself, a context that is dropped while it unwinds reads the mail that is left, with the very actor that has
//! just panicked; a second panic would then end the whole supervisor.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task;

use actix::dev::ContextFut;
use actix::{ActorContext, Addr, Context};

use super::{Guard, VmActor};
use crate::panics::Panicked;

/// An actor and its context. The guard goes last: when it tells, nothing of the actor is left.
struct Contained {
    actor: ContextFut<VmActor, Context<VmActor>>,
    guard: Guard,
}

/// Starts the actor.
pub(super) fn start(actor: VmActor, guard: Guard) -> Addr<VmActor> {
    let actor = Context::new().into_future(actor);
    let address = actor.address();
    actix_rt::spawn(Contained { actor, guard });
    address
}

impl Future for Contained {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> task::Poll<()> {
        let this = self.get_mut();
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.actor).poll(task)));
        polled.unwrap_or_else(|panic| {
            this.actor.ctx().terminate();
            this.guard.panicked(Panicked::caught(&*panic));
            task::Poll::Ready(())
        })
    }
}
