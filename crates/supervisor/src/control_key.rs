//! The installation's key: whoever can read it may command the supervisor.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use maqet_process::private::{self, Access};
use maqet_state::secret::Secret;
use zeroize::Zeroizing;

/// Most that is read of a key file, bytes: 64 digits, the end of the line, and one more that is too many.
const KEY_BYTES_MAX: u64 = 66;

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlKeyError {
    /// It cannot be read or made.
    #[error("control key `{path}`")]
    Io { path: PathBuf, source: std::io::Error },
    /// Others could have read it.
    #[error("control key `{path}` has mode {mode:03o}; others may have read it: delete it and start again")]
    TooOpen { path: PathBuf, mode: u32 },
    /// It holds something else.
    #[error("control key `{path}` is not 64 hexadecimal digits: delete it and start again")]
    Malformed { path: PathBuf },
}

/// Reads `control.key` of the data directory; makes it when there is none.
pub(crate) fn load_or_create(data: &Path) -> Result<Secret, ControlKeyError> {
    let path = data.join("control.key");
    match private::open(&path, Access::Read) {
        Ok(file) => read(file, path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(&path),
        Err(source) => Err(ControlKeyError::Io { path, source }),
    }
}

fn read(file: File, path: PathBuf) -> Result<Secret, ControlKeyError> {
    let io = |source| ControlKeyError::Io {
        path: path.clone(),
        source,
    };
    let mode = file.metadata().map_err(io)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(ControlKeyError::TooOpen { path, mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(128));
    let read = file.take(KEY_BYTES_MAX).read_to_string(&mut text);
    read.map_err(io)?;
    let digits = text.trim_end();
    let mut bytes = Zeroizing::new([0_u8; 32]);
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(ControlKeyError::Malformed { path });
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair)
            .ok()
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        *byte = pair.ok_or_else(|| ControlKeyError::Malformed { path: path.clone() })?;
    }
    Ok(Secret::from_bytes(*bytes))
}

/// Written under another name and linked into place: a half-written key is never seen.
fn create(path: &Path) -> Result<Secret, ControlKeyError> {
    let io = |source| ControlKeyError::Io {
        path: path.to_owned(),
        source,
    };
    let secret = Secret::random().map_err(|error| io(std::io::Error::other(error)))?;
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in secret.as_bytes() {
        write!(text, "{byte:02x}").map_err(|error| io(std::io::Error::other(error)))?;
    }
    text.push('\n');
    let fresh = path.with_extension("key.new");
    match fs::remove_file(&fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(io)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io)?;
    fs::rename(&fresh, path).map_err(io)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn made_once_then_read() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path()).unwrap();
        let second = load_or_create(dir.path()).unwrap();
        assert_eq!(first.as_bytes(), second.as_bytes());
        let mode = fs::metadata(dir.path().join("control.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn wide_modes_and_other_text_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.key");
        fs::write(&path, "abc").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            load_or_create(dir.path()),
            Err(ControlKeyError::Malformed { .. })
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            load_or_create(dir.path()),
            Err(ControlKeyError::TooOpen { .. })
        ));
    }
}
