//! What an operator may set in `config.yaml`.

use std::fs;
use std::path::{Path, PathBuf};

use maqet_spec::Source;
use serde::Deserialize;

/// Settings of the supervisor. Unknown keys are errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// What SIGTERM to the supervisor does to running VMs.
    pub(crate) on_exit: OnExit,
    /// Log files.
    pub(crate) logs: Logs,
    /// The journal.
    pub(crate) journal: Journal,
    /// Disks.
    pub(crate) storage: Storage,
}

/// Where disks may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Storage {
    /// Directories, absolute, where images are made and written to beside homes, `/tmp` and maqet's own.
    pub(crate) roots: Vec<PathBuf>,
    /// Path of virtiofsd, absolute; unset, it is looked for.
    pub(crate) virtiofsd: Option<PathBuf>,
}

/// What the end of the supervisor does to running VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnExit {
    /// They go on; the next supervisor adopts them.
    #[default]
    Keep,
    /// They are stopped by the ladder, in parallel.
    Stop,
}

/// Bounds of log files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Logs {
    /// Bytes kept of each log file; one older file of that size is kept beside it.
    #[serde(deserialize_with = "size")]
    pub(crate) bytes_max: u64,
}

impl Default for Logs {
    fn default() -> Self {
        Self { bytes_max: 16 << 20 }
    }
}

/// Bounds of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Journal {
    /// Entries kept.
    pub(crate) entries_max: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self { entries_max: 100_000 }
    }
}

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// It cannot be read.
    #[error("read `{path}`")]
    Read { path: PathBuf, source: std::io::Error },
    /// It says something that is not understood.
    #[error("`{path}`: {message}")]
    Invalid { path: PathBuf, message: String },
}

impl Settings {
    /// Reads the file, or the defaults when there is none.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, SettingsError> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&path.display().to_string(), &text).map_err(|message| SettingsError::Invalid {
            path: path.to_owned(),
            message,
        })
    }

    fn parse(label: &str, text: &str) -> Result<Self, String> {
        if text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
        {
            return Ok(Self::default());
        }
        let settings: Self = maqet_spec::yaml::from_str_strict(&Source::new(label, "/", text))
            .map_err(|error| error.to_string())?;
        if settings.logs.bytes_max < 4096 {
            return Err("`logs.bytes_max` is below 4K".to_owned());
        }
        if settings.journal.entries_max < 100 {
            return Err("`journal.entries_max` is below 100".to_owned());
        }
        if let Some(root) = settings.storage.roots.iter().find(|root| !root.is_absolute()) {
            return Err(format!(
                "`storage.roots`: `{}` is not an absolute path",
                root.display()
            ));
        }
        let virtiofsd = settings.storage.virtiofsd.as_deref();
        if let Some(program) = virtiofsd.filter(|program| !program.is_absolute()) {
            return Err(format!(
                "`storage.virtiofsd`: `{}` is not an absolute path",
                program.display()
            ));
        }
        Ok(settings)
    }
}

fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let size: maqet_spec::size::Size = text.parse().map_err(serde::de::Error::custom)?;
    Ok(size.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_only_are_the_defaults() {
        assert_eq!(
            Settings::parse("config.yaml", "# nothing\n\n"),
            Ok(Settings::default())
        );
    }

    #[test]
    fn every_key_is_read() {
        let settings = Settings::parse(
            "config.yaml",
            "on_exit: stop\nlogs: {bytes_max: 1M}\njournal: {entries_max: 500}\nstorage: {roots: [/srv/vm], virtiofsd: /opt/v}\n",
        )
        .unwrap();
        assert_eq!(settings.on_exit, OnExit::Stop);
        assert_eq!(settings.logs.bytes_max, 1 << 20);
        assert_eq!(settings.journal.entries_max, 500);
        assert_eq!(settings.storage.roots, [Path::new("/srv/vm")]);
        assert_eq!(settings.storage.virtiofsd.as_deref(), Some(Path::new("/opt/v")));
    }

    #[test]
    fn unknown_keys_and_silly_bounds_are_refused() {
        assert!(Settings::parse("config.yaml", "on_exitt: stop\n").is_err());
        assert!(Settings::parse("config.yaml", "logs: {bytes_max: 1}\n").is_err());
        assert!(Settings::parse("config.yaml", "journal: {entries_max: 1}\n").is_err());
        assert!(Settings::parse("config.yaml", "storage: {roots: [vm]}\n").is_err());
        assert!(Settings::parse("config.yaml", "storage: {virtiofsd: v}\n").is_err());
    }
}
