//! Clients: where one can be reached, what it calls itself, and how far it got with a task.

use std::net::IpAddr;
use std::sync::Arc;

use super::{ClientId, Generation, TaskId};

/// Where a client serves what it holds of one task, as other clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub client: ClientId,
    pub ip: IpAddr,
    /// 0: it cannot serve.
    pub port: u16,
    /// Starts with `/`.
    pub path: Arc<str>,
}

/// The release of a `dfget`, as far as its number tells: `None` for whatever does not give one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientVersion(Option<[u16; 3]>);

impl ClientVersion {
    /// Reads `1.0.6`, `v0.4.3` or `0.4.3-rc1`; anything else is no release.
    pub fn parse(text: &str) -> Self {
        let release = text.trim().trim_start_matches('v').split(['-', '+', ' ']).next().unwrap_or_default();
        let mut parts = release.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Self(Some([major, minor, patch])),
            _ => Self(None),
        }
    }

    /// Whether it comes from a `dfget`, which knows how to ask again after a 609.
    pub const fn is_dfget(self) -> bool {
        self.0.is_some()
    }

    /// Whether it can be sent to the source for pieces (Go `dfget` 1.0.1 to 1.0.6). All others take five bytes off each.
    pub fn understands_source_pattern(self) -> bool {
        self.0.is_some_and(|release| ([1, 0, 1]..=[1, 0, 6]).contains(&release))
    }

    /// Whether it expects 611 and 612 for its reports (Go `dfget` from 0.4.3 on).
    pub fn expects_report_codes(self) -> bool {
        self.0.is_some_and(|release| release >= [0, 4, 3])
    }
}

/// What one client says of itself, the same for all its tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: ClientId,
    pub ip: IpAddr,
    pub port: u16,
    pub host_name: String,
    /// As the client spells it.
    pub version: String,
    /// Who called it, in its own words.
    pub call_system: String,
    /// Whether a `dfdaemon` called it.
    pub dfdaemon: bool,
    /// The host by which the client reaches this supernode, so that it is sent there for pieces as well; empty if unsaid.
    pub seed_host: Arc<str>,
}

/// How far a client is with a task, in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// It registered and asked for nothing yet.
    Waiting,
    Running,
    Success,
    Fail,
}

/// A client of a task: the durable part of what the swarm knows of it beside its progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub task: TaskId,
    pub id: ClientId,
    /// Its place in the swarm's tables; kept so that a rebuilt swarm counts its members in the same order.
    pub ordinal: u32,
    /// The generation of the task that it began and must finish with.
    pub generation: Generation,
    pub state: ClientState,
    pub path: Arc<str>,
    /// Its upload server has gone, or it never had one for this task.
    pub gone: bool,
    /// Failed transfers that it was the server of.
    pub serve_errors: u8,
    /// Failed transfers that it was the receiver of.
    pub download_errors: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_from_1_0_1_to_1_0_6_can_be_sent_to_the_source() {
        for (text, understands) in [
            ("1.0.0", false),
            ("1.0.1", true),
            ("v1.0.6", true),
            ("1.0.7", false),
            ("2.0.0", false),
            ("0.4.3", false),
            ("", false),
        ] {
            assert_eq!(ClientVersion::parse(text).understands_source_pattern(), understands, "{text:?}");
        }
    }

    #[test]
    fn releases_from_0_4_3_on_expect_report_codes() {
        for (text, dfget, codes) in [
            ("1.0.6", true, true),
            ("0.4.3", true, true),
            ("v0.4.3-rc1", true, true),
            ("0.4.2", true, false),
            ("0.3.0", true, false),
            ("", false, false),
            ("curl", false, false),
            ("1.0", false, false),
        ] {
            let version = ClientVersion::parse(text);
            assert_eq!((version.is_dfget(), version.expects_report_codes()), (dfget, codes), "{text:?}");
        }
    }
}
