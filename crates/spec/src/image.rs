//! Names of images in the library.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, bytes.
const LENGTH_MAX: usize = 63;

/// Name of an image in the library: `[a-z0-9][a-z0-9._-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

/// A text that is no such name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not an image name: write up to 63 of a-z 0-9 . _ -, the first a letter or digit", text.escape_debug())]
pub struct InvalidImageName {
    text: String,
}

impl ImageName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name like the text, for example like a file's: `Debian-12.QCOW2` is `debian-12`. `None` when nothing is left.
    pub fn like(text: &str) -> Option<Self> {
        let stem = text.rsplit_once('.').map_or(text, |(stem, _ending)| stem);
        let lower = stem.to_ascii_lowercase();
        let kept: String = lower
            .chars()
            .map(|letter| if allowed(letter) { letter } else { '-' })
            .collect();
        let kept: String = kept
            .trim_start_matches(['.', '_', '-'])
            .chars()
            .take(LENGTH_MAX)
            .collect();
        kept.parse().ok()
    }
}

fn allowed(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '.' | '_' | '-')
}

impl FromStr for ImageName {
    type Err = InvalidImageName;

    fn from_str(text: &str) -> Result<Self, InvalidImageName> {
        let begins = text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
        if begins && text.len() <= LENGTH_MAX && text.chars().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidImageName {
            text: text.to_owned(),
        })
    }
}

impl TryFrom<String> for ImageName {
    type Error = InvalidImageName;

    fn try_from(text: String) -> Result<Self, InvalidImageName> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for name in ["debian-12", "a", "0.1_x", &"a".repeat(63)] {
            assert_eq!(name.parse::<ImageName>().unwrap().as_str(), name);
        }
        for name in ["", ".hidden", "..", "-x", "a/b", "A", "ä", "a b", &"a".repeat(64)] {
            assert!(name.parse::<ImageName>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_name_is_made_of_a_files_name() {
        for (file, name) in [
            ("Debian 12 (x).qcow2", Some("debian-12--x-")),
            ("base.raw", Some("base")),
            (".img", None),
            ("...", None),
            ("a", Some("a")),
        ] {
            assert_eq!(
                ImageName::like(file).as_ref().map(ImageName::as_str),
                name,
                "{file}"
            );
        }
    }
}
