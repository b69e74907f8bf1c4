//! Port forwards as text.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::vm::{Forward, Transport};

/// Why a text is not a port forward.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidForward {
    /// Not `tcp:ADDRESS:HOST-PORT:GUEST-PORT`.
    #[error("`{0}` is not a port forward")]
    Malformed(String),
    /// Neither `tcp` nor `udp`.
    #[error("`{0}` is neither `tcp` nor `udp`")]
    Transport(String),
    /// Not an IPv4 address.
    #[error("`{0}` is not an IPv4 address")]
    Address(String),
    /// Not 1 to 65535.
    #[error("`{0}` is not a port (1 to 65535)")]
    Port(String),
    /// QEMU's form with a guest address: the guest of a user network has only one.
    #[error("the guest address `{0}` cannot be chosen")]
    GuestAddress(String),
}

impl InvalidForward {
    /// What to write instead.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Port(text) if text == "0" => "write `auto` for any free host port",
            Self::GuestAddress(_) => "leave it out: `tcp:127.0.0.1:2222:22`",
            Self::Malformed(_) | Self::Transport(_) | Self::Address(_) | Self::Port(_) => {
                "forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`"
            }
        }
    }
}

/// Reads `tcp:127.0.0.1:2222:22`, `tcp:2222:22`, and QEMU's `tcp:127.0.0.1:2222-:22`. Without an address it is
/// 127.0.0.1 (QEMU would open the port to the whole network).
impl FromStr for Forward {
    type Err = InvalidForward;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || InvalidForward::Malformed(text.to_owned());
        let (transport, rest) = text.split_once(':').ok_or_else(malformed)?;
        let protocol = match transport {
            "tcp" | "" => Transport::Tcp,
            "udp" => Transport::Udp,
            other => return Err(InvalidForward::Transport(other.to_owned())),
        };
        let (host, guest) = split_ends(rest).ok_or_else(malformed)??;
        let (address, host_port) = match host.rsplit_once(':') {
            Some((address, port)) => (address, port),
            None => ("", host),
        };
        Ok(Self {
            protocol,
            host_address: parse_address(address)?,
            host_port: if host_port == "auto" {
                None
            } else {
                Some(parse_port(host_port)?)
            },
            guest_port: parse_port(guest)?,
        })
    }
}

/// Host end and guest port of `HOST:PORT` or QEMU's `HOST-:PORT`.
fn split_ends(rest: &str) -> Option<Result<(&str, &str), InvalidForward>> {
    let (before, guest) = rest.rsplit_once(':')?;
    match before.split_once('-') {
        Some((host, "")) => Some(Ok((host, guest))),
        Some((_, address)) => Some(Err(InvalidForward::GuestAddress(address.to_owned()))),
        None => Some(Ok((before, guest))),
    }
}

fn parse_address(text: &str) -> Result<Ipv4Addr, InvalidForward> {
    match text {
        "" | "localhost" => Ok(Ipv4Addr::LOCALHOST),
        "*" => Ok(Ipv4Addr::UNSPECIFIED),
        _ => text.parse().map_err(|_| InvalidForward::Address(text.to_owned())),
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidForward> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port: &u16| digits && *port > 0);
    port.ok_or_else(|| InvalidForward::Port(text.to_owned()))
}

/// The form that reads back as the same forward.
impl fmt::Display for Forward {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:", self.protocol, self.host_address)?;
        match self.host_port {
            Some(port) => write!(formatter, "{port}")?,
            None => formatter.write_str("auto")?,
        }
        write!(formatter, ":{}", self.guest_port)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_forward() {
        for (text, shown) in [
            ("tcp:127.0.0.1:auto:22", "tcp:127.0.0.1:auto:22"),
            ("tcp::2222-:22", "tcp:127.0.0.1:2222:22"),
            ("tcp:0.0.0.0:2222-:22", "tcp:0.0.0.0:2222:22"),
            ("tcp:2222:22", "tcp:127.0.0.1:2222:22"),
            ("udp:*:53:53", "udp:0.0.0.0:53:53"),
            ("tcp::auto:80", "tcp:127.0.0.1:auto:80"),
            (":2222:22", "tcp:127.0.0.1:2222:22"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.to_string(), shown);
            assert_eq!(shown.parse::<Forward>().unwrap(), forward);
        }
    }

    #[test]
    fn what_is_no_forward() {
        let told: Vec<String> = [
            "",
            "22",
            "tcp:22",
            "tpc:127.0.0.1:2222:22",
            "tcp:127.0.0.1:0:22",
            "tcp:127.0.0.1:2222:70000",
            "tcp:127.0.0.1:+2:22",
            "tcp:localhots:2222:22",
            "tcp::2222-10.0.2.15:22",
            "tcp:::1:2222:22",
        ]
        .iter()
        .map(|text| text.parse::<Forward>().unwrap_err())
        .map(|error| format!("{error} | {}", error.hint()))
        .collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        `` is not a port forward | forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`
        `22` is not a port forward | forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`
        `tcp:22` is not a port forward | forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`
        `tpc` is neither `tcp` nor `udp` | forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`
        `0` is not a port (1 to 65535) | write `auto` for any free host port
        `70000` is not a port (1 to 65535) | forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`
        `+2` is not a port (1 to 65535) | forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`
        `localhots` is not an IPv4 address | forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`
        the guest address `10.0.2.15` cannot be chosen | leave it out: `tcp:127.0.0.1:2222:22`
        `::1` is not an IPv4 address | forwards are like `tcp:127.0.0.1:2222:22` or `tcp:127.0.0.1:auto:22`
        "#);
    }
}
