//! Where the text of a spec comes from.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Place, SpecError};

/// Largest file that is read, bytes. Nobody writes such a spec by hand, and the YAML parser's time grows with the
/// square of some inputs.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;

/// One text to read: a file, standard input, or an override of the command line.
#[derive(Clone, Debug)]
pub struct Source {
    /// Name shown in errors.
    label: String,
    /// Absolute directory that relative paths in the text refer to.
    directory: PathBuf,
    /// The YAML.
    text: String,
    /// What stood before the text where it was typed: `--set memory=`.
    lead: String,
}

impl Source {
    /// A text, the name it is shown with in errors, and the absolute directory that relative paths in it refer to.
    pub fn new(label: impl Into<String>, directory: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            directory: directory.into(),
            text: text.into(),
            lead: String::new(),
        }
    }

    /// Reads a file; relative paths in it refer to its directory.
    ///
    /// # Errors
    /// When the file cannot be read, is larger than [`SOURCE_BYTES_MAX`], or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        let label = path.display().to_string();
        let failed =
            |error: std::io::Error| SpecError::new(format!("cannot read `{label}`: {error}")).file(&label);
        let mut bytes = Vec::new();
        let limit = u64::try_from(SOURCE_BYTES_MAX)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        File::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(failed)?;
        let absolute = std::path::absolute(path).map_err(failed)?;
        let directory = absolute.parent().unwrap_or(Path::new("/")).to_path_buf();
        Self::from_bytes(label, directory, bytes)
    }

    /// As [`Source::new`], for bytes that may not be text.
    ///
    /// # Errors
    /// When they are not UTF-8 or more than [`SOURCE_BYTES_MAX`].
    pub fn from_bytes(
        label: impl Into<String>,
        directory: impl Into<PathBuf>,
        bytes: Vec<u8>,
    ) -> Result<Self, SpecError> {
        let label = label.into();
        if bytes.len() > SOURCE_BYTES_MAX {
            return Err(too_large(&label));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(label, directory, text)),
            Err(error) => {
                let valid = error
                    .as_bytes()
                    .get(..error.utf8_error().valid_up_to())
                    .unwrap_or_default();
                let line = valid.split(|byte| *byte == b'\n').count();
                Err(SpecError::new(format!("line {line} of `{label}` is not UTF-8 text")).file(&label))
            }
        }
    }

    /// Name shown in errors.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The YAML.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Absolute directory that relative paths in the text refer to.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The text of an override with the words of the command line before it.
    pub(crate) fn typed(lead: String, directory: &Path, text: &str) -> Self {
        Self {
            label: "command line".to_owned(),
            directory: directory.to_path_buf(),
            text: text.to_owned(),
            lead,
        }
    }

    /// A position of the text, both counted from 1, as it is shown to people. `width` in characters; `None` takes
    /// the word that begins there.
    pub(crate) fn place(&self, line: usize, column: usize, width: Option<usize>) -> Place {
        let bare = self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        let bare = bare.trim_end_matches('\r');
        let lead = if line == 1 { self.lead.as_str() } else { "" };
        let rest: String = bare.chars().skip(column.saturating_sub(1)).collect();
        let width = width.unwrap_or_else(|| word_width(&rest, bare));
        Place {
            file: self.label.clone(),
            line,
            column: column + lead.chars().count(),
            text: format!("{lead}{bare}"),
            width,
        }
    }

    /// As [`Source::place`]; a position on an empty line, where the end of the text is noticed, becomes the end of
    /// the last line before it with something on it.
    pub(crate) fn place_or_before(&self, line: usize, column: usize) -> Place {
        let lines: Vec<&str> = self.text.lines().take(line).collect();
        let here = lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let before = lines.iter().rposition(|line| !line.trim().is_empty());
        match before {
            Some(index) if here.trim().is_empty() => {
                let end = lines.get(index).map_or(0, |text| text.trim_end().chars().count());
                self.place(index + 1, end + 1, Some(1))
            }
            _ => self.place(line, column, None),
        }
    }

    /// A position in the words before the text, columns counted from 1.
    pub(crate) fn place_in_lead(&self, column: usize, width: usize) -> Place {
        let first = self.text.lines().next().unwrap_or_default();
        Place {
            file: self.label.clone(),
            line: 1,
            column,
            text: format!("{}{first}", self.lead),
            width,
        }
    }
}

/// The error for a text above [`SOURCE_BYTES_MAX`].
pub(crate) fn too_large(label: &str) -> SpecError {
    SpecError::new(format!("`{label}` is larger than 1 MiB")).file(label)
}

/// Characters of the YAML word that `rest` begins with: a quoted text, a key, or a plain scalar. Only used to draw
/// the underline, so a guess is good enough.
fn word_width(rest: &str, line: &str) -> usize {
    let mut characters = rest.chars();
    match characters.next() {
        None | Some('[' | '{') => 1,
        Some(quote @ ('"' | '\'')) => characters.position(|c| c == quote).map_or(1, |end| end + 2),
        Some(_) => {
            let flow = line.contains(['[', '{']);
            let cut = plain_end(rest, flow);
            rest.get(..cut).unwrap_or(rest).trim_end().chars().count().max(1)
        }
    }
}

/// Byte where the plain scalar or key at the beginning of `rest` ends.
fn plain_end(rest: &str, flow: bool) -> usize {
    let mut stops: Vec<Option<usize>> = vec![rest.find(" #"), rest.find(": ")];
    if rest.ends_with(':') {
        stops.push(Some(rest.len() - 1));
    }
    if flow {
        stops.push(rest.find([']', '}', ',']));
    }
    stops.into_iter().flatten().min().unwrap_or(rest.len())
}

/// One `--set PATH=VALUE`: PATH is dotted (`kernel.append`, `networks.lan.forwards.0`), VALUE is YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    path: Vec<String>,
    value: String,
}

impl Override {
    /// The keys of PATH.
    pub fn path(&self) -> &[String] {
        &self.path
    }

    /// VALUE as typed.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl FromStr for Override {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            SpecError::new(format!("`--set {text}` is not PATH=VALUE"))
                .hint("for example `--set memory=1G` or `--set kernel.append=quiet`")
        };
        let (path, value) = text.split_once('=').ok_or_else(wrong)?;
        let path: Vec<String> = path.split('.').map(|key| key.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self {
            path,
            value: value.to_owned(),
        })
    }
}
