//! From the words of the command line to a checked specification.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use maqet_spec::source::SOURCE_BYTES_MAX;
use maqet_spec::validate::Finding;
use maqet_spec::{LoadOptions, Override, Source, SpecError, VmSpec, check_host_beside, load_located};
use maqet_storage::PathPolicy;
use maqet_storage::policy::Denied;

use crate::args::vm::SpecArgs;
use crate::error::CliError;

/// Merges the files left to right, then `--set`, then `--name`, and checks the result, on this host too.
///
/// # Errors
/// [`CliError::InvalidSpec`] with the place; [`CliError::Usage`] for a `--set` that is no assignment, or stdin twice.
/// `disks` is where images of the library are put to use when nothing else is said.
pub(crate) fn build(args: &SpecArgs, disks: Option<PathBuf>) -> Result<VmSpec, CliError> {
    match read(args, disks)? {
        (_spec, Some(finding)) => Err(CliError::InvalidSpec(finding)),
        (spec, None) => Ok(spec),
    }
}

/// The same, with what this host seems to lack where a disk or a share is to be, instead of an error: the supervisor knows
/// more of that.
///
/// # Errors
/// As [`build`], what is found on this host aside.
pub(crate) fn read(args: &SpecArgs, disks: Option<PathBuf>) -> Result<(VmSpec, Option<SpecError>), CliError> {
    let here = std::env::current_dir().map_err(CliError::call("find the current directory"))?;
    let files = args.all_files();
    if files.iter().filter(|file| is_stdin(file)).count() > 1 {
        return Err(CliError::usage("stdin can be read only once", None));
    }
    let sources = files
        .iter()
        .map(|file| source(file, &here))
        .collect::<Result<Vec<_>, _>>()?;
    let overrides = args
        .set
        .iter()
        .map(|set| change(set))
        .collect::<Result<Vec<_>, _>>()?;
    let options = LoadOptions {
        name: args.name.clone(),
        home: std::env::var_os("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute()),
        directory: here,
        default_arch: std::env::consts::ARCH.to_owned(),
        disks,
    };
    let loaded = load_located(&sources, &overrides, &options).map_err(CliError::InvalidSpec)?;
    let findings = check_host_beside(&loaded.spec, options.disks.as_deref());
    let finding = off_limits(&loaded.spec).or_else(|| findings.into_iter().next());
    let finding = finding.map(|finding| loaded.explain(&finding));
    match finding {
        Some(finding) if !is_about_a_place(&finding) => Err(CliError::InvalidSpec(finding)),
        finding => Ok((loaded.spec, finding)),
    }
}

/// A disk or a share where no configuration allows one. What else is off limits depends on the supervisor's.
fn off_limits(spec: &VmSpec) -> Option<Finding> {
    let policy = PathPolicy::for_host(Vec::new()).ok()?;
    let told = |list, name: &str, denied: &Denied| {
        let finding = Finding::new(&[list, name, "path"], denied.to_string());
        denied.is_final().then(|| finding.hint(denied.hint()))
    };
    let mut disks = spec.disks.iter().filter(|disk| !disk.readonly);
    let disk = disks.find_map(|disk| told("disks", &disk.name, &policy.check(&disk.path).err()?));
    disk.or_else(|| {
        let mut shares = spec.shares.iter();
        shares.find_map(|share| {
            let denied = policy.check_tree(&share.path, &[]).err()?;
            told("shares", &share.name, &denied)
        })
    })
}

/// A disk where only a supervisor whose configuration says so would write: it may be another one than is configured here.
pub(crate) fn to_be_allowed(spec: &VmSpec, disks: Option<PathBuf>) -> Option<Denied> {
    let own = disks
        .into_iter()
        .filter_map(|disks| Some(disks.parent()?.to_owned()));
    let policy = PathPolicy::for_host(own.collect()).ok()?;
    let mut written = spec.disks.iter().filter(|disk| !disk.readonly);
    written.find_map(|disk| policy.check(&disk.path).err())
}

fn is_about_a_place(finding: &SpecError) -> bool {
    let field = finding.field_path().unwrap_or_default();
    field.starts_with("disks.") || field.starts_with("shares.")
}

/// A specification of our own making.
///
/// # Errors
/// [`CliError::InvalidSpec`].
pub(crate) fn of_text(label: &str, text: &str) -> Result<VmSpec, CliError> {
    let options = LoadOptions {
        name: None,
        home: None,
        directory: PathBuf::from("/"),
        default_arch: "x86_64".to_owned(),
        disks: None,
    };
    let source = Source::new(label, "/", text);
    let loaded = load_located(&[source], &[], &options).map_err(CliError::InvalidSpec)?;
    Ok(loaded.spec)
}

/// The path of a disk as it was typed, from the root on.
///
/// # Errors
/// [`CliError::Io`] for an empty one, or without a working directory.
pub(crate) fn path(typed: &Path) -> Result<PathBuf, CliError> {
    let here = std::env::current_dir().map_err(CliError::call("find the current directory"))?;
    if typed.as_os_str().is_empty() {
        return std::path::absolute(typed).map_err(CliError::io("resolve", typed));
    }
    let joined = maqet_spec::path::joined(&here, typed);
    std::path::absolute(&joined).map_err(CliError::io("resolve", typed))
}

/// A usage error when there is no file to build from.
///
/// # Errors
/// [`CliError::Usage`].
pub(crate) fn require_files(args: &SpecArgs, hint: &str) -> Result<(), CliError> {
    if args.all_files().is_empty() {
        return Err(CliError::usage("no FILE given", Some(hint)));
    }
    Ok(())
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn source(file: &Path, here: &Path) -> Result<Source, CliError> {
    if !is_stdin(file) {
        return Source::read(file).map_err(CliError::InvalidSpec);
    }
    // One byte more than a source may have, so that a longer one is refused rather than cut.
    let limit = u64::try_from(SOURCE_BYTES_MAX)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(limit).read_to_end(&mut bytes);
    read.map_err(CliError::call("read stdin"))?;
    Source::from_bytes("stdin", here, bytes).map_err(CliError::InvalidSpec)
}

fn change(text: &str) -> Result<Override, CliError> {
    text.parse()
        .map_err(|error: SpecError| CliError::usage(error.message(), error.hint_text()))
}
