//! The gate, played by this very test program: `gate …` on its command line makes it one.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::print_stdout, reason = "the list of tests goes there")]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use maqet_process::confine::{Access, Confinement, Floor, Level, Rule};
use maqet_process::enclosure::Enclosure;
use maqet_process::gate::{self, GateArgs, GateOrder, Gated};
use maqet_process::identity::FileId;
use maqet_process::socket::{bind_listener, connect, peer};
use maqet_process::{
    ExitStatus, Liveness, ProcessError, ProcessHandle, ProcessIdentity, Role, Sent, Signal, directory,
};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

const TESTS: [(&str, fn()); 13] = [
    (
        "an_unwanted_gate_ends_without_a_word",
        an_unwanted_gate_ends_without_a_word,
    ),
    (
        "a_gate_whose_starter_is_killed_ends",
        a_gate_whose_starter_is_killed_ends,
    ),
    ("release_keeps_number_and_inode", release_keeps_number_and_inode),
    (
        "the_program_finds_itself_confined",
        the_program_finds_itself_confined,
    ),
    (
        "the_program_touches_what_is_listed",
        the_program_touches_what_is_listed,
    ),
    (
        "a_gate_that_cannot_confine_enough_gives_up",
        a_gate_that_cannot_confine_enough_gives_up,
    ),
    (
        "an_enclosed_directory_is_a_mount_of_its_own",
        an_enclosed_directory_is_a_mount_of_its_own,
    ),
    (
        "termination_signals_wait_outside",
        termination_signals_wait_outside,
    ),
    (
        "clients_see_the_gate_as_listener",
        clients_see_the_gate_as_listener,
    ),
    (
        "a_program_that_cannot_run_is_told_apart",
        a_program_that_cannot_run_is_told_apart,
    ),
    ("a_gate_that_gives_up_says_why", a_gate_that_gives_up_says_why),
    (
        "a_gate_killed_while_waiting_cannot_be_released",
        a_gate_killed_while_waiting_cannot_be_released,
    ),
    ("words_survive_the_command_line", words_survive_the_command_line),
];

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next().as_deref().and_then(|word| word.to_str()) {
        Some("gate") => become_gate(words),
        Some("starter") => start_and_wait(Path::new(&words.next().unwrap())),
        _ => run_tests(&std::env::args().skip(1).collect::<Vec<_>>()),
    }
}

fn become_gate(words: impl Iterator<Item = OsString>) -> ExitCode {
    let args = GateArgs::parse(words).unwrap();
    ExitCode::from(gate::run(args).exit_code())
}

/// What test runners ask of a test program: a list, all, one by name, or those that match.
fn run_tests(words: &[String]) -> ExitCode {
    let flag = |name: &str| words.iter().any(|word| word == name);
    if flag("--ignored") {
        return ExitCode::SUCCESS;
    }
    let wanted = words
        .iter()
        .find(|word| !word.starts_with('-') && *word != "terse");
    for (name, test) in TESTS {
        let chosen = wanted.is_none_or(|wanted| {
            if flag("--exact") {
                name == wanted
            } else {
                name.contains(wanted.as_str())
            }
        });
        if flag("--list") {
            println!("{name}: test");
        } else if chosen {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

fn on_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(LIMIT, test).await.unwrap() });
}

fn order(directory: &Path, script: &str) -> GateOrder {
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(directory.join("log"))
        .unwrap();
    GateOrder {
        // Keeps the signal mask it is started with, unlike dash.
        program: PathBuf::from("/bin/bash"),
        args: ["-c", script, "launch-gate"].map(OsString::from).to_vec(),
        env: vec![("ONLY".into(), "this".into())],
        listen: Vec::new(),
        pass: Vec::new(),
        enclosure: None,
        output: log.into(),
        confinement: None,
    }
}

fn start(order: GateOrder) -> Gated {
    gate::spawn_gate(Path::new("/proc/self/exe"), order).unwrap()
}

fn log_of(directory: &TempDir) -> String {
    fs::read_to_string(directory.path().join("log")).unwrap()
}

async fn end_of(handle: &ProcessHandle) -> ExitStatus {
    handle.exited().await.unwrap();
    handle.exit_status().unwrap()
}

fn an_unwanted_gate_ends_without_a_word() {
    on_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let script = format!("touch {}/ran", directory.path().display());
        for wait in [true, false] {
            let mut gated = start(order(directory.path(), &script));
            if wait {
                gated.listening().await.unwrap();
                gated.listening().await.unwrap();
            }
            let handle = gated.handle.try_clone().unwrap();
            drop(gated);
            // Not yet listening, it may find nobody to report to, and says so.
            let ended = end_of(&handle).await;
            assert!(
                ended == ExitStatus::Code(0) || (!wait && ended == ExitStatus::Code(125)),
                "{ended}"
            );
            assert!(!wait || log_of(&directory).is_empty());
        }
        assert!(!directory.path().join("ran").exists());
    });
}

/// Starts a gate, names it on standard output, and waits to be killed.
fn start_and_wait(directory: &Path) -> ExitCode {
    let script = format!("touch {}/ran", directory.display());
    let gated = start(order(directory, &script));
    println!("{}", gated.handle.pid());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    drop(gated);
    ExitCode::SUCCESS
}

#[expect(
    clippy::disallowed_methods,
    reason = "its own child, not reaped yet: the number is still its own"
)]
fn a_gate_whose_starter_is_killed_ends() {
    on_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..10 {
            let mut starter = Command::new(std::env::current_exe().unwrap());
            starter
                .arg("starter")
                .arg(directory.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            let mut starter = starter.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(starter.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            let gate = ProcessHandle::open(line.trim().parse().unwrap()).unwrap();
            starter.kill().unwrap();
            starter.wait().unwrap();
            if let Some(gate) = gate {
                gate.exited().await.unwrap();
            }
        }
        assert!(!directory.path().join("ran").exists());
    });
}

fn release_keeps_number_and_inode() {
    on_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let (read, leash) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut order = order(directory.path(), "echo $$; read line <&6; exit 0");
        order.pass = vec![(read, 6)];
        let mut gated = start(order);
        gated.listening().await.unwrap();
        let images = ["/proc/self/exe", "/bin/bash"].map(|path| FileId::of_path(path.as_ref()).unwrap());
        let gate =
            ProcessIdentity::take(&gated.handle, Role::Qemu, "launch-gate", 3, images.to_vec()).unwrap();
        let inode = gated.handle.inode();
        let handle = gated.release().unwrap();
        assert_eq!((handle.pid(), handle.inode()), (gate.pid, inode));
        assert!(matches!(gate.verify(), Liveness::Alive(_)));
        drop(leash);
        assert_eq!(end_of(&handle).await, ExitStatus::Code(0));
        assert_eq!(log_of(&directory), format!("{}\n", gate.pid));
        assert!(matches!(gate.verify(), Liveness::Dead));
    });
}

fn the_program_finds_itself_confined() {
    on_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let script = "umask; ulimit -c; pwd; echo $ONLY$HOME; ls /proc/$$/fd; \
                  while read -r key value; do [[ $key =~ SigBlk|NoNewPrivs ]] && \
                  echo $key $value; done < /proc/$$/status; cut -d' ' -f6 /proc/$$/stat; read x; echo $?; exit 0";
        // A descriptor left open to everybody does not get through.
        let careless = File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
        let mut order = order(directory.path(), script);
        order.pass = vec![(OwnedFd::from(File::open("/dev/null").unwrap()), 7)];
        let mut gated = start(order);
        gated.listening().await.unwrap();
        let handle = gated.release().unwrap();
        assert_eq!(end_of(&handle).await, ExitStatus::Code(0));
        let pid = handle.pid();
        let expected =
            format!("0077\n0\n/\nthis\n0\n1\n2\n7\nSigBlk: 0000000000004003\nNoNewPrivs: 1\n{pid}\n1\n");
        assert_eq!(log_of(&directory), expected);
    });
}

/// What the confined program tries; it says what it could do.
const ATTEMPTS: &str = "cd $ROOT; try() { (eval \"$1\") 2>/dev/null && echo $1; }; \
     for d in mine readable other; do try \"read -r -n 4 x < $d/file\"; try \"echo > $d/file\"; \
     try \"echo > $d/new\"; done; try 'kill -0 $STARTER'; try 'exec 3<>/dev/tcp/127.0.0.1/$PORT'";

/// A program that may own `mine` and read `readable`.
fn confined(root: &Path, port: u16) -> GateOrder {
    let mut order = order(root, ATTEMPTS);
    order.env = vec![
        ("ROOT".into(), root.into()),
        ("STARTER".into(), std::process::id().to_string().into()),
        ("PORT".into(), port.to_string().into()),
    ];
    let programs = ["/usr", "/bin", "/lib", "/lib64"];
    let mut rules = programs.map(|path| Rule::new(path, Access::Execute)).to_vec();
    rules.push(Rule::new("/dev/null", Access::Device));
    rules.push(Rule::new("/not-there", Access::Own));
    rules.push(Rule::new(root.join("mine"), Access::Own));
    rules.push(Rule::new(root.join("readable"), Access::Read));
    order.confinement = Some(Confinement {
        rules,
        ..Confinement::default()
    });
    order
}

/// Of what the kernel at hand can confine, each kind is tried: where it has no such rule, the attempt succeeds.
fn the_program_touches_what_is_listed() {
    on_runtime(async {
        let root = tempfile::tempdir().unwrap();
        for name in ["mine", "readable", "other"] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("file"), "text").unwrap();
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut gated = start(confined(root.path(), listener.local_addr().unwrap().port()));
        gated.listening().await.unwrap();
        end_of(&gated.release().unwrap()).await;
        let abi = Level::of_this_kernel().abi().unwrap_or(0);
        let log = log_of(&root);
        let done: Vec<&str> = log.lines().collect();
        let never = u32::MAX;
        for (what, denied_from) in [
            ("read -r -n 4 x < other/file", 1),
            ("echo > other/file", 1),
            ("echo > other/new", 1),
            ("echo > readable/file", 1),
            ("echo > readable/new", 1),
            ("kill -0 $STARTER", 6),
            ("read -r -n 4 x < mine/file", never),
            ("echo > mine/file", never),
            ("echo > mine/new", never),
            ("read -r -n 4 x < readable/file", never),
            ("exec 3<>/dev/tcp/127.0.0.1/$PORT", never),
        ] {
            assert_eq!(
                done.contains(&what),
                abi < denied_from,
                "{what} under ABI {abi}: {done:?}"
            );
        }
    });
}

fn a_gate_that_cannot_confine_enough_gives_up() {
    let level = Level::of_this_kernel();
    for floor in [Floor::Nothing, Floor::Files, Floor::Network] {
        let confinement = Confinement {
            floor,
            ..Confinement::default()
        };
        // On a thread of its own: it stays confined.
        let enforced = std::thread::spawn(move || confinement.enforce().is_ok())
            .join()
            .unwrap();
        assert_eq!(enforced, level.reaches(floor), "{floor:?}");
    }
}

/// Root over this user's files and nothing else; of a read-only mount not even owners, modes and times can be changed.
fn an_enclosed_directory_is_a_mount_of_its_own() {
    on_runtime(async {
        for readonly in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let shared = root.path().join("shared");
            fs::create_dir(&shared).unwrap();
            fs::write(shared.join("file"), "text").unwrap();
            fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let script = "cd /sys && ! [ -e /proc/self/fd/5 ] && cat file && (echo > new; chmod 700 file; touch -d @1 file) 2>/dev/null; \
                          echo; id -u";
            let mut order = order(root.path(), script);
            order.pass = vec![(File::open(&shared).unwrap().into(), 5)];
            let directory = 5;
            order.enclosure = Some(Enclosure { directory, readonly });
            let mut gated = start(order);
            gated.listening().await.unwrap();
            assert_eq!(end_of(&gated.release().unwrap()).await, ExitStatus::Code(0));
            assert_eq!(log_of(&root), "text\n0\n", "{readonly}");
            assert_eq!(shared.join("new").exists(), !readonly);
            let mode = fs::metadata(shared.join("file")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777 == 0o700, !readonly, "{mode:o}");
        }
    });
}

fn termination_signals_wait_outside() {
    on_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut gated = start(order(
            directory.path(),
            "kill -TERM $$; kill -INT $$; kill -HUP $$; echo lived",
        ));
        gated.listening().await.unwrap();
        assert_eq!(gated.handle.signal(Signal::Term).unwrap(), Sent::Delivered);
        let handle = gated.release().unwrap();
        assert_eq!(end_of(&handle).await, ExitStatus::Code(0));
        assert_eq!(log_of(&directory), "lived\n");
    });
}

fn clients_see_the_gate_as_listener() {
    on_runtime(async {
        let root = tempfile::tempdir().unwrap();
        let dir = directory::open_private(&root.path().join("run")).unwrap();
        let (read, leash) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut order = order(root.path(), "read line <&9; exit 0");
        order.listen = ["qmp", "recovery"]
            .into_iter()
            .zip(5..)
            .map(|(name, number)| (bind_listener(dir.as_fd(), name).unwrap(), number))
            .collect();
        order.pass = vec![(read, 9)];
        let mut gated = start(order);
        gated.listening().await.unwrap();
        for name in ["qmp", "recovery"] {
            assert_listener(&connect(dir.as_fd(), name).await.unwrap(), &gated.handle);
        }
        let handle = gated.release().unwrap();
        assert_listener(&connect(dir.as_fd(), "qmp").await.unwrap(), &handle);
        drop(leash);
        assert_eq!(end_of(&handle).await, ExitStatus::Code(0));
        assert!(connect(dir.as_fd(), "qmp").await.is_err());
    });
}

fn assert_listener(stream: &UnixStream, expected: &ProcessHandle) {
    let listener = peer(stream).unwrap();
    assert_eq!(listener.pid, expected.pid());
    assert!(listener.handle.is_none() || listener.inode() == expected.inode());
}

fn a_program_that_cannot_run_is_told_apart() {
    on_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        fs::write(&plain, "not a program").unwrap();
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o600)).unwrap();
        for (program, code) in [(Path::new("/nonexistent/qemu"), 127), (plain.as_path(), 126)] {
            let mut order = order(directory.path(), "");
            order.program = program.to_owned();
            let mut gated = start(order);
            gated.listening().await.unwrap();
            let handle = gated.release().unwrap();
            assert_eq!(end_of(&handle).await, ExitStatus::Code(code));
            assert!(log_of(&directory).contains(&program.display().to_string()));
        }
    });
}

fn a_gate_that_gives_up_says_why() {
    on_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut bad = order(directory.path(), "");
        bad.listen = vec![(File::open("/dev/null").unwrap().into(), 5)];
        let error = start(bad).listening().await.unwrap_err();
        let told = "the gate failed: listen on a socket: Socket operation on non-socket (os error 88) (exit code 125)";
        assert_eq!(error.to_string(), told);
        assert!(log_of(&directory).contains("listen on a socket"));

        // A program that knows nothing of gates.
        let mut strange = gate::spawn_gate(Path::new("/bin/true"), order(directory.path(), "")).unwrap();
        let error = strange.listening().await.unwrap_err();
        let silent = matches!(&error, ProcessError::Gate { message, status: Some(ExitStatus::Code(0)) } if message.is_empty());
        assert!(silent, "{error:?}");

        let missing = gate::spawn_gate(Path::new("/nonexistent/gate"), order(directory.path(), ""));
        assert!(matches!(missing, Err(ProcessError::Spawn { .. })));
    });
}

fn a_gate_killed_while_waiting_cannot_be_released() {
    on_runtime(async {
        let directory = tempfile::tempdir().unwrap();
        let mut gated = start(order(directory.path(), "echo ran"));
        gated.listening().await.unwrap();
        assert_eq!(gated.handle.signal(Signal::Kill).unwrap(), Sent::Delivered);
        let handle = gated.handle.try_clone().unwrap();
        handle.exited().await.unwrap();
        assert!(matches!(gated.release(), Err(ProcessError::Gone { .. })));
        assert_eq!(handle.exit_status(), Some(ExitStatus::Signal(9)));
        assert!(log_of(&directory).is_empty());
    });
}

fn words_survive_the_command_line() {
    let args = GateArgs {
        listen: vec![5, 6],
        pass: vec![12],
        enclosure: Some(Enclosure {
            directory: 12,
            readonly: true,
        }),
        confinement: Some(Confinement {
            floor: Floor::Files,
            rules: vec![
                Rule::new("/usr/a \"b\"", Access::Read),
                Rule::new("/w", Access::Own),
            ],
            tcp_ports: vec![22],
        }),
        program: PathBuf::from("/usr/bin/qemu"),
        args: vec!["--".into(), "--listen=7".into(), String::new().into()],
    };
    assert_eq!(GateArgs::parse(args.to_words()).unwrap(), args);
    for words in [
        vec!["--listen=4"],
        vec!["--pass=x", "--"],
        vec!["--confinement={}", "--"],
        vec!["--enclose=4", "--"],
        vec!["--"],
        vec![],
        vec!["qemu"],
    ] {
        let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        assert!(matches!(
            GateArgs::parse(words),
            Err(ProcessError::GateArgument { .. })
        ));
    }
}
