//! The tiny guest under a real QEMU: everything other tests rely on it for.
#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use maqet_supervisor::guest::{self, READY};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

/// More than any of these guests needs on a crowded host.
const DEADLINE: Duration = Duration::from_secs(30);

/// Machines the guest supports.
const MACHINES: [&str; 2] = ["pc", "q35"];

/// One QEMU with the tiny guest; killed when dropped.
struct Guest {
    qemu: Child,
    serial: BufReader<UnixStream>,
    qmp: BufReader<UnixStream>,
    _dir: tempfile::TempDir,
}

impl Guest {
    fn boot(machine: &str, options: &[&str], more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("tiny.bin");
        guest::write_image(&image).unwrap();
        let serial = UnixListener::bind(dir.path().join("serial")).unwrap();
        let qmp = UnixListener::bind(dir.path().join("qmp")).unwrap();
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-machine", machine, "-accel", "tcg", "-m", "16M"])
            // Stopped until we listen: events before that are lost.
            .args(["-S", "-nodefaults", "-display", "none", "-action", "shutdown=pause"])
            .arg("-bios")
            .arg(&image)
            .args([
                "-chardev",
                &socket("serial", dir.path()),
                "-serial",
                "chardev:serial",
            ])
            .args(["-chardev", &socket("qmp", dir.path()), "-mon", "qmp,mode=control"])
            .args(guest::option_args(options))
            .args(more)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut guest = Self {
            qemu,
            serial: accept(&serial),
            qmp: accept(&qmp),
            _dir: dir,
        };
        assert!(line(&mut guest.qmp).contains("QMP"));
        guest.execute("qmp_capabilities");
        guest.execute("cont");
        guest
    }

    /// Boots and waits for the ready line.
    fn ready(machine: &str, options: &[&str], more: &[&str]) -> Self {
        let mut guest = Self::boot(machine, options, more);
        assert_eq!(guest.says(), READY);
        guest
    }

    /// The next line on the serial port.
    fn says(&mut self) -> String {
        line(&mut self.serial)
    }

    fn execute(&mut self, command: &str) {
        let message = json!({ "execute": command, "id": command });
        writeln!(self.qmp.get_mut(), "{message}").unwrap();
    }

    /// Waits for an event of this name.
    fn event(&mut self, name: &str) -> Value {
        loop {
            let message: Value = serde_json::from_str(&line(&mut self.qmp)).unwrap();
            assert!(message.get("error").is_none(), "{message}");
            if message["event"] == name {
                return message["data"].clone();
            }
        }
    }
}

impl Drop for Guest {
    #[expect(
        clippy::disallowed_methods,
        reason = "its own child, not reaped yet: the number is still its own"
    )]
    fn drop(&mut self) {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
    }
}

/// A socket character device that connects to us, so that nothing has to be polled for.
fn socket(name: &str, dir: &Path) -> String {
    format!("socket,id={name},path={}", dir.join(name).display())
}

fn accept(listener: &UnixListener) -> BufReader<UnixStream> {
    readable(listener.as_fd());
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    BufReader::new(stream)
}

fn readable(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(DEADLINE).unwrap();
    assert_eq!(poll(&mut fds, timeout).unwrap(), 1, "QEMU did not connect");
}

fn line(from: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    assert!(line.ends_with('\n'), "QEMU ended after `{line}`");
    line.trim_end().to_owned()
}

#[test]
fn echoes_what_it_is_sent() {
    for machine in MACHINES {
        let mut guest = Guest::ready(machine, &[], &[]);
        // Longer than the FIFO of the serial port.
        let text = b"the quick brown fox jumps over the lazy dog";
        guest.serial.get_mut().write_all(text).unwrap();
        let mut echo = [0; 43];
        guest.serial.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, text);
    }
}

#[test]
fn powers_off_on_the_power_button() {
    for machine in MACHINES {
        let mut guest = Guest::ready(machine, &[], &[]);
        guest.execute("system_powerdown");
        assert_eq!(guest.says(), "power button");
        assert_eq!(guest.says(), "powering off");
        let data = guest.event("SHUTDOWN");
        assert_eq!(data, json!({ "guest": true, "reason": "guest-shutdown" }));
    }
}

#[test]
fn ignores_the_power_button_as_often_as_it_is_pressed() {
    for machine in MACHINES {
        let mut guest = Guest::ready(machine, &["ignore-acpi"], &[]);
        for _ in 0..3 {
            guest.execute("system_powerdown");
            assert_eq!(guest.says(), "power button ignored");
        }
    }
}

#[test]
fn counts_ticks() {
    for machine in MACHINES {
        let mut guest = Guest::ready(machine, &["ticks"], &[]);
        for n in 1..=3 {
            assert_eq!(guest.says(), format!("tick {n}"));
        }
    }
}

#[test]
fn keeps_ticking_between_the_power_button_and_a_late_power_off() {
    let mut guest = Guest::ready("q35", &["ticks", "later"], &[]);
    guest.execute("system_powerdown");
    let lines: Vec<String> = std::iter::from_fn(|| Some(guest.says()))
        .take_while(|line| line != "powering off")
        .collect();
    let button = lines.iter().position(|line| line == "power button");
    let ticks_after = lines.len() - button.unwrap() - 1;
    assert!((17..=19).contains(&ticks_after), "{lines:?}");
    guest.event("SHUTDOWN");
}

#[test]
fn resets_again_and_again() {
    for machine in MACHINES {
        for option in ["reset", "triple-fault"] {
            let mut guest = Guest::boot(machine, &[option], &[]);
            for _ in 0..3 {
                assert_eq!(guest.says(), READY);
                let data = guest.event("RESET");
                assert_eq!(data, json!({ "guest": true, "reason": "guest-reset" }));
            }
        }
    }
}

#[test]
fn powers_off_by_itself() {
    for machine in MACHINES {
        let mut guest = Guest::ready(machine, &["poweroff"], &[]);
        assert_eq!(guest.says(), "powering off");
        guest.event("SHUTDOWN");
    }
}

#[test]
fn panics() {
    for machine in MACHINES {
        let mut guest = Guest::ready(machine, &["panic"], &["-device", "pvpanic"]);
        guest.event("GUEST_PANICKED");
    }
}

#[test]
fn floods_and_still_powers_off() {
    let mut guest = Guest::ready("q35", &["flood"], &[]);
    let fox = "the quick brown fox jumps over the lazy dog";
    for n in 1..=1000 {
        assert_eq!(guest.says(), format!("flood {n} {fox}"));
    }
    guest.execute("system_powerdown");
    while guest.says() != "powering off" {}
    guest.event("SHUTDOWN");
}

#[test]
fn writes_the_first_sectors_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.raw");
    std::fs::write(&disk, vec![0xaa; 1 << 20]).unwrap();
    let drive = format!("if=ide,format=raw,file={}", disk.display());
    let mut guest = Guest::ready("pc", &["write"], &["-drive", &drive]);
    assert_eq!(guest.says(), format!("wrote {} sectors", guest::WRITTEN_SECTORS));
    let bytes = std::fs::read(&disk).unwrap();
    for number in 0..guest::WRITTEN_SECTORS {
        let start = usize::from(number) * 512;
        assert_eq!(
            bytes[start..start + 512],
            guest::written_sector(number),
            "{number}"
        );
    }
    let end = usize::from(guest::WRITTEN_SECTORS) * 512;
    assert!(bytes[end..].iter().all(|&byte| byte == 0xaa));
}

#[test]
fn says_that_there_is_no_disk() {
    for machine in MACHINES {
        assert_eq!(Guest::ready(machine, &["write"], &[]).says(), "no disk");
    }
}

#[test]
fn names_options_it_does_not_know() {
    let mut guest = Guest::ready("pc", &["tick", "ticksy", "", "ticks"], &[]);
    assert_eq!(guest.says(), "unknown option tick");
    assert_eq!(guest.says(), "unknown option ticksy");
    assert_eq!(guest.says(), "tick 1");
}
