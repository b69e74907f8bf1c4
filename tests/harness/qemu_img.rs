//! The `qemu-img` that a person has beside maqet: makes images for tests and says what is in one, by path and unconfined.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs it; tells what it printed.
#[track_caller]
pub fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Vec<u8> {
    let output = output(args);
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// Runs it in a directory, against which it understands names.
#[track_caller]
pub fn run_in(directory: impl AsRef<Path>, args: &[&str]) {
    let done = Command::new("qemu-img")
        .current_dir(directory)
        .args(args)
        .output()
        .unwrap();
    assert!(done.status.success(), "{args:?}: {done:?}");
}

/// An empty image.
#[track_caller]
pub fn create(image: &Path, format: &str, size: &str) {
    let args = ["create", "-q", "-f", format].map(OsStr::new);
    run(args.into_iter().chain([image.as_os_str(), OsStr::new(size)]));
}

/// A qcow2 image of so many MiB that do not compress to nothing.
#[track_caller]
pub fn filled(image: &Path, mebibytes: usize) {
    let raw = image.with_extension("content");
    let mut state = 7_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(mebibytes << 20)
    .collect();
    fs::write(&raw, bytes).unwrap();
    convert(("raw", &raw), ("qcow2", image));
    fs::remove_file(raw).unwrap();
}

/// A qcow2 image of 1 MiB that stands on a raw file, whether or not there is one.
#[track_caller]
pub fn overlay_on(base: &str, image: &Path) {
    let args = ["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", base].map(OsStr::new);
    run(args.into_iter().chain([image.as_os_str(), OsStr::new("1M")]));
}

/// Writes an image anew in another format.
#[track_caller]
pub fn convert(from: (&str, &Path), to: (&str, &Path)) {
    let args = ["convert", "-f", from.0, "-O", to.0].map(OsStr::new);
    run(args.into_iter().chain([from.1.as_os_str(), to.1.as_os_str()]));
}

/// What a guest finds on a qcow2 image.
#[track_caller]
pub fn content(image: &Path) -> Vec<u8> {
    converted(image, None)
}

/// What a guest found on it when the snapshot was made.
#[track_caller]
pub fn content_at(image: &Path, snapshot: &str) -> Vec<u8> {
    converted(image, Some(snapshot))
}

#[track_caller]
fn converted(image: &Path, snapshot: Option<&str>) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("raw");
    let of = snapshot.map_or_else(Vec::new, |name| vec!["-l", name]);
    let args = ["convert", "-f", "qcow2", "-O", "raw"]
        .into_iter()
        .chain(of)
        .map(OsStr::new);
    run(args.chain([image.as_os_str(), raw.as_os_str()]));
    fs::read(raw).unwrap()
}

/// Fills the first MiB of a qcow2 image that nobody has open with this byte, as a guest would.
#[track_caller]
pub fn write(image: &Path, byte: u8) {
    write_so_much(image, byte, 1);
}

/// The same with so many MiB.
#[track_caller]
pub fn write_so_much(image: &Path, byte: u8, mebibytes: usize) {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "qcow2", "-c", &format!("write -P {byte} 0 {mebibytes}M")]);
    let done = command.arg(image).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// Says of the first clusters of a qcow2 image that nobody uses them: errors in its tables, of which a check tells.
#[track_caller]
pub fn damage(image: &Path) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let read = |offset| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_be_bytes(bytes)
    };
    let counts = read(read(48));
    file.write_all_at(&[0; 32], counts).unwrap();
}

/// What `info` says of an image, which may be in use.
#[track_caller]
pub fn info(image: &Path) -> Value {
    let args = ["info", "-U", "--output", "json"].map(OsStr::new);
    let printed = run(args.into_iter().chain([image.as_os_str()]));
    serde_json::from_slice(&printed).unwrap()
}

/// Names of the snapshots in an image.
#[track_caller]
pub fn snapshots(image: &Path) -> Vec<String> {
    let info = info(image);
    let listed = info["snapshots"].as_array().into_iter().flatten();
    listed
        .map(|snapshot| snapshot["name"].as_str().unwrap().to_owned())
        .collect()
}

/// What is found in an image that nobody has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing wrong.
    Clean,
    /// Clusters that are counted and not used, which is what a killed QEMU leaves; no data is in danger.
    Leaks,
}

/// Checks an image; one that is damaged fails the test.
#[track_caller]
pub fn check(image: &Path) -> Found {
    let output = output(
        ["check", "-q"]
            .map(OsStr::new)
            .into_iter()
            .chain([image.as_os_str()]),
    );
    match output.status.code() {
        Some(0) => Found::Clean,
        Some(3) => Found::Leaks,
        _ => panic!("{}: {output:?}", image.display()),
    }
}

fn output<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    Command::new("qemu-img").args(args).output().unwrap()
}
