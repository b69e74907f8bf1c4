//! Private directories and the sockets in them.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use maqet_process::directory::open_private;
use maqet_process::socket::{bind_listener, connect, listen, peer};
use maqet_process::{ProcessError, ProcessHandle};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn make_fifo(path: &Path) {
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o600.into(), 0).unwrap();
}

#[test]
fn a_missing_directory_is_made_with_its_parents() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b/c");
    let fd = open_private(&path).unwrap();
    assert_eq!(
        rustix::fs::fstat(&fd).unwrap().st_ino,
        fs::metadata(&path).unwrap().ino()
    );
    for path in [&path, &root.path().join("a/b"), &root.path().join("a")] {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
    open_private(&path).unwrap();
}

#[test]
fn what_is_not_a_private_directory_is_refused_with_a_hint() {
    let root = tempfile::tempdir().unwrap();
    let real = root.path().join("real");
    open_private(&real).unwrap();

    symlink(&real, root.path().join("link")).unwrap();
    symlink("nowhere", root.path().join("dangling")).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    make_fifo(&root.path().join("fifo"));
    for (name, expected) in [
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("file", "a regular file"),
        ("fifo", "a FIFO"),
    ] {
        let error = open_private(&root.path().join(name)).unwrap_err();
        assert!(
            matches!(error, ProcessError::NotADirectory { kind, .. } if kind == expected),
            "{error:?}"
        );
        assert!(error.hint().is_some());
    }
    assert!(open_private(&root.path().join("dangling/below")).is_err());
}

#[test]
fn a_directory_open_to_others_is_refused_with_a_hint() {
    let root = tempfile::tempdir().unwrap();
    let real = root.path().join("real");
    open_private(&real).unwrap();
    for bits in [0o755, 0o710, 0o701, 0o770] {
        fs::set_permissions(&real, fs::Permissions::from_mode(bits)).unwrap();
        let error = open_private(&real).unwrap_err();
        assert!(
            matches!(error, ProcessError::OpenDirectory { mode, .. } if mode == bits),
            "{error:?}"
        );
        assert_eq!(error.hint().unwrap(), format!("chmod 700 {}", real.display()));
    }
}

#[test]
fn another_users_directory_is_refused() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a directory away; the root directory serves everybody else.
        let refused = open_private("/".as_ref());
        assert!(
            matches!(refused, Err(ProcessError::ForeignDirectory { owner: 0, .. })),
            "{refused:?}"
        );
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("theirs");
    open_private(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
    let error = open_private(&path).unwrap_err();
    assert!(
        matches!(
            error,
            ProcessError::ForeignDirectory {
                owner: 65_534,
                expected: 0,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_bound_socket_refuses_until_somebody_listens() {
    // Longer than any socket address could be.
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("d".repeat(100)).join("e".repeat(100));
    let dir = open_private(&path).unwrap();
    let fd = bind_listener(dir.as_fd(), "qmp").unwrap();
    assert_eq!(mode(&path.join("qmp")), 0o600);
    let refused = connect(dir.as_fd(), "qmp").await.unwrap_err();
    assert!(
        matches!(&refused, ProcessError::File { source, .. } if source.kind() == ErrorKind::ConnectionRefused),
        "{refused:?}"
    );
    listen(&fd, 4).unwrap();
    let stream = connect(dir.as_fd(), "qmp").await.unwrap();
    let listener = UnixListener::from(fd);
    let (accepted, _) = listener.accept().unwrap();
    for side in [peer(&stream).unwrap(), peer(&accepted).unwrap()] {
        let own = ProcessHandle::current().unwrap();
        assert_eq!(
            (side.pid, side.uid),
            (own.pid(), rustix::process::geteuid().as_raw())
        );
        // Where the kernel has both calls, the inodes agree.
        assert!(side.handle.is_none() || side.inode() == own.inode());
    }
}

#[tokio::test]
async fn a_full_queue_is_told_from_a_dead_listener() {
    let root = tempfile::tempdir().unwrap();
    let dir = open_private(&root.path().join("run")).unwrap();
    let fd = bind_listener(dir.as_fd(), "qmp").unwrap();
    listen(&fd, 0).unwrap();
    let first = connect(dir.as_fd(), "qmp").await.unwrap();
    let crowded = connect(dir.as_fd(), "qmp").await.unwrap_err();
    assert!(matches!(crowded, ProcessError::Crowded { .. }), "{crowded:?}");
    drop((first, fd));
    let refused = connect(dir.as_fd(), "qmp").await.unwrap_err();
    assert!(matches!(refused, ProcessError::File { .. }), "{refused:?}");
}

#[tokio::test]
async fn only_sockets_are_replaced_or_connected_to() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run");
    let dir = open_private(&path).unwrap();
    drop(bind_listener(dir.as_fd(), "stale").unwrap());
    let again = bind_listener(dir.as_fd(), "stale").unwrap();
    listen(&again, 1).unwrap();
    connect(dir.as_fd(), "stale").await.unwrap();

    make_fifo(&path.join("fifo"));
    fs::write(path.join("file"), "keep").unwrap();
    symlink("stale", path.join("link")).unwrap();
    fs::create_dir(path.join("dir")).unwrap();
    for (name, kind) in [
        ("fifo", "a FIFO"),
        ("file", "a regular file"),
        ("link", "a symbolic link"),
        ("dir", "a directory"),
    ] {
        let bound = bind_listener(dir.as_fd(), name).unwrap_err();
        assert_eq!(bound.to_string(), format!("`{name}` is {kind}, not a socket"));
        assert!(bound.hint().is_some());
        let connected = connect(dir.as_fd(), name).await.unwrap_err();
        assert!(
            matches!(connected, ProcessError::NotASocket { .. }),
            "{connected:?}"
        );
    }
    assert_eq!(fs::read(path.join("file")).unwrap(), b"keep");
}

#[tokio::test]
async fn names_are_plain_file_names() {
    let root = tempfile::tempdir().unwrap();
    let dir = open_private(&root.path().join("run")).unwrap();
    for name in ["", ".", "..", "a/b", "/tmp/x", "a\0b"] {
        assert!(matches!(
            bind_listener(dir.as_fd(), name),
            Err(ProcessError::BadName { .. })
        ));
        assert!(matches!(
            connect(dir.as_fd(), name).await,
            Err(ProcessError::BadName { .. })
        ));
    }
    let missing = connect(dir.as_fd(), "missing").await.unwrap_err();
    assert!(matches!(&missing, ProcessError::File { source, .. } if source.kind() == ErrorKind::NotFound));
}
