//! Which files a QMP command would have QEMU write. The list is data; names that are no files are left out.

use std::path::PathBuf;

use serde_json::Value;

/// Commands, and where in their arguments a file is that QEMU writes.
const WRITTEN: [(&str, &str); 15] = [
    ("screendump", "/filename"),
    ("memsave", "/filename"),
    ("pmemsave", "/filename"),
    ("dumpdtb", "/filename"),
    ("xen-save-devices-state", "/filename"),
    ("dump-guest-memory", "/protocol"),
    ("migrate", "/uri"),
    ("blockdev-snapshot-sync", "/snapshot-file"),
    ("drive-mirror", "/target"),
    ("drive-backup", "/target"),
    ("blockdev-create", "/options/filename"),
    ("chardev-add", "/backend/data/out"),
    ("chardev-add", "/backend/data/logfile"),
    ("object-add", "/mem-path"),
    ("object-add", "/file"),
];

/// The descriptors that QEMU has already.
const PASSED: &str = "/dev/fdset/";

/// The files, as they are named.
pub(crate) fn files(command: &str, arguments: Option<&Value>) -> Vec<PathBuf> {
    let Some(arguments) = arguments else {
        return Vec::new();
    };
    if command == "transaction" {
        return of_actions(arguments);
    }
    let listed = WRITTEN.iter().filter(|(listed, _)| *listed == command);
    let named = listed.filter_map(|(_, place)| arguments.pointer(place)?.as_str());
    named.filter_map(file).collect()
}

/// Each action of a transaction is a command.
fn of_actions(arguments: &Value) -> Vec<PathBuf> {
    let actions = arguments.get("actions").and_then(Value::as_array);
    let actions = actions.into_iter().flatten();
    let of = |action: &Value| {
        let kind = action.get("type").and_then(Value::as_str).unwrap_or_default();
        match kind {
            // It is no action, and would have this call itself for as long as somebody nests it.
            "transaction" => Vec::new(),
            kind => files(kind, action.get("data")),
        }
    };
    actions.flat_map(of).collect()
}

/// A file among names that may have a protocol: `file:/a` is `/a`, `tcp:…` is none. A description (`json:`) stays as it is,
/// which no policy allows.
fn file(name: &str) -> Option<PathBuf> {
    let first = name.split('/').next().unwrap_or_default();
    match first.split_once(':') {
        Some(("file", _)) => name.strip_prefix("file:").map(PathBuf::from),
        Some((scheme, _)) if scheme != "json" => None,
        Some(_) | None => Some(PathBuf::from(name)).filter(|path| !path.starts_with(PASSED)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_command_writes_is_found() {
        for (command, arguments, expected) in [
            ("screendump", json!({"filename": "/a b,c"}), vec!["/a b,c"]),
            ("screendump", json!({"filename": "x.ppm"}), vec!["x.ppm"]),
            ("dump-guest-memory", json!({"protocol": "file:/a"}), vec!["/a"]),
            ("dump-guest-memory", json!({"protocol": "fd:x"}), vec![]),
            ("migrate", json!({"uri": "tcp:127.0.0.1:1"}), vec![]),
            ("migrate", json!({"uri": "file:/a"}), vec!["/a"]),
            ("drive-mirror", json!({"target": "nbd://host/x"}), vec![]),
            (
                "drive-mirror",
                json!({"target": "json:{\"driver\": \"file\"}"}),
                vec!["json:{\"driver\": \"file\"}"],
            ),
            (
                "blockdev-create",
                json!({"options": {"driver": "file", "filename": "/a"}}),
                vec!["/a"],
            ),
            (
                "blockdev-create",
                json!({"options": {"filename": "/dev/fdset/7"}}),
                vec![],
            ),
            (
                "chardev-add",
                json!({"backend": {"data": {"out": "/a", "logfile": "/b"}}}),
                vec!["/a", "/b"],
            ),
            (
                "transaction",
                json!({"actions": [{"type": "blockdev-snapshot-sync", "data": {"snapshot-file": "/a"}},
                    {"type": "transaction", "data": {"actions": []}}, {"type": "abort"}]}),
                vec!["/a"],
            ),
            ("query-status", json!({"filename": "/a"}), vec![]),
        ] {
            let expected: Vec<PathBuf> = expected.into_iter().map(PathBuf::from).collect();
            assert_eq!(
                files(command, Some(&arguments)),
                expected,
                "{command} {arguments}"
            );
        }
        assert!(files("screendump", None).is_empty());
    }
}
