//! Waiting for a condition, never for a while.

use std::fmt::Debug;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use maqet_process::ProcessHandle;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// More than anything here takes on a crowded host.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Pause before the second look, and the longest one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Looks again and again, with growing pauses, until `probe` finds what it looks for. `Err` carries what was seen
/// instead; the test fails with the last of it when `deadline` has passed. For things nobody can be told about:
/// where there is a pidfd, a socket or `maqet wait`, use that.
pub fn until<T, S: Debug>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Result<T, S>) -> T {
    let begun = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        let seen = match probe() {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(
            begun.elapsed() < deadline,
            "not within {deadline:?}: {what}; last seen: {seen:?}"
        );
        pass(pause);
        pause = PAUSES.1.min(pause.saturating_mul(2));
    }
}

/// Waits for a process to be gone, child or not; false when it is still there after `deadline`.
pub fn exited(process: &ProcessHandle, deadline: Duration) -> bool {
    let ends = Instant::now().checked_add(deadline).unwrap();
    loop {
        if process.has_exited() {
            return true;
        }
        let left = ends.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        rest(&mut fds, left);
    }
}

/// A pause as a poll without descriptors.
fn pass(pause: Duration) {
    rest(&mut [], pause);
}

/// A signal may cut it short; the caller looks again anyway.
fn rest(fds: &mut [PollFd<'_>], longest: Duration) {
    let polled = poll(fds, timeout(longest));
    assert!(polled.is_ok() || polled == Err(Errno::EINTR), "poll: {polled:?}");
}

fn timeout(duration: Duration) -> PollTimeout {
    PollTimeout::try_from(duration).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{PATIENCE, until};

    #[test]
    fn what_the_probe_finds_is_returned() {
        let mut looks = 0;
        let found = until("three looks", PATIENCE, || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks) }
        });
        assert_eq!(found, 3);
    }

    #[test]
    #[should_panic(expected = "not within 5ms: a miracle; last seen: \"rain\"")]
    fn a_timeout_tells_what_was_seen() {
        until("a miracle", Duration::from_millis(5), || Err::<(), _>("rain"));
    }
}
