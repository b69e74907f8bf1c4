//! maqet beside bare QEMU: the same work, alternating in one run, compared by medians.
//!
//! Absolute times drift with the host; the ratios are the message. Run by `scripts/bench`, which builds the programs
//! and names their directory in `MAQET_BENCH_BIN`.
#![expect(
    clippy::print_stdout,
    reason = "a table on stdout is what this program is for"
)]

mod bare;
mod crowd;
mod death;
mod images;
mod programs;

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use bare::Bare;
use programs::Programs;

/// Numbers of VMs that run beside each other.
const CROWDS: [usize; 2] = [50, 100];

/// One kind of work, as the bare floor does it and as maqet does it; one pair of times for each round.
struct Work {
    name: &'static str,
    floor: &'static str,
    bare: Vec<Duration>,
    maqet: Vec<Duration>,
}

impl Work {
    fn new(name: &'static str, floor: &'static str) -> Self {
        Self {
            name,
            floor,
            bare: Vec::new(),
            maqet: Vec::new(),
        }
    }

    fn row(&self) -> String {
        let (bare, maqet) = (median_ms(&self.bare), median_ms(&self.maqet));
        let (name, floor, ratio) = (self.name, self.floor, maqet / bare);
        format!("{name:<22} {maqet:>9.2} ms {bare:>9.2} ms {ratio:>8.2}x  {floor}")
    }
}

/// The middle of the times, milliseconds.
fn median_ms(times: &[Duration]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted
        .get(sorted.len() / 2)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let begun = Instant::now();
    let result = work()?;
    Ok((begun.elapsed(), result))
}

/// Everything once, bare and by maqet in turn. The first round of all warms caches up and is thrown away.
fn round(programs: &Programs, work: &mut [Work; 4]) -> Result<()> {
    let [start, qmp, ls, stop] = work;

    let (time, mut bare) = timed(|| Bare::start(programs.directory()))?;
    start.bare.push(time);
    start.maqet.push(timed(|| programs.maqet(&["start", "bench"]))?.0);

    qmp.bare.push(timed(|| bare.command("query-status"))?.0);
    qmp.maqet
        .push(timed(|| programs.maqet(&["qmp", "run", "bench", "query-status"]))?.0);

    ls.bare.push(timed(programs::nothing)?.0);
    ls.maqet.push(timed(|| programs.maqet(&["ls"]))?.0);

    stop.bare.push(timed(|| bare.quit())?.0);
    stop.maqet
        .push(timed(|| programs.maqet(&["stop", "--force", "bench"]))?.0);
    Ok(())
}

/// QEMU is killed twice, for somebody who lists and for somebody who follows. The floor is the kernel's: from the signal
/// to a readable pidfd.
fn deaths(
    programs: &Programs,
    subscriber: &mut death::Subscriber,
    work: &mut [Work; 2],
    looks: &mut usize,
) -> Result<()> {
    let [listed, told] = work;
    let (time, looked) = death::until_listed(programs)?;
    listed.maqet.push(time);
    listed.bare.push(Bare::start(programs.directory())?.killed()?);
    told.maqet.push(subscriber.until_told(programs)?);
    told.bare.push(Bare::start(programs.directory())?.killed()?);
    *looks += looked;
    Ok(())
}

fn deaths_of(programs: &Programs, rounds: usize) -> Result<([Work; 2], usize)> {
    let floor = "SIGKILL until the kernel says that QEMU is gone";
    let mut work = [
        Work::new("QEMU killed to `ls`", floor),
        Work::new("QEMU killed to event", floor),
    ];
    let mut looks = 0;
    let mut subscriber = death::Subscriber::new(programs)?;
    for _ in 0..rounds {
        deaths(programs, &mut subscriber, &mut work, &mut looks)?;
    }
    Ok((work, looks))
}

fn main() -> Result<()> {
    // `cargo test --benches` runs this too, and means "does it start".
    if env::args().all(|argument| argument != "--bench") {
        return Ok(());
    }
    let rounds: usize = env::var("MAQET_BENCH_ROUNDS")
        .unwrap_or_else(|_| "31".to_owned())
        .parse()
        .context("MAQET_BENCH_ROUNDS is not a number")?;
    let programs = Programs::set_up()?;
    let mut work = [
        Work::new("start", "QEMU spawned, greeting and capabilities done"),
        Work::new("qmp run query-status", "one round trip on an open QMP socket"),
        Work::new("ls", "a process that does nothing"),
        Work::new("stop --force", "QMP quit until the process is gone"),
    ];
    round(&programs, &mut work)?;
    for kind in &mut work {
        kind.bare.clear();
        kind.maqet.clear();
    }
    for _ in 0..rounds {
        round(&programs, &mut work)?;
    }
    let (deaths, looks) = deaths_of(&programs, rounds)?;
    println!("medians of {rounds} rounds, machine `none`\n");
    println!(
        "{:<22} {:>12} {:>12} {:>9}  floor",
        "work", "maqet", "floor", "ratio"
    );
    let images = images::Images::new(programs.directory())?.rounds(rounds)?;
    for kind in work.iter().chain(&deaths).chain(&images) {
        println!("{}", kind.row());
    }
    println!(
        "{looks} `ls` for {rounds} deaths; none said `running` that was begun after the kernel knew of the death\n"
    );
    for count in CROWDS {
        crowd::grow(&programs, count)?;
        println!("{}", crowd::row(&programs, count)?);
    }
    Ok(())
}
