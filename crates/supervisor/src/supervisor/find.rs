//! Which VM is meant: by name, by id, by the beginning of an id.

use std::rc::Rc;

use actix::{Handler, ResponseFuture};
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::id::VmId;

use super::{Entry, SupervisorActor};
use crate::messages::{FindVm, Found};

/// Digits an id prefix must have.
const ID_PREFIX_MIN: usize = 8;

impl SupervisorActor {
    fn find(&self, text: &str) -> Result<(&VmId, &Entry), Refusal> {
        let by_name = self.names.get(text).and_then(|id| self.vms.get_key_value(id));
        let found = by_name.or_else(|| {
            let id: VmId = text.parse().ok()?;
            self.vms.get_key_value(&id)
        });
        match found {
            Some(found) => Ok(found),
            None if is_id_prefix(text) => self.find_by_prefix(text),
            None => Err(not_found(text)),
        }
    }

    fn find_by_prefix(&self, prefix: &str) -> Result<(&VmId, &Entry), Refusal> {
        let mut matches = self.vms.iter().filter(|(id, _)| id.as_str().starts_with(prefix));
        match (matches.next(), matches.next()) {
            (Some(found), None) => Ok(found),
            (Some(_), Some(_)) => {
                let message = format!("more than one VM has an id that begins with `{prefix}`");
                Err(Refusal::new(RefusalCode::VmAmbiguous, message)
                    .vm(prefix)
                    .hint("maqet ls -o json"))
            }
            (None, _) => Err(not_found(prefix)),
        }
    }
}

fn is_id_prefix(text: &str) -> bool {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    digits && (ID_PREFIX_MIN..VmId::LENGTH).contains(&text.len())
}

fn not_found(text: &str) -> Refusal {
    Refusal::new(RefusalCode::VmNotFound, format!("no VM is named `{text}`"))
        .vm(text)
        .hint("maqet ls")
}

impl Handler<FindVm> for SupervisorActor {
    type Result = ResponseFuture<Result<Found, Refusal>>;

    /// Whoever looks a VM up is about to do something to it: the end of a QEMU that is dead is told first.
    fn handle(&mut self, FindVm(text): FindVm, _context: &mut Self::Context) -> Self::Result {
        let found = self.find(&text).map(|(id, entry)| Found {
            id: id.clone(),
            vm: entry.vm.clone(),
        });
        let shared = Rc::clone(&self.shared);
        Box::pin(async move {
            let found = found?;
            shared.board.settled_of(&found.id).await;
            Ok(found)
        })
    }
}
