//! Assembles `guest/tiny.S` to `OUT_DIR/tiny.bin` with the host's GNU `as` and `ld`, which the Rust linker needs anyway.
//!
//! Hosts other than x86-64 get an empty image: their assembler speaks another language, and their default QEMU too.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size QEMU wants of a small firmware image, bytes.
const IMAGE_BYTES: u64 = 64 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=guest/tiny.S");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let image = out.join("tiny.bin");
    if !std::env::var("HOST")?.starts_with("x86_64-") {
        println!("cargo::warning=the tiny guest needs an x86-64 assembler; it is left out");
        return Ok(std::fs::write(image, [])?);
    }
    let object = out.join("tiny.o");
    run(Command::new("as")
        .args(["--32", "-o"])
        .arg(&object)
        .arg("guest/tiny.S"))?;
    run(Command::new("ld")
        .args([
            "-m",
            "elf_i386",
            "--oformat",
            "binary",
            "-Ttext",
            "0",
            "-e",
            "_start",
            "-o",
        ])
        .args([&image, &object]))?;
    check(&image)
}

/// Runs one tool; its own words go to Cargo, which shows them when we fail.
fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|e| format!("run `{tool}` (package binutils): {e}"))?;
    if !status.success() {
        return Err(format!("`{tool}` failed: {status}").into());
    }
    Ok(())
}

/// A CPU starts 16 bytes below the end of the image, so one that grew must not pass.
fn check(image: &Path) -> Result<(), Box<dyn Error>> {
    let bytes = std::fs::metadata(image)?.len();
    if bytes != IMAGE_BYTES {
        return Err(format!("the tiny guest has {bytes} bytes instead of {IMAGE_BYTES}").into());
    }
    Ok(())
}
