//! A line on the terminal for whatever takes longer than half a second.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

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
