//! Exit codes and the shape of errors.

use maqet_tests::{Guest, Running, Sandbox};
use serde_json::json;

use crate::facts::text;

#[test]
fn the_json_of_an_error_has_its_shape() {
    let sandbox = Sandbox::new();
    let output = sandbox.maqet(&["status", "nobody", "-o", "json"]).expect(4);
    assert!(output.stdout.is_empty());
    let error = output.error();
    assert_eq!(
        (&error["code"], &error["exit"], &error["vm"]),
        (&"vm-not-found".into(), &4.into(), &"nobody".into())
    );
    assert_eq!(error["message"], "no VM is named `nobody`");
    assert_eq!(
        (&error["causes"], &error["hint"]),
        (&json!([]), &"maqet ls".into())
    );
}

#[test]
fn people_get_a_fragment_and_a_hint() {
    let sandbox = Sandbox::new();
    let output = sandbox.maqet(&["status", "nobody"]).expect(4);
    assert_eq!(output.stderr, "error: no VM is named `nobody`\nhint: maqet ls\n");
    assert!(output.stdout.is_empty());
    // A file where a VM is meant.
    let file = Guest::tiny("web").write(&sandbox).display().to_string();
    let output = sandbox.maqet(&["start", &file]).expect(4);
    let told =
        format!("error: no VM is named `{file}`\nhint: a file is added first: maqet add {file} --start\n");
    assert_eq!(output.stderr, told);
}

#[test]
fn every_verb_knows_an_unknown_vm() {
    let sandbox = Sandbox::new();
    let verbs: [&[&str]; 12] = [
        &["start"],
        &["stop"],
        &["kill"],
        &["restart"],
        &["pause"],
        &["resume"],
        &["reset"],
        &["rm"],
        &["status"],
        &["info"],
        &["why"],
        &["logs"],
    ];
    for verb in verbs {
        sandbox.maqet(&[verb, &["nobody"]].concat()).expect(4);
    }
    sandbox.maqet(&["qmp", "run", "nobody", "query-status"]).expect(4);
    sandbox.maqet(&["events", "--vm", "nobody"]).expect(4);
}

#[test]
fn usage_is_2() {
    let sandbox = Sandbox::new();
    let wrong: [&[&str]; 6] = [
        &[],
        &["fly"],
        &["start"],
        &["stop", "web", "--timeout", "soon"],
        &["ls", "--nope"],
        &["wait", "web"],
    ];
    for args in wrong {
        sandbox.maqet(args).expect(2);
    }
    let error = sandbox.maqet(&["fly", "-o", "json"]).expect(2).error();
    assert_eq!((&error["code"], &error["exit"]), (&"usage".into(), &2.into()));
    assert!(
        sandbox.processes().is_empty(),
        "a usage error needs no supervisor"
    );
}

#[test]
fn a_bad_description_is_78_and_shows_the_place() {
    let sandbox = Sandbox::new();
    let yaml = Guest::tiny("web").yaml(&sandbox) + "memroy: 16M\n";
    let lines = yaml.lines().count();
    let file = sandbox.write_vm("web", &yaml).display().to_string();
    let output = sandbox.maqet(&["add", &file]).expect(78);
    assert!(
        output.stderr.contains(&format!("web.yaml:{lines}:1")),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("memroy: 16M"), "{}", output.stderr);
    assert!(output.stderr.contains("`memory`"), "{}", output.stderr);
    let error = sandbox.maqet(&["add", &file, "-o", "json"]).expect(78).error();
    assert_eq!(
        (&error["code"], &error["exit"]),
        (&"invalid-spec".into(), &78.into())
    );
    assert_eq!(
        (&error["at"]["line"], &error["at"]["column"]),
        (&lines.into(), &1.into())
    );
    assert!(text(&error["at"]["file"]).ends_with("web.yaml"));
}

#[test]
fn what_a_start_would_refuse_is_refused_by_add() {
    let sandbox = Sandbox::new();
    for line in [
        "disks: {root: {path: ./missing.qcow2}}",
        "memory: 0",
        "cpus: 0",
        "binary: no-such-qemu",
        "firmware: ./missing.bin",
        "networks: {lan: {type: user, forwards: ['tcp:127.0.0.1:99999:22']}}",
    ] {
        let key = line.split(':').next().unwrap();
        let yaml: String = Guest::tiny("web")
            .yaml(&sandbox)
            .lines()
            .filter(|known| !known.starts_with(&format!("{key}:")))
            .flat_map(|known| [known, "\n"])
            .collect();
        let file = sandbox.write_vm("web", &format!("{yaml}{line}\n"));
        let output = sandbox.maqet(&["add", file.to_str().unwrap()]);
        assert_eq!(output.code, 78, "{line}: {output:#?}");
    }
    assert_eq!(sandbox.json(&["ls"]), json!([]));
}

#[test]
fn without_a_supervisor_it_is_6() {
    let sandbox = Sandbox::new();
    let error = sandbox
        .maqet(&["--no-autostart", "ls", "-o", "json"])
        .expect(6)
        .error();
    assert_eq!(
        (&error["code"], &error["exit"]),
        (&"supervisor-unreachable".into(), &6.into())
    );
    assert!(
        !sandbox.data_dir().exists() && !sandbox.runtime_dir().exists(),
        "looking made something"
    );
    sandbox.maqet(&["supervisor", "status"]).expect(6);
    sandbox.maqet(&["supervisor", "stop"]).expect(0);
    sandbox.maqet(&["supervisor", "stop", "--strict"]).expect(3);
    sandbox.maqet(&["ls"]).expect(0);
    sandbox.maqet(&["--no-autostart", "ls"]).expect(0);
}

#[test]
fn a_second_supervisor_is_75_and_names_the_first() {
    let sandbox = Sandbox::new();
    let first = sandbox.supervisor();
    let second = Running::start(sandbox.command("maqet-supervisor-under-test"))
        .output()
        .expect(75);
    assert!(
        second.stderr.contains(&first.handle().pid().to_string()),
        "{}",
        second.stderr
    );
    // The first one did not notice.
    assert_eq!(
        sandbox.json(&["supervisor", "status"])["pid"],
        first.handle().pid()
    );
}

#[test]
fn a_supervisor_that_listens_elsewhere_is_75() {
    let sandbox = Sandbox::new();
    sandbox.maqet(&["ls"]).expect(0);
    let elsewhere = sandbox.path().join("elsewhere").display().to_string();
    let output = sandbox.maqet(&["--runtime-dir", &elsewhere, "ls", "-o", "json"]);
    assert_eq!(output.code, 75, "{output:#?}");
    assert_eq!(output.error()["code"], "second-supervisor");
}

#[test]
fn a_name_that_is_taken_is_5() {
    let sandbox = Sandbox::new();
    Guest::tiny("web").add(&sandbox);
    let file = Guest::tiny("web").write(&sandbox).display().to_string();
    let error = sandbox.maqet(&["add", &file, "-o", "json"]).expect(5).error();
    assert_eq!(
        (&error["code"], &error["exit"]),
        (&"name-taken".into(), &5.into())
    );
    sandbox.maqet(&["add", &file, "--name", "web2"]).expect(0);
}

#[test]
fn many_commands_at_once_start_one_supervisor() {
    let sandbox = Sandbox::new();
    let commands: Vec<Running> = (0..8).map(|_| sandbox.spawn(&["ls", "-o", "json"])).collect();
    for command in commands {
        assert_eq!(command.output().expect(0).json(), json!([]));
    }
    assert_eq!(sandbox.processes().len(), 1, "{:?}", sandbox.processes());
}

#[test]
fn what_needs_no_supervisor_starts_none() {
    let sandbox = Sandbox::new();
    let file = Guest::tiny("web").write(&sandbox).display().to_string();
    let alone: [&[&str]; 5] = [
        &["--version"],
        &["--help"],
        &["completion", "bash"],
        &["man"],
        &["config", "check", &file],
    ];
    for args in alone {
        sandbox.maqet(args).expect(0);
    }
    assert!(!sandbox.data_dir().exists() && sandbox.processes().is_empty());
}
