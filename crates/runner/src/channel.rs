//! The inherited channel to the supervisor: it brings GO with the secret, and its end says that the runner listens.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};

use maqet_state::secret::Secret;
use zeroize::Zeroizing;

/// Number of the channel, by agreement with the supervisor.
const NUMBER: i32 = 3;

/// Version of GO, its first byte.
const VERSION: u8 = 1;

/// The channel. Dropping it tells the supervisor to connect.
#[derive(Debug)]
pub(crate) struct Channel(File);

impl Channel {
    /// Takes the channel over. Call it once, before any other descriptor is made.
    ///
    /// # Errors
    /// When the process was started without one.
    #[expect(unsafe_code, reason = "an inherited descriptor is known by its number only")]
    pub(crate) fn inherited() -> io::Result<Self> {
        // SAFETY: F_GETFD reads flags of a number and touches no memory.
        if unsafe { libc::fcntl(NUMBER, libc::F_GETFD) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is open, and nothing in this process knows of it yet, so this is its only owner.
        let fd = unsafe { OwnedFd::from_raw_fd(NUMBER) };
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        Ok(Self(File::from(fd)))
    }

    /// Waits for GO; `None` when the supervisor gave the launch up.
    ///
    /// # Errors
    /// When GO is of another version or the channel fails.
    pub(crate) fn wait(&mut self) -> io::Result<Option<Secret>> {
        let mut version = [0];
        let mut secret = Zeroizing::new([0; Secret::BYTES]);
        if self.0.read(&mut version)? == 0 {
            return Ok(None);
        }
        if version != [VERSION] {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "GO of an unknown version",
            ));
        }
        match self.0.read_exact(secret.as_mut_slice()) {
            Ok(()) => Ok(Some(Secret::from_bytes(*secret))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn go(bytes: &[u8]) -> io::Result<Option<Secret>> {
        let (mut supervisor, runner) = UnixStream::pair().unwrap();
        supervisor.write_all(bytes).unwrap();
        drop(supervisor);
        Channel(File::from(OwnedFd::from(runner))).wait()
    }

    #[test]
    fn go_brings_the_secret() {
        let mut message = vec![VERSION];
        message.extend([7; Secret::BYTES]);
        assert_eq!(go(&message).unwrap().unwrap().as_bytes(), &[7; Secret::BYTES]);
    }

    #[test]
    fn a_channel_that_ends_early_means_no() {
        assert!(go(&[]).unwrap().is_none());
        assert!(go(&[VERSION]).unwrap().is_none());
        assert!(go(&[VERSION, 1, 2, 3]).unwrap().is_none());
    }

    #[test]
    fn another_version_is_an_error() {
        assert_eq!(go(&[2; 40]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
