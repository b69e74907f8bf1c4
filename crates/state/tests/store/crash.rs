//! kill -9 in the middle of commits: what was acknowledged is there, and nothing is half there.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use maqet_state::change::Change;
use maqet_state::journal::NewEvent;
use maqet_state::record::VmRecord;
use maqet_state::store::Store;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::support::{CHILD_STORE, Place, addition, at, child, id, record};

const TEST: &str = "crash::acknowledged_commits_survive_kill_nine";
const ROUNDS: u32 = 20;

#[test]
fn acknowledged_commits_survive_kill_nine() {
    if let Some(path) = std::env::var_os(CHILD_STORE) {
        write_until_killed(Path::new(&path));
    }
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let place = Place::new();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        acknowledged = run_writer(&place.path(), rng.random_range(1..60)).max(acknowledged);
        let store = Store::open(&place.path()).unwrap().store;
        check(&store, acknowledged, &format!("seed {seed}, round {round}"));
    }
}

/// Commits batches without end and tells each one once it is durable. Batch `n` makes VM `n` with two entries and an
/// answer, and gives VM `n - 1` the generation `n`.
fn write_until_killed(path: &Path) -> ! {
    let store = Store::open(path).unwrap().store;
    let mut stdout = std::io::stdout();
    let mut number = store.cursor().unwrap() / 2;
    loop {
        number += 1;
        let mut changes = vec![
            addition(number, &format!("vm-{number}"))
                .event(NewEvent::new("tick", at(number)).with("number", number))
                .answering(format!("call-{number}"), json!(number)),
        ];
        if number > 1 {
            let mut previous = record(number - 1, &format!("vm-{}", number - 1));
            previous.generation = number;
            changes.push(Change::update(previous));
        }
        for answer in store.commit(changes).unwrap() {
            answer.unwrap();
        }
        stdout.write_all(format!("ack {number}\n").as_bytes()).unwrap();
        stdout.flush().unwrap();
    }
}

/// Runs the writer until it acknowledged `acknowledgements` batches, kills it, and says the last number it told.
#[expect(
    clippy::disallowed_methods,
    reason = "its own child, not reaped yet: the number is still its own"
)]
fn run_writer(path: &Path, acknowledgements: usize) -> u64 {
    let mut child = child(TEST, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = acks(&mut child);
    let seen = told.by_ref().take(acknowledgements).last();
    child.kill().unwrap();
    // It may have told more before the signal reached it.
    let last = told.last().or(seen);
    child.wait().unwrap();
    last.unwrap()
}

fn acks(child: &mut Child) -> impl Iterator<Item = u64> + use<> {
    BufReader::new(child.stdout.take().unwrap())
        .lines()
        .filter_map(|line| line.unwrap().strip_prefix("ack ")?.parse().ok())
}

fn check(store: &Store, acknowledged: u64, context: &str) {
    let proof = store.verify_journal().unwrap();
    let batches = proof.cursor / 2;
    assert_eq!(proof.cursor % 2, 0, "{context}: half a batch");
    // One batch may be durable without its acknowledgement having been told.
    assert!(
        (acknowledged..=acknowledged + 1).contains(&batches),
        "{context}: {batches} of {acknowledged}"
    );
    let vms = store.vms().unwrap();
    assert_eq!(u64::try_from(vms.len()).unwrap(), batches, "{context}");
    for (vm, number) in vms.iter().zip(1..) {
        assert_eq!(
            vm.generation,
            if number == batches { 0 } else { number + 1 },
            "{context}"
        );
        check_vm(store, vm, number, context);
    }
}

fn check_vm(store: &Store, vm: &VmRecord, number: u64, context: &str) {
    let answer = store.answer(&format!("call-{number}")).unwrap();
    assert_eq!(vm.id, id(number), "{context}");
    assert_eq!(
        store.id_of(vm.name()).unwrap().as_ref(),
        Some(&vm.id),
        "{context}"
    );
    assert!(store.secret(&vm.id).unwrap().is_some(), "{context}");
    assert_eq!(answer, Some(json!(number)), "{context}");
}
