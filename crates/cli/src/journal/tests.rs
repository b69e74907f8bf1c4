//! The journal through the death of its supervisor.

use maqet_protocol::control::Events;
use serde_json::json;

use super::{Journal, history};
use crate::fake::{self, World};
use crate::session::Session;

#[test]
fn history_is_everything_there_is() {
    fake::run(async {
        let world = World::listening("running");
        for kind in ["vm.added", "vm.starting", "vm.running"] {
            world.happens(kind, &json!({}));
        }
        let (settings, output) = (world.settings(), fake::output());
        let events = history(&Session::new(&settings, &output), "web").await.unwrap();
        let seen: Vec<(u64, &str)> = events
            .iter()
            .map(|event| (event.cursor, event.kind.as_str()))
            .collect();
        assert_eq!(seen, [(1, "vm.added"), (2, "vm.starting"), (3, "vm.running")]);
    });
}

#[test]
fn following_begins_now_and_survives_a_broken_connection() {
    fake::run(async {
        let world = World::listening("running");
        world.happens("before", &json!({}));
        let (settings, output) = (world.settings(), fake::output());
        let session = Session::new(&settings, &output);
        let query = Events {
            follow: true,
            ..Events::default()
        };
        let mut journal = Journal::open(&session, query).await.unwrap();
        world.happens("first", &json!({}));
        assert_eq!(journal.next().await.unwrap().unwrap().kind, "first");
        world.dies_on.lock().unwrap().insert("Events");
        world.happens("test.hang-up", &json!({}));
        // The reader asks again after the cursor it has seen; the fake hangs up on that event once more, and ends it.
        let error = journal.next().await.unwrap_err();
        assert_eq!(error.exit().code(), 6);
        let asked: Vec<_> = world
            .calls_of("Events")
            .iter()
            .map(|call| call["since"].clone())
            .collect();
        assert!(asked.len() > 2, "{asked:?}");
        assert!(asked.iter().skip(1).all(|since| *since == json!(2)), "{asked:?}");
    });
}

#[test]
fn an_event_is_neither_lost_nor_seen_twice() {
    fake::run(async {
        let world = World::listening("running");
        let (settings, output) = (world.settings(), fake::output());
        let session = Session::new(&settings, &output);
        let query = Events {
            follow: true,
            ..Events::default()
        };
        let mut journal = Journal::open(&session, query).await.unwrap();
        world.dies_on.lock().unwrap().insert("Events");
        for kind in ["a", "b", "c"] {
            world.happens(kind, &json!({}));
        }
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.push(journal.next().await.unwrap().unwrap().kind);
        }
        assert_eq!(seen, ["a", "b", "c"]);
    });
}

#[test]
fn one_who_only_watches_follows_into_the_successor_of_somebody_else() {
    fake::run(async {
        let world = World::listening("running");
        let (settings, output) = (world.settings(), fake::output());
        let session = Session::new(&settings, &output);
        let query = Events {
            follow: true,
            ..Events::default()
        };
        let mut journal = Journal::open(&session, query).await.unwrap().only_watching();
        for kind in ["a", "b"] {
            world.happens(kind, &json!({}));
        }
        assert_eq!(journal.next().await.unwrap().unwrap().kind, "a");
        journal.stream = None;
        journal.losses = 1;
        assert_eq!(journal.next().await.unwrap().unwrap().kind, "b");
    });
}
