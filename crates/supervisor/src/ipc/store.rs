//! Calls about the store as such: copies, examinations, rows.

use std::mem;

use maqet_protocol::ProtocolError;
use maqet_protocol::control::{AuditVerify, DumpReply, StateBackup, StateDump, StateVerify};
use maqet_protocol::endpoint::server::{IncomingCall, ServerConnection};
use maqet_protocol::method::Method;
use maqet_protocol::refusal::{Refusal, RefusalCode};
use maqet_state::examination::Row;

use super::Desk;
use super::dispatch::{Reply, ask, value};
use crate::messages::{BackUpStore, ReadJournalRows, ReadRows, VerifyStore, WalkJournal};

/// Bytes of values in one reply, far below the longest frame.
const REPLY_BYTES: usize = 256 * 1024;

/// Carries out one of them.
pub(super) async fn carry_out(call: &IncomingCall, desk: &Desk) -> Reply {
    match call.method.as_str() {
        StateBackup::NAME => {
            let StateBackup { path } = call.parse()?;
            if !path.is_absolute() {
                let refusal = Refusal::new(RefusalCode::InvalidCall, "a copy needs an absolute path");
                return Err(refusal.parameter("path"));
            }
            value(&ask(&desk.state, BackUpStore(path)).await??)
        }
        StateVerify::NAME => {
            call.parse::<StateVerify>()?;
            value(&ask(&desk.state, VerifyStore).await??)
        }
        AuditVerify::NAME => {
            call.parse::<AuditVerify>()?;
            value(&ask(&desk.state, WalkJournal).await??)
        }
        other => Err(Refusal::new(
            RefusalCode::InvalidCall,
            format!("no method is named `{other}`"),
        )),
    }
}

/// Answers `StateDump`.
pub(super) async fn dump(
    connection: &mut ServerConnection,
    call: &IncomingCall,
    desk: &Desk,
) -> Result<(), ProtocolError> {
    let mut page = match read(call, desk).await {
        Ok(rows) => (rows, 0),
        Err(refusal) => return connection.refuse(&refusal).await,
    };
    while !page.0.is_empty() {
        send(connection, page.0).await?;
        page = match ask(&desk.state, ReadJournalRows(page.1)).await {
            Ok(Ok(page)) => page,
            Ok(Err(refusal)) | Err(refusal) => return connection.refuse(&refusal).await,
        };
    }
    connection.reply(&DumpReply { rows: Vec::new() }).await
}

async fn read(call: &IncomingCall, desk: &Desk) -> Result<Vec<Row>, Refusal> {
    call.parse::<StateDump>()?;
    ask(&desk.state, ReadRows).await?
}

/// Sends rows, as many in a reply as surely fit into a frame. One row alone fits: it came in by one.
async fn send(connection: &mut ServerConnection, rows: Vec<Row>) -> Result<(), ProtocolError> {
    let mut some = Vec::new();
    let mut bytes = 0;
    for row in rows {
        bytes += row.value.to_string().len();
        if bytes > REPLY_BYTES && !some.is_empty() {
            let rows = mem::take(&mut some);
            connection.reply_more(&DumpReply { rows }).await?;
            bytes = row.value.to_string().len();
        }
        some.push(row);
    }
    connection.reply_more(&DumpReply { rows: some }).await
}
