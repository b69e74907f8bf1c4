//! Sizes in bytes, written with binary units as QEMU does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// A number of bytes. Written `512M`: K, M, G, T (or KiB, MiB, GiB, TiB) are powers of 1024, B is one byte.
/// In stored records it is the plain number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(pub u64);

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    /// No digits, or something that is neither digit nor unit.
    #[error("`{0}` is not a size")]
    Malformed(String),
    /// A number without a unit, where none is assumed.
    #[error("size `{0}` has no unit")]
    NoUnit(String),
    /// `KB`, `MB`, `GB`, `TB`: some read them as powers of 1000, some as powers of 1024.
    #[error("size `{text}` is ambiguous: `{unit}` may mean powers of 1000 or of 1024")]
    Decimal {
        /// The text.
        text: String,
        /// Its unit.
        unit: String,
        /// The same number with a binary unit.
        instead: String,
    },
    /// `1.5G`.
    #[error("size `{0}` has a fraction")]
    Fraction(String),
    /// More than 2^64 - 1 bytes.
    #[error("size `{0}` is too large")]
    TooLarge(String),
}

impl InvalidSize {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Malformed(_) | Self::TooLarge(_) => "sizes are like `512M`, `10G` or `1T`".to_owned(),
            Self::NoUnit(text) => format!("write `{text}G` or `{text}M`"),
            Self::Decimal { instead, .. } => format!("write `{instead}` (binary, as QEMU does)"),
            Self::Fraction(_) => {
                "write it in the next smaller unit, for example `1536M` for 1.5 G".to_owned()
            }
        }
    }
}

impl Size {
    /// A number of MiB.
    ///
    /// # Errors
    /// [`InvalidSize::TooLarge`] when the bytes do not fit in 64 bits.
    pub fn mebibytes(count: u64) -> Result<Self, InvalidSize> {
        count
            .checked_mul(MIB)
            .map(Self)
            .ok_or_else(|| InvalidSize::TooLarge(format!("{count}M")))
    }

    /// Bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(InvalidSize::Malformed(text.to_owned()));
        }
        if unit.starts_with('.') {
            return Err(InvalidSize::Fraction(text.to_owned()));
        }
        let factor = factor(text, number, unit.trim_start())?;
        let too_large = || InvalidSize::TooLarge(text.to_owned());
        let count: u64 = number.parse().map_err(|_| too_large())?;
        count.checked_mul(factor).map(Self).ok_or_else(too_large)
    }
}

fn factor(text: &str, number: &str, unit: &str) -> Result<u64, InvalidSize> {
    match unit.to_ascii_lowercase().as_str() {
        "" => Err(InvalidSize::NoUnit(text.to_owned())),
        "b" => Ok(1),
        "k" | "kib" => Ok(KIB),
        "m" | "mib" => Ok(MIB),
        "g" | "gib" => Ok(GIB),
        "t" | "tib" => Ok(TIB),
        "kb" | "mb" | "gb" | "tb" => {
            let letter = unit.get(..1).unwrap_or(unit).to_ascii_uppercase();
            Err(InvalidSize::Decimal {
                text: text.to_owned(),
                unit: unit.to_owned(),
                instead: format!("{number}{letter}"),
            })
        }
        _ => Err(InvalidSize::Malformed(text.to_owned())),
    }
}

/// The shortest form that reads back as the same number.
impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(TIB, "T"), (GIB, "G"), (MIB, "M"), (KIB, "K")];
        let whole = units
            .iter()
            .find(|(unit, _)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match whole {
            Some((unit, letter)) => write!(formatter, "{}{letter}", self.0 / unit),
            None => write!(formatter, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary() {
        for (text, bytes) in [
            ("1K", 1024),
            ("512M", 512 << 20),
            ("512 MiB", 512 << 20),
            ("10g", 10 << 30),
            ("2TiB", 2 << 40),
            ("1536B", 1536),
            ("0M", 0),
            ("18446744073709551615B", u64::MAX),
        ] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_refused_says_what_to_write() {
        let told: Vec<String> = [
            "",
            "G",
            "10",
            "10GB",
            "5kb",
            "1.5G",
            "-1G",
            "banana",
            "10 X",
            "99999999T",
            "99999999999999999999M",
        ]
        .iter()
        .map(|text| text.parse::<Size>().unwrap_err())
        .map(|error| format!("{error} | {}", error.hint()))
        .collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        `` is not a size | sizes are like `512M`, `10G` or `1T`
        `G` is not a size | sizes are like `512M`, `10G` or `1T`
        size `10` has no unit | write `10G` or `10M`
        size `10GB` is ambiguous: `GB` may mean powers of 1000 or of 1024 | write `10G` (binary, as QEMU does)
        size `5kb` is ambiguous: `kb` may mean powers of 1000 or of 1024 | write `5K` (binary, as QEMU does)
        size `1.5G` has a fraction | write it in the next smaller unit, for example `1536M` for 1.5 G
        `-1G` is not a size | sizes are like `512M`, `10G` or `1T`
        `banana` is not a size | sizes are like `512M`, `10G` or `1T`
        `10 X` is not a size | sizes are like `512M`, `10G` or `1T`
        size `99999999T` is too large | sizes are like `512M`, `10G` or `1T`
        size `99999999999999999999M` is too large | sizes are like `512M`, `10G` or `1T`
        "#);
    }

    #[test]
    fn what_is_shown_reads_back() {
        let shifts = 0..64_u32;
        let numbers = shifts.flat_map(|shift| {
            [
                1_u64 << shift,
                (1_u64 << shift) - 1,
                3_u64.wrapping_shl(shift),
                u64::MAX >> shift,
            ]
        });
        for number in numbers {
            let shown = Size(number).to_string();
            assert_eq!(shown.parse::<Size>().unwrap(), Size(number), "{shown}");
        }
    }
}
