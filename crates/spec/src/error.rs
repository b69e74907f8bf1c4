//! What is wrong with a spec, and where.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// Why a spec was refused, with the place in the text that is to be changed.
///
/// `Display` gives several lines for people: the message, the offending line with a marker, and `hint: …`. The
/// parts are there one by one for machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError(Box<Problem>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    message: String,
    field: Option<String>,
    file: Option<String>,
    place: Option<Place>,
    hint: Option<String>,
}

/// A place in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the file, or `command line`.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The whole line.
    pub text: String,
    /// Characters to mark.
    pub width: usize,
}

impl SpecError {
    /// A message: a lower-case fragment without a full stop.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            message: message.into(),
            field: None,
            file: None,
            place: None,
            hint: None,
        }))
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.0.hint = hint;
        self
    }

    #[must_use]
    pub(crate) fn field(mut self, field: Option<String>) -> Self {
        self.0.field = field.filter(|path| !path.is_empty());
        self
    }

    #[must_use]
    pub(crate) fn file(mut self, file: &str) -> Self {
        self.0.file = Some(file.to_owned());
        self
    }

    #[must_use]
    pub(crate) fn place(mut self, place: Option<Place>) -> Self {
        if let Some(place) = place {
            self.0.file = Some(place.file.clone());
            self.0.place = Some(place);
        }
        self
    }

    /// The first line: what is wrong.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Dotted path of the field, `disks.root.size`, when it is about one.
    pub fn field_path(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// File it is about; `command line` for overrides.
    pub fn file_name(&self) -> Option<&str> {
        self.0.file.as_deref()
    }

    /// Line in that file, from 1.
    pub fn line(&self) -> Option<usize> {
        self.0.place.as_ref().map(|place| place.line)
    }

    /// Column in that line in characters, from 1.
    pub fn column(&self) -> Option<usize> {
        self.0.place.as_ref().map(|place| place.column)
    }

    /// What to write or type instead.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The offending line with its position and a marker below, coloured when asked; no newline at the end.
    pub fn snippet(&self, colour: bool) -> Option<String> {
        let place = self.0.place.as_ref()?;
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let snippet = Snippet::source(place.text.as_str())
            .path(place.file.as_str())
            .line_start(place.line)
            .fold(false)
            .annotation(AnnotationKind::Primary.span(place.bytes()));
        Some(renderer.render(&[Group::with_level(Level::ERROR).element(snippet)]))
    }
}

impl Place {
    /// The marked part as a range of bytes of `text`.
    fn bytes(&self) -> std::ops::Range<usize> {
        let at = |characters: usize| {
            self.text
                .char_indices()
                .nth(characters)
                .map_or(self.text.len(), |(byte, _)| byte)
        };
        let start = self.column.saturating_sub(1);
        at(start)..at(start + self.width)
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.message)?;
        if let Some(snippet) = self.snippet(false) {
            write!(formatter, "\n{snippet}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(formatter, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecError {}
