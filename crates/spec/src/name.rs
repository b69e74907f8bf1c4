//! Names of VMs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, in characters (all of them are one byte).
const NAME_CHARACTERS_MAX: usize = 63;
/// From this many hexadecimal digits on, a text is a prefix of an id.
const ID_PREFIX_MIN: usize = 8;

/// Name of a VM: `[a-z0-9][a-z0-9._-]{0,62}`, and not 8 or more hexadecimal digits only, which would read as an id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

/// Why a text is not a name: one variant per rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVmName {
    /// Nothing at all.
    #[error("a VM name cannot be empty")]
    Empty,
    /// More than 63 characters.
    #[error("a VM name has at most 63 characters, this one has {length}")]
    TooLong {
        /// Characters of the text.
        length: usize,
    },
    /// A dot, dash or underscore at the beginning would read as an option or a hidden file.
    #[error("`{text}` is not a VM name: it starts with `{found}` instead of a letter or digit")]
    FirstCharacter {
        /// The text.
        text: String,
        /// Its first character, escaped when it cannot be shown.
        found: String,
    },
    /// A character outside `a-z 0-9 . _ -`.
    #[error("`{text}` is not a VM name: `{found}` is not one of a-z 0-9 . _ -")]
    Character {
        /// The text, unprintable characters escaped.
        text: String,
        /// The character, escaped when it cannot be shown.
        found: String,
    },
    /// Only hexadecimal digits, eight or more.
    #[error("`{text}` is not a VM name: 8 or more hexadecimal digits read as an id")]
    LooksLikeId {
        /// The text.
        text: String,
    },
}

impl InvalidVmName {
    /// A name that would do, or the rule in short.
    pub fn hint(&self) -> String {
        match self {
            Self::Empty | Self::TooLong { .. } => rule(),
            Self::FirstCharacter { text, .. } | Self::Character { text, .. } => {
                near(text).as_ref().map_or_else(rule, try_it)
            }
            Self::LooksLikeId { text } => near(&format!("vm-{text}")).as_ref().map_or_else(rule, try_it),
        }
    }
}

fn rule() -> String {
    "names are like `web-1`: a letter or digit, then up to 62 of a-z 0-9 . _ -".to_owned()
}

fn try_it(name: &VmName) -> String {
    format!("`{name}` would do")
}

/// The valid name that is closest to `text`, if something is left of it.
fn near(text: &str) -> Option<VmName> {
    let kept: String = text
        .chars()
        .map(|c| {
            if is_allowed(c.to_ascii_lowercase()) {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let trimmed = kept.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    VmName::new(trimmed).ok()
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-')
}

fn shown(c: char) -> String {
    if c.is_control() {
        c.escape_default().to_string()
    } else {
        c.to_string()
    }
}

impl VmName {
    /// Checks a name.
    ///
    /// # Errors
    /// The rule that the text breaks.
    pub fn new(text: &str) -> Result<Self, InvalidVmName> {
        let Some(first) = text.chars().next() else {
            return Err(InvalidVmName::Empty);
        };
        let printable: String = text.chars().map(shown).collect();
        if let Some(found) = text.chars().find(|c| !is_allowed(*c)) {
            return Err(InvalidVmName::Character {
                text: printable,
                found: shown(found),
            });
        }
        if !first.is_ascii_alphanumeric() {
            return Err(InvalidVmName::FirstCharacter {
                text: printable,
                found: shown(first),
            });
        }
        if text.len() > NAME_CHARACTERS_MAX {
            return Err(InvalidVmName::TooLong { length: text.len() });
        }
        if text.len() >= ID_PREFIX_MIN && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidVmName::LooksLikeId { text: printable });
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VmName {
    type Error = InvalidVmName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl FromStr for VmName {
    type Err = InvalidVmName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.0
    }
}

impl AsRef<str> for VmName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_pass() {
        let longest = "a".repeat(62) + "z";
        for name in [
            "web",
            "a",
            "0",
            "web-1.test_2",
            "deadbee",
            "vm-deadbeef",
            "1234567",
            longest.as_str(),
        ] {
            assert_eq!(VmName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_do_not() {
        let told: Vec<String> = [
            "",
            "~",
            "Web",
            "-x",
            "..",
            "a b",
            "a/b",
            "deadbeef",
            "123456789",
            "a\u{7}",
            "ü",
            &"a".repeat(64),
        ]
        .iter()
        .map(|text| VmName::new(text).unwrap_err())
        .map(|error| format!("{error} | {}", error.hint()))
        .collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        a VM name cannot be empty | names are like `web-1`: a letter or digit, then up to 62 of a-z 0-9 . _ -
        `~` is not a VM name: `~` is not one of a-z 0-9 . _ - | names are like `web-1`: a letter or digit, then up to 62 of a-z 0-9 . _ -
        `Web` is not a VM name: `W` is not one of a-z 0-9 . _ - | `web` would do
        `-x` is not a VM name: it starts with `-` instead of a letter or digit | `x` would do
        `..` is not a VM name: it starts with `.` instead of a letter or digit | names are like `web-1`: a letter or digit, then up to 62 of a-z 0-9 . _ -
        `a b` is not a VM name: ` ` is not one of a-z 0-9 . _ - | `a-b` would do
        `a/b` is not a VM name: `/` is not one of a-z 0-9 . _ - | `a-b` would do
        `deadbeef` is not a VM name: 8 or more hexadecimal digits read as an id | `vm-deadbeef` would do
        `123456789` is not a VM name: 8 or more hexadecimal digits read as an id | `vm-123456789` would do
        `a\u{7}` is not a VM name: `\u{7}` is not one of a-z 0-9 . _ - | `a-u-7` would do
        `ü` is not a VM name: `ü` is not one of a-z 0-9 . _ - | names are like `web-1`: a letter or digit, then up to 62 of a-z 0-9 . _ -
        a VM name has at most 63 characters, this one has 64 | names are like `web-1`: a letter or digit, then up to 62 of a-z 0-9 . _ -
        "#);
    }

    #[test]
    fn a_stored_name_is_checked_too() {
        assert!(serde_json::from_str::<VmName>("\"Web\"").is_err());
        assert_eq!(serde_json::from_str::<VmName>("\"web\"").unwrap().as_str(), "web");
    }
}
