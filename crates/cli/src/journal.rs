//! The journal as the verbs read it: all of it, or from a cursor on for as long as they like.

use std::time::Duration;

use maqet_protocol::control::{Event, EventReply, Events, SupervisorInfo};
use maqet_protocol::endpoint::client::ReplyStream;
use maqet_protocol::error::{CallError, ProtocolError};

use crate::backoff::Backoff;
use crate::connect;
use crate::error::CliError;
use crate::session::{Session, protocol, refused};

/// Losses in a row, without one event between them, after which following is given up.
const LOSSES_MAX: u32 = 8;

/// Events in the order of their cursors; a supervisor that dies is followed into its successor.
#[derive(Debug)]
pub(crate) struct Journal<'a> {
    session: &'a Session<'a>,
    query: Events,
    stream: Option<ReplyStream<Events>>,
    losses: u32,
    backoff: Backoff,
    revives: bool,
}

impl<'a> Journal<'a> {
    /// What `query` asks for. A journal that follows "from now on" is pinned to the newest cursor of this moment.
    ///
    /// # Errors
    /// Those of [`Session::ask`].
    pub(crate) async fn open(session: &'a Session<'a>, mut query: Events) -> Result<Self, CliError> {
        if query.follow && query.since.is_none() {
            query.since = Some(newest(session).await?);
        }
        Ok(Self {
            session,
            query,
            stream: None,
            losses: 0,
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_secs(1)),
            revives: true,
        })
    }

    /// Follows into a supervisor that somebody else starts, and starts none itself: watching must not bring back what was
    /// ended on purpose. Without following it is a question like any other, and gets its answer.
    #[must_use]
    pub(crate) fn only_watching(mut self) -> Self {
        self.revives = !self.query.follow;
        self
    }

    /// The next event; `None` at the end of a journal that does not follow. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A refusal, or [`CliError::Lost`] when the supervisor went away and none came back.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, CliError> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.reopen().await?;
                continue;
            };
            match stream.next().await {
                Some(Ok(EventReply { event: None })) => {}
                Some(Ok(EventReply { event: Some(event) })) => return Ok(Some(self.came(event))),
                None if !self.query.follow => return Ok(None),
                Some(Err(CallError::Refused(refusal))) => return Err(refused(refusal)),
                None => self.lost(ProtocolError::Closed).await?,
                Some(Err(CallError::Protocol(error))) => self.lost(error).await?,
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), CliError> {
        if self.revives || self.losses == 0 {
            self.stream = Some(self.session.stream(&self.query).await?);
            return Ok(());
        }
        self.stream = self.session.stream_if_listening(&self.query).await?;
        match self.stream {
            Some(_) => Ok(()),
            None => self.lost(ProtocolError::Closed).await,
        }
    }

    fn came(&mut self, event: Event) -> Event {
        self.query.since = Some(event.cursor);
        self.losses = 0;
        event
    }

    async fn lost(&mut self, error: ProtocolError) -> Result<(), CliError> {
        self.stream = None;
        self.losses += 1;
        if !connect::is_loss(&error) || self.losses > LOSSES_MAX {
            return Err(protocol::<Events>(error));
        }
        self.session
            .output
            .detail("the supervisor went away; reading on from its successor")?;
        self.backoff.wait().await;
        Ok(())
    }
}

/// Cursor of the newest entry.
///
/// # Errors
/// Those of [`Session::ask`].
pub(crate) async fn newest(session: &Session<'_>) -> Result<u64, CliError> {
    Ok(session.ask(&SupervisorInfo {}).await?.cursor)
}

/// Everything the journal still holds about one VM, oldest first.
///
/// # Errors
/// Those of [`Journal::next`].
pub(crate) async fn history(session: &Session<'_>, vm: &str) -> Result<Vec<Event>, CliError> {
    let query = Events {
        since: None,
        vm: Some(vm.to_owned()),
        follow: false,
    };
    let mut journal = Journal::open(session, query).await?;
    let mut events = Vec::new();
    while let Some(event) = journal.next().await? {
        events.push(event);
    }
    Ok(events)
}

#[cfg(test)]
mod tests;
