//! The varlink wire: JSON objects, each ended by a NUL byte.
//!
//! One object from the client is a [`Call`], one from the server a [`Reply`]. A connection serves one call at a time;
//! a client may send the next one early, it waits in the socket.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};

use crate::error::ProtocolError;

/// Longest frame before the peer has proved itself, bytes without the NUL.
pub const FRAME_BYTES_MAX_UNPROVEN: usize = 4096;
/// Longest frame afterwards, bytes without the NUL. Holds the largest answers there are (`query-qmp-schema` has
/// 200 kB, a listing of 5 000 VMs 2 MB).
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Parameters of a call, a reply or an error.
pub type Parameters = Map<String, Value>;

/// What a client sends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Full name, `interface.Method`.
    pub method: String,
    /// Parameters by name; absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// The client takes more than one reply.
    #[serde(default, skip_serializing_if = "is_false")]
    pub more: bool,
    /// The client wants no reply at all.
    #[serde(default, skip_serializing_if = "is_false")]
    pub oneway: bool,
    /// After the reply the connection belongs to another protocol.
    #[serde(default, skip_serializing_if = "is_false")]
    pub upgrade: bool,
}

/// What a server sends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Parameters of the reply or the error; absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// Another reply to the same call follows.
    #[serde(default, skip_serializing_if = "is_false")]
    pub continues: bool,
    /// Full name of an error, `interface.Error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Call {
    /// A plain call.
    pub fn new(method: impl Into<String>, parameters: Parameters) -> Self {
        Self {
            method: method.into(),
            parameters: Some(parameters),
            ..Self::default()
        }
    }
}

impl Reply {
    /// A final reply.
    pub fn ok(parameters: Parameters) -> Self {
        Self {
            parameters: Some(parameters),
            ..Self::default()
        }
    }

    /// An error.
    pub fn error(name: impl Into<String>, parameters: Parameters) -> Self {
        Self {
            parameters: Some(parameters),
            error: Some(name.into()),
            ..Self::default()
        }
    }
}

/// Parameters as they cross the wire.
///
/// # Errors
/// [`ProtocolError::Encode`] when the type does not become a JSON object.
pub fn parameters_of<T: Serialize>(message: &T) -> Result<Parameters, ProtocolError> {
    let value = serde_json::to_value(message).map_err(ProtocolError::Encode)?;
    serde_json::from_value(value).map_err(ProtocolError::Encode)
}

/// Cuts a byte stream at its NUL bytes and refuses frames over a limit.
///
/// The limit is checked against what has arrived, before more is read: a peer that never ends its frame makes this
/// side hold the limit and one read, never more.
#[derive(Debug)]
pub struct FrameCodec {
    limit: usize,
    scanned: usize,
}

impl FrameCodec {
    /// A codec that takes frames of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, scanned: 0 }
    }

    /// Another limit for the frames not yet taken, bytes.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }
}

impl Decoder for FrameCodec {
    type Item = BytesMut;
    type Error = ProtocolError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<BytesMut>, ProtocolError> {
        let fresh = source.iter().skip(self.scanned);
        let end = fresh
            .take(self.limit + 1)
            .position(|byte| *byte == 0)
            .map(|at| at + self.scanned);
        let too_long = |limit| Err(ProtocolError::FrameTooLong { limit });
        match end {
            Some(length) if length > self.limit => too_long(self.limit),
            Some(length) => {
                self.scanned = 0;
                let mut frame = source.split_to(length + 1);
                frame.truncate(length);
                Ok(Some(frame))
            }
            None if source.len() > self.limit => too_long(self.limit),
            None => {
                self.scanned = source.len();
                Ok(None)
            }
        }
    }

    fn decode_eof(&mut self, source: &mut BytesMut) -> Result<Option<BytesMut>, ProtocolError> {
        match self.decode(source)? {
            Some(frame) => Ok(Some(frame)),
            None if source.is_empty() => Ok(None),
            None => Err(ProtocolError::Truncated { bytes: source.len() }),
        }
    }
}

impl<T: Serialize> Encoder<&T> for FrameCodec {
    type Error = ProtocolError;

    fn encode(&mut self, message: &T, target: &mut BytesMut) -> Result<(), ProtocolError> {
        let frame = serde_json::to_vec(message).map_err(ProtocolError::Encode)?;
        if frame.len() > FRAME_BYTES_MAX {
            return Err(ProtocolError::FrameTooLong {
                limit: FRAME_BYTES_MAX,
            });
        }
        target.reserve(frame.len() + 1);
        target.extend_from_slice(&frame);
        target.extend_from_slice(&[0]);
        Ok(())
    }
}

/// Reads one frame.
///
/// # Errors
/// [`ProtocolError::Malformed`] when it is not that kind of message.
pub fn parse<T: serde::de::DeserializeOwned>(frame: &[u8]) -> Result<T, ProtocolError> {
    let first = frame.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') {
        // Only for its error: serde would read an array as a struct, field by field.
        let _object: Parameters = serde_json::from_slice(frame).map_err(ProtocolError::Malformed)?;
    }
    serde_json::from_slice(frame).map_err(ProtocolError::Malformed)
}

#[cfg(test)]
mod tests;
