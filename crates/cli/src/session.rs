//! One run's view of the supervisor: kept connections, deadlines, and calls that survive its death.

use std::cell::RefCell;
use std::time::Duration;

use maqet_protocol::endpoint::client::{Client, ReplyStream};
use maqet_protocol::error::{CallError, ProtocolError};
use maqet_protocol::method::Method;
use maqet_protocol::refusal::Refusal;

use crate::connect;
use crate::error::CliError;
use crate::output::Output;
use crate::settings::Settings;

/// Time for a question. The supervisor answers from memory.
pub(crate) const QUESTION_DEADLINE: Duration = Duration::from_secs(30);
/// Time for an operation that has no budget of its own: far above what any takes, so that nothing waits for ever.
pub(crate) const OPERATION_DEADLINE: Duration = Duration::from_hours(6);

/// What the verbs work with.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    /// Where things are.
    pub(crate) settings: &'a Settings,
    /// Where answers go.
    pub(crate) output: &'a Output,
    /// Connections without an open call.
    idle: RefCell<Vec<Client>>,
}

impl<'a> Session<'a> {
    /// A session that has not connected yet.
    pub(crate) fn new(settings: &'a Settings, output: &'a Output) -> Self {
        Self {
            settings,
            output,
            idle: RefCell::new(Vec::new()),
        }
    }

    /// Asks something.
    ///
    /// # Errors
    /// As [`Session::repeat`].
    pub(crate) async fn ask<M: Method>(&self, method: &M) -> Result<M::Reply, CliError> {
        self.repeat(method, QUESTION_DEADLINE).await
    }

    /// Calls a method that may safely be called twice: a question, or a change with an idempotency key. When the
    /// supervisor dies under it, it is called once more.
    ///
    /// # Errors
    /// [`CliError::Refused`], [`CliError::Deadline`], [`CliError::Lost`], and those of [`connect::connect`].
    pub(crate) async fn repeat<M: Method>(
        &self,
        method: &M,
        deadline: Duration,
    ) -> Result<M::Reply, CliError> {
        match self.try_call(method, deadline).await? {
            Ok(reply) => return Ok(reply),
            Err(error) if connect::is_loss(&error) => {
                self.idle.borrow_mut().clear();
                self.output.detail("the supervisor went away; calling again")?;
            }
            Err(error) => return Err(protocol::<M>(error)),
        }
        self.try_call(method, deadline).await?.map_err(protocol::<M>)
    }

    /// Calls a method that must not be called twice.
    ///
    /// # Errors
    /// As [`Session::repeat`].
    pub(crate) async fn once<M: Method>(&self, method: &M, deadline: Duration) -> Result<M::Reply, CliError> {
        self.try_call(method, deadline).await?.map_err(protocol::<M>)
    }

    /// Opens a stream of replies on a connection of its own.
    ///
    /// # Errors
    /// As [`Session::repeat`].
    pub(crate) async fn stream<M: Method>(&self, method: &M) -> Result<ReplyStream<M>, CliError> {
        open_stream(self.client().await?, method).await
    }

    /// The same from a supervisor that listens now; `None` when none does.
    ///
    /// # Errors
    /// As [`Session::repeat`].
    pub(crate) async fn stream_if_listening<M: Method>(
        &self,
        method: &M,
    ) -> Result<Option<ReplyStream<M>>, CliError> {
        match connect::connect_existing(self.settings).await? {
            Some(client) => open_stream(client, method).await.map(Some),
            None => Ok(None),
        }
    }

    /// The outer error is final; the inner one is that of the connection.
    async fn try_call<M: Method>(
        &self,
        method: &M,
        deadline: Duration,
    ) -> Result<Result<M::Reply, ProtocolError>, CliError> {
        let mut client = self.client().await?;
        match client.call(method, Some(deadline)).await {
            Ok(reply) => {
                self.idle.borrow_mut().push(client);
                Ok(Ok(reply))
            }
            Err(CallError::Refused(refusal)) => {
                self.idle.borrow_mut().push(client);
                Err(refused(refusal))
            }
            Err(CallError::Protocol(error)) => Ok(Err(error)),
        }
    }

    async fn client(&self) -> Result<Client, CliError> {
        let kept = self.idle.borrow_mut().pop();
        match kept {
            Some(client) => Ok(client),
            // On the heap: it is large, seldom needed, and part of every call's future.
            None => Box::pin(connect::connect(self.settings, self.output)).await,
        }
    }
}

async fn open_stream<M: Method>(client: Client, method: &M) -> Result<ReplyStream<M>, CliError> {
    client.stream(method).await.map_err(|error| match error {
        CallError::Refused(refusal) => refused(refusal),
        CallError::Protocol(error) => protocol::<M>(error),
    })
}

/// A new idempotency key.
pub(crate) fn key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// What a broken connection means to whoever called `M`.
pub(crate) fn protocol<M: Method>(error: ProtocolError) -> CliError {
    if let ProtocolError::Deadline { after } = error {
        return CliError::Deadline {
            what: format!("`{}`", M::NAME),
            after,
            vm: None,
            state: None,
            hint: Some("maqet supervisor status".to_owned()),
        };
    }
    if connect::is_loss(&error) {
        return CliError::Lost {
            method: M::NAME,
            source: error,
        };
    }
    CliError::Protocol(error)
}

/// A refusal as the run's error.
pub(crate) fn refused(refusal: Refusal) -> CliError {
    CliError::Refused(Box::new(refusal))
}

#[cfg(test)]
mod tests;
