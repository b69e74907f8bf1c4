//! Shared directories, in our words and in the Python tool's.

use super::one;
use crate::vm::{Share, ShareKind, ShareSecurity};

fn shares(text: &str) -> Vec<Share> {
    one(&format!("name: web\n{text}")).unwrap().shares
}

fn share(name: &str) -> Share {
    Share {
        name: name.to_owned(),
        path: format!("/vms/{name}").into(),
        tag: name.to_owned(),
        kind: ShareKind::Plan9,
        readonly: false,
        security: ShareSecurity::MappedXattr,
    }
}

#[test]
fn short_long_and_as_a_list() {
    let expected = [share("src")];
    for text in [
        "shares: {src: ./src}",
        "shares: {src: {path: ./src}}",
        "shares: [{name: src, path: src}]",
        "shares: {src: {path: /vms/src, tag: src, type: auto, readonly: false, security: mapped-xattr}}",
        "storage: [{name: src, type: virtfs, path: ./src}]",
        "storage: {src: {type: virtfs, path: ./src, options: {id: fs0}}}",
    ] {
        assert_eq!(shares(text), expected, "{text}");
    }
}

#[test]
fn the_python_tools_entry_keeps_its_options() {
    let text = "storage:\n  - {name: hdd, file: ./a.qcow2}\n  - name: src\n    type: virtfs\n    path: ./src\n    \
                options: {mount_tag: hostshare, security_model: none, readonly: true}\nshares: {more: ./more}\n";
    let spec = one(&format!("name: web\n{text}")).unwrap();
    let expected = Share {
        tag: "hostshare".to_owned(),
        readonly: true,
        security: ShareSecurity::None,
        ..share("src")
    };
    assert_eq!(spec.shares, [share("more"), expected]);
    assert_eq!(spec.disks.len(), 1);
    assert_eq!(one(&crate::to_yaml(&spec)), Ok(spec));
}

#[test]
fn virtiofs_passes_owners_through() {
    let expected = Share {
        kind: ShareKind::Virtiofs,
        security: ShareSecurity::Passthrough,
        ..share("src")
    };
    let spec = one("name: web\nshares: {src: {path: ./src, type: virtiofs}}\n").unwrap();
    assert_eq!(spec.shares, [expected]);
    assert_eq!(one(&crate::to_yaml(&spec)), Ok(spec));
}

#[test]
fn what_is_refused() {
    for (text, message, hint) in [
        (
            "shares: {src: {tag: a}}",
            "share `src` has no `path`",
            "`src: ./src`",
        ),
        ("shares: {src: ~}", "share `src` has no value", "`src: ./src`"),
        ("shares: {Src: ./src}", "`Src` is not a share name", "a letter"),
        (
            "shares: {src: {path: ./src, type: virtiofs, security: mapped-xattr}}",
            "virtiofs passes owners and modes through",
            "leave `security` out",
        ),
        (
            "shares: {src: {path: ./src, security: mapped}}",
            "`mapped` is not a way to keep owners",
            "",
        ),
        (
            "shares: {src: {path: ./src, tag: 'a,readonly=off'}}",
            "`a,readonly=off` is not a tag",
            "1 to 31",
        ),
        (
            "shares: {a: {path: ./a, tag: x}, b: {path: ./b, tag: x}}",
            "share `a` already has the tag `x`",
            "",
        ),
        (
            "shares: {src: ./src}\nstorage: [{name: src, type: virtfs, path: ./b}]",
            "the name `src` is used twice",
            "",
        ),
        (
            "machine: none\nshares: {src: ./src}",
            "no virtio devices",
            "machine: q35",
        ),
        (
            "disks: {root: {path: ./vm/root.qcow2}}\nshares: {vm: ./vm}",
            "holds `/vms/vm/root.qcow2`",
            "`readonly: true`",
        ),
        (
            "kernel: ./vm/vmlinuz\nshares: {vm: ./vm}",
            "holds `/vms/vm/vmlinuz`",
            "a directory of its own",
        ),
    ] {
        let error = one(&format!("name: web\n{text}\n")).unwrap_err();
        assert!(error.message().contains(message), "{text}: {error}");
        let hinted = error.hint_text().unwrap_or_default();
        assert!(hinted.contains(hint), "{text}: {error}");
    }
    let readonly = "disks: {root: {path: ./vm/root.qcow2}}\nshares: {vm: {path: ./vm, readonly: true}}";
    assert!(shares(readonly)[0].readonly);
}
