//! Numbers for people.

use std::time::Duration;

use maqet_state::clock::Timestamp;
use maqet_state::lifecycle::LastExit;
use serde::Serialize;

/// `1 socket`, `5 sockets`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// `812 ms`, `6.0 s`, `3m 12s`, `2d 4h`: two units at most.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        return format!("{} ms", duration.as_millis());
    }
    if seconds < 60 && duration.subsec_millis() > 0 {
        return format!("{seconds}.{} s", duration.subsec_millis() / 100);
    }
    uptime(seconds)
}

/// `2026-11-25T04:50:00Z`: a moment, to the second.
pub(crate) fn second(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('.') {
        Some((seconds, _rest)) => format!("{seconds}Z"),
        None => text,
    }
}

/// `45s`, `3m 12s`, `2h 5m`, `12d 3h`.
pub(crate) fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        (_, _, _) => format!("{days}d {}h", hours % 24),
    }
}

/// `512M`, `1.5G`: powers of 1024, as QEMU and the files write them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
    for (unit, scale) in UNITS {
        if bytes >= scale {
            let tenths = (bytes % scale) * 10 / scale;
            let whole = bytes / scale;
            return if tenths == 0 {
                format!("{whole}{unit}")
            } else {
                format!("{whole}.{tenths}{unit}")
            };
        }
    }
    format!("{bytes}B")
}

/// The kebab-case word that JSON shows for a status, an activity, a cause.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// `qemu-crashed at 2026-01-02T03:04:05.678Z (signal 11)`.
pub(crate) fn last_exit(exit: &LastExit) -> String {
    let code = exit.exit_code.map(|code| format!(" (exit code {code})"));
    let signal = exit.signal.map(|signal| format!(" (signal {signal})"));
    let remarks: String = code.into_iter().chain(signal).collect();
    format!("{} at {}{remarks}", word(&exit.cause), exit.at)
}

/// The same with QEMU's last words below.
pub(crate) fn last_exit_lines(exit: &LastExit) -> Vec<String> {
    let detail = exit.detail.iter().flat_map(|detail| detail.lines());
    std::iter::once(last_exit(exit))
        .chain(detail.map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, size, uptime};

    #[test]
    fn durations_are_short() {
        let shown =
            [812, 1000, 6040, 59_999, 61_000, 7_500_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["812 ms", "1s", "6.0 s", "59.9 s", "1m 1s", "2h 5m"]);
        assert_eq!(uptime(187_200), "2d 4h");
    }

    #[test]
    fn sizes_are_binary() {
        let shown = [512, 1 << 20, 512 << 20, 3 << 29, 1 << 40].map(size);
        assert_eq!(shown, ["512B", "1M", "512M", "1.5G", "1T"]);
    }
}
