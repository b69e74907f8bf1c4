//! From method calls to mail, and from outcomes to replies.

use std::future::Future;
use std::time::Duration;

use actix::{Addr, Handler, Message};
use maqet_protocol::ProtocolError;
use maqet_protocol::control::{
    Add, AutostartSet, Changed, Describe, Disable, Empty, Enable, Events, FollowWork, ImageImport,
    ImageVerify, Info, Leaks, List, Pause, Qmp, Remove, Removed, Reset, Restart, Resume, Start, Started,
    StateDump, Stop, StopReport, SupervisorInfo, SupervisorStop, WriteTinyGuest,
};
use maqet_protocol::endpoint::server::{IncomingCall, ServerConnection};
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Desk, events, images, store};
use crate::messages::{
    AddVm, CheckWritable, DescribeSupervisor, DescribeVm, Enabling, FindVm, InfoVm, ListVms, LookForLeaks,
    Recall, RemoveVm, RestartVm, RunQmp, SetAutostart, Shutdown, StartVm, StopBy, StopVm, Switch, SwitchVm,
};
use crate::operation::{Accepted, Done};
use crate::vm::VmActor;

/// A QMP command without a deadline of its own gets this one.
const QMP_DEADLINE_MS: u64 = 30_000;

/// Answers one call. A client that hangs up meanwhile ends the waiting, never the work; less for methods that tell of their
/// progress, which are given up.
pub(super) async fn answer(
    connection: &mut ServerConnection,
    call: IncomingCall,
    desk: &Desk,
) -> Result<(), ProtocolError> {
    match call.method.as_str() {
        Events::NAME => events::stream(connection, &call, desk).await,
        ImageImport::NAME => images::import(connection, &call, desk).await,
        ImageVerify::NAME => images::verify(connection, &call, desk).await,
        FollowWork::NAME => images::follow(connection, &call, desk).await,
        StateDump::NAME => store::dump(connection, &call, desk).await,
        _ => answer_once(connection, &call, desk).await,
    }
}

async fn answer_once(
    connection: &mut ServerConnection,
    call: &IncomingCall,
    desk: &Desk,
) -> Result<(), ProtocolError> {
    let answer = {
        let gone = connection.closed();
        tokio::select! {
            answer = carry_out(call, desk) => answer,
            result = gone => return result,
        }
    };
    match answer {
        Ok(reply) => connection.reply(&reply).await,
        Err(refusal) => connection.refuse(&refusal).await,
    }
}

/// What a call comes to.
pub(super) type Reply = Result<serde_json::Value, Refusal>;

async fn carry_out(call: &IncomingCall, desk: &Desk) -> Reply {
    match call.method.as_str() {
        Add::NAME => add(call.parse()?, desk).await,
        Start::NAME => start(call.parse()?, desk).await,
        Stop::NAME => stop(call.parse()?, desk).await,
        Restart::NAME => restart(call.parse()?, desk).await,
        Remove::NAME => remove(call.parse()?, desk).await,
        _ => carry_out_switch(call, desk).await,
    }
}

async fn carry_out_switch(call: &IncomingCall, desk: &Desk) -> Reply {
    match call.method.as_str() {
        Pause::NAME => switch(call.parse::<Pause>()?.vm, Switch::Pause, desk).await,
        Resume::NAME => switch(call.parse::<Resume>()?.vm, Switch::Resume, desk).await,
        Reset::NAME => switch(call.parse::<Reset>()?.vm, Switch::Reset, desk).await,
        Qmp::NAME => qmp(call.parse()?, desk).await,
        Enable::NAME => enable(call.parse()?, desk).await,
        Disable::NAME => set_autostart(call.parse::<Disable>()?.vm, Enabling::Off, desk).await,
        _ => carry_out_question(call, desk).await,
    }
}

async fn carry_out_question(call: &IncomingCall, desk: &Desk) -> Reply {
    match call.method.as_str() {
        List::NAME => {
            let status = call.parse::<List>()?.status;
            value(&ask(&desk.supervisor, ListVms { status }).await?)
        }
        Describe::NAME => {
            let vm = find(&call.parse::<Describe>()?.vm, desk).await?;
            value(&ask(&vm, DescribeVm).await?)
        }
        Info::NAME => {
            let vm = find(&call.parse::<Info>()?.vm, desk).await?;
            value(&ask(&vm, InfoVm).await?)
        }
        _ => carry_out_for_all(call, desk).await,
    }
}

/// What is about no VM in particular.
async fn carry_out_for_all(call: &IncomingCall, desk: &Desk) -> Reply {
    match call.method.as_str() {
        SupervisorInfo::NAME => {
            call.parse::<SupervisorInfo>()?;
            value(&ask(&desk.supervisor, DescribeSupervisor).await?)
        }
        WriteTinyGuest::NAME => {
            call.parse::<WriteTinyGuest>()?;
            value(&desk.write_tiny_guest().await?)
        }
        Leaks::NAME => value(&ask(&desk.supervisor, LookForLeaks(call.parse()?)).await??),
        SupervisorStop::NAME => {
            let SupervisorStop { keep_vms } = call.parse()?;
            ask(&desk.supervisor, Shutdown { keep_vms }).await?;
            value(&Empty {})
        }
        _ => images::carry_out(call, desk).await,
    }
}

async fn add(Add { spec, key }: Add, desk: &Desk) -> Reply {
    once(key.clone(), desk, async {
        value(
            &ask(
                &desk.supervisor,
                AddVm {
                    spec: Box::new(spec),
                    key,
                },
            )
            .await??,
        )
    })
    .await
}

async fn start(Start { vm, key }: Start, desk: &Desk) -> Reply {
    once(key.clone(), desk, async {
        let vm = find(&vm, desk).await?;
        follow::<Started>(ask(&vm, StartVm { key }).await??).await
    })
    .await
}

async fn stop(stop: Stop, desk: &Desk) -> Reply {
    let Stop {
        vm,
        timeout_ms,
        force,
        key,
    } = stop;
    once(key.clone(), desk, async {
        let vm = find(&vm, desk).await?;
        follow::<StopReport>(
            ask(
                &vm,
                StopVm {
                    timeout_ms,
                    force,
                    key,
                    by: StopBy::Person,
                },
            )
            .await??,
        )
        .await
    })
    .await
}

async fn restart(Restart { vm, timeout_ms, key }: Restart, desk: &Desk) -> Reply {
    once(key.clone(), desk, async {
        let vm = find(&vm, desk).await?;
        // A stop that no start can follow is not what was asked for.
        ask(&desk.state, CheckWritable).await??;
        follow::<Started>(ask(&vm, RestartVm { timeout_ms, key }).await??).await
    })
    .await
}

async fn remove(remove: Remove, desk: &Desk) -> Reply {
    let Remove {
        vm,
        force,
        delete_storage,
        keep_snapshots,
        key,
    } = remove;
    once(key.clone(), desk, async {
        let vm = find(&vm, desk).await?;
        // Its files go before its record does.
        ask(&desk.state, CheckWritable).await??;
        follow::<Removed>(
            ask(
                &vm,
                RemoveVm {
                    force,
                    delete_storage,
                    keep_snapshots,
                    key,
                },
            )
            .await??,
        )
        .await
    })
    .await
}

async fn switch(vm: String, switch: Switch, desk: &Desk) -> Reply {
    let vm = find(&vm, desk).await?;
    value::<Changed>(&ask(&vm, SwitchVm(switch)).await??)
}

async fn enable(Enable { vm, order, delay_ms }: Enable, desk: &Desk) -> Reply {
    let delay = delay_ms.map(Duration::from_millis);
    set_autostart(vm, Enabling::On { order, delay }, desk).await
}

async fn set_autostart(vm: String, enabling: Enabling, desk: &Desk) -> Reply {
    let vm = find(&vm, desk).await?;
    value::<AutostartSet>(&ask(&vm, SetAutostart(enabling)).await??)
}

async fn qmp(
    Qmp {
        vm,
        command,
        arguments,
        timeout_ms,
    }: Qmp,
    desk: &Desk,
) -> Reply {
    let vm = find(&vm, desk).await?;
    let timeout_ms = timeout_ms.unwrap_or(QMP_DEADLINE_MS);
    value(
        &ask(
            &vm,
            RunQmp {
                command,
                arguments,
                timeout_ms,
            },
        )
        .await??,
    )
}

/// A call that was carried out before gets the answer it got then.
pub(super) async fn once(key: Option<String>, desk: &Desk, work: impl Future<Output = Reply>) -> Reply {
    let Some(key) = key else { return work.await };
    if let Some(answer) = ask(&desk.state, Recall(key.clone())).await?? {
        return Ok(answer);
    }
    // The same call on another connection may have been faster: then it is so already, or not allowed any more.
    match work.await {
        Ok(answer) if was_so(&answer) => Ok(ask(&desk.state, Recall(key)).await??.unwrap_or(answer)),
        Ok(answer) => Ok(answer),
        Err(refusal) => ask(&desk.state, Recall(key)).await??.ok_or(refusal),
    }
}

/// Whether an answer says that there was nothing to do.
fn was_so(answer: &serde_json::Value) -> bool {
    answer["already"] == true || answer["how"] == "already"
}

/// The owner of a VM.
pub(super) async fn find(vm: &str, desk: &Desk) -> Result<Addr<VmActor>, Refusal> {
    Ok(ask(&desk.supervisor, FindVm(vm.to_owned())).await??.vm)
}

/// What an operation must end with to answer a method.
trait FromDone: Serialize + DeserializeOwned {
    fn from_done(done: Done) -> Option<Self>;
}

impl FromDone for Started {
    fn from_done(done: Done) -> Option<Self> {
        if let Done::Started(started) = done {
            Some(started)
        } else {
            None
        }
    }
}

impl FromDone for StopReport {
    fn from_done(done: Done) -> Option<Self> {
        if let Done::Stopped(report) = done {
            Some(report)
        } else {
            None
        }
    }
}

impl FromDone for Removed {
    fn from_done(done: Done) -> Option<Self> {
        if let Done::Removed(removed) = done {
            Some(removed)
        } else {
            None
        }
    }
}

/// Waits for an operation's end.
async fn follow<T: FromDone>(accepted: Accepted) -> Reply {
    let done = accepted.outcome().await?;
    match T::from_done(done) {
        Some(reply) => value(&reply),
        None => Err(
            Refusal::new(RefusalCode::Busy, "the VM was turned to something else meanwhile")
                .hint("try again"),
        ),
    }
}

/// One message. A mailbox that is full or gone answers *busy*.
pub(super) async fn ask<A, M>(address: &Addr<A>, message: M) -> Result<M::Result, Refusal>
where
    A: actix::Actor<Context = actix::Context<A>> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    address.send(message).await.map_err(|error| {
        Refusal::new(RefusalCode::Busy, "the owner of this does not take calls now")
            .cause(error.to_string())
            .hint("try again")
    })
}

/// A reply as it is sent.
pub(super) fn value<T: Serialize>(reply: &T) -> Reply {
    serde_json::to_value(reply).map_err(|error| {
        Refusal::new(RefusalCode::Internal, "the reply cannot be written").cause(error.to_string())
    })
}
