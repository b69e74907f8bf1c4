//! What is mounted where.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::StorageError;

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted; absolute.
    pub point: PathBuf,
    /// File system type, for example `ext4` or `fuse.sshfs`.
    pub kind: String,
}

/// What is mounted in our mount namespace, in the order it was mounted.
pub(super) fn current() -> Result<Vec<Mount>, StorageError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(path).map_err(StorageError::file("read", path))?;
    Ok(parse(&text))
}

/// Reads `mountinfo`, see `proc(5)`. A line of another form is skipped: it can only make the policy more liberal
/// about that one mount, and what is really there is judged by file permissions.
pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = fields.nth(4)?;
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let point = PathBuf::from(OsString::from_vec(unescape(point)));
    point.is_absolute().then_some(Mount { point, kind })
}

/// Undoes the octal escapes for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'\\').then(|| tail.get(..3)).flatten().and_then(octal);
        plain.push(escaped.unwrap_or(*first));
        rest = tail
            .get(if escaped.is_some() { 3 } else { 0 }..)
            .unwrap_or_default();
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}
