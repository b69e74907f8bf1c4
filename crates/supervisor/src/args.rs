//! The command line of `maqet-supervisor`, and the places it works in.

use std::env;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use clap::Parser;
use maqet_state::id::VmId;
use nix::unistd::geteuid;

/// Owns the truth about all VMs of one data directory; runs in the foreground.
#[derive(Clone, Debug, Parser)]
#[command(name = "maqet-supervisor", version, about)]
pub(crate) struct Args {
    /// Where the store, keys and logs live [default: `$XDG_DATA_HOME/maqet`]
    #[arg(long, value_name = "DIR", env = "MAQET_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where sockets live [default: `$XDG_RUNTIME_DIR/maqet`]
    #[arg(long, value_name = "DIR", env = "MAQET_RUNTIME_DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,
    /// Settings [default: `$XDG_CONFIG_HOME/maqet/config.yaml`, then `/etc/maqet/config.yaml`]
    #[arg(long, value_name = "FILE", env = "MAQET_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Descriptor to write `ready` to, then close; used when started by `maqet`
    #[arg(long, value_name = "FD", hide = true)]
    pub(crate) ready_fd: Option<RawFd>,
    /// Make the store anew from the VMs' own directories, print what came of it, and end; `maqet doctor --rebuild`
    #[arg(long, conflicts_with = "restore")]
    pub(crate) rebuild: bool,
    /// Make the store anew from this copy and the VMs' own directories, print what came of it, and end; `maqet state
    /// restore`
    #[arg(long, value_name = "FILE")]
    pub(crate) restore: Option<PathBuf>,
}

/// The directories of one supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Store, keys, logs.
    pub(crate) data: PathBuf,
    /// Sockets.
    pub(crate) runtime: PathBuf,
}

impl Places {
    /// maqet's own directories and those that are configured: where images may be whatever tree they are in.
    pub(crate) fn writable(&self, configured: &[PathBuf]) -> Vec<PathBuf> {
        let cache = xdg("XDG_CACHE_HOME", ".cache").ok();
        let own = [
            Some(self.data.clone()),
            Some(self.runtime.clone()),
            cache.map(|cache| cache.join("maqet")),
        ];
        own.into_iter()
            .flatten()
            .chain(configured.iter().cloned())
            .collect()
    }

    /// Where maqet keeps its secrets, its record and its sockets, as the paths really lead; nothing of it is shared with a guest.
    pub(crate) fn own(&self) -> Vec<PathBuf> {
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        [&self.data, &self.runtime].map(real).to_vec()
    }

    /// Resolves flags, then environment (read by clap), then the XDG defaults.
    pub(crate) fn resolve(args: &Args) -> anyhow::Result<Self> {
        let data = match &args.data_dir {
            Some(dir) => dir.clone(),
            None => xdg("XDG_DATA_HOME", ".local/share")?.join("maqet"),
        };
        let runtime = match (&args.runtime_dir, env::var_os("XDG_RUNTIME_DIR")) {
            (Some(dir), _) => dir.clone(),
            (None, Some(xdg)) if Path::new(&xdg).is_absolute() => PathBuf::from(xdg).join("maqet"),
            (None, _) if geteuid().is_root() => PathBuf::from("/run/maqet"),
            (None, _) => PathBuf::from(format!("/tmp/maqet-{}", geteuid())),
        };
        Ok(Self {
            data: std::path::absolute(data)?,
            runtime: std::path::absolute(runtime)?,
        })
    }

    /// The redb file.
    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("state.redb")
    }

    /// One directory per VM, see [`Places::vm_data`].
    pub(crate) fn vms(&self) -> PathBuf {
        self.data.join("vms")
    }

    /// Images that disks stand on.
    pub(crate) fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Disks that stand on them and were given no other place, in directories by VM.
    pub(crate) fn disks(&self) -> PathBuf {
        self.data.join("disks")
    }

    /// Copies of the store that maqet makes by itself.
    pub(crate) fn backups(&self) -> PathBuf {
        self.data.join("backups")
    }

    /// What a VM keeps: logs and its own description.
    pub(crate) fn vm_data(&self, id: &VmId) -> PathBuf {
        self.vms().join(id.as_str())
    }

    /// What a running VM needs: sockets and the note of its end.
    pub(crate) fn vm_runtime(&self, id: &VmId) -> PathBuf {
        self.runtime.join("vms").join(id.as_str())
    }
}

/// The settings file that is used when none is named; `None` when there is none.
pub(crate) fn default_config() -> Option<PathBuf> {
    let own = xdg("XDG_CONFIG_HOME", ".config")
        .ok()
        .map(|dir| dir.join("maqet/config.yaml"));
    let candidates = own.into_iter().chain([PathBuf::from("/etc/maqet/config.yaml")]);
    candidates.into_iter().find(|path| path.exists())
}

fn xdg(variable: &str, below_home: &str) -> anyhow::Result<PathBuf> {
    if let Some(dir) = env::var_os(variable)
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
    {
        return Ok(dir);
    }
    let home = env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute());
    match home {
        Some(home) => Ok(home.join(below_home)),
        None => anyhow::bail!("neither `{variable}` nor `HOME` names a directory"),
    }
}
