//! `ls`, `status`, `info`, `inspect`: what is told of VMs, in every form.

use maqet_tests::{Guest, Sandbox};
use serde_json::Value;

use crate::facts::text;

/// Names in the order of the list.
fn names(list: &Value) -> Vec<String> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|vm| text(&vm["name"]))
        .collect()
}

#[test]
fn nothing_is_an_empty_list() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.json(&["ls"]), serde_json::json!([]));
    let table = sandbox.maqet(&["ls"]).expect(0).stdout;
    assert_eq!(table, "NAME  STATUS  UPTIME  MEMORY  CPUS  PID  ID\n");
    assert_eq!(sandbox.maqet(&["ls", "-o", "name"]).expect(0).stdout, "");
    assert_eq!(
        sandbox.json(&["ls", "--status", "running"]),
        serde_json::json!([])
    );
}

#[test]
fn many_are_listed_by_name() {
    let sandbox = Sandbox::new();
    let mut expected: Vec<String> = (0..20)
        .map(|number| format!("vm-{:02}", number * 7 % 20))
        .collect();
    let files: Vec<String> = expected
        .iter()
        .map(|name| Guest::tiny(name).write(&sandbox).display().to_string())
        .collect();
    for file in &files {
        sandbox.maqet(&["add", file]).expect(0);
    }
    expected.sort();
    assert_eq!(names(&sandbox.json(&["ls"])), expected);
    let by_name = sandbox.maqet(&["ls", "-o", "name"]).expect(0).stdout;
    assert_eq!(by_name.lines().collect::<Vec<_>>(), expected);
    let table = sandbox.maqet(&["list"]).expect(0).stdout;
    let column: Vec<&str> = table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(column, expected);
}

#[test]
fn a_status_picks_those_that_have_it() {
    let sandbox = Sandbox::new();
    Guest::tiny("new").add(&sandbox);
    Guest::tiny("up").start(&sandbox);
    Guest::tiny("down").start(&sandbox);
    sandbox.maqet(&["stop", "down"]).expect(0);
    Guest::tiny("broken").arg("-device").arg("nope").add(&sandbox);
    sandbox.maqet(&["start", "broken"]).expect(1);
    for (status, name) in [
        ("created", "new"),
        ("running", "up"),
        ("stopped", "down"),
        ("failed", "broken"),
    ] {
        let listed = sandbox.json(&["ls", "--status", status]);
        assert_eq!(names(&listed), [name]);
        assert_eq!(listed[0]["status"], status);
    }
    assert_eq!(names(&sandbox.json(&["ps"])), ["broken", "down", "new", "up"]);
    sandbox.maqet(&["ls", "--status", "asleep"]).expect(2);
}

#[test]
fn json_has_every_promised_field() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let promised = [
        "id",
        "name",
        "status",
        "activity",
        "run_state",
        "pid",
        "runner_pid",
        "since",
        "uptime_s",
        "memory",
        "cpus",
        "restart",
        "last_exit",
    ];
    let listed = sandbox.json(&["ls"]);
    let status = sandbox.status("web");
    for field in promised {
        assert!(listed[0].get(field).is_some(), "ls lacks `{field}`: {listed}");
        assert_eq!(listed[0][field].is_null(), status[field].is_null(), "{field}");
    }
    for field in ["accel", "disks", "ports", "sandbox"] {
        assert!(status.get(field).is_some(), "status lacks `{field}`: {status}");
    }
    assert_eq!(status["memory"], 16 << 20);
    assert_eq!(status["cpus"], 1);
    sandbox.maqet(&["stop", "web"]).expect(0);
    let exit = &sandbox.json(&["ls"])[0]["last_exit"];
    for field in ["cause", "at", "exit_code", "signal", "detail"] {
        assert!(exit.get(field).is_some(), "last_exit lacks `{field}`: {exit}");
    }
}

#[test]
fn yaml_says_the_same_as_json() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    for verb in ["ls", "status", "inspect"] {
        let args: &[&str] = if verb == "ls" { &["ls"] } else { &[verb, "web"] };
        let yaml = sandbox.maqet(&[args, &["-o", "yaml"]].concat()).expect(0).stdout;
        let parsed: Value = serde_yaml::from_str(&yaml).unwrap();
        assert_eq!(parsed, sandbox.json(args), "{verb}");
    }
}

#[test]
fn the_table_is_for_people() {
    let sandbox = Sandbox::new();
    let id = Guest::tiny("web").add(&sandbox);
    let table = sandbox.maqet(&["ls"]).expect(0).stdout;
    let short = id.get(..12).unwrap();
    let expected = format!(
        "NAME  STATUS   UPTIME  MEMORY  CPUS  PID  ID\nweb   created  -       16M     1     -    {short}\n"
    );
    assert_eq!(table, expected);
}

#[test]
fn info_can_be_added_again() {
    let sandbox = Sandbox::new();
    Guest::tiny("web")
        .options(&["ticks"])
        .line("stop: {timeout: 7s}")
        .add(&sandbox);
    let yaml = sandbox.maqet(&["info", "web"]).expect(0).stdout;
    let file = sandbox.write_vm("copy", &yaml.replace("name: web", "name: copy"));
    sandbox.maqet(&["add", file.to_str().unwrap()]).expect(0);
    let copy = sandbox.maqet(&["info", "copy"]).expect(0).stdout;
    assert_eq!(copy.replace("name: copy", "name: web"), yaml);
    let json = sandbox.json(&["info", "web"]);
    assert_eq!(json["spec"]["name"], "web");
}

#[test]
fn inspect_tells_everything() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let inspected = sandbox.json(&["inspect", "web"]);
    assert_eq!(inspected["status"]["pid"], sandbox.status("web")["pid"]);
    assert_eq!(inspected["spec"]["name"], "web");
    let kinds: Vec<String> = inspected["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| text(&event["kind"]))
        .collect();
    assert!(
        kinds.starts_with(&["vm.added".to_owned(), "vm.starting".to_owned()]),
        "{kinds:?}"
    );
    let shown = sandbox.maqet(&["inspect", "web"]).expect(0).stdout;
    for part in ["name:", "specification:", "history:", "vm.running"] {
        assert!(shown.contains(part), "no `{part}` in {shown}");
    }
}

#[test]
fn status_for_people_names_what_matters() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").start(&sandbox);
    let shown = sandbox.maqet(&["status", "web"]).expect(0).stdout;
    for line in ["status:", "uptime:", "pid:", "accel:", "sandbox:", "logs:"] {
        assert!(
            shown.lines().any(|shown| shown.starts_with(line)),
            "no `{line}` in {shown}"
        );
    }
    assert_eq!(
        sandbox.maqet(&["status", "web", "-o", "name"]).expect(0).stdout,
        "web\n"
    );
}

#[test]
fn questions_about_nobody_are_told_so() {
    let sandbox = Sandbox::new();
    for verb in ["status", "info", "inspect", "why", "logs"] {
        let error = sandbox.maqet(&[verb, "nobody", "-o", "json"]).expect(4).error();
        assert_eq!(
            (&error["code"], &error["exit"]),
            (&"vm-not-found".into(), &4.into()),
            "{verb}"
        );
    }
}
