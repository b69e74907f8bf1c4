//! The command line, as far as it matters.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context, bail};

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Guest name.
    pub(crate) name: String,
    /// Values of `-global`.
    pub(crate) globals: Vec<String>,
    /// `-S`: the guest waits for `cont`.
    pub(crate) paused: bool,
    /// `-action shutdown=pause`: a guest that ends leaves QEMU there.
    pub(crate) pauses_on_shutdown: bool,
    /// `-action reboot=shutdown` or `-no-reboot`.
    pub(crate) shuts_down_on_reboot: bool,
    /// File that what the guest prints is appended to.
    pub(crate) serial_log: Option<PathBuf>,
    chardevs: HashMap<String, Chardev>,
    monitors: Vec<String>,
    serials: Vec<String>,
}

/// One `-chardev socket`.
#[derive(Debug)]
struct Chardev {
    fd: Option<RawFd>,
    path: Option<PathBuf>,
    log: Option<PathBuf>,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// QMP.
    Monitor,
    /// The first serial port.
    Serial,
}

/// The words only ask what QEMU can do.
pub(crate) fn is_question(words: &[OsString]) -> bool {
    words.iter().any(|word| {
        ["-help", "--help", "-h", "-version", "--version", "help", "?"]
            .iter()
            .any(|q| word == q)
    })
}

impl Options {
    /// Reads the words. Options that make no difference here are taken with their value, whatever it is.
    pub(crate) fn parse(words: &[OsString]) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let mut words = words
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .peekable();
        while let Some(option) = words.next() {
            if !option.starts_with('-') {
                bail!("{option}: Could not open '{option}': No such file or directory");
            }
            let value = words.next_if(|word| !word.starts_with('-')).unwrap_or_default();
            options.take(option.trim_start_matches('-'), &value)?;
        }
        Ok(options)
    }

    fn take(&mut self, option: &str, value: &str) -> anyhow::Result<()> {
        match option {
            "S" => self.paused = true,
            "no-reboot" => self.shuts_down_on_reboot = true,
            "global" => self.globals.push(value.to_owned()),
            "name" => Keys::read(value)
                .get("guest")
                .unwrap_or(value)
                .clone_into(&mut self.name),
            "action" => self.actions(&Keys::read(value)),
            "chardev" => self.chardev(&Keys::read(value))?,
            "mon" => {
                let keys = Keys::read(value);
                let id = keys
                    .get("chardev")
                    .or(keys.first())
                    .context("-mon: chardev is missing")?;
                self.monitors.push(id.to_owned());
            }
            "serial" => self
                .serials
                .extend(value.strip_prefix("chardev:").map(str::to_owned)),
            _ => (),
        }
        Ok(())
    }

    fn actions(&mut self, keys: &Keys) {
        self.pauses_on_shutdown |= keys.get("shutdown") == Some("pause");
        self.shuts_down_on_reboot |= keys.get("reboot") == Some("shutdown");
    }

    fn chardev(&mut self, keys: &Keys) -> anyhow::Result<()> {
        let id = keys.get("id").context("-chardev: id is missing")?;
        let fd = keys
            .get("fd")
            .map(str::parse)
            .transpose()
            .context("-chardev: fd is no number")?;
        let path = |key| keys.get(key).map(PathBuf::from);
        let chardev = Chardev {
            fd,
            path: path("path"),
            log: path("logfile"),
        };
        if self.chardevs.insert(id.to_owned(), chardev).is_some() {
            bail!("-chardev: Duplicate ID '{id}' for chardev");
        }
        Ok(())
    }

    /// Listens on every socket of a monitor or serial port, as QEMU does before its greeting.
    pub(crate) fn listeners(&mut self) -> anyhow::Result<Vec<(Role, UnixListener)>> {
        let monitors = self.monitors.iter().map(|id| (Role::Monitor, id));
        let serials = self.serials.iter().map(|id| (Role::Serial, id));
        let mut listeners = Vec::new();
        for (role, id) in monitors.chain(serials) {
            let chardev = self
                .chardevs
                .get(id)
                .with_context(|| format!("chardev \"{id}\" not found"))?;
            listeners.push((
                role,
                chardev.listen().with_context(|| format!("chardev \"{id}\""))?,
            ));
            if role == Role::Serial {
                self.serial_log.clone_from(&chardev.log);
            }
        }
        Ok(listeners)
    }
}

impl Chardev {
    #[expect(
        unsafe_code,
        reason = "an inherited descriptor is a number on the command line"
    )]
    fn listen(&self) -> anyhow::Result<UnixListener> {
        if let Some(path) = &self.path {
            return Ok(UnixListener::bind(path)?);
        }
        let fd = self.fd.context("neither fd nor path")?;
        anyhow::ensure!(
            PathBuf::from(format!("/proc/self/fd/{fd}")).exists(),
            "fd {fd} was not passed"
        );
        // SAFETY: it is open, it was passed for this chardev, and every chardev is listened on once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::net::listen(&fd, 1)?;
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(false)?;
        Ok(listener)
    }
}

/// `key=value,key=value`, a doubled comma being a comma.
#[derive(Debug)]
struct Keys(Vec<(String, String)>);

impl Keys {
    fn read(text: &str) -> Self {
        let hidden = text.replace(",,", "\0");
        let parts = hidden.split(',').map(|part| part.replace('\0', ","));
        let pair = |part: String| match part.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (part, String::new()),
        };
        Self(parts.map(pair).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The first word, where it stands without a key.
    fn first(&self) -> Option<&str> {
        self.0
            .first()
            .filter(|(_, value)| value.is_empty())
            .map(|(name, _)| name.as_str())
    }
}
