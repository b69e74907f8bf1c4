//! Log files of one VM, each held below a bound although QEMU writes two of them by itself.
//!
//! The directory is watched with `F_NOTIFY`, which tells of one change and then falls silent until it is armed
//! again: a chatty guest costs one wakeup per second, an idle one none, and no user-wide limit is drawn on (inotify
//! allows 128 instances per user, fewer than there may be VMs).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use maqet_process::private::{self, Access};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// QEMU's stdout and stderr.
pub(crate) const QEMU_LOG: &str = "qemu.log";
/// What the guest prints on its first serial port.
pub(crate) const SERIAL_LOG: &str = "serial.log";
/// What the virtiofsd of each share complains about.
pub(crate) const VIRTIOFSD_LOG: &str = "virtiofsd.log";
/// The runner's own words.
pub(crate) const RUNNER_LOG: &str = "runner.log";

const ALL: [&str; 4] = [QEMU_LOG, SERIAL_LOG, VIRTIOFSD_LOG, RUNNER_LOG];

/// Shortest time between two looks at the sizes: a guest may overshoot the bound by what it prints in this time.
const REST: Duration = Duration::from_secs(1);

/// "A file in the directory was written to", from `linux/fcntl.h`.
const DN_MODIFY: libc::c_int = 2;

/// Longest piece of QEMU's stderr that is read for its last words, bytes.
const TAIL_BYTES_MAX: u64 = 8 * 1024;

/// Lines of it that are kept.
const TAIL_LINES_MAX: usize = 10;

/// The log directory of one VM.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    directory: PathBuf,
    bytes_max: u64,
}

/// What to do with a log of some size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Set aside what lies behind this offset, then empty the file.
    SetAside {
        from: u64,
    },
}

fn decide(bytes: u64, bytes_max: u64) -> Verdict {
    if bytes <= bytes_max {
        return Verdict::Keep;
    }
    Verdict::SetAside {
        from: bytes.saturating_sub(bytes_max),
    }
}

impl Logs {
    /// The logs in a directory, each at most `bytes_max` long, with one older file of that size beside it.
    pub(crate) fn new(directory: PathBuf, bytes_max: u64) -> Self {
        Self { directory, bytes_max }
    }

    /// Path of one log.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Opens one log for appending, for its owner only; creates it if need be.
    pub(crate) fn open(&self, name: &str) -> io::Result<File> {
        private::open(&self.path(name), Access::Append)
    }

    /// Bytes in one log now; zero when there is none.
    pub(crate) fn size(&self, name: &str) -> u64 {
        std::fs::metadata(self.path(name)).map_or(0, |metadata| metadata.len())
    }

    /// The last lines that QEMU wrote behind `start`; `None` when it said nothing.
    pub(crate) fn last_words(&self, start: u64) -> Option<String> {
        self.last_words_in(QEMU_LOG, start)
    }

    /// The same of another log.
    pub(crate) fn last_words_in(&self, name: &str, start: u64) -> Option<String> {
        match read_tail(&self.path(name), start) {
            Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes)),
            Err(error) => {
                tracing::warn!(%error, name, "read the end of a log");
                None
            }
        }
    }

    /// Keeps the logs below their bound, for as long as it is polled.
    ///
    /// # Errors
    /// When the directory cannot be watched.
    pub(crate) async fn guard(self) -> io::Result<()> {
        // The handler comes first: SIGIO ends a process that has none.
        let mut changed = signal(SignalKind::io())?;
        let directory = File::open(&self.directory)?;
        loop {
            arm(&directory)?;
            self.bound().await?;
            if changed.recv().await.is_none() {
                return Ok(());
            }
            tokio::time::sleep_until(Instant::now() + REST).await;
        }
    }

    async fn bound(&self) -> io::Result<()> {
        for name in ALL {
            if let Verdict::SetAside { from } = decide(self.size(name), self.bytes_max) {
                let (log, bytes_max) = (self.path(name), self.bytes_max);
                // Copying may wait for a disk; a full log is rare enough for a thread of its own.
                let done = tokio::task::spawn_blocking(move || set_aside(&log, from, bytes_max)).await?;
                done.unwrap_or_else(|error| tracing::warn!(%error, name, "set aside a full log"));
            }
        }
        Ok(())
    }
}

/// Asks for one SIGIO at the next write to any file of the directory.
#[expect(unsafe_code, reason = "no safe wrapper knows F_NOTIFY")]
fn arm(directory: &File) -> io::Result<()> {
    // SAFETY: F_NOTIFY takes an integer and touches no memory of ours; the descriptor is open.
    let done = unsafe { libc::fcntl(directory.as_raw_fd(), libc::F_NOTIFY, DN_MODIFY) };
    if done == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Copies the end of a log to `<log>.1` and empties it. Its writers append, so they go on at the new end; what they
/// write during the copy is lost: a writer that is faster than the copy must not make it endless.
fn set_aside(log: &Path, from: u64, bytes_max: u64) -> io::Result<()> {
    let mut source = private::open(log, Access::Write)?;
    let older = with_suffix(log, ".1");
    let fresh = with_suffix(log, ".1.new");
    let mut target = private::open(&fresh, Access::Rewrite)?;
    source.seek(SeekFrom::Start(from))?;
    io::copy(&mut (&source).take(bytes_max), &mut target)?;
    source.set_len(0)?;
    std::fs::rename(&fresh, &older)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn read_tail(path: &Path, start: u64) -> io::Result<Vec<u8>> {
    let mut file = private::open(path, Access::Read)?;
    let length = file.metadata()?.len();
    // A log that was set aside since is shorter than where this launch began in it.
    let start = if start > length { 0 } else { start };
    let from = start.max(length.saturating_sub(TAIL_BYTES_MAX));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn last_lines(text: &str) -> Option<String> {
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|char| !char.is_control()).collect::<String>())
        .filter(|line| !line.trim().is_empty())
        .collect();
    let kept = lines.get(lines.len().saturating_sub(TAIL_LINES_MAX)..)?;
    (!kept.is_empty()).then(|| kept.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn logs(bytes_max: u64) -> (tempfile::TempDir, Logs) {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::new(directory.path().to_owned(), bytes_max);
        (directory, logs)
    }

    #[test]
    fn only_a_log_over_its_bound_is_set_aside() {
        assert_eq!(decide(0, 10), Verdict::Keep);
        assert_eq!(decide(10, 10), Verdict::Keep);
        assert_eq!(decide(11, 10), Verdict::SetAside { from: 1 });
        assert_eq!(decide(35, 10), Verdict::SetAside { from: 25 });
    }

    #[tokio::test]
    async fn the_newest_bytes_are_kept_and_writers_go_on() {
        let (_directory, logs) = logs(10);
        let mut writer = logs.open(SERIAL_LOG).unwrap();
        writer.write_all(b"0123456789abcdef").unwrap();
        logs.bound().await.unwrap();
        assert_eq!(std::fs::read(logs.path("serial.log.1")).unwrap(), b"6789abcdef");
        writer.write_all(b"next").unwrap();
        assert_eq!(std::fs::read(logs.path(SERIAL_LOG)).unwrap(), b"next");
        logs.bound().await.unwrap();
        assert_eq!(logs.size(SERIAL_LOG), 4);
    }

    #[test]
    fn last_words_are_those_of_this_launch() {
        let (_directory, logs) = logs(1_000_000);
        let mut writer = logs.open(QEMU_LOG).unwrap();
        writer.write_all(b"old words\n").unwrap();
        let start = logs.size(QEMU_LOG);
        assert_eq!(logs.last_words(start), None);
        for line in 0..20 {
            writeln!(writer, "line {line}\u{1b}[31m").unwrap();
        }
        let words = logs.last_words(start).unwrap();
        assert_eq!(words.lines().count(), TAIL_LINES_MAX);
        assert!(words.starts_with("line 10[31m"));
        assert!(words.ends_with("line 19[31m"));
        std::fs::write(logs.path(QEMU_LOG), b"short\n").unwrap();
        assert_eq!(logs.last_words(start).as_deref(), Some("short"));
    }

    async fn wait_for_aside(logs: &Logs, expected: [u8; 10]) {
        let until = Instant::now() + Duration::from_secs(20);
        while !std::fs::read(logs.path("serial.log.1")).is_ok_and(|text| text == expected) {
            assert!(Instant::now() < until, "{expected:?}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_growing_log_is_noticed() {
        let (_directory, logs) = logs(10);
        let mut writer = logs.open(SERIAL_LOG).unwrap();
        let guard = tokio::spawn(logs.clone().guard());
        // The first round is the look at the start, the second one can only come from a notice.
        for round in [b'a', b'b'] {
            writer.write_all(&[round; 16]).unwrap();
            wait_for_aside(&logs, [round; 10]).await;
        }
        guard.abort();
    }

    #[test]
    fn logs_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, logs) = logs(10);
        let file = logs.open(QEMU_LOG).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
