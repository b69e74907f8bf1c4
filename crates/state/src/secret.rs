//! Shared secrets: what both ends of a socket prove to know.

use std::fmt;

use rand::TryRng;
use rand::rngs::{SysError, SysRng};
use zeroize::Zeroizing;

/// 32 random bytes, wiped from memory when dropped; shows nothing of itself.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; Self::BYTES]>);

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("draw random bytes from the operating system")]
pub struct NoRandomness(#[from] SysError);

impl Secret {
    /// Length of a secret, bytes.
    pub const BYTES: usize = 32;

    /// A new one, straight from the operating system.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn random() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; Self::BYTES]);
        SysRng.try_fill_bytes(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    /// The secret with these bytes. The caller wipes its own copy.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}
