//! One JSON object per line.

use tokio_util::bytes::{Buf, BytesMut};
use tokio_util::codec::Decoder;

use crate::error::QmpError;

/// Longest line accepted from QEMU, bytes. The longest known one, the schema, has about 210 000.
pub const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A read buffer that grew past this is given back once it is empty, bytes: a runner lives for months and reads
/// a long line once.
const BUFFER_KEPT_BYTES: usize = 16 * 1024;

/// Splits the stream into lines, without their ends. Lines of nothing but white space are skipped.
#[derive(Debug)]
pub(crate) struct LineCodec {
    /// Bytes already searched for an end of line.
    searched: usize,
    limit: usize,
}

impl LineCodec {
    pub(crate) fn new(limit: usize) -> Self {
        Self { searched: 0, limit }
    }
}

impl Decoder for LineCodec {
    type Item = BytesMut;
    type Error = QmpError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<BytesMut>, QmpError> {
        loop {
            let fresh = buffer.get(self.searched..).unwrap_or_default();
            let Some(offset) = fresh.iter().position(|byte| *byte == b'\n') else {
                return self.incomplete(buffer);
            };
            let end = self.searched.saturating_add(offset);
            self.searched = 0;
            let line = buffer.split_to(end);
            buffer.advance(1);
            if line.len() > self.limit {
                return Err(QmpError::TooLong { limit: self.limit });
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// A line cut short by the end of the stream is no line.
    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<BytesMut>, QmpError> {
        let line = self.decode(buffer)?;
        if line.is_none() {
            buffer.clear();
            self.searched = 0;
        }
        Ok(line)
    }
}

impl LineCodec {
    fn incomplete(&mut self, buffer: &mut BytesMut) -> Result<Option<BytesMut>, QmpError> {
        if buffer.len() > self.limit {
            return Err(QmpError::TooLong { limit: self.limit });
        }
        self.searched = buffer.len();
        if buffer.is_empty() && buffer.capacity() > BUFFER_KEPT_BYTES {
            *buffer = BytesMut::new();
        }
        Ok(None)
    }
}
