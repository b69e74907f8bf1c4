//! System calls that no safe crate offers. All of this crate's `unsafe` is in this file.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::ioctl::{Updater, ioctl, opcode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Largest file handle the kernel makes, bytes (`MAX_HANDLE_SZ`).
const HANDLE_BYTES_MAX: usize = 128;

/// `struct file_handle` with room for the largest handle.
#[repr(C)]
struct HandleBuffer {
    bytes: libc::c_uint,
    kind: libc::c_int,
    data: [u8; HANDLE_BYTES_MAX],
}

/// Handle of the file behind `fd`: its type and its bytes. Fails with `EOPNOTSUPP` where there is none.
#[expect(unsafe_code, reason = "name_to_handle_at has no safe wrapper")]
pub(crate) fn file_handle(fd: BorrowedFd<'_>) -> io::Result<(i32, Vec<u8>)> {
    let room = libc::c_uint::try_from(HANDLE_BYTES_MAX).map_err(io::Error::other)?;
    let mut buffer = HandleBuffer {
        bytes: room,
        kind: 0,
        data: [0; HANDLE_BYTES_MAX],
    };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path is a terminated string; `buffer` has the layout of `struct file_handle` followed by the
    // `bytes` bytes it announces; both out-pointers are valid for the call.
    let result = unsafe {
        libc::name_to_handle_at(
            fd.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut buffer).cast::<libc::file_handle>(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::try_from(buffer.bytes).map_err(io::Error::other)?;
    let bytes = buffer.data.get(..length).ok_or(io::ErrorKind::InvalidData)?;
    Ok((buffer.kind, bytes.to_vec()))
}

/// Opens the file of a handle; `mount` is any descriptor on the same file system.
#[expect(unsafe_code, reason = "open_by_handle_at has no safe wrapper")]
pub(crate) fn open_handle(mount: BorrowedFd<'_>, kind: i32, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut buffer = HandleBuffer {
        bytes: libc::c_uint::try_from(bytes.len()).map_err(io::Error::other)?,
        kind,
        data: [0; HANDLE_BYTES_MAX],
    };
    let room = buffer
        .data
        .get_mut(..bytes.len())
        .ok_or(io::ErrorKind::InvalidData)?;
    room.copy_from_slice(bytes);
    // SAFETY: `buffer` has the layout of `struct file_handle` followed by the bytes it announces.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut buffer).cast::<libc::file_handle>(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call just made this descriptor; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `struct pidfd_info`, first published version (64 bytes), from `linux/pidfd.h`.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`.
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// Wait status of an ended and reaped process, child or not; `None` when the kernel cannot tell (before 6.15,
/// or not reaped yet).
#[expect(unsafe_code, reason = "ioctls have no safe wrapper")]
pub(crate) fn recorded_wait_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    const GET_INFO: rustix::ioctl::Opcode = opcode::read_write::<PidfdInfo>(0xFF, 11);
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: `PIDFD_GET_INFO` reads and writes one `struct pidfd_info` of the size encoded in the opcode; on
    // any other kind of descriptor or an older kernel it fails without touching memory.
    let result = unsafe { ioctl(pidfd, Updater::<'_, GET_INFO, PidfdInfo>::new(&mut info)) };
    (result.is_ok() && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// Whether pidfds answer `PIDFD_GET_INFO`.
#[expect(unsafe_code, reason = "ioctls have no safe wrapper")]
pub(crate) fn tells_info(pidfd: BorrowedFd<'_>) -> bool {
    const GET_INFO: rustix::ioctl::Opcode = opcode::read_write::<PidfdInfo>(0xFF, 11);
    let mut info = PidfdInfo::default();
    // SAFETY: as in `recorded_wait_status`.
    unsafe { ioctl(pidfd, Updater::<'_, GET_INFO, PidfdInfo>::new(&mut info)) }.is_ok()
}

/// Version of the kernel's Landlock interface; `None` where it has none or it is switched off.
#[expect(unsafe_code, reason = "landlock_create_ruleset has no safe wrapper")]
pub(crate) fn landlock_abi() -> Option<u32> {
    /// `LANDLOCK_CREATE_RULESET_VERSION` of `linux/landlock.h`.
    const VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel takes no attributes, touches no memory and makes no descriptor; it answers with
    // a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// Marks every descriptor from 3 up close-on-exec. A kernel without the call (before 5.11) is fine: all
/// descriptors of our own are made close-on-exec.
#[expect(unsafe_code, reason = "close_range has no safe wrapper")]
pub(crate) fn close_all_on_exec() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: with CLOSE_RANGE_CLOEXEC no descriptor is closed, so nobody's descriptor goes away.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, libc::c_uint::MAX, flags) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL) => Ok(()),
        Some(_) | None => Err(error),
    }
}

/// Leaves namespaces that are shared with the parent.
#[expect(unsafe_code, reason = "unshare has no safe wrapper here")]
pub(crate) fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: without CLONE_FILES no descriptor table changes; the call touches no memory of ours.
    match unsafe { libc::unshare(namespaces) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What is mounted from now on is seen in this mount namespace only; what others take away goes here as well.
#[expect(unsafe_code, reason = "mount has no safe wrapper here")]
pub(crate) fn keep_mounts_here() -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: the target is a terminated string; for a change of propagation the kernel reads nothing else.
    let done = unsafe {
        libc::mount(
            none,
            c"/".as_ptr(),
            none,
            libc::MS_REC | libc::MS_SLAVE,
            none.cast(),
        )
    };
    answer(done.into())
}

/// Mounts the working directory, without the mounts below it, at a place as well: without set-user-id and devices, and
/// read-only if asked for.
#[expect(unsafe_code, reason = "these calls have no safe wrappers here")]
pub(crate) fn mount_here_at(readonly: bool, place: &CStr) -> io::Result<()> {
    let empty = libc::c_uint::try_from(libc::AT_EMPTY_PATH).map_err(io::Error::other)?;
    let cloexec = libc::c_uint::try_from(libc::O_CLOEXEC).map_err(io::Error::other)?;
    let flags = libc::OPEN_TREE_CLONE | cloexec;
    // SAFETY: the path is a terminated string.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c".".as_ptr(), flags) };
    answer(fd)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call just made this descriptor; nobody else has it.
    let mount = unsafe { OwnedFd::from_raw_fd(fd) };
    let readonly = if readonly { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let attributes = libc::mount_attr {
        attr_set: readonly | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: path and attributes are valid for the call, whose last argument is the size of the latter.
    answer(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            empty,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    // SAFETY: both paths are terminated strings, and the descriptor is open.
    answer(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            place.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
}

/// What a system call answered.
fn answer(result: libc::c_long) -> io::Result<()> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Lets the child inherit nothing above 2 but what is mapped afterwards.
#[expect(unsafe_code, reason = "pre_exec is unsafe")]
pub(crate) fn inherit_nothing(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe work is allowed; this makes one system call and
    // builds an `io::Error` without allocating.
    unsafe {
        command.pre_exec(close_all_on_exec);
    }
}

/// Has the kernel end the child, by SIGKILL, when the thread that starts it is gone, and so when `parent`, this process, is.
#[expect(unsafe_code, reason = "pre_exec is unsafe")]
pub(crate) fn end_with_starter(command: &mut Command, parent: rustix::process::Pid) {
    let bind = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        // It may be gone already.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed; this makes two system calls and builds an
    // `io::Error` without allocating.
    unsafe {
        command.pre_exec(bind);
    }
}

/// Has a child do something that does not allocate, and end. What it answered.
#[expect(unsafe_code, reason = "pre_exec is unsafe")]
pub(crate) fn in_child(mut work: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> io::Result<()> {
    /// What a child that is done fails with, so that it becomes no program.
    const DONE: i32 = libc::ECANCELED;
    let mut command = Command::new("/proc/self/exe");
    // SAFETY: by the contract above nothing is allocated between fork and the end of the child.
    unsafe {
        command.pre_exec(move || work().and(Err(io::Error::from_raw_os_error(DONE))));
    }
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(DONE) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Takes over a descriptor that this process was started with.
///
/// Each number may be taken once, before anything else is opened; only the gate does so.
#[expect(unsafe_code, reason = "inherited descriptors are bare numbers")]
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: fcntl on a bare number is harmless; a number that is not open fails with EBADF here.
    let result = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the contract above nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Registers a descriptor with the current tokio runtime, for readability.
#[expect(unsafe_code, reason = "the only registration tokio does not deprecate")]
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` reports the same open descriptor for as long as it lives, and it lives inside.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Whether the descriptor is on pidfs, where every process of a boot has an inode of its own.
pub(crate) fn is_pidfs(fd: impl AsFd) -> bool {
    /// `PID_FS_MAGIC` of `linux/magic.h`.
    const PID_FS_MAGIC: i128 = 0x5049_4446;
    rustix::fs::fstatfs(fd).is_ok_and(|stat| i128::from(stat.f_type) == PID_FS_MAGIC)
}
