//! Where things are: flags first, then the environment, then the XDG directories.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::args::Global;
use crate::error::CliError;

/// File in the data directory that holds the secret of the control socket.
pub(crate) const KEY_FILE: &str = "control.key";
/// Name of the control socket in the runtime directory.
pub(crate) const SOCKET_FILE: &str = "control.sock";
/// File in the data directory that an autostarted supervisor writes to.
pub(crate) const LOG_FILE: &str = "supervisor.log";

/// Everything the verbs need to know about places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Store, keys, logs. Absolute.
    pub(crate) data_dir: PathBuf,
    /// Sockets. Absolute.
    pub(crate) runtime_dir: PathBuf,
    /// Configuration of the supervisor, when it was named; the supervisor knows the default places itself.
    pub(crate) config: Option<PathBuf>,
    /// A supervisor program that wins over those beside this program and on PATH.
    pub(crate) supervisor_bin: Option<PathBuf>,
    /// Whether a missing supervisor is started.
    pub(crate) autostart: bool,
}

impl Settings {
    /// Settles the places for this process.
    ///
    /// # Errors
    /// [`CliError::NoDirectory`] when neither flags nor environment say where the data is,
    /// [`CliError::Io`] when the current directory is gone.
    pub(crate) fn resolve(global: &Global) -> Result<Self, CliError> {
        let uid = nix::unistd::geteuid().as_raw();
        Self::from_parts(global, uid, |name| std::env::var_os(name))
    }

    fn from_parts(
        global: &Global,
        uid: u32,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, CliError> {
        let path = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The XDG rules: a relative path in one of their variables is to be ignored.
        let xdg = |name: &str| path(name).filter(|path| path.is_absolute());
        let home = || xdg("HOME").map(|home| home.join(".local/share"));
        let data_dir = global
            .data_dir
            .clone()
            .or_else(|| path("MAQET_DATA_DIR"))
            .or_else(|| xdg("XDG_DATA_HOME").or_else(home).map(|base| base.join("maqet")))
            .ok_or(CliError::NoDirectory)?;
        let runtime_dir = global
            .runtime_dir
            .clone()
            .or_else(|| path("MAQET_RUNTIME_DIR"))
            .or_else(|| xdg("XDG_RUNTIME_DIR").map(|base| base.join("maqet")))
            .unwrap_or_else(|| default_runtime_dir(uid));
        let config = global.config.clone().or_else(|| path("MAQET_CONFIG"));
        Ok(Self {
            data_dir: absolute(&data_dir)?,
            runtime_dir: absolute(&runtime_dir)?,
            config: config.as_deref().map(absolute).transpose()?,
            supervisor_bin: path("MAQET_SUPERVISOR_BIN"),
            autostart: !global.no_autostart,
        })
    }

    /// Where disks are that stand on an image of the library and were given no other place.
    pub(crate) fn disks(&self) -> PathBuf {
        self.data_dir.join("disks")
    }

    /// The control socket, for people.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime_dir.join(SOCKET_FILE)
    }

    /// The log of an autostarted supervisor.
    pub(crate) fn log(&self) -> PathBuf {
        self.data_dir.join(LOG_FILE)
    }
}

fn default_runtime_dir(uid: u32) -> PathBuf {
    if uid == 0 {
        PathBuf::from("/run/maqet")
    } else {
        PathBuf::from(format!("/tmp/maqet-{uid}"))
    }
}

fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|source: io::Error| CliError::Io {
        action: "find the absolute path of",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::ffi::OsString;
    use std::path::Path;

    use super::Settings;
    use crate::args::Global;

    fn settle(global: &Global, uid: u32, env: &[(&str, &str)]) -> Settings {
        let env: HashMap<String, OsString> = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
            .collect();
        Settings::from_parts(global, uid, |name| env.get(name).cloned()).unwrap()
    }

    #[test]
    fn flags_win_over_variables_win_over_xdg() {
        let xdg = [
            ("XDG_DATA_HOME", "/x/data"),
            ("XDG_RUNTIME_DIR", "/x/run"),
            ("HOME", "/h"),
        ];
        let settings = settle(&Global::default(), 1000, &xdg);
        assert_eq!(settings.data_dir, Path::new("/x/data/maqet"));
        assert_eq!(settings.socket(), Path::new("/x/run/maqet/control.sock"));

        let mut own = xdg.to_vec();
        own.extend([
            ("MAQET_DATA_DIR", "/e/data"),
            ("MAQET_RUNTIME_DIR", "/e/run"),
            ("MAQET_CONFIG", "/e/c"),
        ]);
        let settings = settle(&Global::default(), 1000, &own);
        assert_eq!(settings.data_dir, Path::new("/e/data"));
        assert_eq!(settings.runtime_dir, Path::new("/e/run"));
        assert_eq!(settings.config.as_deref(), Some(Path::new("/e/c")));

        let flags = Global {
            data_dir: Some("/f/data".into()),
            runtime_dir: Some("/f/run".into()),
            ..Global::default()
        };
        let settings = settle(&flags, 1000, &own);
        assert_eq!(settings.log(), Path::new("/f/data/supervisor.log"));
        assert_eq!(settings.runtime_dir, Path::new("/f/run"));
    }

    #[test]
    fn without_a_runtime_directory_root_and_others_have_their_own() {
        let home = [("HOME", "/h")];
        assert_eq!(
            settle(&Global::default(), 0, &home).runtime_dir,
            Path::new("/run/maqet")
        );
        let settings = settle(&Global::default(), 1000, &home);
        assert_eq!(settings.runtime_dir, Path::new("/tmp/maqet-1000"));
        assert_eq!(settings.data_dir, Path::new("/h/.local/share/maqet"));
    }

    #[test]
    fn empty_and_relative_variables_do_not_count() {
        let env = [
            ("HOME", "/h"),
            ("XDG_DATA_HOME", "x"),
            ("MAQET_DATA_DIR", ""),
            ("XDG_RUNTIME_DIR", ""),
        ];
        let settings = settle(&Global::default(), 7, &env);
        assert_eq!(settings.data_dir, Path::new("/h/.local/share/maqet"));
        assert_eq!(settings.runtime_dir, Path::new("/tmp/maqet-7"));
    }

    #[test]
    fn nowhere_to_go_is_an_error() {
        Settings::from_parts(&Global::default(), 1000, |_| None).unwrap_err();
    }
}
