//! The kinds of values that settings have: what is allowed, how it is read, and how it is written.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::units::{format_duration, format_size, parse_duration, parse_size_bytes};
use crate::domain::policy::{NotAPattern, SourcePattern};
use crate::domain::{CdnPattern, Durability};

/// Where in a [`Config`] a setting is kept, which also tells its kind. Bounds are inclusive.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    Port(fn(&mut Config) -> &mut u16),
    Ip(fn(&mut Config) -> &mut Option<IpAddr>),
    /// An address to connect to.
    Peer(fn(&mut Config) -> &mut Option<IpAddr>),
    Directory(fn(&mut Config) -> &mut PathBuf),
    File(fn(&mut Config) -> &mut Option<PathBuf>),
    Switch(fn(&mut Config) -> &mut bool),
    Pattern(fn(&mut Config) -> &mut CdnPattern),
    Durability(fn(&mut Config) -> &mut Durability),
    Patterns(fn(&mut Config) -> &mut Vec<SourcePattern>),
    Count {
        field: fn(&mut Config) -> &mut u32,
        min: u32,
        max: u32,
    },
    Duration {
        field: fn(&mut Config) -> &mut Duration,
        min: Duration,
        max: Duration,
    },
    Size {
        field: fn(&mut Config) -> &mut u64,
        min_bytes: u64,
        max_bytes: u64,
    },
}

/// A value as somebody wrote it; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub text: String,
    /// Written as a number, not as a text of digits: only a file can tell the two apart.
    pub is_number: bool,
}

impl Written {
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_number: false }
    }
}

impl Field {
    /// Reads a value into its place; `None`, and nothing changed, if it is not allowed.
    pub fn set(&self, config: &mut Config, written: &Written) -> Option<()> {
        let text = written.text.as_str();
        match self {
            Self::Port(field) => *field(config) = text.parse().ok()?,
            Self::Ip(field) => *field(config) = Some(text.parse().ok()?),
            Self::Peer(field) => *field(config) = Some(text.parse().ok().filter(can_be_connected_to)?),
            Self::Directory(field) => *field(config) = PathBuf::from(text),
            Self::File(field) => *field(config) = Some(PathBuf::from(text)),
            Self::Switch(field) => *field(config) = parse_switch(text)?,
            Self::Pattern(field) => *field(config) = parse_pattern(text)?,
            Self::Durability(field) => *field(config) = parse_durability(text)?,
            Self::Patterns(field) => *field(config) = parse_patterns(text).ok()?,
            Self::Count { field, min, max } => {
                *field(config) = text.parse().ok().filter(|count| (min..=max).contains(&count))?;
            }
            Self::Duration { field, min, max } => {
                let duration = if written.is_number { text.parse().ok().map(Duration::from_nanos) } else { parse_duration(text) };
                *field(config) = duration.filter(|duration| (min..=max).contains(&duration))?;
            }
            Self::Size { field, min_bytes, max_bytes } => {
                *field(config) = parse_size_bytes(text).filter(|size| (min_bytes..=max_bytes).contains(&size))?;
            }
        }
        Some(())
    }

    /// What a value that is not allowed was taken for, for whoever wrote it.
    pub fn found(&self, written: &Written) -> String {
        let text = &written.text;
        match self {
            Self::Patterns(_) => match parse_patterns(text) {
                // Of one alone there is nothing more to say, unless it is another in disguise.
                Err(NotAPattern::Neither(item)) if item == text.trim() => format!("{text:?}"),
                Err(error) => format!("{text:?}, where {error}"),
                Ok(_) => format!("{text:?}"),
            },
            // As the Go supernode read them.
            Self::Duration { .. } if written.is_number => format!("{text:?} (nanoseconds)"),
            _ => format!("{text:?}"),
        }
    }

    /// The value as it can be read back; `None` where there is none.
    pub fn show(&self, config: &Config) -> Option<String> {
        // The places are named once, as places to write to.
        let config = &mut config.clone();
        Some(match self {
            Self::Port(field) => field(config).to_string(),
            Self::Ip(field) | Self::Peer(field) => (*field(config))?.to_string(),
            Self::Directory(field) => field(config).to_string_lossy().into_owned(),
            Self::File(field) => field(config).as_ref()?.to_string_lossy().into_owned(),
            Self::Switch(field) => field(config).to_string(),
            Self::Pattern(field) => show_pattern(*field(config)).to_owned(),
            Self::Durability(field) => show_durability(*field(config)).to_owned(),
            Self::Patterns(field) => {
                let patterns: Vec<String> = field(config).iter().map(ToString::to_string).collect();
                return (!patterns.is_empty()).then(|| patterns.join(", "));
            }
            Self::Count { field, .. } => field(config).to_string(),
            Self::Duration { field, .. } => format_duration(*field(config)),
            Self::Size { field, .. } => format_size(*field(config)),
        })
    }

    /// Puts what `from` has into its place in `config`.
    pub fn copy(&self, from: &Config, config: &mut Config) {
        let from = &mut from.clone();
        match self {
            Self::Port(field) => *field(config) = *field(from),
            Self::Ip(field) | Self::Peer(field) => *field(config) = *field(from),
            Self::Directory(field) => field(config).clone_from(field(from)),
            Self::File(field) => field(config).clone_from(field(from)),
            Self::Switch(field) => *field(config) = *field(from),
            Self::Pattern(field) => *field(config) = *field(from),
            Self::Durability(field) => *field(config) = *field(from),
            Self::Patterns(field) => field(config).clone_from(field(from)),
            Self::Count { field, .. } => *field(config) = *field(from),
            Self::Duration { field, .. } => *field(config) = *field(from),
            Self::Size { field, .. } => *field(config) = *field(from),
        }
    }

    /// What is allowed, for whoever wrote something else.
    pub fn allowed(&self) -> String {
        match self {
            Self::Port(_) => "a port, 0 to 65535".to_owned(),
            Self::Ip(_) => "an IP address, like 192.0.2.1 or 2001:db8::1".to_owned(),
            Self::Peer(_) => {
                "an address at which clients reach this machine, like 192.0.2.1 or 2001:db8::1, and neither all addresses \
                              (0.0.0.0, ::) nor multicast or broadcast; leave it out to send each client to where it came in"
                    .to_owned()
            }
            Self::Directory(_) => "a directory".to_owned(),
            Self::File(_) => "a file".to_owned(),
            Self::Switch(_) => "true or false".to_owned(),
            Self::Pattern(_) => "local or source".to_owned(),
            Self::Durability(_) => "power or process".to_owned(),
            Self::Patterns(_) => {
                "hosts and networks, like example.com, *.example.com, 10.0.0.0/8, fd00::/8 or 192.0.2.7, several with commas"
                    .to_owned()
            }
            Self::Count { min, max, .. } => format!("a whole number, {min} to {max}"),
            Self::Duration { min, max, .. } => {
                let max = (*max < Duration::MAX).then(|| format_duration(*max));
                format!("a duration with its unit, like 500ms or 1h30m, {}", bounds(&format_duration(*min), max))
            }
            Self::Size { min_bytes, max_bytes, .. } => {
                let max = (*max_bytes < u64::MAX).then(|| format_size(*max_bytes));
                format!("bytes, or a number with K, M or G, like 20M, {}", bounds(&format_size(*min_bytes), max))
            }
        }
    }

    /// What stands for the value in usages.
    pub const fn value_name(&self) -> &'static str {
        match self {
            Self::Port(_) => "PORT",
            Self::Ip(_) | Self::Peer(_) => "IP",
            Self::Directory(_) => "DIR",
            Self::File(_) => "FILE",
            Self::Switch(_) => "BOOL",
            Self::Pattern(_) => "PATTERN",
            Self::Durability(_) => "OF",
            Self::Patterns(_) => "PATTERN,…",
            Self::Count { .. } => "N",
            Self::Duration { .. } => "DURATION",
            Self::Size { .. } => "SIZE",
        }
    }

    pub const fn is_switch(&self) -> bool {
        matches!(self, Self::Switch(_))
    }

    pub const fn is_duration(&self) -> bool {
        matches!(self, Self::Duration { .. })
    }

    /// Whether a value could be taken for another kind of YAML if it were not quoted.
    pub const fn is_quoted(&self) -> bool {
        matches!(self, Self::Directory(_) | Self::File(_) | Self::Ip(_) | Self::Peer(_) | Self::Patterns(_))
    }

    /// Whether a file may have it as a list.
    pub const fn is_list(&self) -> bool {
        matches!(self, Self::Patterns(_))
    }
}

/// Whether anybody can be there: not so at all addresses at once, nor at many.
fn can_be_connected_to(address: &IpAddr) -> bool {
    let address = address.to_canonical();
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn bounds(min: &str, max: Option<String>) -> String {
    max.map_or_else(|| format!("{min} or more"), |max| format!("{min} to {max}"))
}

/// What Go's flags and YAML 1.1 take for a switch.
fn parse_switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" | "yes" | "on" => Some(true),
        "false" | "f" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn parse_patterns(text: &str) -> Result<Vec<SourcePattern>, NotAPattern> {
    text.split(',').map(str::parse).collect()
}

fn parse_durability(text: &str) -> Option<Durability> {
    [Durability::Power, Durability::Process].into_iter().find(|durability| show_durability(*durability) == text)
}

const fn show_durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Power => "power",
        Durability::Process => "process",
    }
}

fn parse_pattern(text: &str) -> Option<CdnPattern> {
    [CdnPattern::Local, CdnPattern::Source].into_iter().find(|pattern| show_pattern(*pattern) == text)
}

const fn show_pattern(pattern: CdnPattern) -> &'static str {
    match pattern {
        CdnPattern::Local => "local",
        CdnPattern::Source => "source",
    }
}
