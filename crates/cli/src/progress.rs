//! A line on the terminal for whatever takes longer than half a second.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;
use crate::render::units;

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

fn line(output: &Output, label: &str) -> ProgressBar {
    let template = if output.colors_progress() {
        "{spinner:.cyan} {msg} {elapsed:.dim}"
    } else {
        "{spinner} {msg} {elapsed}"
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    let line = ProgressBar::new_spinner()
        .with_style(style)
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
        let percent = done.min(total).saturating_mul(100).checked_div(total);
        bar.set_message(percent.map_or_else(
            || what.to_owned(),
            |percent| format!("{what} {percent} % of {}", units::size(total)),
        ));
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
