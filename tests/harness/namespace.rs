//! Tests that need a PID namespace of their own: they run themselves again inside one.

use std::io::Write;
use std::process::{Command, Stdio};

/// Tells a test that it runs inside.
const INSIDE: &str = "MAQET_TEST_IN_PID_NAMESPACE";

/// Runs `body` as (part of) the first process of a new PID namespace that has a `/proc` of its own. `test` is the full
/// name of the calling test, which is run again inside; `rounds` of the environment and all else is inherited.
///
/// Where that is not allowed, it says so and the test is left out: it takes root, or user namespaces.
pub fn inside_pid_namespace(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let probe = unshare().arg("/bin/true").stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return tell(&format!(
            "LEFT OUT: {test}: neither root nor a user namespace, so no PID namespace of our own"
        ));
    }
    let output = unshare()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--test-threads=1", test])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{}\n{stdout}\n{stderr}",
        output.status
    );
    tell(stderr.trim_end());
}

/// A command that runs what is added to it as the first process of a new PID namespace.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"]);
    command
}

/// Said where it is seen even when the test passes.
fn tell(words: &str) {
    std::io::stderr()
        .write_all(format!("{words}\n").as_bytes())
        .unwrap();
}
