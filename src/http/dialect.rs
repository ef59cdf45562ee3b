//! The dialects: decided here, and written out here.
//!
//! A request that spells a parameter as the published reference does (`srcCID`, `dstCID`, `cID`) is answered as the
//! reference says. Any other comes from a `dfget`, whose releases differ among themselves.

use super::params::Params;
use crate::domain::ClientVersion;

/// What `linkLimit: 0` (no cap) is on the wire, where 0 means 10 MiB/s to Go clients. KiB per second.
const UNLIMITED_KIB: u32 = 1_048_576;
/// The same for clients before 0.4.3, whose limiter counts bytes in 32 bits. KiB per second.
const UNLIMITED_32_BIT_KIB: u32 = 131_072;

/// How a request wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// As the published reference.
    Documented,
    /// As the `dfget` of this release, if it told one.
    Dfget(ClientVersion),
}

/// A `downLink`: a string in the reference, a number for `dfget`, whose Go releases fail on a string.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum DownLink {
    Text(String),
    Number(u32),
}

impl Dialect {
    /// Decides by the spelling of the parameters; `version` is what the client registered with.
    pub fn of(params: &Params<'_>, version: ClientVersion) -> Self {
        if params.spells_any(&["srcCID", "dstCID", "cID"]) { Self::Documented } else { Self::Dfget(version) }
    }

    /// The rate at which clients should fetch. KiB per second, 0 for no cap.
    pub fn down_link(self, link_limit_kib: u32) -> DownLink {
        match self {
            Self::Documented => DownLink::Text(if link_limit_kib == 0 { UNLIMITED_KIB } else { link_limit_kib }.to_string()),
            Self::Dfget(version) => DownLink::Number(match link_limit_kib {
                0 if version.expects_report_codes() => UNLIMITED_KIB,
                0 => UNLIMITED_32_BIT_KIB,
                limit => limit,
            }),
        }
    }

    /// The code that accepts that a client goes away.
    pub fn going_down_accepted(self) -> super::wire::Code {
        match self {
            Self::Dfget(version) if version.expects_report_codes() => super::wire::Code::DownAccepted,
            Self::Dfget(_) | Self::Documented => super::wire::Code::Success,
        }
    }

    /// The code that accepts a report of a piece.
    pub fn piece_accepted(self) -> super::wire::Code {
        match self {
            Self::Dfget(version) if version.expects_report_codes() => super::wire::Code::PieceAccepted,
            Self::Dfget(_) | Self::Documented => super::wire::Code::Success,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_link_is_never_zero_and_has_the_type_of_its_dialect() {
        let (old, new) = (ClientVersion::parse("0.3.0"), ClientVersion::parse("1.0.6"));
        assert_eq!(Dialect::Documented.down_link(20480), DownLink::Text("20480".into()));
        assert_eq!(Dialect::Dfget(new).down_link(20480), DownLink::Number(20480));
        assert_eq!(Dialect::Dfget(new).down_link(0), DownLink::Number(UNLIMITED_KIB));
        assert_eq!(Dialect::Dfget(old).down_link(0), DownLink::Number(UNLIMITED_32_BIT_KIB));
    }

    #[test]
    fn the_spelling_of_a_parameter_decides() {
        let version = ClientVersion::default();
        for (query, documented) in
            [("srcCID=a", true), ("taskId=1&dstCID=", true), ("cID=a", true), ("srcCid=a&dstCid=b&cid=c", false)]
        {
            assert_eq!(Dialect::of(&Params::of_query(query), version) == Dialect::Documented, documented, "{query}");
        }
    }
}
