//! The only way to stdout and stderr.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::args::{Color, Format, Global};
use crate::error::CliError;
use crate::render::yaml;

/// Data goes to stdout, talk and progress to stderr.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    verbose: u8,
    color: ColorChoice,
    /// The progress line now on the terminal, if there is one; it steps aside for everything else.
    pub(crate) line: RefCell<Option<ProgressBar>>,
}

impl Output {
    /// What the global options ask for.
    pub(crate) fn new(global: &Global) -> Self {
        let color = match global.color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        };
        Self {
            format: global.output,
            quiet: global.quiet,
            verbose: global.verbose,
            color,
            line: RefCell::new(None),
        }
    }

    /// Form of the answer.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Whether a progress line would be seen and is wanted.
    pub(crate) fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Whether the progress line may be coloured.
    pub(crate) fn colors_progress(&self) -> bool {
        self.colors(AutoStream::choice(&io::stderr()))
    }

    /// Whether a stream gets colours, given what it would get by itself.
    fn colors(&self, own: ColorChoice) -> bool {
        let choice = if self.color == ColorChoice::Auto {
            own
        } else {
            self.color
        };
        choice != ColorChoice::Never
    }

    /// The text as a stream gets it. Whole, so that one write shows it: lines of other programs stay out of it.
    fn coloured<'a>(&self, own: ColorChoice, text: &'a str) -> Cow<'a, str> {
        if self.colors(own) {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(strip_str(text).to_string())
        }
    }

    /// Writes an answer in the form asked for; `table` and `name` are made only when needed.
    ///
    /// # Errors
    /// [`CliError::Stdout`].
    pub(crate) fn answer<T: Serialize>(
        &self,
        value: &T,
        table: impl FnOnce() -> String,
        name: impl FnOnce() -> String,
    ) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => table(),
            Format::Name => name(),
            Format::Json => json(value)?,
            Format::Yaml => yaml::write(&serde_json::to_value(value).map_err(CliError::Encode)?),
        };
        self.data(&text)
    }

    /// Writes text to stdout, with a line end when it has none.
    ///
    /// # Errors
    /// [`CliError::Stdout`].
    pub(crate) fn data(&self, text: &str) -> Result<(), CliError> {
        if text.is_empty() {
            return Ok(());
        }
        let text = self.coloured(AutoStream::choice(&io::stdout()), text);
        self.aside(|| write_line(&mut io::stdout().lock(), &text))
            .map_err(CliError::Stdout)
    }

    /// Writes bytes to stdout as they are.
    ///
    /// # Errors
    /// [`CliError::Stdout`].
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        self.aside(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        })
        .map_err(CliError::Stdout)
    }

    /// Says something on stderr, unless `-q` was given.
    ///
    /// # Errors
    /// [`CliError::Stderr`].
    pub(crate) fn say(&self, text: &str) -> Result<(), CliError> {
        if self.quiet {
            return Ok(());
        }
        self.talk(text)
    }

    /// Says something on stderr when `-v` was given.
    ///
    /// # Errors
    /// [`CliError::Stderr`].
    pub(crate) fn detail(&self, text: &str) -> Result<(), CliError> {
        if self.verbose == 0 {
            return Ok(());
        }
        self.talk(text)
    }

    /// Asks a question on stderr that is answered with `y` or `yes` on the same line, or with anything else for no.
    ///
    /// # Errors
    /// [`CliError::Declined`]; those of the terminal.
    pub(crate) fn confirm(&self, question: &str) -> Result<(), CliError> {
        self.aside(|| {
            let mut stderr = io::stderr().lock();
            stderr
                .write_all(question.as_bytes())
                .and_then(|()| stderr.write_all(b" [y/N] "))
                .and_then(|()| stderr.flush())
        })
        .map_err(CliError::Stderr)?;
        let mut answer = String::new();
        io::stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(CliError::call("read the answer"))?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(CliError::Declined)
    }

    /// Reports an error in the form asked for.
    ///
    /// # Errors
    /// [`CliError::Stderr`].
    pub(crate) fn error(&self, error: &CliError) -> Result<(), CliError> {
        let report = error.report();
        match self.format {
            Format::Json => self.talk(&report.json()),
            Format::Table | Format::Yaml | Format::Name => self.talk(&report.text()),
        }
    }

    /// Reports an error as JSON before it is known how to report anything.
    ///
    /// # Errors
    /// [`CliError::Stderr`].
    pub(crate) fn json_error(error: &CliError) -> Result<(), CliError> {
        write_line(&mut io::stderr(), &error.report().json()).map_err(CliError::Stderr)
    }

    fn talk(&self, text: &str) -> Result<(), CliError> {
        let text = self.coloured(AutoStream::choice(&io::stderr()), text);
        self.aside(|| write_line(&mut io::stderr().lock(), &text))
            .map_err(CliError::Stderr)
    }

    fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &*self.line.borrow() {
            Some(line) => line.suspend(write),
            None => write(),
        }
    }
}

/// Whether nobody reads any more: the end of the run, but nobody's failure.
pub(crate) fn is_closed_pipe(error: &CliError) -> bool {
    if let CliError::Stdout(source) | CliError::Stderr(source) = error {
        return source.kind() == ErrorKind::BrokenPipe;
    }
    false
}

/// A value as JSON: readable on many lines, as it is the same document on a terminal and in a file.
fn json<T: Serialize>(value: &T) -> Result<String, CliError> {
    serde_json::to_string_pretty(value).map_err(CliError::Encode)
}

fn write_line(stream: &mut impl Write, text: &str) -> io::Result<()> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    stream.write_all(format!("{text}{end}").as_bytes())?;
    stream.flush()
}
