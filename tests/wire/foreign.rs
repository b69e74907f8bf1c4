//! The unmodified varlink client from `PyPI`.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use maqet_tests::{Guest, Output, Running, Sandbox};
use serde_json::{Value, json};

use crate::place;

/// The script that drives it.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/varlink_client.py");

#[test]
fn a_foreign_client_drives_the_supervisor() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new();
    let _supervisor = sandbox.supervisor();
    Guest::tiny("web").add(&sandbox);
    let (socket, key) = (
        sandbox.runtime_dir().join("control.sock"),
        sandbox.data_dir().join("control.key"),
    );
    let web = json!({"vm": "web"}).to_string();
    let calls = [
        ["--call", "Start", &web],
        ["--call", "Status", &web],
        ["--call", "Stop", &web],
        ["--call", "Status", r#"{"vm": "nobody"}"#],
    ];
    let mut words: Vec<&str> = calls.concat();
    words.extend(["--events", "3"]);
    let mut command = Command::new(&python);
    command.arg(SCRIPT).args(words).args([&socket, &key]);
    let mut client = Running::start(command);
    // The stream begins with what is new: here is something.
    client.says("VmNotFound");
    let events = wait_for_events(&sandbox, &mut client);
    let steps = steps(&client.output().expect(0));

    assert_eq!(
        steps["info"][0]["interfaces"],
        json!(["org.varlink.service", "org.maqet.Control"])
    );
    assert_eq!(
        steps["refused"][0]["error"],
        "org.maqet.Control.AuthenticationFailed"
    );
    let replies = steps["reply"].as_array().unwrap();
    assert_eq!(replies[0]["reply"]["already"], false, "{replies:?}");
    assert_eq!(replies[1]["reply"]["status"], "running", "{replies:?}");
    assert_eq!(replies[2]["reply"]["how"], "guest", "{replies:?}");
    let kinds = steps["event"].as_array().unwrap();
    assert_eq!(kinds.len(), 3, "{kinds:?} after {events} VMs");
}

#[test]
fn a_foreign_client_drives_a_runner() {
    let Some(python) = python() else { return };
    let sandbox = Sandbox::new();
    let door = place::runner(&sandbox, sandbox.supervisor());
    let digits = door
        .secret
        .as_bytes()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        });
    let secret = sandbox.home().join("secret");
    fs::write(&secret, digits).unwrap();
    let mut command = Command::new(python);
    command.args([
        SCRIPT,
        "--vm",
        door.role.vm(),
        "--call",
        "Query",
        "{}",
        "--events",
        "1",
    ]);
    command.args([&door.path, &secret]);
    let steps = steps(&Running::start(command).output().expect(0));
    assert_eq!(
        steps["refused"][0]["error"],
        "org.maqet.Runner.AuthenticationFailed"
    );
    let running = &steps["reply"][0]["reply"]["running"];
    assert_eq!(running["run_state"], "running", "{steps}");
    assert_eq!(steps["event"].as_array().unwrap().len(), 1, "{steps}");
}

/// Makes news until the client has enough of it; returns how many VMs that took.
fn wait_for_events(sandbox: &Sandbox, client: &mut Running) -> usize {
    let mut vms = 0;
    while client.stdout().matches("\"event\": {").count() < 3 && !client.handle().has_exited() {
        vms += 1;
        assert!(vms < 100, "no events: {}", client.stdout());
        Guest::tiny(&format!("news{vms}")).add(sandbox);
    }
    vms
}

/// What the script told, by step.
fn steps(output: &Output) -> Value {
    let mut steps = json!({});
    for line in output.stdout.lines() {
        let told: Value = serde_json::from_str(line).unwrap();
        let step = told["step"].as_str().unwrap().to_owned();
        if steps.get(&step).is_none() {
            steps[&step] = json!([]);
        }
        steps[&step].as_array_mut().unwrap().push(told);
    }
    steps
}

/// A Python that has the package: the one `scripts/test` prepared, else one of our own in the user's cache.
fn python() -> Option<PathBuf> {
    if let Some(prepared) = env::var_os("MAQET_TEST_PYTHON") {
        return Some(prepared.into());
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    let place = cache.join("maqet-tests/python");
    let python = place.join("bin/python");
    if can_varlink(&python) {
        return Some(python);
    }
    match prepare(&place) {
        Ok(()) => Some(python),
        Err(words) => {
            complain(&words);
            None
        }
    }
}

fn can_varlink(python: &Path) -> bool {
    Command::new(python)
        .args(["-c", "import varlink"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Made under another name and moved into place: tests beside this one may want it too.
fn prepare(place: &Path) -> Result<(), String> {
    let parent = place.parent().unwrap();
    fs::create_dir_all(parent).unwrap();
    let fresh = tempfile::tempdir_in(parent).unwrap();
    run(Command::new("python3").args(["-m", "venv"]).arg(fresh.path()))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "varlink",
    ];
    run(Command::new(fresh.path().join("bin/python")).args(pip))?;
    let moved = fs::rename(fresh.path(), place);
    if can_varlink(&place.join("bin/python")) {
        Ok(())
    } else {
        Err(format!("`{}` cannot be made: {moved:?}", place.display()))
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// Said where it is seen even when the test passes.
fn complain(words: &str) {
    use std::io::Write;
    let warning = "WARNING: no Python with the package `varlink`: a foreign varlink client is NOT EXERCISED";
    std::io::stderr()
        .write_all(format!("{warning}\n{words}\n").as_bytes())
        .unwrap();
}
