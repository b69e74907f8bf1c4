//! Mutual authentication of the two ends of a socket by a shared secret.
//!
//! Pure: texts in, proofs out. Who sends what when is in [`crate::endpoint`]; the written contract is
//! `docs/architecture/wire.md`. Every field of the transcript is the text that crosses the wire, so that a shell script
//! can compute a proof with `openssl` alone.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use maqet_state::id::VmId;
use maqet_state::secret::Secret;
use rand::TryRng;
use rand::rngs::SysRng;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::ProtocolError;

/// Version of the handshake.
pub const VERSION: u32 = 1;
/// Time a peer has from `connect` to its proof, milliseconds.
pub const HANDSHAKE_MS: u64 = 5_000;

const SHA256_BLOCK_BYTES: usize = 64;

/// What a socket belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketRole {
    /// The supervisor's control socket.
    Control,
    /// The socket of the runner of this VM.
    Runner(VmId),
}

impl SocketRole {
    /// Word in the transcript and in `Hello`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Runner(_) => "runner",
        }
    }

    /// VM id in the transcript and in `Hello`; empty for the control socket.
    pub fn vm(&self) -> &str {
        match self {
            Self::Control => "",
            Self::Runner(id) => id.as_str(),
        }
    }

    /// Varlink interface that the socket serves.
    pub fn interface(&self) -> &'static str {
        match self {
            Self::Control => "org.maqet.Control",
            Self::Runner(_) => "org.maqet.Runner",
        }
    }
}

/// Parameters of `Hello`, the first call on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Version of the handshake, [`VERSION`].
    pub version: u32,
    /// The client's nonce.
    pub client_nonce: Nonce,
    /// Inode of the client's pidfd; 0 or absent when it has none or does not know it.
    #[serde(default)]
    pub client_inode: u64,
    /// Role of the socket that the client looks for; absent when it takes any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// VM that the client looks for; absent when it takes any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
}

/// Reply to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// Version of the handshake.
    pub version: u32,
    /// The server's nonce.
    pub server_nonce: Nonce,
    /// The server's proof, 64 hexadecimal digits.
    pub server_proof: String,
    /// Inode of the server's pidfd; 0 when the kernel has none.
    pub server_inode: u64,
}

/// Parameters of `Prove`, the second call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prove {
    /// The client's proof, 64 hexadecimal digits.
    pub client_proof: String,
}

/// 32 bytes that are never used twice, written as 64 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(String);

/// A text that is not a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a nonce is 64 lower-case hexadecimal digits")]
pub struct InvalidNonce;

impl Nonce {
    /// A new one from the operating system.
    ///
    /// # Errors
    /// [`ProtocolError::Random`].
    pub fn random() -> Result<Self, ProtocolError> {
        let mut bytes = [0; 32];
        SysRng.try_fill_bytes(&mut bytes).map_err(ProtocolError::Random)?;
        Ok(Self(hex(&bytes)))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Nonce {
    type Error = InvalidNonce;

    fn try_from(text: String) -> Result<Self, InvalidNonce> {
        match unhex(&text) {
            Some(_) => Ok(Self(text)),
            None => Err(InvalidNonce),
        }
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        nonce.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Nonce({})", self.0)
    }
}

/// Who proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that accepted the connection; proves first.
    Server,
    /// The one that connected.
    Client,
}

impl Side {
    /// First field of the transcript. Two labels make a reflected proof worthless.
    pub fn label(self) -> &'static str {
        match self {
            Self::Server => "maqet/v1/server",
            Self::Client => "maqet/v1/client",
        }
    }
}

/// Everything both sides must agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// The client's nonce.
    pub client_nonce: Nonce,
    /// The server's nonce.
    pub server_nonce: Nonce,
    /// Version of the handshake.
    pub version: u32,
    /// What the socket belongs to.
    pub role: SocketRole,
    /// The client's pidfd inode as it reported it.
    pub client_inode: u64,
    /// The server's pidfd inode as it reported it.
    pub server_inode: u64,
}

impl Transcript {
    /// Proof of one side: HMAC-SHA-256 in 64 lower-case hexadecimal digits.
    pub fn proof(&self, side: Side, secret: &Secret) -> String {
        hex(&self.mac(side, secret).finalize().into_bytes())
    }

    /// Whether `proof` is the proof of `side`, compared in constant time.
    pub fn verify(&self, side: Side, secret: &Secret, proof: &str) -> bool {
        unhex(proof).is_some_and(|bytes| self.mac(side, secret).verify_slice(&bytes).is_ok())
    }

    fn mac(&self, side: Side, secret: &Secret) -> Hmac<Sha256> {
        // A key shorter than the hash's block is defined to be filled up with zeros; done here, it cannot fail.
        let mut key = Zeroizing::new([0; SHA256_BLOCK_BYTES]);
        for (to, from) in key.iter_mut().zip(secret.as_bytes()) {
            *to = *from;
        }
        let mut mac = Hmac::<Sha256>::new((&*key).into());
        for field in self.fields(side) {
            // Fields are shorter than 100 bytes; the prefix keeps `ab`+`c` apart from `a`+`bc`.
            let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
            mac.update(&length.to_be_bytes());
            mac.update(field.as_bytes());
        }
        mac
    }

    fn fields(&self, side: Side) -> [String; 8] {
        [
            side.label().to_owned(),
            self.client_nonce.0.clone(),
            self.server_nonce.0.clone(),
            self.version.to_string(),
            self.role.name().to_owned(),
            self.role.vm().to_owned(),
            self.client_inode.to_string(),
            self.server_inode.to_string(),
        ]
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    halves.filter_map(|half| DIGITS.get(usize::from(half))).collect()
}

/// 32 bytes from 64 lower-case digits. Upper case is refused: each value has one spelling.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
