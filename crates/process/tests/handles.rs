//! Handles on real processes: exits, statuses, signals, descriptors passed on.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use maqet_process::spawn::{Child, Spawn};
use maqet_process::{ExitStatus, ProcessError, ProcessHandle, Sent, Signal};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

fn shell(script: &str, fds: Vec<(OwnedFd, i32)>) -> Child {
    let mut spawn = Spawn::new("/bin/sh");
    spawn.args = ["-c", script].map(OsString::from).to_vec();
    spawn.fds = fds;
    spawn.spawn().unwrap()
}

/// A child that exits with `code` once the returned end of the pipe is closed.
fn waiting(code: i32) -> (ProcessHandle, OwnedFd) {
    let (read, leash) = pipe();
    let child = shell(&format!("read line <&3; exit {code}"), vec![(read, 3)]);
    (child.handle, leash)
}

async fn end_of(handle: &ProcessHandle) {
    timeout(LIMIT, handle.exited()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_child_tells_its_exit_code_to_every_clone() {
    let (handle, leash) = waiting(7);
    let clone = handle.try_clone().unwrap();
    assert!(!handle.has_exited());
    assert_eq!(handle.exit_status(), None);
    drop(leash);
    let (one, two, three) = tokio::join!(handle.exited(), handle.exited(), clone.exited());
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    assert!(handle.has_exited());
    assert_eq!(handle.exit_status(), Some(ExitStatus::Code(7)));
    assert_eq!(clone.exit_status(), Some(ExitStatus::Code(7)));
    end_of(&handle).await;
}

#[tokio::test]
async fn waiting_for_the_exit_may_be_given_up() {
    let (handle, leash) = waiting(0);
    for _ in 0..3 {
        assert!(timeout(Duration::from_millis(1), handle.exited()).await.is_err());
    }
    drop(leash);
    end_of(&handle).await;
    assert_eq!(handle.exit_status(), Some(ExitStatus::Code(0)));
}

#[tokio::test]
async fn signals_reach_the_process_and_nobody_after_it() {
    let (handle, _leash) = waiting(0);
    assert_eq!(handle.signal(Signal::Stop).unwrap(), Sent::Delivered);
    assert_eq!(handle.signal(Signal::Term).unwrap(), Sent::Delivered);
    assert!(!handle.has_exited());
    assert_eq!(handle.signal(Signal::Cont).unwrap(), Sent::Delivered);
    end_of(&handle).await;
    // A zombie still takes signals.
    assert_eq!(handle.signal(Signal::Kill).unwrap(), Sent::Delivered);
    assert_eq!(handle.exit_status(), Some(ExitStatus::Signal(15)));
    assert_eq!(handle.signal(Signal::Kill).unwrap(), Sent::AlreadyGone);
}

#[tokio::test]
async fn dropping_a_child_does_not_end_it() {
    let (read, leash) = pipe();
    let (output, write) = pipe();
    let child = shell("read line <&3; echo lived >&4", vec![(read, 3), (write, 4)]);
    drop(child);
    drop(leash);
    let mut text = String::new();
    std::fs::File::from(output).read_to_string(&mut text).unwrap();
    assert_eq!(text, "lived\n");
}

/// A grandchild: `reaped` says whether its parent waits for it. Returns what keeps the parent alive as well.
fn grandchild(reaped: bool) -> (ProcessHandle, OwnedFd, (Child, OwnedFd)) {
    let (read, leash) = pipe();
    let (output, write) = pipe();
    let (parent_read, parent_leash) = pipe();
    let parent = if reaped {
        "wait $!; read line <&5"
    } else {
        "exec cat <&5"
    };
    let script = format!("sh -c 'read line <&3; exit 5' & echo $! >&4; exec 3<&- 4>&-; {parent}");
    let child = shell(&script, vec![(read, 3), (write, 4), (parent_read, 5)]);
    let mut line = String::new();
    BufReader::new(std::fs::File::from(output))
        .read_line(&mut line)
        .unwrap();
    let handle = ProcessHandle::open(line.trim().parse().unwrap())
        .unwrap()
        .unwrap();
    (handle, leash, (child, parent_leash))
}

#[tokio::test]
async fn a_strangers_status_is_read_while_it_is_a_zombie() {
    let (handle, leash, parent) = grandchild(false);
    assert_eq!(handle.exit_status(), None);
    drop(leash);
    end_of(&handle).await;
    assert_eq!(handle.exit_status(), Some(ExitStatus::Code(5)));
    drop(parent);
}

#[tokio::test]
async fn a_strangers_status_is_read_after_it_was_reaped() {
    let (handle, leash, (parent, parent_leash)) = grandchild(true);
    drop(leash);
    end_of(&handle).await;
    drop(parent_leash);
    // Its parent exits only after it has reaped it.
    end_of(&parent.handle).await;
    let expected = kernel_is_at_least(6, 15).then_some(ExitStatus::Code(5));
    assert_eq!(handle.exit_status(), expected);
    assert_eq!(handle.signal(Signal::Term).unwrap(), Sent::AlreadyGone);
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|text| text.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

#[test]
fn a_handle_is_found_again_from_its_descriptor() {
    let (handle, _leash) = waiting(0);
    let again = ProcessHandle::from_fd(handle.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(again.pid(), handle.pid());
    assert_eq!(again.inode(), handle.inode());
    let own = ProcessHandle::current().unwrap();
    assert_eq!(u32::try_from(own.pid()).unwrap(), std::process::id());
    assert_ne!(own.inode(), handle.inode());
}

#[test]
fn what_is_no_process_is_refused() {
    let (read, _write) = pipe();
    assert!(matches!(
        ProcessHandle::from_fd(read),
        Err(ProcessError::Malformed { .. })
    ));
    for pid in [0, -1, i32::MIN, i32::MAX] {
        assert!(ProcessHandle::open(pid).unwrap().is_none(), "{pid}");
    }
    let (handle, leash) = waiting(0);
    drop(leash);
    let reaped = loop {
        if handle.exit_status().is_some() {
            break handle.as_fd().try_clone_to_owned().unwrap();
        }
        std::thread::yield_now();
    };
    assert!(matches!(
        ProcessHandle::from_fd(reaped),
        Err(ProcessError::Gone { pid: -1 })
    ));
}

/// Descriptors the child sees, sorted as text.
fn descriptors_of_child(fds: Vec<(OwnedFd, i32)>) -> String {
    let (output, write) = pipe();
    let mut spawn = Spawn::new("/bin/sh");
    spawn.args = ["-c", "ls /proc/$$/fd"].map(OsString::from).to_vec();
    spawn.fds = fds;
    spawn.stdout = Some(write);
    let child = spawn.spawn().unwrap();
    let mut text = String::new();
    std::fs::File::from(output).read_to_string(&mut text).unwrap();
    drop(child);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_child_gets_exactly_the_descriptors_it_was_given() {
    // One that a careless caller left open to everybody.
    let (careless, _write) = pipe();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    assert_eq!(descriptors_of_child(Vec::new()), "0 1 2");
    let (one, two) = pipe();
    let (three, four) = pipe();
    assert_eq!(
        descriptors_of_child(vec![(one, 9), (two, 5), (three, 3), (four, 40)]),
        "0 1 2 3 40 5 9"
    );
}

#[test]
fn a_missing_program_is_an_error_even_when_numbers_collide() {
    for number in 3..20 {
        let (one, two) = pipe();
        let mut spawn = Spawn::new("/nonexistent/program");
        spawn.fds = vec![(one, number), (two, number + 1)];
        let error = spawn.spawn().unwrap_err();
        assert!(matches!(error, ProcessError::Spawn { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_child_that_ends_with_its_thread_is_killed_by_the_kernel() {
    let start = |ends_with_thread| {
        let (input, write) = pipe();
        let mut spawn = Spawn::new("/bin/cat");
        spawn.args = vec!["/proc/self/fd/3".into()];
        spawn.fds = vec![(input, 3)];
        spawn.ends_with_thread = ends_with_thread;
        let child = std::thread::spawn(move || spawn.spawn().unwrap()).join().unwrap();
        (child.handle, write)
    };
    let (bound, _write) = start(true);
    bound.exited().await.unwrap();
    assert_eq!(bound.exit_status(), Some(ExitStatus::Signal(9)));
    let (free, write) = start(false);
    assert!(!free.has_exited());
    drop(write);
    free.exited().await.unwrap();
    assert_eq!(free.exit_status(), Some(ExitStatus::Code(0)));
}

#[test]
fn numbers_are_checked() {
    for numbers in [[3, 3], [2, 3], [-1, 4]] {
        let (one, two) = pipe();
        let mut spawn = Spawn::new("/bin/true");
        spawn.fds = vec![(one, numbers[0]), (two, numbers[1])];
        assert!(matches!(spawn.spawn(), Err(ProcessError::DescriptorTaken { .. })));
    }
}

#[test]
fn the_environment_is_what_was_asked_for() {
    let (output, write) = pipe();
    let mut spawn = Spawn::new("/usr/bin/env");
    spawn.env_clear = true;
    spawn.env = vec![("ONLY".into(), "this".into())];
    spawn.stdout = Some(write);
    let child = spawn.spawn().unwrap();
    let mut text = String::new();
    std::fs::File::from(output).read_to_string(&mut text).unwrap();
    assert_eq!(text, "ONLY=this\n");
    drop(child);
}

#[tokio::test]
async fn an_orphan_of_ours_tells_its_status_to_us() {
    maqet_process::spawn::become_subreaper().unwrap();
    let (read, leash) = pipe();
    let (output, write) = pipe();
    let parent = shell(
        "sh -c 'read line <&3; exit 6' & echo $! >&4",
        vec![(read, 3), (write, 4)],
    );
    let mut line = String::new();
    BufReader::new(std::fs::File::from(output))
        .read_line(&mut line)
        .unwrap();
    let orphan = ProcessHandle::open(line.trim().parse().unwrap())
        .unwrap()
        .unwrap();
    end_of(&parent.handle).await;
    assert_eq!(parent.handle.exit_status(), Some(ExitStatus::Code(0)));
    drop(leash);
    end_of(&orphan).await;
    assert_eq!(orphan.exit_status(), Some(ExitStatus::Code(6)));
    // Reaped by us, so its number is free.
    assert_eq!(orphan.signal(Signal::Kill).unwrap(), Sent::AlreadyGone);
}

#[test]
fn termination_is_blocked_and_unblocked() {
    let blocked = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("SigBlk:"))
            .unwrap()
            .trim()
            .to_owned();
        u64::from_str_radix(&line, 16).unwrap()
    };
    maqet_process::signal::block_termination().unwrap();
    assert_eq!(blocked(), 0x4003);
    maqet_process::signal::reset_mask().unwrap();
    assert_eq!(blocked(), 0);
}

#[test]
fn the_descriptor_limit_goes_up_to_the_hard_one() {
    let hard = maqet_process::spawn::raise_nofile_limit().unwrap();
    assert_eq!(maqet_process::spawn::raise_nofile_limit().unwrap(), hard);
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let mut words = line.split_whitespace().skip(3);
    assert_eq!(words.next(), words.next());
}
