//! What goes wrong.
//!
//! A script is words joined by `+`, some with a number: `stale+late-greeting=300`. It is the first found of
//! `-global fake.script=…`, the variable `FAKE_QEMU_SCRIPT`, and the file named like the program with `.script` added.

use std::time::Duration;

use anyhow::{Context, bail};

/// Deviations from a well-behaved QEMU; without any, the guest honours the power button.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches, any mix of them is a script"
)]
pub(crate) struct Script {
    /// `fail`: exits at once with words on stderr.
    pub(crate) fails: bool,
    /// `mute`: accepts connections, never greets.
    pub(crate) mute: bool,
    /// `late-greeting=MS`: greets so much later.
    pub(crate) greeting_delay: Option<Duration>,
    /// `close`: hangs up on whoever connects.
    pub(crate) closes: bool,
    /// `reject-capabilities`: refuses to leave negotiation mode.
    pub(crate) rejects_capabilities: bool,
    /// `silent`: answers nothing after the negotiation.
    pub(crate) silent: bool,
    /// `stale`: sends replies with foreign ids before the greeting and before each reply.
    pub(crate) stale: bool,
    /// `long-reply`: `query-name` is answered with 200 kB.
    pub(crate) long_reply: bool,
    /// `ignore-quit`: answers `quit`, and stays.
    pub(crate) ignores_quit: bool,
    /// `hang-quit`: does not answer `quit`, and stays.
    pub(crate) hangs_on_quit: bool,
    /// `hang-stop`: does not answer `stop`.
    pub(crate) hangs_on_stop: bool,
    /// `leave-on-stop`: hangs up instead of answering `stop`, and ends a little later as if told to.
    pub(crate) leaves_on_stop: bool,
    /// `ignore-powerdown`: the guest does not listen to the power button.
    pub(crate) ignores_powerdown: bool,
    /// `segv-on-reset`: QEMU crashes when it is asked for a reset.
    pub(crate) crashes_on_reset: bool,
    /// What the guest does as soon as it runs.
    pub(crate) guest: Option<Guest>,
}

/// What the guest does as soon as it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// `segv`: QEMU crashes.
    Segv,
    /// `exit=CODE`: QEMU ends without a word.
    Exit(u8),
    /// `poweroff`.
    PowerOff,
    /// `reset`.
    Reset,
    /// `panic`.
    Panic,
    /// `flood=N`: so many events.
    Flood(u32),
    /// `garbage`: a line that is no JSON.
    Garbage,
}

impl Script {
    /// Finds and reads the script.
    pub(crate) fn find(globals: &[String]) -> anyhow::Result<Self> {
        let global = globals
            .iter()
            .find_map(|global| global.strip_prefix("fake.script="));
        if let Some(text) = global {
            return Self::parse(text);
        }
        if let Ok(text) = std::env::var("FAKE_QEMU_SCRIPT") {
            return Self::parse(&text);
        }
        let mut file = std::env::current_exe()?.into_os_string();
        file.push(".script");
        match std::fs::read_to_string(&file) {
            Ok(text) => Self::parse(text.trim()),
            Err(_) => Ok(Self::default()),
        }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut script = Self::default();
        for word in text.split('+').filter(|word| !word.is_empty()) {
            script
                .take(word)
                .with_context(|| format!("script word `{word}`"))?;
        }
        Ok(script)
    }

    fn take(&mut self, word: &str) -> anyhow::Result<()> {
        let (word, number) = word.split_once('=').unwrap_or((word, "0"));
        let number: u32 = number.parse()?;
        match word {
            "late-greeting" => self.greeting_delay = Some(Duration::from_millis(number.into())),
            "segv" => self.guest = Some(Guest::Segv),
            "exit" => self.guest = Some(Guest::Exit(number.try_into()?)),
            "poweroff" => self.guest = Some(Guest::PowerOff),
            "reset" => self.guest = Some(Guest::Reset),
            "panic" => self.guest = Some(Guest::Panic),
            "flood" => self.guest = Some(Guest::Flood(number)),
            "garbage" => self.guest = Some(Guest::Garbage),
            _ => *self.switch(word)? = true,
        }
        Ok(())
    }

    fn switch(&mut self, word: &str) -> anyhow::Result<&mut bool> {
        Ok(match word {
            "fail" => &mut self.fails,
            "mute" => &mut self.mute,
            "close" => &mut self.closes,
            "reject-capabilities" => &mut self.rejects_capabilities,
            "silent" => &mut self.silent,
            "stale" => &mut self.stale,
            "long-reply" => &mut self.long_reply,
            "ignore-quit" => &mut self.ignores_quit,
            "hang-quit" => &mut self.hangs_on_quit,
            "hang-stop" => &mut self.hangs_on_stop,
            "leave-on-stop" => &mut self.leaves_on_stop,
            "ignore-powerdown" => &mut self.ignores_powerdown,
            "segv-on-reset" => &mut self.crashes_on_reset,
            _ => bail!("unknown"),
        })
    }
}
