//! The restart policy: short and long, merged, refused.

use std::time::Duration;

use super::{one, rendered};
use crate::vm::{OnRunnerLoss, RestartPolicy, RestartWhen};

fn policy(text: &str) -> RestartPolicy {
    one(&format!("name: web\nrestart: {text}\n")).unwrap().restart
}

#[test]
fn a_word_is_the_policy_with_the_defaults() {
    assert_eq!(policy("~"), RestartPolicy::default());
    for when in [RestartWhen::Never, RestartWhen::OnFailure, RestartWhen::Always] {
        let expected = RestartPolicy {
            policy: when,
            ..RestartPolicy::default()
        };
        assert_eq!(policy(when.as_str()), expected);
        assert_eq!(policy(&format!("{{policy: {}}}", when.as_str())), expected);
    }
}

#[test]
fn every_field_can_be_set() {
    let written = "{policy: always, backoff: 200ms, backoff_max: 5s, tries: 3, window: 1m 30s}";
    let expected = RestartPolicy {
        policy: RestartWhen::Always,
        backoff: Duration::from_millis(200),
        backoff_max: Duration::from_secs(5),
        tries: 3,
        window: Duration::from_secs(90),
    };
    assert_eq!(policy(written), expected);
}

#[test]
fn a_later_file_changes_one_field_of_a_short_policy() {
    let sources = ["name: web\nrestart: always\n", "restart: {tries: 2}\n"];
    let sources: Vec<_> = sources
        .map(|text| crate::Source::new("x.yaml", "/vms", text))
        .into();
    let restart = crate::load(&sources, &[], &super::options()).unwrap().restart;
    assert_eq!((restart.policy, restart.tries), (RestartWhen::Always, 2));
}

#[test]
fn pauses_double_up_to_the_longest() {
    let policy = RestartPolicy::default();
    let pauses: Vec<u64> = (0..8).map(|before| policy.pause(before).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(policy.pause(u32::MAX), policy.backoff_max);
    assert_eq!(policy.pauses().as_secs(), 31);
}

#[test]
fn a_lost_runner_can_end_its_qemu() {
    let spec = one("name: web\non_runner_loss: stop\n").unwrap();
    assert_eq!(spec.on_runner_loss, OnRunnerLoss::Stop);
    assert_eq!(one("name: web\n").unwrap().on_runner_loss, OnRunnerLoss::Adopt);
}

#[test]
fn what_makes_no_sense_is_refused() {
    insta::assert_snapshot!(rendered("name: web\nrestart: {policy: unless-stopped}\n"), @r#"
    `unless-stopped` is not a restart policy
     --> web.yaml:2:19
      |
    2 | restart: {policy: unless-stopped}
      |                   ^^^^^^^^^^^^^^
    hint: write `policy: always`: a VM that somebody stopped is never restarted
    "#);
    insta::assert_snapshot!(rendered("name: web\nrestart: sometimes\n"), @r#"
    `sometimes` is not a restart policy
     --> web.yaml:2:10
      |
    2 | restart: sometimes
      |          ^^^^^^^^^
    hint: it is one of never, on-failure, always
    "#);
    insta::assert_snapshot!(rendered("name: web\nrestart: {tries: 3}\n"), @r#"
    `restart` has `tries` but no `policy`
     --> web.yaml:2:10
      |
    2 | restart: {tries: 3}
      |          ^
    hint: write `policy: on-failure` or `policy: always` beside it
    "#);
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    insta::assert_snapshot!(rendered("name: web\nrestart: {policy: always, tries: 0}\n"), @r#"
    the number of tries must be 1 to 100, not 0
     --> web.yaml:2:34
      |
    2 | restart: {policy: always, tries: 0}
      |                                  ^
    "#);
    insta::assert_snapshot!(rendered("name: web\nrestart: {policy: always, backoff: 0s}\n"), @r#"
    the pause before a restart must be more than 0 and at most 24 hours
     --> web.yaml:2:36
      |
    2 | restart: {policy: always, backoff: 0s}
      |                                    ^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nrestart: {policy: always, backoff: 5m}\n"), @r#"
    5 restarts pause for 25m: within a window that is not longer they would never be given up
     --> web.yaml:2:10
      |
    2 | restart: {policy: always, backoff: 5m}
      |          ^
    "#);
    insta::assert_snapshot!(rendered("name: web\nrestart: {policy: always, backoff_max: 5ms}\n"), @r#"
    the longest pause must be at least `backoff` and at most 24 hours
     --> web.yaml:2:40
      |
    2 | restart: {policy: always, backoff_max: 5ms}
      |                                        ^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nrestart: {policy: always, window: 30s}\n"), @r#"
    5 restarts pause for 31s: within a window that is not longer they would never be given up
     --> web.yaml:2:35
      |
    2 | restart: {policy: always, window: 30s}
      |                                   ^^^
    "#);
    insta::assert_snapshot!(rendered("name: web\nrestart: {policy: always, pause: 3s}\n"), @r#"
    unknown field `pause`
     --> web.yaml:2:27
      |
    2 | restart: {policy: always, pause: 3s}
      |                           ^^^^^
    hint: fields here are policy, backoff, backoff_max, tries, window
    "#);
    insta::assert_snapshot!(rendered("name: web\non_runner_loss: kill\n"), @r#"
    `kill` is not what `on_runner_loss` can do
     --> web.yaml:2:17
      |
    2 | on_runner_loss: kill
      |                 ^^^^
    hint: it is one of adopt, stop
    "#);
}
