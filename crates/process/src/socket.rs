//! Unix sockets named by a directory descriptor and a file name, so that the length of a path never matters.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use rustix::fs::{AtFlags, FileType, Mode, fchmod, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::net::UnixStream;

use crate::error::ProcessError;
use crate::pidfd::ProcessHandle;

/// Binds a socket in a private directory. Nobody can connect until somebody listens.
///
/// The file has mode 0600 from its first moment. A socket file left there by a predecessor is removed first;
/// anything else is left alone. The socket does not block, and is closed on exec.
///
/// # Errors
/// [`ProcessError::NotASocket`] when something else has the name; [`ProcessError::BadName`] for a name with a
/// slash; [`ProcessError::Call`] when the kernel refuses.
pub fn bind_listener(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, ProcessError> {
    check_name(name)?;
    if is_socket(dir, name)? {
        unlinkat(dir, name, AtFlags::empty()).map_err(ProcessError::call("remove a stale socket"))?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(ProcessError::call("make a socket"))?;
    // The file takes its mode from the socket, so it is never open to others, not even for a moment.
    fchmod(&fd, Mode::from_raw_mode(0o600)).map_err(ProcessError::call("restrict a socket"))?;
    let address = SocketAddrUnix::new(path(dir, name)).map_err(ProcessError::call("name a socket"))?;
    rustix::net::bind(&fd, &address).map_err(ProcessError::call("bind a socket"))?;
    Ok(fd)
}

/// Listens on a bound socket; clients see the credentials of the process that calls this.
///
/// # Errors
/// [`ProcessError::Call`] when the kernel refuses.
pub fn listen(fd: impl AsFd, backlog: i32) -> Result<(), ProcessError> {
    rustix::net::listen(fd, backlog).map_err(ProcessError::call("listen on a socket"))
}

/// Connects to a socket in a directory. Needs a tokio runtime with I/O.
///
/// # Errors
/// [`ProcessError::NotASocket`] when the name is something else; [`ProcessError::Crowded`] when the listener's
/// queue is full; [`ProcessError::File`] otherwise: `NotFound` without such a file, `ConnectionRefused` when
/// nobody listens any more.
pub async fn connect(dir: BorrowedFd<'_>, name: &str) -> Result<UnixStream, ProcessError> {
    check_name(name)?;
    let fail = |source| ProcessError::File {
        action: "connect to socket",
        path: name.into(),
        source,
    };
    if !is_socket(dir, name)? {
        return Err(fail(io::ErrorKind::NotFound.into()));
    }
    UnixStream::connect(path(dir, name)).await.map_err(|source| {
        if source.kind() == io::ErrorKind::WouldBlock {
            ProcessError::Crowded {
                name: name.to_owned(),
            }
        } else {
            fail(source)
        }
    })
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its number when it connected or listened; not an identity.
    pub pid: i32,
    /// Its effective user then.
    pub uid: u32,
    /// Handle on it; `None` before Linux 6.5 and when it is gone already.
    pub handle: Option<ProcessHandle>,
}

impl Peer {
    /// Its inode on pidfs, where the kernel has one.
    pub fn inode(&self) -> Option<u64> {
        self.handle.as_ref().and_then(ProcessHandle::inode)
    }
}

/// Who is at the other end: for an accepted connection the process that connected, for a connection of our own
/// the process that listened.
///
/// # Errors
/// [`ProcessError::Call`] when it is not a connected unix socket.
pub fn peer(stream: &impl AsFd) -> Result<Peer, ProcessError> {
    let credentials =
        getsockopt(&stream.as_fd(), PeerCredentials).map_err(ProcessError::call("ask who the peer is"))?;
    // Gone peers and old kernels answer with an error or with a pidfd of nobody: no handle either way.
    let handle = getsockopt(&stream.as_fd(), PeerPidfd)
        .ok()
        .and_then(|fd| ProcessHandle::from_fd(fd).ok());
    Ok(Peer {
        pid: credentials.pid(),
        uid: credentials.uid(),
        handle,
    })
}

fn path(dir: BorrowedFd<'_>, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

fn check_name(name: &str) -> Result<(), ProcessError> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(ProcessError::BadName {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// Whether the name is a socket; false when there is nothing of that name.
fn is_socket(dir: BorrowedFd<'_>, name: &str) -> Result<bool, ProcessError> {
    let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(ProcessError::call("look at a socket")(error)),
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Socket {
        return Ok(true);
    }
    Err(ProcessError::NotASocket {
        name: name.to_owned(),
        kind: describe(kind),
    })
}

/// A kind of file in words.
pub(crate) fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something else",
    }
}
