//! Which qemu-img there is.

use std::time::Duration;

use super::QEMU_IMG;
use crate::binary::{Binaries, Binary};
use crate::error::StorageError;
use crate::tool::Tool;

/// It prints a line and ends.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// The program that makes images, and what it says of itself: `qemu-img version 7.2.22 (Debian …)`.
///
/// # Errors
/// Those of looking it up and of running it.
pub async fn version(binaries: &Binaries) -> Result<(Binary, String), StorageError> {
    let program = binaries.lookup(QEMU_IMG)?;
    let tool = Tool {
        program: &program.path,
        args: vec!["--version".into()],
        fds: Vec::new(),
        limit: VERSION_LIMIT,
        cpu_seconds: None,
        access: None,
    };
    let said = tool.output().await?;
    let line = said.lines().next().unwrap_or_default().trim().to_owned();
    Ok((program, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_tells_its_version() {
        let (_program, line) = version(&Binaries::new()).await.unwrap();
        assert!(line.starts_with("qemu-img version "), "{line}");
    }
}
