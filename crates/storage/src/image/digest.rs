//! Checksums of files.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::unnamed::blocking;
use crate::error::StorageError;
use crate::meter::{Meter, Step};

/// Read at a time, bytes: large enough for a disk, small enough for a cache.
const CHUNK_BYTES: usize = 256 << 10;
/// Hexadecimal digits of either algorithm.
const DIGITS: usize = 64;

/// How a checksum is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// What maqet keeps of its images.
    Blake3,
    /// What others publish with theirs.
    Sha256,
}

/// A checksum: `blake3:` or `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Checksum {
    algorithm: Algorithm,
    digits: String,
}

/// A text that is no checksum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no checksum: write `blake3:` or `sha256:` and 64 hexadecimal digits")]
pub struct NoChecksum {
    text: String,
}

impl Checksum {
    /// How it is made.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl FromStr for Checksum {
    type Err = NoChecksum;

    fn from_str(text: &str) -> Result<Self, NoChecksum> {
        let wrong = || NoChecksum {
            text: text.to_owned(),
        };
        let (name, digits) = text.split_once(':').ok_or_else(wrong)?;
        let algorithm = match name {
            "blake3" => Algorithm::Blake3,
            "sha256" => Algorithm::Sha256,
            _ => return Err(wrong()),
        };
        let right = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digits = digits.to_ascii_lowercase();
        right.then_some(Self { algorithm, digits }).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Checksum {
    type Error = NoChecksum;

    fn try_from(text: String) -> Result<Self, NoChecksum> {
        text.parse()
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.to_string()
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.algorithm {
            Algorithm::Blake3 => "blake3",
            Algorithm::Sha256 => "sha256",
        };
        write!(formatter, "{name}:{}", self.digits)
    }
}

/// The checksum of a file's whole content, whatever the descriptor's position is. Dropping the future ends the work after
/// the next chunk. `path` is for messages only.
///
/// # Errors
/// [`StorageError::File`] when it cannot be read.
pub async fn digest(
    file: File,
    path: &Path,
    algorithm: Algorithm,
    meter: &Meter,
) -> Result<Checksum, StorageError> {
    let given_up = GivenUp::default();
    let (flag, meter) = (Arc::clone(&given_up.0), meter.clone());
    let read = blocking(path, move || match algorithm {
        Algorithm::Blake3 => {
            let mut hasher = blake3::Hasher::new();
            let read = feed(&file, &meter, &flag, |bytes| {
                hasher.update(bytes);
            });
            read.map(|()| hexadecimal(hasher.finalize().as_bytes()))
        }
        Algorithm::Sha256 => {
            let mut hasher = sha2::Sha256::new();
            let read = feed(&file, &meter, &flag, |bytes| hasher.update(bytes));
            read.map(|()| hexadecimal(&hasher.finalize()))
        }
    });
    let digits = read.await?.map_err(StorageError::file("read", path))?;
    Ok(Checksum { algorithm, digits })
}

fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
        .flatten()
        .collect()
}

/// Says to the thread that works that nobody waits any more.
#[derive(Debug, Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn feed(file: &File, meter: &Meter, given_up: &AtomicBool, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let total = file.metadata()?.len();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    while !given_up.load(Ordering::Relaxed) {
        meter.tell(Step::Hashing, done, total.max(done));
        let count = match file.read_at(&mut chunk, done) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        take(chunk.get(..count).unwrap_or_default());
        done += u64::try_from(count).unwrap_or_default();
    }
    Err(io::Error::other("it was given up"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn known_sums_of_a_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // From the authors' own test vectors.
        for text in [
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
        ] {
            let expected: Checksum = text.parse().unwrap();
            let (meter, progress) = Meter::new();
            let file = File::open(&path).unwrap();
            let sum = digest(file, &path, expected.algorithm(), &meter).await.unwrap();
            assert_eq!(sum, expected);
            assert_eq!(sum.to_string(), text);
            let end = *progress.borrow();
            assert_eq!((end.step, end.done, end.total), (Step::Hashing, 3, 3));
        }
    }

    #[test]
    fn what_is_no_checksum_is_refused() {
        let digits = "0".repeat(DIGITS);
        for text in [
            String::new(),
            digits.clone(),
            format!("md5:{digits}"),
            format!("blake3:{digits}0"),
            format!("sha256:{}g", "0".repeat(63)),
        ] {
            assert!(text.parse::<Checksum>().is_err(), "{text}");
        }
        let upper = format!("sha256:{}", "AB".repeat(32));
        assert_eq!(
            upper.parse::<Checksum>().unwrap().to_string(),
            upper.to_lowercase()
        );
    }
}
