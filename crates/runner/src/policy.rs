//! Which QMP commands a client may send to QEMU through the runner.
//!
//! The runner's own connection carries them, so plumbing that belongs to it is refused, as is what would end the VM
//! behind the back of its record. The monitor's human command line bypasses every rule, so only `info` is let through.

use maqet_protocol::refusal::{Refusal, RefusalCode};
use serde_json::Value;

/// Refuses a command that must not reach QEMU; `name` is the VM's, for the hint.
pub(crate) fn check(command: &str, arguments: Option<&Value>, name: &str) -> Result<(), Refusal> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if command.is_empty() || !command.bytes().all(valid) {
        return Err(refuse("this is not the name of a QMP command", command));
    }
    match command {
        "qmp_capabilities" | "add-fd" | "remove-fd" | "getfd" | "closefd" => Err(refuse(
            "descriptors and capabilities of the monitor belong to maqet",
            command,
        )),
        "quit" => Err(refuse("the VM would end without its guest's knowledge", command)
            .hint(format!("maqet stop {name}"))),
        "migrate" | "migrate-incoming" if arguments.is_some_and(names_a_program) => Err(refuse(
            "QEMU may not run programs; the attempt would kill the VM",
            command,
        )),
        "netdev_add" if arguments.is_some_and(backend_runs_a_program) => Err(refuse(
            "QEMU may not run programs; the attempt would kill the VM",
            command,
        )),
        "human-monitor-command" => check_human(arguments, command),
        _ => Ok(()),
    }
}

fn refuse(why: &str, command: &str) -> Refusal {
    Refusal::new(
        RefusalCode::InvalidCall,
        format!("QMP command `{}` is refused", command.escape_default()),
    )
    .cause(why)
}

fn check_human(arguments: Option<&Value>, command: &str) -> Result<(), Refusal> {
    let line = arguments
        .and_then(|arguments| arguments.get("command-line"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let asks = line.split_whitespace().next() == Some("info");
    if asks && !line.chars().any(char::is_control) {
        return Ok(());
    }
    Err(refuse(
        "only `info ...` may be asked of the human monitor",
        command,
    ))
}

/// `exec:COMMAND` as an address, or the newer form `{"transport": "exec"}`, anywhere in the arguments.
fn names_a_program(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            let text = text.trim_start().to_ascii_lowercase();
            text == "exec" || text.starts_with("exec:")
        }
        Value::Array(items) => items.iter().any(names_a_program),
        Value::Object(fields) => fields.values().any(names_a_program),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A network that QEMU would have a program for: its helper, the scripts of a tap device (it has some of its own where none are
/// named), a server of files, or whatever is behind a forward.
fn backend_runs_a_program(arguments: &Value) -> bool {
    let word = |name: &str| arguments.get(name).and_then(Value::as_str);
    let has = |name: &str| arguments.get(name).is_some();
    let runs = |script: &str| !matches!(word(script), Some("" | "no"));
    match word("type") {
        Some("bridge") => true,
        Some("tap") if has("fd") || has("fds") => false,
        Some("tap") => has("helper") || runs("script") || runs("downscript"),
        Some("user") => has("smb") || arguments.get("guestfwd").is_some_and(forwards_to_a_program),
        Some(_) | None => false,
    }
}

/// `tcp:ADDRESS:PORT-cmd:COMMAND`, anywhere.
fn forwards_to_a_program(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("-cmd:"),
        Value::Array(items) => items.iter().any(forwards_to_a_program),
        Value::Object(fields) => fields.values().any(forwards_to_a_program),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn passes(command: &str, arguments: Option<&Value>) -> bool {
        check(command, arguments, "web").is_ok()
    }

    #[test]
    fn questions_and_managed_commands_pass() {
        for command in [
            "query-status",
            "stop",
            "cont",
            "system_powerdown",
            "system_reset",
            "x-query-roms",
        ] {
            assert!(passes(command, None), "{command}");
        }
        assert!(passes("migrate", Some(&json!({"uri": "tcp:127.0.0.1:1"}))));
    }

    #[test]
    fn plumbing_is_refused() {
        for command in ["qmp_capabilities", "add-fd", "remove-fd", "getfd", "closefd"] {
            assert!(!passes(command, None), "{command}");
        }
    }

    #[test]
    fn quit_names_the_verb_for_it() {
        let refusal = check("quit", None, "web").unwrap_err();
        assert_eq!(refusal.hint.as_deref(), Some("maqet stop web"));
        assert_eq!(refusal.code, RefusalCode::InvalidCall);
    }

    #[test]
    fn programs_are_refused_in_either_form() {
        for arguments in [
            json!({"uri": "exec:touch /tmp/x"}),
            json!({"uri": " EXEC:true"}),
            json!({"channels": [{"addr": {"transport": "exec", "args": ["/bin/true"]}}]}),
        ] {
            assert!(!passes("migrate", Some(&arguments)), "{arguments}");
            assert!(!passes("migrate-incoming", Some(&arguments)), "{arguments}");
        }
    }

    #[test]
    fn networks_that_run_programs_are_refused() {
        for arguments in [
            json!({"type": "bridge", "id": "n"}),
            json!({"type": "tap", "id": "n"}),
            json!({"type": "tap", "id": "n", "script": "no"}),
            json!({"type": "tap", "id": "n", "script": "/bin/true", "downscript": "no"}),
            json!({"type": "tap", "id": "n", "helper": "/bin/true"}),
            json!({"type": "user", "id": "n", "smb": "/tmp"}),
            json!({"type": "user", "id": "n", "guestfwd": [{"str": "tcp:10.0.2.9:7-cmd:cat"}]}),
        ] {
            assert!(!passes("netdev_add", Some(&arguments)), "{arguments}");
        }
        for arguments in [
            json!({"type": "user", "id": "n"}),
            json!({"type": "user", "id": "n", "guestfwd": [{"str": "tcp:10.0.2.9:7-tcp:127.0.0.1:7"}]}),
            json!({"type": "tap", "id": "n", "script": "no", "downscript": "no"}),
            json!({"type": "tap", "id": "n", "fd": "net0"}),
        ] {
            assert!(passes("netdev_add", Some(&arguments)), "{arguments}");
        }
    }

    #[test]
    fn the_human_monitor_only_answers_questions() {
        let line = |line: &str| json!({"command-line": line});
        assert!(passes("human-monitor-command", Some(&line("info registers"))));
        for bad in ["quit", "information", "info x\nquit", "", "!info"] {
            assert!(!passes("human-monitor-command", Some(&line(bad))), "{bad:?}");
        }
        assert!(!passes("human-monitor-command", None));
    }

    #[test]
    fn names_are_names() {
        for bad in ["", "query status", "stop\0", "a\"b"] {
            assert!(!passes(bad, None), "{bad:?}");
        }
    }
}
