//! Drafts with and without a name.

use std::io::{ErrorKind, Read, Write};

use super::*;

fn publish(draft: Draft, path: &Path) -> io::Result<()> {
    let mut file = &draft.file;
    file.write_all(b"draft")?;
    draft.publish(path)
}

#[test]
fn a_draft_appears_whole_under_its_name_and_nowhere_else() {
    for make in [Draft::new, Draft::named] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        publish(make(&path).unwrap(), &path).unwrap();
        let mut text = String::new();
        File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "draft");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_draft_never_replaces_a_file() {
    for make in [Draft::new, Draft::named] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let draft = make(&path).unwrap();
        std::fs::write(&path, "first").unwrap();
        assert_eq!(
            publish(draft, &path).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_store_made_meanwhile_is_the_one_that_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let (first, created) = create(&path).unwrap();
    assert!(created);
    assert!(matches!(create(&path), Err(StoreError::AlreadyOpen { .. })));
    drop(first);
    let (_second, created) = create(&path).unwrap();
    assert!(!created);
}

#[test]
fn a_bare_name_lies_in_the_present_directory() {
    assert_eq!(directory_of(Path::new("state.redb")), Path::new("."));
    assert_eq!(directory_of(Path::new("/srv/state.redb")), Path::new("/srv"));
}

#[test]
fn refusals_of_the_file_system_are_told_from_damage() {
    let told = |kind: ErrorKind| {
        let error = DatabaseError::Storage(StorageError::Io(kind.into()));
        open_error(error, Path::new("state.redb"))
    };
    assert!(matches!(
        told(ErrorKind::StorageFull),
        StoreError::Io { action: "open", .. }
    ));
    assert!(matches!(told(ErrorKind::InvalidData), StoreError::Corrupt { .. }));
    assert!(matches!(
        told(ErrorKind::UnexpectedEof),
        StoreError::Corrupt { .. }
    ));
}
