//! The library: images come in whole, are listed, verified, and go.

use std::fs;
use std::path::Path;

use maqet_process::Signal;
use maqet_tests::wait::{self, PATIENCE};
use maqet_tests::{Guest, Sandbox, qemu_img};

use crate::facts::until_serial;

/// Names in the library's directory, temporary ones too.
fn entries(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(sandbox.data_dir().join("images"));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Turns one bit of an image over, as a dying disk or a careless hand would.
fn change(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let mut permissions = fs::metadata(path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(path, permissions).unwrap();
    fs::write(path, bytes).unwrap();
}

/// An image `base` of 2 MiB in the library.
fn import_base(sandbox: &Sandbox) {
    let file = sandbox.home().join("base.qcow2");
    qemu_img::filled(&file, 2);
    sandbox
        .maqet(&["image", "import", file.to_str().unwrap()])
        .expect(0);
}

#[test]
fn an_image_is_imported_listed_verified_and_deleted() {
    let sandbox = Sandbox::new();
    let file = sandbox.home().join("Debian-12.qcow2");
    qemu_img::filled(&file, 2);
    let import = ["image", "import", file.to_str().unwrap()];
    let imported = sandbox.json(&import);
    assert_eq!(imported["name"], "debian-12");
    assert_eq!(imported["virtual_bytes"], 2 << 20);
    let again = sandbox.maqet(&import).expect(5);
    assert!(
        again.stderr.contains("there is an image `debian-12` already"),
        "{}",
        again.stderr
    );
    let listed = sandbox.json(&["image", "ls"]);
    assert_eq!(
        (&listed[0]["checksum"], &listed[0]["used_by"]),
        (&imported["checksum"], &serde_json::json!([]))
    );
    let orphans = sandbox.json(&["storage", "orphaned"]);
    assert_eq!(orphans["images"], serde_json::json!([]), "{orphans}");
    let sound = sandbox.maqet(&["image", "verify"]).expect(0);
    assert_eq!(sound.stdout, "debian-12: sound\n");
    change(Path::new(imported["path"].as_str().unwrap()));
    let unsound = sandbox.maqet(&["image", "verify", "debian-12"]).expect(1);
    assert!(
        unsound.stdout.contains("its content has changed"),
        "{}",
        unsound.stdout
    );
    sandbox.maqet(&["image", "rm", "debian-12"]).expect(0);
    assert!(entries(&sandbox).is_empty());
}

#[test]
fn an_image_that_is_not_there_is_told() {
    let sandbox = Sandbox::new();
    for words in [["image", "rm", "debian-12"], ["image", "verify", "debian-12"]] {
        let error = sandbox
            .maqet(&[&words[..], &["-o", "json"]].concat())
            .expect(4)
            .error();
        assert_eq!(error["code"], "image-not-found");
        assert_eq!(error["hint"], "maqet image ls");
    }
}

#[test]
fn what_is_refused_is_told_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let home = sandbox.home();
    let evil = home.join("evil.qcow2");
    qemu_img::overlay_on("/etc/passwd", &evil);
    fs::write(home.join("packed.qcow2"), b"\xfd7zXZ\0\0").unwrap();
    fs::write(home.join("garbage"), "root:x:0:0:root:/root:/bin/bash\n").unwrap();
    for (name, reason, hint) in [
        ("evil.qcow2", "it stands on another file, `/etc/passwd`", None),
        (
            "packed.qcow2",
            "it is compressed with xz",
            Some("unpack it first: unxz"),
        ),
        (
            "garbage",
            "nothing in it says that it is a disk",
            Some("if it is a raw disk: --format raw"),
        ),
        ("missing", "find image", None),
    ] {
        let file = home.join(name);
        let words = ["image", "import", file.to_str().unwrap(), "-o", "json"];
        let error = sandbox.maqet(&words).expect(1).error();
        assert_eq!(error["code"], "image-refused", "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(reason), "{message}");
        let told = error["hint"].as_str();
        assert!(hint.is_none_or(|hint| told.unwrap().starts_with(hint)), "{error}");
    }
    let sum = format!("sha256:{}", "0".repeat(64));
    let file = home.join("raw");
    fs::write(&file, "content").unwrap();
    let file = file.to_str().unwrap();
    let wrong = sandbox
        .maqet(&["image", "import", file, "--format", "raw", "--checksum", &sum])
        .expect(1);
    assert!(
        wrong.stderr.contains("has the checksum sha256:"),
        "{}",
        wrong.stderr
    );
    sandbox
        .maqet(&["image", "import", file, "--checksum", "md5:1"])
        .expect(2);
    assert!(entries(&sandbox).is_empty());
}

/// A client that leaves ends its import; a supervisor that is killed leaves what the next one sweeps.
#[test]
fn an_import_that_is_cut_off_leaves_nothing() {
    let sandbox = Sandbox::new();
    let file = sandbox.home().join("big.qcow2");
    qemu_img::filled(&file, 96);
    let supervisor = sandbox.supervisor();
    let unfinished = |sandbox: &Sandbox| {
        wait::until("an import under way", PATIENCE, || {
            let names = entries(sandbox);
            if names.iter().any(|name| name.starts_with(".new-")) {
                Ok(())
            } else {
                Err(names)
            }
        });
    };
    let words = ["image", "import", file.to_str().unwrap(), "--name", "big"];
    let client = sandbox.spawn(&words);
    unfinished(&sandbox);
    let leaks = sandbox.json(&["doctor", "--leaks"]);
    assert_eq!(leaks["leaks"].as_array().map(Vec::len), Some(0), "{leaks}");
    client.signal(Signal::Int);
    drop(client.output());
    wait::until("the import to be given up", PATIENCE, || {
        let names = entries(&sandbox);
        if names.is_empty() { Ok(()) } else { Err(names) }
    });

    let client = sandbox.spawn(&words);
    unfinished(&sandbox);
    supervisor.signal(Signal::Kill);
    drop(supervisor.output());
    client.output().expect(6);
    assert!(entries(&sandbox).iter().all(|name| name.starts_with(".new-")));
    let next = sandbox.supervisor();
    assert!(entries(&sandbox).is_empty(), "{:?}", entries(&sandbox));
    sandbox.maqet(&words).expect(0);
    assert_eq!(entries(&sandbox), ["big"]);
    sandbox.maqet(&["image", "verify"]).expect(0);
    drop(next);
}

/// Two VMs stand on one image, write to their own disks, and leave it as it was.
#[test]
fn disks_stand_on_an_image_and_leave_it_alone() {
    let sandbox = Sandbox::new();
    let file = sandbox.home().join("base.qcow2");
    qemu_img::filled(&file, 2);
    let base = sandbox.json(&["image", "import", file.to_str().unwrap()]);
    for vm in ["one", "two"] {
        let disk = format!("disks: {{root: {{path: ./{vm}.qcow2, from: base, interface: ide}}}}");
        let guest = Guest::tiny(vm).options(&["write"]).line(&disk);
        guest.start(&sandbox);
        until_serial(&sandbox, vm, "wrote \\d+ sectors");
    }
    let listed = sandbox.json(&["image", "ls"]);
    assert_eq!(listed[0]["used_by"], serde_json::json!(["one", "two"]));
    let refused = sandbox.maqet(&["image", "rm", "base"]).expect(5);
    assert!(refused.stderr.contains("`one` has one"), "{}", refused.stderr);
    sandbox.maqet(&["stop", "one", "two"]).expect(0);
    sandbox.maqet(&["start", "one"]).expect(0);
    sandbox.maqet(&["stop", "one"]).expect(0);
    sandbox.maqet(&["image", "verify", "base"]).expect(0);
    for vm in ["one", "two"] {
        let overlay = sandbox.home().join(format!("{vm}.qcow2"));
        let info = qemu_img::info(&overlay);
        assert_eq!(info["backing-filename"], base["path"]);
        assert_eq!(info["virtual-size"], base["virtual_bytes"]);
        sandbox.maqet(&["rm", vm, "--delete-storage"]).expect(0);
        assert!(!overlay.exists());
    }
    sandbox.maqet(&["image", "rm", "base"]).expect(0);
}

#[test]
fn a_disk_from_an_image_that_is_missing_or_larger_is_refused() {
    let sandbox = Sandbox::new();
    let file = sandbox.home().join("base.qcow2");
    qemu_img::filled(&file, 2);
    let add = |disk: &str| {
        let line = format!("disks: {{root: {{path: ./x.qcow2, {disk}}}}}");
        let file = Guest::tiny("web").line(&line).write(&sandbox);
        sandbox.maqet(&["add", file.to_str().unwrap(), "-o", "json"])
    };
    let missing = add("from: base").expect(4).error();
    assert_eq!(
        (&missing["code"], &missing["hint"]),
        (&"image-not-found".into(), &"maqet image ls".into())
    );
    sandbox
        .maqet(&["image", "import", file.to_str().unwrap()])
        .expect(0);
    add("from: base, size: 1M").expect(78);
    add("from: base, format: raw").expect(78);
    add("from: base, readonly: true").expect(78);
    add("from: Base").expect(78);
    add("from: base, size: 4M").expect(0);
}

/// `rm` keeps disks: what they stand on is kept as well, although no VM has them.
#[test]
fn an_image_is_not_deleted_under_a_disk_that_was_kept() {
    let sandbox = Sandbox::new();
    import_base(&sandbox);
    Guest::tiny("web")
        .line("disks: {root: {path: ./root.qcow2, from: base, interface: ide}}")
        .start(&sandbox);
    sandbox.maqet(&["stop", "web"]).expect(0);
    sandbox.maqet(&["rm", "web"]).expect(0);
    let kept = sandbox.home().join("root.qcow2");
    let refused = sandbox.maqet(&["image", "rm", "base"]).expect(5).stderr;
    assert!(refused.contains(kept.to_str().unwrap()), "{refused}");
    sandbox.maqet(&["image", "verify", "base"]).expect(0);
    fs::remove_file(kept).unwrap();
    sandbox.maqet(&["image", "rm", "base"]).expect(0);
}

/// `maqet add FILE --set disks.root.from=IMAGE`, and no more.
#[test]
fn a_disk_without_a_path_has_one_of_its_own() {
    let sandbox = Sandbox::new();
    import_base(&sandbox);
    let vm = Guest::tiny("web").write(&sandbox);
    let words = [vm.to_str().unwrap(), "--set", "disks.root.from=base"];
    let add = [&["add"], &words[..]].concat();
    sandbox
        .maqet(&[&["config", "check"], &words[..]].concat())
        .expect(0);
    sandbox.maqet(&add).expect(0);
    // The first start makes it; until then nothing is missing.
    let info = sandbox.json(&["storage", "info", "web"]);
    assert_eq!(info["disks"][0]["state"], "to-be-made", "{info}");
    sandbox.maqet(&["storage", "verify", "web"]).expect(0);
    sandbox.maqet(&["snapshot", "list", "web"]).expect(0);
    sandbox.maqet(&["doctor"]).expect(0);
    sandbox.maqet(&["start", "web"]).expect(0);
    let disk = sandbox.data_dir().join("disks/web/root.qcow2");
    assert_eq!(sandbox.status("web")["disks"][0]["path"], disk.to_str().unwrap());
    let info = sandbox.maqet(&["storage", "info", "web"]).expect(0).stdout;
    assert!(info.contains("maqet, from the image base"), "{info}");
    sandbox.maqet(&["kill", "web"]).expect(0);
    // It was kept, so it is not taken for a new VM's.
    sandbox.maqet(&["rm", "web"]).expect(0);
    let refused = sandbox.maqet(&add).expect(5).stderr;
    assert!(refused.contains("there is one of an earlier `web`"), "{refused}");
    let orphans = sandbox.json(&["storage", "orphaned"]);
    assert_eq!(orphans["images"][0]["path"], disk.to_str().unwrap());
    fs::remove_file(&disk).unwrap();
    sandbox.maqet(&[&add[..], &["--start"]].concat()).expect(0);
    sandbox.maqet(&["kill", "web"]).expect(0);
    sandbox.maqet(&["rm", "web", "--delete-storage"]).expect(0);
    assert!(!sandbox.data_dir().join("disks/web").exists());
    assert_eq!(
        sandbox.json(&["doctor", "--leaks"])["leaks"],
        serde_json::json!([])
    );
}

#[test]
fn a_disk_is_verified_with_the_content_of_the_image_it_stands_on() {
    let sandbox = Sandbox::new();
    let file = sandbox.home().join("base.qcow2");
    qemu_img::filled(&file, 2);
    let base = sandbox.json(&["image", "import", file.to_str().unwrap()]);
    let base = Path::new(base["path"].as_str().unwrap());
    Guest::tiny("web")
        .line("disks: {root: {from: base, interface: ide}, more: {from: base, interface: ide}}")
        .start(&sandbox);
    for rest in [false, true] {
        if rest {
            sandbox.maqet(&["stop", "web"]).expect(0);
        }
        sandbox.maqet(&["storage", "verify", "web"]).expect(0);
    }
    change(base);
    let told = sandbox.maqet(&["storage", "verify", "web"]).expect(1).stdout;
    let words = "image `base` of the library: its content has changed";
    assert_eq!(told.matches(words).count(), 2, "{told}");
    // The same content in another file is told as well.
    let copy = sandbox.home().join("copy");
    change(base);
    fs::copy(base, &copy).unwrap();
    fs::rename(&copy, base).unwrap();
    let told = sandbox.maqet(&["image", "verify"]).expect(1).stdout;
    assert!(
        told.contains("its file is another") && !told.contains("has changed"),
        "{told}"
    );
}
