//! Port specifications of `EXPOSE`, after expansion.

use std::net::IpAddr;

use crate::lint::{Lint, Linter};
use crate::quote;
use crate::span::Span;

/// Why a port specification is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum PortError {
    #[error("invalid port: {}: no port specified", quote::go(.0))]
    NoPort(String),
    #[error("invalid port: {}: invalid proto: {proto}", quote::go(.spec))]
    Protocol { spec: String, proto: String },
    #[error("invalid IP address: {0}")]
    Ip(String),
    #[error("invalid containerPort: {0}")]
    Container(String),
    #[error("invalid hostPort: {0}")]
    Host(String),
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges { container: String, host: String },
}

impl fault::Classify for PortError {
    fn class(&self) -> fault::Class {
        fault::Class::User
    }
}

/// Reads `[ip:][host:]container[-end][/proto]` and lists the ports of the container as `80/tcp`.
///
/// Reports upper-case protocols and host parts to `linter`, for an instruction at `span` below `comments`.
pub fn parse(
    spec: &str,
    linter: &mut Linter,
    span: Span,
    comments: &[String],
) -> Result<Vec<String>, PortError> {
    let (ip, host, container) = split(spec);
    let (container, proto) = container.split_once('/').unwrap_or((container, ""));
    if container.is_empty() {
        return Err(PortError::NoPort(spec.to_owned()));
    }
    let protocol = match &*crate::case::lower(proto) {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        _ => {
            return Err(PortError::Protocol {
                spec: spec.to_owned(),
                proto: proto.to_owned(),
            });
        }
    };
    if !proto.is_empty() && proto != protocol {
        linter.report(Lint::ExposeProtoCasing { port: spec }, span, comments);
    }
    if !ip.is_empty() || !host.is_empty() {
        linter.report(Lint::ExposeInvalidFormat { port: spec }, span, comments);
    }
    if !ip.is_empty() {
        let bare = ip
            .strip_prefix('[')
            .and_then(|ip| ip.strip_suffix(']'))
            .unwrap_or(ip);
        bare.parse::<IpAddr>()
            .map_err(|_| PortError::Ip(bare.to_owned()))?;
    }
    let (start, end) =
        range(container).ok_or_else(|| PortError::Container(container.to_owned()))?;
    if !host.is_empty() {
        let (first, last) = range(host).ok_or_else(|| PortError::Host(host.to_owned()))?;
        // A range of host ports is fine for one port of the container.
        if end != start && end - start != last - first {
            return Err(PortError::Ranges {
                container: container.to_owned(),
                host: host.to_owned(),
            });
        }
    }
    Ok((start..=end)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

fn split(spec: &str) -> (&str, &str, &str) {
    let Some((front, container)) = spec.rsplit_once(':') else {
        return ("", "", spec);
    };
    let (ip, host) = front.rsplit_once(':').unwrap_or(("", front));
    (ip, host, container)
}

fn range(ports: &str) -> Option<(u16, u16)> {
    let (start, end) = match ports.split_once('-') {
        Some((start, end)) if start != end => (number(start)?, number(end)?),
        Some((start, _)) => (number(start)?, number(start)?),
        None => (number(ports)?, number(ports)?),
    };
    (start <= end).then_some((start, end))
}

fn number(text: &str) -> Option<u16> {
    let number = crate::number::go_int32(text).ok()?;
    u16::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(spec: &str) -> Result<String, String> {
        parse(spec, &mut Linter::off(), Span::default(), &[])
            .map(|ports| ports.join(" "))
            .map_err(|err| err.to_string())
    }

    #[test]
    fn ranges_are_unrolled() {
        assert_eq!(ports("80").as_deref(), Ok("80/tcp"));
        assert_eq!(ports("80-82/UDP").as_deref(), Ok("80/udp 81/udp 82/udp"));
        assert_eq!(ports("127.0.0.1:1-2:80").as_deref(), Ok("80/tcp"));
        assert_eq!(ports("[::1]:80:81").as_deref(), Ok("81/tcp"));
        assert_eq!(ports("::1:80:81").as_deref(), Ok("81/tcp"));
        assert_eq!(ports("0").as_deref(), Ok("0/tcp"));
    }

    #[test]
    fn texts_of_refusals() {
        for (spec, text) in [
            ("70000", "invalid containerPort: 70000"),
            ("80/abc", "invalid port: \"80/abc\": invalid proto: abc"),
            ("90-80", "invalid containerPort: 90-80"),
            ("999.1.1.1:80:80", "invalid IP address: 999.1.1.1"),
            (
                "1-3:5-9",
                "invalid ranges specified for container and host Ports: 5-9 and 1-3",
            ),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("x:80", "invalid hostPort: x"),
        ] {
            assert_eq!(ports(spec), Err(text.to_owned()));
        }
    }
}
