//! Reading a log that grows and is now and then set aside.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::CliError;
use crate::watch::Watch;

/// Read at once at most.
const PART_BYTES: usize = 64 * 1024;
/// Last bytes remembered, to find the place in a log that was set aside.
const MEMORY_BYTES: usize = 4 * 1024;

/// A log being read.
///
/// The runner bounds a log by copying its end to `NAME.1` and emptying it. What was written between the last read and
/// that moment is found in the copy, behind the last bytes that were read.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    file: Option<File>,
    /// Bytes of the present file that were read.
    position: u64,
    /// The last bytes that were read.
    memory: Vec<u8>,
    /// Found in a log set aside, not handed out yet.
    rescued: Vec<u8>,
}

impl Tail {
    /// Reads a log from a place on; from its beginning when it is shorter. It need not exist yet.
    ///
    /// # Errors
    /// [`CliError::Io`].
    pub(crate) fn open(path: &Path, position: u64) -> Result<Self, CliError> {
        let mut tail = Self {
            path: path.to_owned(),
            file: None,
            position: 0,
            memory: Vec::new(),
            rescued: Vec::new(),
        };
        tail.reopen()?;
        let length = tail.length()?;
        tail.position = if position > length { 0 } else { position };
        Ok(tail)
    }

    /// What there is to read now; empty at the end.
    ///
    /// # Errors
    /// [`CliError::Io`].
    pub(crate) fn read(&mut self) -> Result<Vec<u8>, CliError> {
        let part = self.read_present()?;
        if !part.is_empty() {
            return Ok(part);
        }
        // The end of this file; perhaps another one has its name now.
        if self.replaced()? {
            self.reopen()?;
            self.position = 0;
        }
        self.read_present()
    }

    fn read_present(&mut self) -> Result<Vec<u8>, CliError> {
        if self.length()? < self.position {
            self.rescued = self.rescue();
            self.position = 0;
        }
        let mut part = std::mem::take(&mut self.rescued);
        if part.is_empty()
            && let Some(file) = &self.file
        {
            part.resize(PART_BYTES, 0);
            let read = file.read_at(&mut part, self.position);
            let length = read.map_err(CliError::io("read", &self.path))?;
            part.truncate(length);
            self.position += u64::try_from(length).unwrap_or_default();
        }
        self.remember(&part);
        Ok(part)
    }

    fn remember(&mut self, part: &[u8]) {
        self.memory.extend_from_slice(part);
        let surplus = self.memory.len().saturating_sub(MEMORY_BYTES);
        self.memory.drain(..surplus);
    }

    /// What stands in the copy behind the last bytes that were read; nothing when they are not there.
    fn rescue(&self) -> Vec<u8> {
        let mut name = self.path.clone().into_os_string();
        name.push(".1");
        let copy = std::fs::read(name).unwrap_or_default();
        if self.memory.is_empty() {
            return copy;
        }
        let last = copy
            .windows(self.memory.len())
            .rposition(|window| window == self.memory);
        let rest = last.and_then(|place| copy.get(place + self.memory.len()..));
        rest.unwrap_or_default().to_vec()
    }

    fn length(&self) -> Result<u64, CliError> {
        match &self.file {
            Some(file) => Ok(file.metadata().map_err(CliError::io("read", &self.path))?.len()),
            None => Ok(0),
        }
    }

    fn replaced(&self) -> Result<bool, CliError> {
        let Some(now) =
            missing_is_none(std::fs::metadata(&self.path)).map_err(CliError::io("read", &self.path))?
        else {
            return Ok(false);
        };
        let Some(file) = &self.file else {
            return Ok(true);
        };
        let ours = file.metadata().map_err(CliError::io("read", &self.path))?;
        Ok((now.dev(), now.ino()) != (ours.dev(), ours.ino()))
    }

    fn reopen(&mut self) -> Result<(), CliError> {
        self.file = missing_is_none(File::open(&self.path)).map_err(CliError::io("read", &self.path))?;
        Ok(())
    }
}

/// Hands out everything a log holds from `tail` on, and what comes, until `take` says that it has enough.
///
/// # Errors
/// Those of the log, the watch and `take`.
pub(crate) async fn follow(
    tail: &mut Tail,
    watch: &mut Watch,
    mut take: impl FnMut(&[u8]) -> Result<bool, CliError>,
) -> Result<(), CliError> {
    loop {
        let part = tail.read()?;
        if part.is_empty() {
            watch.changed().await?;
        } else if take(&part)? {
            return Ok(());
        }
    }
}

fn missing_is_none<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::path::Path;

    use super::Tail;

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn all(tail: &mut Tail) -> String {
        let mut text = Vec::new();
        loop {
            let part = tail.read().unwrap();
            if part.is_empty() {
                return String::from_utf8(text).unwrap();
            }
            text.extend(part);
        }
    }

    #[test]
    fn growth_is_read_from_the_place_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("serial.log");
        let mut early = Tail::open(&path, 7).unwrap();
        assert_eq!(all(&mut early), "");
        append(&path, "first\nsecond\n");
        assert_eq!(all(&mut early), "first\nsecond\n");
        let mut tail = Tail::open(&path, 6).unwrap();
        assert_eq!(all(&mut tail), "second\n");
        append(&path, "third\n");
        assert_eq!(all(&mut tail), "third\n");
        assert_eq!(
            all(&mut Tail::open(&path, 1000).unwrap()),
            "first\nsecond\nthird\n"
        );
    }

    #[test]
    fn what_was_set_aside_unread_is_not_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("serial.log");
        append(&path, "one\ntwo\n");
        let mut tail = Tail::open(&path, 0).unwrap();
        assert_eq!(all(&mut tail), "one\ntwo\n");
        append(&path, "three\n");
        fs::copy(&path, directory.path().join("serial.log.1")).unwrap();
        fs::write(&path, "").unwrap();
        append(&path, "four\n");
        assert_eq!(all(&mut tail), "three\nfour\n");
    }

    #[test]
    fn a_file_that_takes_the_name_is_read_after_the_rest_of_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("serial.log");
        append(&path, "one\n");
        let mut tail = Tail::open(&path, 0).unwrap();
        assert_eq!(all(&mut tail), "one\n");
        append(&path, "two\n");
        fs::rename(&path, directory.path().join("old")).unwrap();
        append(&path, "three\n");
        assert_eq!(all(&mut tail), "two\nthree\n");
    }
}
