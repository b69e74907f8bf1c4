//! A spec as the YAML a person would have written.

use serde_yaml::{Mapping, Value};

use crate::machine::Family;
use crate::vm::{
    Accel, Disk, Kernel, Network, NetworkKind, OnReboot, OnRunnerLoss, OnTimeout, RestartPolicy, Share,
    StopPolicy, VmSpec,
};
use crate::yaml;

/// YAML that [`crate::load()`] reads back as an equal spec, whatever the directory. Everything that decides how the VM
/// runs is spelled out; what is absent is left out.
pub fn to_yaml(spec: &VmSpec) -> String {
    // Texts, numbers and maps only: there is nothing in it that YAML cannot express.
    yaml::to_string(&document(spec)).unwrap_or_default()
}

/// A map in the order of insertion.
#[derive(Default)]
struct Map(Mapping);

impl Map {
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.into(), value.into());
    }

    fn put_some<V: Into<Value>>(&mut self, key: &str, value: Option<V>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    fn done(self) -> Value {
        Value::Mapping(self.0)
    }
}

fn document(spec: &VmSpec) -> Value {
    let mut map = Map::default();
    map.put("name", spec.name.as_str());
    map.put("binary", spec.binary.as_str());
    map.put("machine", spec.machine.as_str());
    map.put("accel", accel(spec.accel));
    map.put_some("cpu_model", spec.cpu_model.as_deref());
    map.put("memory", spec.memory.to_string());
    map.put("cpus", spec.cpus);
    map.put_some("kernel", spec.kernel.as_ref().map(kernel));
    map.put_some(
        "firmware",
        spec.firmware.as_ref().map(|path| path.display().to_string()),
    );
    if !spec.disks.is_empty() {
        map.put(
            "disks",
            by_name(&spec.disks, |disk| (disk.name.as_str(), self::disk(disk))),
        );
    }
    if !spec.networks.is_empty() {
        map.put(
            "networks",
            by_name(&spec.networks, |network| {
                (network.name.as_str(), self::network(network))
            }),
        );
    }
    if !spec.shares.is_empty() {
        map.put(
            "shares",
            by_name(&spec.shares, |share| (share.name.as_str(), self::share(share))),
        );
    }
    put_behaviour(&mut map, spec);
    map.done()
}

/// What is not hardware, and the serial port.
fn put_behaviour(map: &mut Map, spec: &VmSpec) {
    if Family::of(&spec.machine) != Family::None {
        let mut serial = Map::default();
        serial.put("log", spec.serial.log);
        map.put("serial", serial.done());
    }
    map.put_some("display", spec.display.as_deref());
    map.put_some("vga", spec.vga.as_deref());
    if spec.on_reboot == OnReboot::Stop {
        map.put("on_reboot", "stop");
    }
    map.put("stop", stop(spec.stop));
    if spec.restart != RestartPolicy::default() {
        map.put("restart", restart(spec.restart));
    }
    if spec.on_runner_loss == OnRunnerLoss::Stop {
        map.put("on_runner_loss", "stop");
    }
    map.put("sandbox", sandbox(spec));
    if !spec.extra_args.is_empty() {
        let mut qemu = Map::default();
        qemu.put("args", spec.extra_args.clone());
        map.put("qemu", qemu.done());
    }
}

fn accel(accel: Accel) -> &'static str {
    match accel {
        Accel::Auto => "auto",
        Accel::Kvm => "kvm",
        Accel::Tcg => "tcg",
    }
}

fn by_name<T>(items: &[T], render: impl Fn(&T) -> (&str, Value)) -> Value {
    let mut map = Map::default();
    for item in items {
        let (name, value) = render(item);
        map.put(name, value);
    }
    map.done()
}

fn kernel(kernel: &Kernel) -> Value {
    let mut map = Map::default();
    map.put("image", kernel.image.display().to_string());
    map.put_some(
        "initrd",
        kernel.initrd.as_ref().map(|path| path.display().to_string()),
    );
    map.put_some("append", kernel.append.as_deref());
    map.done()
}

fn disk(disk: &Disk) -> Value {
    let mut map = Map::default();
    map.put("path", disk.path.display().to_string());
    map.put_some("size", disk.size.map(|size| size.to_string()));
    map.put_some("from", disk.from.as_ref().map(ToString::to_string));
    map.put("format", disk.format.to_string());
    map.put("interface", disk.interface.to_string());
    if disk.readonly {
        map.put("readonly", true);
    }
    put_unless_default(&mut map, "media", &disk.media);
    put_unless_default(&mut map, "cache", &disk.cache);
    put_unless_default(&mut map, "aio", &disk.aio);
    put_unless_default(&mut map, "discard", &disk.discard);
    put_unless_default(&mut map, "detect_zeroes", &disk.detect_zeroes);
    map.put_some("port", disk.port);
    map.done()
}

fn put_unless_default<T: Default + PartialEq + ToString>(map: &mut Map, key: &str, value: &T) {
    if *value != T::default() {
        map.put(key, value.to_string());
    }
}

fn network(network: &Network) -> Value {
    let mut map = Map::default();
    map.put(
        "type",
        match network.kind {
            NetworkKind::User => "user",
        },
    );
    map.put("model", network.model.as_str());
    if !network.forwards.is_empty() {
        let forwards: Vec<String> = network.forwards.iter().map(ToString::to_string).collect();
        map.put("forwards", forwards);
    }
    map.done()
}

fn share(share: &Share) -> Value {
    let mut map = Map::default();
    map.put("path", share.path.display().to_string());
    map.put("tag", share.tag.as_str());
    map.put("type", share.kind.as_str());
    if share.readonly {
        map.put("readonly", true);
    }
    map.put("security", share.security.to_string());
    map.done()
}

fn stop(stop: StopPolicy) -> Value {
    let mut map = Map::default();
    map.put("timeout", humantime::format_duration(stop.timeout).to_string());
    map.put(
        "on_timeout",
        match stop.on_timeout {
            OnTimeout::Keep => "keep",
            OnTimeout::Kill => "kill",
        },
    );
    map.done()
}

fn restart(restart: RestartPolicy) -> Value {
    let duration = |duration| humantime::format_duration(duration).to_string();
    let mut map = Map::default();
    map.put("policy", restart.policy.as_str());
    map.put("backoff", duration(restart.backoff));
    map.put("backoff_max", duration(restart.backoff_max));
    map.put("tries", restart.tries);
    map.put("window", duration(restart.window));
    map.done()
}

fn sandbox(spec: &VmSpec) -> Value {
    let mode = spec.sandbox.as_str();
    if spec.sandbox_paths.is_empty() {
        return mode.into();
    }
    let mut map = Map::default();
    map.put("mode", mode);
    for (key, paths) in [
        ("read", &spec.sandbox_paths.read),
        ("write", &spec.sandbox_paths.write),
    ] {
        if !paths.is_empty() {
            let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            map.put(key, paths);
        }
    }
    map.done()
}

#[cfg(test)]
mod tests;
