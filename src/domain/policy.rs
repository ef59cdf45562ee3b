//! Which addresses a supernode may fetch from: it asks for URLs that strangers name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// Where clouds answer with credentials, and link-local addresses. Reached only where an operator allows the network.
const NEVER_BY_DEFAULT: [&str; 7] = [
    "169.254.0.0/16",
    "fe80::/10",
    "fd00:ec2::254/128",
    "fd20:ce::254/128",
    "100.100.100.200/32",
    // Azure's WireServer, and Oracle Cloud's metadata service beside the one above.
    "168.63.129.16/32",
    "192.0.0.192/32",
];
/// The first 96 bits of addresses that stand for an IPv4 address behind a translator (RFC 6052).
const NAT64_PREFIX: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// A name or a network: `example.com`, `*.example.com`, `10.0.0.0/8`, `192.0.2.7`, `fd00::/8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourcePattern {
    Host(String),
    /// Every name below this one, and not the name itself.
    Below(String),
    Network(IpNet),
}

/// A text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPattern {
    #[error("{0:?} is neither a host nor a network")]
    Neither(String),
    /// Addresses are compared as what a connection to them reaches, so this one would match none.
    #[error("{written:?} stands for {reached}, which is how it has to be written")]
    Disguised { written: String, reached: IpNet },
}

impl FromStr for SourcePattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, NotAPattern> {
        let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
        if let Ok(network) = bare.parse().or_else(|_| bare.parse::<IpAddr>().map(IpNet::from)) {
            let network: IpNet = network.trunc();
            let reached = reached_network(network);
            if reached != network {
                return Err(NotAPattern::Disguised { written: text.trim().to_owned(), reached });
            }
            return Ok(Self::Network(network));
        }
        let pattern = match text.trim().strip_prefix("*.") {
            Some(parent) => host_name(parent).map(Self::Below),
            None => host_name(text.trim()).map(Self::Host),
        };
        pattern.ok_or_else(|| NotAPattern::Neither(text.trim().to_owned()))
    }
}

/// A name as hosts have it in a URL.
fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(allowed)
    };
    // What ends in a number is an address, and one that is written wrong.
    let is_numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    (!is_numeric && name.split('.').all(is_label)).then_some(name)
}

impl fmt::Display for SourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Network(network) => network.fmt(f),
        }
    }
}

impl SourcePattern {
    fn matches_host(&self, host: &str) -> bool {
        match self {
            Self::Host(name) => name == host,
            Self::Below(name) => host.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Self::Network(_) => false,
        }
    }

    fn matches_address(&self, address: IpAddr) -> bool {
        matches!(self, Self::Network(network) if network.contains(&address))
    }
}

/// What may be fetched from where.
///
/// What `deny` names is refused, whatever else holds. Cloud metadata and link-local addresses are refused unless `allow`
/// names their network. With an empty `allow` everything else is allowed, otherwise only what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcePolicy {
    pub allow: Vec<SourcePattern>,
    pub deny: Vec<SourcePattern>,
}

/// A source that the policy does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy of this supernode (source.allow, source.deny) does not let it fetch from {0}")]
pub struct Forbidden(String);

impl SourcePolicy {
    /// Whether a host may be asked for at all, before its addresses are known.
    pub fn check_host(&self, host: &str) -> Result<(), Forbidden> {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let denied = self.deny.iter().any(|pattern| pattern.matches_host(&name));
        let no_network_allowed = !self.allow.iter().any(|pattern| matches!(pattern, SourcePattern::Network(_)));
        let missed = !self.allow.is_empty() && no_network_allowed && !self.allows_host(&name);
        if denied || missed { Err(Forbidden(host.to_owned())) } else { Ok(()) }
    }

    /// Whether this address of a host may be connected to.
    pub fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Forbidden> {
        let reached = reached_address(address);
        let is_in = |patterns: &[SourcePattern], address| patterns.iter().any(|pattern| pattern.matches_address(address));
        let by_network = is_in(&self.allow, reached);
        // A tunnel is allowed by its own address, but leads to nothing that could not be reached without it.
        let mut led_to = carried_addresses(reached).into_iter().chain([reached]);
        let is_refused = |address| is_in(&self.deny, address) || (is_never_by_default(address) && !is_in(&self.allow, address));
        let refused = led_to.any(is_refused);
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let missed = !self.allow.is_empty() && !by_network && !self.allows_host(&name);
        if !(refused || missed) {
            return Ok(());
        }
        let same = host.parse() == Ok(address);
        Err(Forbidden(if same { host.to_owned() } else { format!("{host} ({address})") }))
    }

    fn allows_host(&self, name: &str) -> bool {
        self.allow.iter().any(|pattern| pattern.matches_host(name))
    }
}

fn is_never_by_default(address: IpAddr) -> bool {
    NEVER_BY_DEFAULT.iter().any(|network| network.parse::<IpNet>().is_ok_and(|network| network.contains(&address)))
}

/// The address that a connection to this one really reaches: an address has many spellings, and a policy must know all.
fn reached_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        // To connect to "any address" is to connect to this machine.
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.segments()[..6] == NAT64_PREFIX => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        canonical => canonical,
    }
}

/// The IPv4 addresses to which tunnels and translators lead from this one, if there are any on the way.
fn carried_addresses(address: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(address) = address else { return Vec::new() };
    let bytes = address.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| bytes[place]));
    let last = [12, 13, 14, 15];
    let by_prefix = match address.segments() {
        // 6to4 (RFC 3056).
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        // Teredo (RFC 4380): a server, and a client with all bits turned over.
        [0x2001, 0, ..] => vec![at([4, 5, 6, 7]), Ipv4Addr::from_bits(!at(last).to_bits())],
        // A translator of one's own (RFC 8215). Which of the lengths of RFC 6052 its prefix has, nobody tells.
        [0x64, 0xff9b, 1, ..] => vec![at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), at(last)],
        // IPv4-compatible (RFC 4291) and IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0 | 0xffff, 0, ..] => vec![at(last)],
        _ => Vec::new(),
    };
    // ISATAP (RFC 5214) has it below any prefix.
    let is_isatap = matches!(address.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, ..]);
    let carried = by_prefix.into_iter().chain(is_isatap.then(|| at(last)));
    // Nothing is at an address that begins with 0: it is padding, or the address is `::` or `::1`.
    carried.filter(|address| address.octets()[0] != 0).map(IpAddr::from).collect()
}

/// The network of the addresses that connections to this one's really reach.
fn reached_network(network: IpNet) -> IpNet {
    let address = network.addr();
    let prefix = network.prefix_len();
    let is_one = network.prefix_len() == network.max_prefix_len();
    let reached = reached_address(address);
    let length = match (address, reached) {
        // Of a larger network an unspecified address is but one.
        (_, IpAddr::V4(_)) if address.is_unspecified() => is_one.then_some(32),
        (_, IpAddr::V6(_)) if address.is_unspecified() => is_one.then_some(128),
        // The first 96 bits say that it stands for one of IPv4.
        (IpAddr::V6(_), IpAddr::V4(_)) => prefix.checked_sub(96),
        _ => Some(prefix),
    };
    length.and_then(|length| IpNet::new(reached, length).ok()).map_or(network, |reached| reached.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> SourcePolicy {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a pattern")).collect();
        SourcePolicy { allow: parse(allow), deny: parse(deny) }
    }

    /// Whether a host with this address would be fetched from.
    fn reaches(policy: &SourcePolicy, host: &str, address: &str) -> bool {
        policy.check_host(host).is_ok() && policy.check_address(host, address.parse().expect("an address")).is_ok()
    }

    #[test]
    fn metadata_and_link_local_addresses_are_refused_however_they_are_written() {
        let default = SourcePolicy::default();
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
        ] {
            assert!(!reaches(&default, "innocent.example", address), "{address}");
        }
        for address in ["127.0.0.1", "10.0.0.1", "192.0.2.7", "::1", "fd00::1", "2001:db8::1"] {
            assert!(reaches(&default, "innocent.example", address), "{address}");
        }
    }

    #[test]
    fn operators_are_told_all_that_is_refused_by_default() {
        let page = include_str!("../../docs/OPERATIONS.md");
        let untold: Vec<&str> = NEVER_BY_DEFAULT.into_iter().filter(|network| !page.contains(&format!("`{network}`"))).collect();
        assert!(untold.is_empty(), "docs/OPERATIONS.md does not name {untold:?}");
    }

    #[test]
    fn an_address_is_denied_with_the_one_that_it_carries() {
        let policy = policy(&[], &["10.0.0.0/8", "127.0.0.0/8"]);
        // Each with 10.1.2.3, with 169.254.169.254, and with 192.0.2.7.
        for (kind, [denied, metadata, other]) in [
            ("6to4", ["2002:a01:203::1", "2002:a9fe:a9fe::", "2002:c000:207::1"]),
            ("Teredo, client", ["2001:0:c000:207::f5fe:fdfc", "2001:0:c000:207::5601:5601", "2001:0:c000:207::3fff:fdf8"]),
            ("Teredo, server", ["2001:0:a01:203::3fff:fdf8", "2001:0:a9fe:a9fe::3fff:fdf8", "2001:0:c000:207:1:2:3fff:fdf8"]),
            ("compatible", ["::10.1.2.3", "::169.254.169.254", "::192.0.2.7"]),
            ("translated", ["::ffff:0:10.1.2.3", "::ffff:0:169.254.169.254", "::ffff:0:192.0.2.7"]),
            ("ISATAP", ["2001:db8::5efe:10.1.2.3", "fd00::200:5efe:169.254.169.254", "fd00::200:5efe:192.0.2.7"]),
            (
                "ISATAP in 6to4",
                ["2002:c000:207::5efe:10.1.2.3", "2002:a9fe:a9fe::5efe:192.0.2.7", "2002:c000:207::5efe:c000:207"],
            ),
            ("NAT64", ["64:ff9b::10.1.2.3", "64:ff9b::169.254.169.254", "64:ff9b::192.0.2.7"]),
            ("NAT64 of one's own, 96", ["64:ff9b:1::10.1.2.3", "64:ff9b:1:1::169.254.169.254", "64:ff9b:1::192.0.2.7"]),
            ("NAT64 of one's own, 64", ["64:ff9b:1:0:a:102:300::", "64:ff9b:1:0:a9:fea9:fe00::", "64:ff9b:1:0:c0:2:700::"]),
            ("NAT64 of one's own, 56", ["64:ff9b:1:a:1:203::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:c0:0:207::"]),
            ("NAT64 of one's own, 48", ["64:ff9b:1:a01:2:300::", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:c000:2:700::"]),
        ] {
            assert!(!reaches(&policy, "innocent.example", denied), "{kind}: {denied}");
            for policy in [&policy, &SourcePolicy::default()] {
                assert!(!reaches(policy, "innocent.example", metadata), "{kind}: {metadata}");
                assert!(reaches(policy, "innocent.example", other), "{kind}: {other}");
            }
        }
        for itself in ["::1", "::", "2001:db8::a01:203", "2001:1::", "64:ff9b:2::10.1.2.3", "fd00::5eff:10.1.2.3"] {
            assert!(reaches(&SourcePolicy::default(), "x", itself), "{itself}");
        }
    }

    #[test]
    fn what_an_address_carries_is_lifted_and_allowed_by_name_alone() {
        let lifted = policy(&["169.254.0.0/16", "2002::/16"], &[]);
        assert!(reaches(&lifted, "x", "2002:a9fe:a9fe::1"));
        assert!(!reaches(&policy(&["2002::/16"], &[]), "x", "2002:a9fe:a9fe::1"), "the metadata were not named");
        assert!(reaches(&policy(&["2002::/16"], &[]), "x", "2002:a01:203::1"));
        assert!(!reaches(&policy(&["10.0.0.0/8"], &[]), "x", "2002:a01:203::1"), "a tunnel to it is another way");
    }

    #[test]
    fn only_a_network_lifts_what_is_refused_by_default() {
        assert!(reaches(&policy(&["169.254.0.0/16"], &[]), "169.254.169.254", "169.254.169.254"));
        assert!(!reaches(&policy(&["*.example.com"], &[]), "rebound.example.com", "169.254.169.254"));
        assert!(!reaches(&policy(&["169.254.0.0/16"], &["169.254.169.254"]), "x", "169.254.169.254"), "deny wins");
    }

    #[test]
    fn deny_names_hosts_and_networks() {
        let policy = policy(&[], &["127.0.0.0/8", "*.internal", "bad.example"]);
        for (host, address) in [
            ("localhost", "127.0.0.1"),
            ("any", "0.0.0.0"),
            ("mapped", "::ffff:127.0.0.1"),
            ("db.internal", "192.0.2.1"),
            ("DB.Internal.", "192.0.2.1"),
            ("bad.example", "192.0.2.1"),
        ] {
            assert!(!reaches(&policy, host, address), "{host} {address}");
        }
        for host in ["internal", "good.example", "notbad.example"] {
            assert!(reaches(&policy, host, "192.0.2.1"), "{host}");
        }
    }

    #[test]
    fn an_allow_list_is_all_there_is() {
        let policy = policy(&["*.example.com", "mirror", "192.0.2.0/24"], &["secret.example.com"]);
        for (host, address) in [("a.example.com", "198.51.100.1"), ("mirror", "10.0.0.1"), ("whatever", "192.0.2.9")] {
            assert!(reaches(&policy, host, address), "{host} {address}");
        }
        for (host, address) in [("example.org", "198.51.100.1"), ("secret.example.com", "192.0.2.9"), ("example.com", "10.0.0.1")]
        {
            assert!(!reaches(&policy, host, address), "{host} {address}");
        }
    }

    #[test]
    fn a_pattern_reads_back_and_nonsense_is_refused() {
        for text in ["example.com", "*.example.com", "10.0.0.0/8", "fd00::/8"] {
            assert_eq!(text.parse::<SourcePattern>().expect("a pattern").to_string(), text);
        }
        for wrong in ["", "*", "*.", "10.0.0.0/33", "300.1.1.1", "a b", "http://h/", "a*.b", "1.2.3", "-", "*.-", "a..b", "a-.b"]
        {
            assert!(wrong.parse::<SourcePattern>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_network_that_would_match_nothing_is_refused_with_the_one_it_stands_for() {
        for (written, reached) in [
            ("::ffff:127.0.0.0/104", "127.0.0.0/8"),
            ("::ffff:127.0.0.1", "127.0.0.1/32"),
            ("[::ffff:7f00:1]", "127.0.0.1/32"),
            ("64:ff9b::/96", "0.0.0.0/0"),
            ("64:ff9b::a9fe:a9fe", "169.254.169.254/32"),
            ("0.0.0.0", "127.0.0.1/32"),
            ("::", "::1/128"),
        ] {
            let error = written.parse::<SourcePattern>().expect_err("it is another network");
            let expected = NotAPattern::Disguised { written: written.to_owned(), reached: reached.parse().expect("a network") };
            assert_eq!(error, expected);
        }
        for itself in ["0.0.0.0/0", "0.0.0.0/8", "::/0", "::/8", "64:ff9b::/48", "127.0.0.0/8", "::1"] {
            assert!(itself.parse::<SourcePattern>().is_ok(), "{itself}");
        }
    }
}
