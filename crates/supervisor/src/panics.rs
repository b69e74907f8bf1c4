//! Panics: defects that are told, and contained where they happen.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic;

thread_local! {
    /// Where this thread panicked last; nobody else is told of it.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What a defect said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Panicked {
    /// Its message.
    pub(crate) words: String,
    /// File, line and column.
    pub(crate) place: Option<String>,
}

impl Panicked {
    /// The panic that was caught just now on this thread.
    pub(crate) fn caught(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self {
            words: text.unwrap_or("a panic without words").to_owned(),
            place: LAST.take(),
        }
    }
}

/// Has every panic written to the log.
pub(crate) fn log_all() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        let backtrace = Backtrace::capture();
        let captured = backtrace.status() == BacktraceStatus::Captured;
        let backtrace = captured.then(|| backtrace.to_string());
        let words = info.payload_as_str().unwrap_or_default();
        tracing::error!(place, words, backtrace, "a panic");
        LAST.set(place);
    }));
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::Panicked;

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        let words = |panicking: fn()| Panicked::caught(&*catch_unwind(panicking).unwrap_err()).words;
        assert_eq!(words(|| panic!("plain")), "plain");
        assert_eq!(words(|| panic!("number {}", std::hint::black_box(7))), "number 7");
        assert_eq!(words(|| std::panic::panic_any(7)), "a panic without words");
    }
}
