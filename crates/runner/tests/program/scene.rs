//! One VM's surroundings, with the test in the supervisor's part.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use maqet_process::identity::{Liveness, ProcessIdentity};
use maqet_process::pidfd::{ExitStatus, ProcessHandle};
use maqet_process::signal::{Sent, Signal};
use maqet_process::spawn::Spawn;
use maqet_process::{directory, socket};
use maqet_protocol::endpoint::client::{Client, ReplyStream};
use maqet_protocol::method::Method;
use maqet_protocol::refusal::Refusal;
use maqet_protocol::runner::{
    Adopt, ExitNote, Prepare, Prepared, Release, RunnerFact, Running, StopQemu, Watch,
};
use maqet_protocol::{CallError, SocketRole};
use maqet_spec::vm::{Accel, OnReboot, RestartPolicy, Sandbox, SandboxPaths, Serial, StopPolicy, VmSpec};
use maqet_spec::{Size, VmName};
use maqet_state::id::VmId;
use maqet_state::secret::Secret;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

/// More than anything here needs on a crowded host.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// A guest gets a minute to shut down, and all of it.
pub(crate) const PLAIN: StopQemu = StopQemu {
    budget_ms: 60_000,
    hard: false,
    force: false,
    kill_on_timeout: false,
};

/// What lasts from one runner to the next. Ends everything it knows of when dropped.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) place: tempfile::TempDir,
    pub(crate) vm: VmId,
    secret: Secret,
    pub(crate) launch_id: String,
    pub(crate) qemu: Option<ProcessIdentity>,
}

/// A runner that listens.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) handle: ProcessHandle,
}

/// A spec for the tiny guest with these options.
pub(crate) fn spec(options: &[&str]) -> VmSpec {
    let mut extra_args = Vec::new();
    if !options.is_empty() {
        extra_args.push("-fw_cfg".to_owned());
        extra_args.push(format!("name=opt/maqet/tiny,string={}", options.join(" ")));
    }
    VmSpec {
        name: VmName::new("web").unwrap(),
        binary: "qemu-system-x86_64".to_owned(),
        machine: "pc".to_owned(),
        accel: Accel::Tcg,
        cpu_model: None,
        memory: Size::mebibytes(16).unwrap(),
        cpus: 1,
        kernel: None,
        firmware: Some(tiny_guest().to_owned()),
        disks: Vec::new(),
        networks: Vec::new(),
        shares: Vec::new(),
        serial: Serial::default(),
        display: None,
        vga: None,
        on_reboot: OnReboot::Reset,
        stop: StopPolicy::default(),
        on_runner_loss: maqet_spec::vm::OnRunnerLoss::Adopt,
        restart: RestartPolicy::default(),
        sandbox: Sandbox::Auto,
        sandbox_paths: SandboxPaths::default(),
        extra_args,
    }
}

/// The tiny guest's image, assembled once per test process from the supervisor's sources.
fn tiny_guest() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../supervisor/guest/tiny.S");
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (object, image) = (place.path().join("tiny.o"), place.path().join("tiny.bin"));
        run(Command::new("as").args(["--32", "-o"]).args([&object, &source]));
        let format = [
            "-m",
            "elf_i386",
            "--oformat",
            "binary",
            "-Ttext",
            "0",
            "-e",
            "_start",
            "-o",
        ];
        run(Command::new("ld").args(format).args([&image, &object]));
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny.bin");
        // Who comes second leaves the first one's file alone: a QEMU that is about to start may read that file only.
        let made = std::fs::read(&image).unwrap();
        if std::fs::hard_link(&image, &kept).is_err() && std::fs::read(&kept).unwrap() != made {
            std::fs::rename(image, &kept).unwrap();
        }
        kept
    })
}

pub(crate) fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// QEMU's program, as the supervisor would have resolved it.
pub(crate) fn qemu_program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut found = std::env::split_paths(&path).map(|place| place.join("qemu-system-x86_64"));
    found.find(|program| program.exists()).unwrap()
}

impl Scene {
    pub(crate) fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        drop(directory::open_private(&place.path().join("run")).unwrap());
        drop(directory::open_private(&place.path().join("logs")).unwrap());
        Self {
            place,
            vm: VmId::random(),
            secret: Secret::random().unwrap(),
            launch_id: VmId::random().to_string(),
            qemu: None,
        }
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.place.path().join("run")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.place.path().join("logs").join(name)
    }

    /// Starts a runner that waits for GO.
    pub(crate) fn spawn(&self) -> (ProcessHandle, UnixStream) {
        let (channel, inherited) = UnixStream::pair().unwrap();
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log("runner.log"))
            .unwrap();
        let mut spawn = Spawn::new(env!("CARGO_BIN_EXE_maqet-runner"));
        let vm = self.vm.as_str();
        let words = [
            "--vm",
            vm,
            "--name",
            "web",
            "--launch-id",
            &self.launch_id,
            "--runtime-dir",
        ];
        spawn.args = words.into_iter().map(Into::into).collect();
        spawn.args.push(self.runtime().into());
        spawn.stderr = Some(log.into());
        spawn.fds = vec![(OwnedFd::from(inherited), 3)];
        (spawn.spawn().unwrap().handle, channel)
    }

    /// A runner that got GO and listens.
    pub(crate) fn runner(&self) -> Runner {
        let (handle, mut channel) = self.spawn();
        channel.write_all(&[1]).unwrap();
        channel.write_all(self.secret.as_bytes()).unwrap();
        channel.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(channel.read(&mut [0]).unwrap(), 0, "{}", self.words());
        Runner { handle }
    }

    /// What the runner logged.
    pub(crate) fn words(&self) -> String {
        std::fs::read_to_string(self.log("runner.log")).unwrap_or_default()
    }

    pub(crate) async fn connect(&self) -> Client {
        let directory = directory::open_private(&self.runtime()).unwrap();
        let stream = socket::connect(directory.as_fd(), "runner.sock").await.unwrap();
        let role = SocketRole::Runner(self.vm.clone());
        Client::connect(stream, role, &self.secret, DEADLINE)
            .await
            .unwrap()
    }

    pub(crate) async fn watch(&self) -> Facts {
        let mut facts = Facts(self.connect().await.stream(&Watch {}).await.unwrap());
        assert_eq!(facts.next().await, Some(RunnerFact::Watching));
        facts
    }

    pub(crate) fn prepare_order(&self, spec: VmSpec) -> Prepare {
        Prepare {
            spec,
            binary: qemu_program(),
            launch_id: self.launch_id.clone(),
            generation: 1,
            log_dir: self.place.path().join("logs"),
            log_bytes_max: 1 << 20,
            files: Vec::new(),
            roots: Vec::new(),
            own: Vec::new(),
            virtiofsd: None,
        }
    }

    pub(crate) fn adopt_order(&self, spec: VmSpec) -> Adopt {
        Adopt {
            spec,
            qemu: self.qemu.clone().unwrap(),
            log_dir: self.place.path().join("logs"),
            roots: Vec::new(),
            own: Vec::new(),
            helpers: Vec::new(),
            log_bytes_max: 1 << 20,
        }
    }

    /// Has a gate made.
    pub(crate) async fn prepare(&mut self, owner: &mut Client, spec: VmSpec) -> Result<Prepared, Refusal> {
        let prepared = call(owner, &self.prepare_order(spec)).await?;
        self.qemu = Some(prepared.qemu.clone());
        Ok(prepared)
    }

    /// A guest that has said that it is ready, from nothing.
    pub(crate) async fn up(&mut self, spec: VmSpec) -> (Runner, Client, Running) {
        let runner = self.runner();
        let mut owner = self.connect().await;
        self.prepare(&mut owner, spec).await.unwrap();
        let mut serial = self.serial().await;
        let running = call(&mut owner, &Release {}).await.unwrap();
        serial.until("maqet tiny guest ready").await;
        (runner, owner, running)
    }

    /// The guest's serial port. Before the release nothing is missed.
    pub(crate) async fn serial(&self) -> SerialPort {
        let directory = directory::open_private(&self.runtime()).unwrap();
        let stream = socket::connect(directory.as_fd(), "serial.sock").await.unwrap();
        SerialPort(BufReader::new(stream))
    }

    /// QEMU, while it lives.
    pub(crate) fn qemu_handle(&self) -> Option<ProcessHandle> {
        match self.qemu.as_ref()?.verify() {
            Liveness::Alive(handle) => Some(handle),
            Liveness::Dead => None,
            Liveness::Unknown(why) => panic!("{why}"),
        }
    }

    /// The runner's note about QEMU's end.
    pub(crate) fn exit_note(&self) -> ExitNote {
        let text = std::fs::read(self.runtime().join(ExitNote::FILE)).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Names in the runtime directory, sorted.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.runtime()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Scene {
    #[expect(
        clippy::print_stdout,
        reason = "the test harness shows it when the test failed"
    )]
    fn drop(&mut self) {
        if let Some(qemu) = self.qemu_handle() {
            send(&qemu, Signal::Kill);
        }
        if std::thread::panicking() {
            let qemu = std::fs::read_to_string(self.log("qemu.log")).unwrap_or_default();
            println!("runner said:\n{}\nQEMU said:\n{qemu}", self.words());
        }
    }
}

/// Signals a process that may be gone already.
pub(crate) fn send(handle: &ProcessHandle, signal: Signal) {
    assert!(matches!(
        handle.signal(signal),
        Ok(Sent::Delivered | Sent::AlreadyGone)
    ));
}

impl Runner {
    /// Waits until the runner has exited.
    pub(crate) async fn ended(&self) -> Option<ExitStatus> {
        timeout(DEADLINE, self.handle.exited()).await.unwrap().unwrap();
        self.handle.exit_status()
    }

    /// Kills the runner and waits until it is gone.
    pub(crate) async fn kill(&self) {
        send(&self.handle, Signal::Kill);
        assert_eq!(self.ended().await, Some(ExitStatus::Signal(9)));
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if !self.handle.has_exited() {
            send(&self.handle, Signal::Kill);
        }
    }
}

/// One call; a refusal is an answer too.
pub(crate) async fn call<M: Method>(client: &mut Client, method: &M) -> Result<M::Reply, Refusal> {
    match client.call(method, Some(DEADLINE)).await {
        Ok(reply) => Ok(reply),
        Err(CallError::Refused(refusal)) => Err(refusal),
        Err(CallError::Protocol(error)) => panic!("{}: {error:?}", M::NAME),
    }
}

/// Waits until a process is gone.
pub(crate) async fn gone(handle: &ProcessHandle) {
    timeout(DEADLINE, handle.exited()).await.unwrap().unwrap();
}

/// What the runner tells.
#[derive(Debug)]
pub(crate) struct Facts(ReplyStream<Watch>);

impl Facts {
    pub(crate) async fn next(&mut self) -> Option<RunnerFact> {
        let reply = timeout(DEADLINE, self.0.next()).await.unwrap();
        reply.map(|reply| reply.unwrap().fact)
    }

    /// Reads on to the first fact that fits.
    pub(crate) async fn until(&mut self, fits: impl Fn(&RunnerFact) -> bool) -> RunnerFact {
        loop {
            let fact = self.next().await.unwrap();
            if fits(&fact) {
                return fact;
            }
        }
    }
}

/// The guest's serial port.
#[derive(Debug)]
pub(crate) struct SerialPort(BufReader<tokio::net::UnixStream>);

impl SerialPort {
    /// Reads on to a line.
    pub(crate) async fn until(&mut self, wanted: &str) {
        let reading = async { while self.line().await != wanted {} };
        let read = timeout(DEADLINE, reading).await;
        assert!(read.is_ok(), "no `{wanted}`");
    }

    /// The next line.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = timeout(DEADLINE, self.0.read_line(&mut line)).await.unwrap();
        assert!(read.unwrap() > 0, "the serial port closed");
        line.trim_end().to_owned()
    }
}
