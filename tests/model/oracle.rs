//! The model: what the protocol says of one task, kept in plain sets, and what each answer may therefore be.
//!
//! It is exact where one call follows the other and the source is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::case::{CLIENTS, Content};
use crate::harness::exchange::Answer;
use crate::harness::pieces::PIECE_SIZE;
use crate::scene::{SEED_HOST, Scene};
use crate::wire::{Checked, HandedOut, expect_code, is_seed, read_pieces};

/// Pieces in flight to one client.
pub const DOWN_MAX: usize = 4;
/// Uploads of one server.
pub const UP_MAX: usize = 5;
/// Errors as a server, or as a receiver, after which there is no more trust.
const ERRORS_MAX: u32 = 5;
/// A transfer that is younger is surely not given up by the supernode; of an older one its slot may be somebody else's.
pub const SURELY_RUNNING: Duration = Duration::from_millis(950);
/// A client and a server that failed each other are surely not paired within this time.
const SURELY_AVOIDED: Duration = Duration::from_secs(30);

/// A piece on its way.
#[derive(Clone, Debug)]
struct Flight {
    given: HandedOut,
    asked: Instant,
}

/// One client, as the supernode must see it.
#[derive(Clone, Debug, Default)]
struct Member {
    /// Of the task, by a registration or a report.
    known: bool,
    /// Where it serves, once it has registered.
    endpoint: Option<(String, u16, String)>,
    gone: bool,
    held: BTreeSet<u32>,
    servable: BTreeSet<u32>,
    in_flight: BTreeMap<u32, Flight>,
    serve_errors: u32,
    download_errors: u32,
    avoids: BTreeMap<usize, Instant>,
}

impl Member {
    fn serves(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|(_, port, _)| *port != 0) && !self.gone && self.serve_errors < ERRORS_MAX
    }
}

/// The task.
#[derive(Debug)]
pub struct Oracle {
    members: Vec<Member>,
    content: &'static Content,
}

impl Oracle {
    pub fn new(content: &'static Content) -> Self {
        Self { members: vec![Member::default(); CLIENTS], content }
    }

    pub fn registered(&mut self, scene: &Scene, client: usize, port: u16) {
        let caller = &scene.callers[client];
        let endpoint = Some((caller.ip.clone(), port, caller.path.clone()));
        let member = &mut self.members[client];
        if member.endpoint != endpoint {
            member.serve_errors = 0;
        }
        (member.known, member.gone, member.endpoint) = (true, false, endpoint);
    }

    pub fn in_flight(&self, client: usize) -> Vec<u32> {
        self.members[client].in_flight.keys().copied().collect()
    }

    /// Whom the client is fetching a piece from.
    pub fn server_of(&self, client: usize, piece: u32) -> Option<&str> {
        self.members[client].in_flight.get(&piece).map(|flight| &*flight.given.server)
    }

    pub fn has(&self, piece: u32) -> bool {
        piece < self.content.pieces()
    }

    pub fn asked(&mut self, client: usize) {
        self.members[client].known = true;
    }

    pub fn held(&mut self, client: usize, piece: u32) {
        let member = &mut self.members[client];
        member.known = true;
        member.held.insert(piece);
        member.in_flight.remove(&piece);
    }

    pub fn written(&mut self, client: usize, piece: u32) {
        self.held(client, piece);
        self.members[client].servable.insert(piece);
    }

    /// A failure counts where the client was sent to that server, which it names or leaves out.
    pub fn failed(&mut self, scene: &Scene, client: usize, piece: u32, named: Option<&str>) {
        self.members[client].known = true;
        let Some(flight) = self.members[client].in_flight.remove(&piece) else { return };
        let server = (0..CLIENTS).find(|other| scene.cid(*other) == flight.given.server);
        let Some(server) = server.filter(|server| named.is_none_or(|named| named == scene.cid(*server))) else { return };
        self.members[client].avoids.insert(server, Instant::now());
        self.members[client].download_errors += 1;
        self.members[server].serve_errors += 1;
    }

    pub fn finished(&mut self, client: usize) {
        self.members[client].in_flight.clear();
    }

    /// Tells whether the supernode knows of the client at all.
    pub fn went_down(&mut self, client: usize) {
        self.members[client].gone |= self.members[client].known;
    }

    /// What is promised survives; what is on its way to whom, and who failed whom lately, is not.
    pub fn killed(&mut self) {
        for member in &mut self.members {
            member.in_flight.clear();
            member.avoids.clear();
        }
    }

    /// What a report of a written piece is accepted with, or that somebody goes.
    pub fn accepted(&self, scene: &Scene, client: usize, documented: bool, new: i64) -> i64 {
        let registered = self.members[client].endpoint.is_some();
        let expects_it = matches!(scene.callers[client].version, "1.0.6" | "0.4.3");
        if registered && expects_it && !documented { new } else { 200 }
    }

    /// Whether a heartbeat from there is to be answered with "register".
    pub fn must_register(&self, client: usize, port: u16) -> bool {
        self.members[client].endpoint.as_ref().is_none_or(|(_, registered, _)| *registered != port)
    }

    /// Checks the answer to a client that asks for pieces, and takes in what it was handed.
    pub fn check_answer(&mut self, scene: &Scene, client: usize, documented: bool, asked: Instant, answer: &Answer) -> Checked {
        let member = &self.members[client];
        let whole = member.held.len() == self.content.digests.len();
        match answer.code {
            600 if whole => {
                let right = answer.data["md5"] == self.content.md5 && answer.data["fileLength"] == self.content.cached_length();
                if right { Ok(()) } else { Err(format!("finished with {answer}")) }
            }
            601 if !whole => {
                let pieces = read_pieces(answer, documented, &self.content.digests, PIECE_SIZE)?;
                self.hand_out(scene, client, asked, pieces)
            }
            602 if !whole && member.in_flight.is_empty() => {
                let (held, all) = (member.held.len(), self.content.pieces());
                let expected = format!("client sucCount:{held},cdn status:Success,cdn sucCount: {all}");
                if answer.msg != expected {
                    return Err(format!("expected {expected:?}, got {answer}"));
                }
                match (0..all).find(|piece| self.must_be_handed_out(client, *piece)) {
                    Some(piece) => Err(format!("client {client} waits, and nobody is fetching piece {piece}, which it lacks")),
                    None => Ok(()),
                }
            }
            _ => Err(format!("client {client} with {member:?} was answered {answer}")),
        }
    }

    /// Nobody else will soon have it, so there is nothing to wait for.
    fn must_be_handed_out(&self, client: usize, piece: u32) -> bool {
        let others = self.members.iter().enumerate().filter(|(other, _)| *other != client);
        let mut coming = others.filter(|(_, other)| {
            other.in_flight.contains_key(&piece) || (other.held.contains(&piece) && !other.servable.contains(&piece))
        });
        !self.members[client].held.contains(&piece) && coming.next().is_none()
    }

    fn hand_out(&mut self, scene: &Scene, client: usize, asked: Instant, pieces: Vec<HandedOut>) -> Checked {
        let numbers: BTreeSet<u32> = pieces.iter().map(|given| given.piece).collect();
        if numbers.len() != pieces.len() || pieces.len() > DOWN_MAX {
            return Err(format!("client {client} has {pieces:?} in flight"));
        }
        if let Some((piece, flight)) = self.members[client].in_flight.iter().find(|(piece, _)| !numbers.contains(*piece)) {
            return Err(format!("client {client} is not told again of piece {piece}: {flight:?}"));
        }
        for given in pieces {
            match self.members[client].in_flight.get(&given.piece) {
                Some(flight) if given.is_again(&flight.given) => continue,
                Some(flight) => return Err(format!("{:?} became {given:?} under way", flight.given)),
                None => self.check_new(scene, client, &given)?,
            }
            self.members[client].in_flight.insert(given.piece, Flight { given, asked });
        }
        self.check_uploads()
    }

    fn check_new(&self, scene: &Scene, client: usize, given: &HandedOut) -> Checked {
        let member = &self.members[client];
        let fail = |why: &str| Err(format!("client {client} was handed {given:?}: {why}"));
        if member.held.contains(&given.piece) {
            return fail("it has that");
        }
        if is_seed(&given.server) {
            let host = if member.endpoint.is_some() { SEED_HOST } else { "127.0.0.1" };
            let right = given.server == format!("cdnnode:{host}~{}", scene.task)
                && given.address == (host.to_owned(), scene.download.port().into())
                && given.path.ends_with(&format!("/{}/{}", &scene.task[..3], scene.task));
            return if right { Ok(()) } else { fail("the supernode is elsewhere") };
        }
        let Some(server) = (0..CLIENTS).find(|other| scene.cid(*other) == given.server) else { return fail("nobody is that") };
        let serving = &self.members[server];
        let avoided = member.avoids.get(&server).is_some_and(|since| since.elapsed() < SURELY_AVOIDED);
        let Some((ip, port, path)) = &serving.endpoint else { return fail("it never registered") };
        match () {
            () if server == client => fail("from itself"),
            () if !serving.serves() => fail("it does not serve"),
            () if !serving.servable.contains(&given.piece) => fail("it does not have that"),
            () if avoided => fail("it failed there a moment ago"),
            () if member.download_errors >= ERRORS_MAX => fail("it gets on with nobody but the supernode"),
            () if (&given.address.0, given.address.1, &given.path) != (ip, (*port).into(), path) => fail("it is elsewhere"),
            () => Ok(()),
        }
    }

    fn check_uploads(&self) -> Checked {
        let running = self.members.iter().flat_map(|member| member.in_flight.values());
        let mut uploads: BTreeMap<&(String, u64), usize> = BTreeMap::new();
        for flight in running.filter(|flight| !is_seed(&flight.given.server) && flight.asked.elapsed() < SURELY_RUNNING) {
            *uploads.entry(&flight.given.address).or_default() += 1;
        }
        match uploads.into_iter().find(|(_, count)| *count > UP_MAX) {
            Some((server, count)) => Err(format!("{server:?} has {count} uploads at once")),
            None => Ok(()),
        }
    }

    /// Checks who is said to serve what.
    pub fn check_network(&self, scene: &Scene, answer: &Answer) -> Checked {
        expect_code(answer, &[200], "the network")?;
        let serving = (0..CLIENTS).filter(|client| self.members[*client].serves() && !self.members[*client].servable.is_empty());
        let mut expected: Vec<(&str, u64, BTreeSet<u32>)> = serving
            .map(|client| {
                let member = &self.members[client];
                (scene.cid(client), member.endpoint.as_ref().map_or(0, |(_, port, _)| (*port).into()), member.servable.clone())
            })
            .collect();
        expected.sort_unstable();
        let nodes = answer.data["nodes"].as_array().ok_or_else(|| format!("no nodes in {answer}"))?;
        let told = nodes.iter().map(|node| {
            let pieces = node["tasks"][0]["pieces"].as_array().into_iter().flatten();
            let number = |range: &str| range.split('-').next()?.parse::<u64>().ok().map(|start| start / PIECE_SIZE);
            let pieces = pieces.filter_map(|piece| u32::try_from(number(piece["pieceRange"].as_str()?)?).ok());
            Some((node["basic"]["ID"].as_str()?, node["basic"]["port"].as_u64()?, pieces.collect()))
        });
        let told: Vec<Option<(&str, u64, BTreeSet<u32>)>> = told.collect();
        let right = told.iter().flatten().eq(&expected) && told.iter().all(Option::is_some);
        if right { Ok(()) } else { Err(format!("expected the nodes {expected:?}, got {told:?}")) }
    }
}
