//! The secret of the control socket, from its file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use maqet_state::secret::Secret;
use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use crate::error::CliError;
use crate::settings::KEY_FILE;

/// Length of the file: two digits per byte and a line end.
const FILE_BYTES: usize = Secret::BYTES * 2 + 1;

/// Reads `control.key`: 64 hexadecimal digits and a line end, readable by nobody else.
///
/// # Errors
/// [`CliError::Secret`] when it is missing, open to others, somebody else's, or not a secret.
pub(crate) fn read(data_dir: &Path) -> Result<Secret, CliError> {
    let path = data_dir.join(KEY_FILE);
    let wrong = |problem: String, hint: Option<String>| CliError::Secret {
        path: path.clone(),
        problem,
        hint,
    };
    let mut file = open(&path).map_err(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            return wrong(format!("cannot be read: {error}"), None);
        }
        let hint = "give the `--data-dir` that this supervisor was started with";
        wrong(
            "does not exist, though a supervisor listens".to_owned(),
            Some(hint.to_owned()),
        )
    })?;
    let about = file
        .metadata()
        .map_err(|error| wrong(format!("cannot be read: {error}"), None))?;
    if about.mode() & 0o077 != 0 {
        let chmod = format!("chmod 600 {}", path.display());
        let mode = about.mode() & 0o7777;
        return Err(wrong(
            format!("is open to other users (mode {mode:04o})"),
            Some(chmod),
        ));
    }
    let own = nix::unistd::geteuid();
    if about.uid() != own.as_raw() && !own.is_root() {
        return Err(wrong(
            format!("belongs to uid {}, not to uid {own}", about.uid()),
            None,
        ));
    }
    // One byte more than there may be, allocated at once: growing would leave copies of the secret behind.
    let mut text = Zeroizing::new(vec![0; FILE_BYTES + 1]);
    let length =
        fill(&mut file, &mut text).map_err(|error| wrong(format!("cannot be read: {error}"), None))?;
    let text = text.get(..length).unwrap_or_default();
    parse(text).ok_or_else(|| wrong("is not 64 hexadecimal digits".to_owned(), None))
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

fn parse(text: &[u8]) -> Option<Secret> {
    let digits = text.strip_suffix(b"\n").unwrap_or(text);
    if digits.len() != Secret::BYTES * 2 {
        return None;
    }
    let mut bytes = Zeroizing::new([0_u8; Secret::BYTES]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (digit(*pair.first()?)? << 4) | digit(*pair.last()?)?;
    }
    Some(Secret::from_bytes(*bytes))
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::read;

    fn with_file(text: &str, mode: u32) -> Result<[u8; 32], String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        match read(directory.path()) {
            Ok(secret) => Ok(*secret.as_bytes()),
            Err(error) => Err(error
                .to_string()
                .replace(&directory.path().display().to_string(), "DIR")),
        }
    }

    #[test]
    fn digits_become_bytes() {
        let text = format!("{}\n", "0a".repeat(32));
        assert_eq!(with_file(&text, 0o600), Ok([10; 32]));
        assert_eq!(with_file(text.trim_end(), 0o400), Ok([10; 32]));
    }

    #[test]
    fn a_file_open_to_others_is_refused() {
        let text = format!("{}\n", "ff".repeat(32));
        for mode in [0o640, 0o604, 0o666, 0o610] {
            let error = with_file(&text, mode).unwrap_err();
            assert_eq!(
                error,
                format!("secret file `DIR/control.key` is open to other users (mode {mode:04o})")
            );
        }
    }

    #[test]
    fn anything_else_is_not_a_secret() {
        let long = format!("{}\n", "00".repeat(33));
        for text in ["", "\n", "00", &"zz".repeat(32), &"AB".repeat(32), &long] {
            let error = with_file(text, 0o600).unwrap_err();
            assert_eq!(
                error, "secret file `DIR/control.key` is not 64 hexadecimal digits",
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_missing_file_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let error = read(directory.path()).unwrap_err();
        assert_eq!(error.exit().code(), 7);
    }
}
