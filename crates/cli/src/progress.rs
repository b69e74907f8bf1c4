//! A line on the terminal for whatever takes longer than half a second.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use std::convert::Infallible;

use indicatif::{ProgressBar, ProgressStyle};
use maqet_protocol::control::FollowWork;

use crate::output::Output;
use crate::render::units;
use crate::session::Session;

/// What takes less than this shows no progress.
const PROGRESS_AFTER: Duration = Duration::from_millis(500);
/// Pace of the spinner: fast enough to look alive, slow enough to cost nothing.
const TICK: Duration = Duration::from_millis(120);

/// Waits for `work`, with a spinner on the terminal when it takes long.
pub(crate) async fn during<T>(output: &Output, label: &str, work: impl Future<Output = T>) -> T {
    if !output.shows_progress() || output.line.borrow().is_some() {
        return work.await;
    }
    let mut work = pin!(work);
    if let Ok(done) = tokio::time::timeout(PROGRESS_AFTER, &mut work).await {
        return done;
    }
    let line = line(output, label);
    *output.line.borrow_mut() = Some(line.clone());
    let done = work.await;
    line.finish_and_clear();
    *output.line.borrow_mut() = None;
    done
}

/// Waits for work on a VM's disks, with a bar on the terminal when it takes long, as far as the supervisor tells of it.
pub(crate) async fn following<T>(
    session: &Session<'_>,
    vm: &str,
    label: &str,
    work: impl Future<Output = T>,
) -> T {
    let output = session.output;
    if !output.shows_progress() || output.line.borrow().is_some() {
        return work.await;
    }
    let mut work = pin!(work);
    if let Ok(done) = tokio::time::timeout(PROGRESS_AFTER, &mut work).await {
        return done;
    }
    let bar = Bar::new(output);
    bar.show(label, 0, 0);
    tokio::select! {
        done = &mut work => done,
        never = follow(session, vm, &bar) => match never {},
    }
}

/// What cannot be told of is worked on nevertheless.
async fn follow(session: &Session<'_>, vm: &str, bar: &Bar<'_>) -> Infallible {
    let method = FollowWork { vm: vm.to_owned() };
    if let Ok(mut stream) = session.stream(&method).await {
        while let Some(Ok(told)) = stream.next().await {
            if let Some(progress) = told.progress {
                bar.show(&progress.what, progress.done, progress.total);
            }
        }
    }
    std::future::pending().await
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn line(output: &Output, label: &str) -> ProgressBar {
    let template = if output.colors_progress() {
        "{spinner:.cyan} {msg} {elapsed:.dim}"
    } else {
        "{spinner} {msg} {elapsed}"
    };
    let line = ProgressBar::new_spinner()
        .with_style(style(template))
        .with_message(label.to_owned());
    line.enable_steady_tick(TICK);
    line
}

/// A bar on the terminal for work that tells how far it is; it is gone when dropped.
pub(crate) struct Bar<'o> {
    output: &'o Output,
    bar: Option<ProgressBar>,
}

impl<'o> Bar<'o> {
    /// A bar that shows nothing yet.
    pub(crate) fn new(output: &'o Output) -> Self {
        let wanted = output.shows_progress() && output.line.borrow().is_none();
        let bar = wanted.then(|| line(output, ""));
        output.line.borrow_mut().clone_from(&bar);
        Self { output, bar }
    }

    /// How far it is, bytes; of `total` 0 only what is done.
    pub(crate) fn show(&self, what: &str, done: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        bar.set_message(what.to_owned());
        if total == 0 {
            return;
        }
        if bar.length() != Some(total) {
            bar.set_style(self.gauge().progress_chars("=> "));
            bar.set_length(total);
            bar.set_prefix(units::size(total));
        }
        bar.set_position(done.min(total));
    }

    fn gauge(&self) -> ProgressStyle {
        style(if self.output.colors_progress() {
            "{spinner:.cyan} {msg} [{bar:30.cyan}] {percent} % of {prefix} {elapsed:.dim}"
        } else {
            "{spinner} {msg} [{bar:30}] {percent} % of {prefix} {elapsed}"
        })
    }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            self.output.line.borrow_mut().take();
        }
    }
}
