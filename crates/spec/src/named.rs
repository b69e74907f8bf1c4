//! What words of a QEMU command line name: paths, and the TCP ports QEMU is to listen on.
//!
//! A confined QEMU may touch what its VM's file names, and `qemu.args` name things in QEMU's own way. What is not
//! recognized here is not allowed, and can be written under `sandbox:`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_yaml::Value;

/// First TCP port of VNC: display `:N` is port 5900 + N.
const VNC_PORT: u16 = 5900;

/// Port of `-s`, short for `-gdb tcp::1234`.
const GDB_PORT: u16 = 1234;

/// Marks of a value that has to do with TCP.
const OF_TCP: [&str; 8] = [
    "tcp",
    "telnet",
    "websocket",
    "port=",
    "vnc",
    "spice",
    "rdma",
    "socket,",
];

/// The absolute paths in the words, wherever a value is one: whole, behind `key=`, behind a scheme such as `unix:`, or in
/// JSON.
pub fn paths(words: &[String]) -> BTreeSet<PathBuf> {
    words
        .iter()
        .flat_map(|word| values(word))
        .filter_map(|value| path(&value))
        .collect()
}

/// The TCP ports in the words: every number beside a mark of TCP, and VNC's displays.
pub fn tcp_ports(words: &[String]) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    let mut option = "";
    for word in words {
        if word == "-s" {
            ports.insert(GDB_PORT);
        }
        let is_vnc = option == "-vnc" || word.contains("vnc=");
        if is_vnc || OF_TCP.iter().any(|mark| word.contains(mark)) {
            ports.extend(numbers(word));
        }
        if is_vnc {
            ports.extend(numbers(word).map(|display| VNC_PORT.saturating_add(display)));
        }
        option = word;
    }
    ports.remove(&0);
    ports
}

fn numbers(word: &str) -> impl Iterator<Item = u16> + '_ {
    // With a dot it is an address, and no number.
    word.split(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .filter_map(|digits| digits.parse().ok())
}

/// The values in a word, doubled commas undone.
fn values(word: &str) -> Vec<String> {
    if word.starts_with('{')
        && let Ok(json) = serde_yaml::from_str::<Value>(word)
    {
        let mut texts = Vec::new();
        collect(&json, &mut texts);
        return texts;
    }
    let parts = word.replace(",,", "\0");
    let value = |part: &str| {
        part.split_once('=')
            .map_or(part, |(_, value)| value)
            .replace('\0', ",")
    };
    parts.split(',').map(value).collect()
}

fn collect(json: &Value, texts: &mut Vec<String>) {
    match json {
        Value::String(text) => texts.push(text.clone()),
        Value::Sequence(items) => items.iter().for_each(|item| collect(item, texts)),
        Value::Mapping(fields) => fields.values().for_each(|field| collect(field, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Tagged(_) => {}
    }
}

/// `/a`, `unix:/a`, `json:…` no, `nbd://host/a` no.
fn path(value: &str) -> Option<PathBuf> {
    let begins = value.find('/')?;
    let (scheme, path) = value.split_at(begins);
    let is_scheme = scheme.is_empty() || scheme.ends_with(':');
    (is_scheme && !path.starts_with("//") && path.len() > 1).then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn paths_are_found_where_qemu_looks_for_them() {
        for (text, expected) in [
            ("-pflash /fw/vars.fd", vec!["/fw/vars.fd"]),
            ("-drive file=/img/a.raw,if=virtio", vec!["/img/a.raw"]),
            (
                "-fsdev local,id=f,path=/share,,1,security_model=none",
                vec!["/share,1"],
            ),
            ("-serial unix:/run/s.sock,server=on", vec!["/run/s.sock"]),
            (
                "-chardev file,id=c,path=/log/c.log,logfile=/log/d",
                vec!["/log/c.log", "/log/d"],
            ),
            (
                r#"-blockdev {"driver":"raw","file":{"driver":"file","filename":"/x"}}"#,
                vec!["/x"],
            ),
            ("-drive file=nbd://host/export", vec![]),
            ("-name a/b -msg timestamp=on /", vec![]),
        ] {
            let expected: BTreeSet<PathBuf> = expected.into_iter().map(PathBuf::from).collect();
            assert_eq!(paths(&words(text)), expected, "{text}");
        }
    }

    #[test]
    fn ports_are_found_beside_what_speaks_of_tcp() {
        for (text, expected) in [
            ("-vnc 127.0.0.1:1", vec![1, 5901]),
            ("-gdb tcp::4444", vec![4444]),
            ("-s", vec![1234]),
            ("-spice port=5930,disable-ticketing=on", vec![5930]),
            ("-netdev user,id=n,hostfwd=tcp::2222-:22", vec![22, 2222]),
            ("-m 512 -smp 2", vec![]),
            ("-serial file:/a/1", vec![]),
        ] {
            let expected: BTreeSet<u16> = expected.into_iter().collect();
            assert_eq!(tcp_ports(&words(text)), expected, "{text}");
        }
    }
}
