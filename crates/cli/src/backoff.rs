//! Growing pauses for the few things that nobody announces.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Pauses that double up to a limit, each cut by a random part so that many waiters do not come at once.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Begins with `first` and never pauses longer than `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// Length of the next pause: between half of it and the whole.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.longest);
        whole.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Pauses.
    pub(crate) async fn wait(&mut self) {
        sleep_until(Instant::now() + self.pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn pauses_double_within_their_jitter_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(35));
        for whole in [10, 20, 35, 35] {
            let pause = backoff.pause();
            let range = Duration::from_millis(whole).mul_f64(0.5)..=Duration::from_millis(whole);
            assert!(range.contains(&pause), "{pause:?} of {whole} ms");
        }
    }
}
