//! Random scripts against a model: the real actor, the real state actor and the real store; runners are played, and
//! QEMU is a process that does nothing.
//!
//! A script is a list of [`Step`]s. What must hold is in `model`, what is really so in `world`. A failure prints the
//! shortest script that still fails, which is a regression test as it stands: see `scripts`. `PROPTEST_CASES` raises the
//! number of scripts.

mod body;
mod client;
mod images;
mod model;
mod play;
mod runner;
mod scripts;
mod step;
mod world;

use std::fmt::Write;
use std::rc::Rc;

use proptest::test_runner::{Config, Reason, TestCaseError, TestError, TestRunner};

use self::play::Play;
use self::step::{Policy, Step, policy, script};
use self::world::World;

/// Scripts that are played when nobody asks for more.
const SCRIPTS: u32 = 128;

/// Plays a script to its end; tells how the clients were answered, or what was wrong.
fn play(policy: Policy, script: &[Step]) -> Result<Vec<String>, String> {
    quiet();
    let shm = std::path::Path::new("/dev/shm");
    let dir = if shm.is_dir() {
        tempfile::tempdir_in(shm).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    };
    let told = actix_rt::System::new().block_on(async {
        tokio::time::pause();
        let play = Play::new(dir.path(), policy).await;
        let told = act(&play, script).await;
        play.strike();
        told.map(|()| play.answers())
    });
    World::leave();
    told
}

async fn act(play: &Rc<Play>, script: &[Step]) -> Result<(), String> {
    for (number, step) in script.iter().enumerate() {
        play.step(*step).await;
        // Only where time passes does everything come to rest before the next step.
        if matches!(step, Step::Pass(_)) {
            play.rest().await;
            play.check().await;
        }
        verdict(play, &format!("after step {number}, {step:?}"))?;
    }
    play.finish().await;
    verdict(play, "in the end")
}

fn verdict(play: &Play, when: &str) -> Result<(), String> {
    let wrong = play.world.wrong.borrow();
    if wrong.is_empty() {
        return Ok(());
    }
    let mut told = format!("{when}:\n");
    for what in wrong.iter() {
        writeln!(told, "  {what}").unwrap();
    }
    for client in play.clients.borrow().iter() {
        writeln!(told, "  {}", client.story()).unwrap();
    }
    for entry in play.journal() {
        writeln!(told, "  {} {}", entry.kind, serde_json::Value::from(entry.data)).unwrap();
    }
    Err(told)
}

/// Panics that are part of a script are not told of.
fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload_as_str() != Some("a defect, on purpose") {
                before(panic);
            }
        }));
    });
}

/// What was wrong, and the script as a test would have it.
fn told(why: &Reason, policy: Policy, script: &[Step]) -> String {
    let steps: Vec<_> = script.iter().map(|step| format!("    {step:?},")).collect();
    format!("{why}\n{policy:?}\n[\n{}\n]", steps.join("\n"))
}

#[test]
fn whatever_happens_in_whatever_order_the_model_holds() {
    let default = Config::default();
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").map_or(SCRIPTS, |_| default.cases),
        failure_persistence: None,
        max_shrink_iters: 4096,
        max_shrink_time: 60_000,
        ..default
    };
    let mut runner = TestRunner::new(config);
    let played = runner.run(&(policy(), script()), |(policy, script)| {
        play(policy, &script).map(drop).map_err(TestCaseError::fail)
    });
    match played {
        Ok(()) => {}
        Err(TestError::Fail(why, (policy, script))) => panic!("{}", told(&why, policy, &script)),
        Err(other) => panic!("{other}"),
    }
}
