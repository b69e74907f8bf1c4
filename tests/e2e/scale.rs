//! Many starts, many VMs. The Python tool failed one start in fifty; none may fail here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use maqet_tests::{Guest, Output, Sandbox};

use crate::facts::nothing_runs;

/// VMs started and stopped at the same time.
const IN_FLIGHT: usize = 8;
/// VMs that run beside each other.
const CROWD: usize = 50;

/// How many start/stop cycles: `MAQET_TEST_CYCLES`, or a sample.
fn cycles() -> usize {
    std::env::var("MAQET_TEST_CYCLES").map_or(60, |text| text.parse().unwrap())
}

/// What one cycle took, or what went wrong.
fn cycle(sandbox: &Sandbox, name: &str) -> Result<(Duration, Duration), Box<Output>> {
    let run = |verb: &str| {
        let output = sandbox.maqet(&[verb, name, "-o", "json"]);
        if output.code == 0 {
            Ok(output)
        } else {
            Err(Box::new(output))
        }
    };
    let start = run("start")?;
    let stop = run("stop")?;
    if stop.json()[0]["how"] == "guest" {
        Ok((start.took, stop.took))
    } else {
        Err(Box::new(stop))
    }
}

/// Sorts; returns the middle, the 99th percentile and the longest.
fn spread(mut took: Vec<Duration>) -> [Duration; 3] {
    took.sort_unstable();
    let at = |percent: usize| {
        took.get((took.len() - 1) * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    [at(50), at(99), at(100)]
}

#[test]
fn every_start_and_stop_of_many_succeeds() {
    let sandbox = Sandbox::new();
    let names: Vec<String> = (0..IN_FLIGHT).map(|number| format!("vm-{number}")).collect();
    for name in &names {
        Guest::tiny(name).add(&sandbox);
    }
    let (total, next, begun) = (cycles(), AtomicUsize::new(0), Instant::now());
    let work = |name: &str| {
        let mut results = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < total {
            results.push(cycle(&sandbox, name));
        }
        results
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = names.iter().map(|name| scope.spawn(move || work(name))).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let took = begun.elapsed();
    let (good, bad): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let (starts, stops): (Vec<_>, Vec<_>) = good.into_iter().flatten().unzip();
    let (done, failed) = (starts.len(), bad.len());
    let [starts, stops] = [starts, stops].map(spread);
    eprintln!(
        "{done} cycles, {IN_FLIGHT} in flight, {failed} failed, {took:.1?}; p50, p99, max: start {starts:.0?}, stop {stops:.0?}"
    );
    assert!(
        bad.is_empty() && done == total,
        "{failed} of {total} failed: {bad:#?}"
    );
    nothing_runs(&sandbox);
}

#[test]
fn fifty_vms_run_beside_each_other() {
    let sandbox = Sandbox::new();
    let names: Vec<String> = (0..CROWD).map(|number| format!("vm-{number:02}")).collect();
    for name in &names {
        Guest::tiny(name).add(&sandbox);
    }
    let all = |verb: &str, more: &[&str]| {
        let words: Vec<&str> = std::iter::once(verb)
            .chain(names.iter().map(String::as_str))
            .collect();
        sandbox.maqet(&[&words, more].concat()).expect(0)
    };
    let started = all("start", &[]).took;
    assert_eq!(
        sandbox
            .json(&["ls", "--status", "running"])
            .as_array()
            .unwrap()
            .len(),
        CROWD
    );
    let ready = all("wait", &["serial=ready", "--timeout", "60s"]).took;
    let listed = sandbox.maqet(&["ls"]).expect(0).took;
    let stopped = all("stop", &["-o", "json"]);
    for report in stopped.json().as_array().unwrap() {
        assert_eq!(report["how"], "guest", "{report}");
    }
    let took = stopped.took;
    eprintln!(
        "{CROWD} VMs: started in {started:.1?}, spoke after {ready:.1?} more, `ls` {listed:.0?}, stopped in {took:.1?}"
    );
    nothing_runs(&sandbox);
}
