//! `GET /peer/task` and `GET /peer/piece/suc` with parameters that are missing or wrong, and reports that only look wrong.

use super::{Refused, Scene};
use crate::harness::exchange::{self, Answer, get};
use crate::harness::pieces::range_of;

/// A task that nobody has registered.
pub(super) const UNKNOWN_TASK: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// The file of the scene has two.
const PIECES: u32 = 2;
/// No ranges at all.
pub(super) const MALFORMED_RANGES: [&str; 10] =
    ["abc", "5", "5-", "-5", "-", "9-5", "0-4194303-1", "%2B0-4194303", "0-18446744073709551616", "0x0-0x3fffff"];
/// Ranges, but of no piece: cut elsewhere, or past the end.
pub(super) const NO_PIECES: [&str; 6] =
    ["0-100", "1-4194304", "0-8388607", "4194303-8388606", "8388608-12582911", "18446744069414584320-18446744073709551615"];

/// The parameters of a request, to be made wrong one at a time.
#[derive(Clone)]
pub(super) struct Query {
    pub(super) path: &'static str,
    pub(super) pairs: Vec<(&'static str, String)>,
}

impl Query {
    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let mut query = self.clone();
        let pair = query.pairs.iter_mut().find(|pair| pair.0 == name).unwrap_or_else(|| panic!("no {name} in {}", self.path));
        pair.1 = value.to_owned();
        query
    }

    pub(super) fn without(&self, name: &str) -> Self {
        let pairs = self.pairs.iter().filter(|pair| pair.0 != name).cloned().collect();
        Self { path: self.path, pairs }
    }

    pub(super) fn target(&self) -> String {
        let pairs: Vec<String> = self.pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{}?{}", self.path, pairs.join("&"))
    }

    pub(super) fn refused(&self, code: i64, names: &str) -> Refused {
        Refused::with_code(format!("{names} is wrong"), get(&self.target()), code, names)
    }
}

impl Scene {
    fn task_query(&self, status: u16, result: u16) -> Query {
        let pairs = vec![
            ("srcCid", self.cid.clone()),
            ("dstCid", String::new()),
            ("range", range_of(0)),
            ("result", result.to_string()),
            ("status", status.to_string()),
            ("taskId", self.task().to_owned()),
        ];
        Query { path: "/peer/task", pairs }
    }

    fn suc_query(&self) -> Query {
        let pairs = vec![
            ("taskId", self.task().to_owned()),
            ("cid", self.cid.clone()),
            ("dstCid", String::new()),
            ("pieceRange", range_of(0)),
        ];
        Query { path: "/peer/piece/suc", pairs }
    }

    pub(super) async fn ask(&self, query: &Query) -> Answer {
        exchange::ask(self.api(), get(&query.target())).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn task_ids_that_are_none_are_refused_with_501_and_unknown_ones_with_502() {
    let scene = Scene::set().await;
    let climbing = "../".repeat(21) + "x";
    let wrong =
        ["", "abc", &UNKNOWN_TASK[1..], &format!("{UNKNOWN_TASK}0"), &"g".repeat(64), &climbing, "%00", "..%2f..%2fetc%2fpasswd"];
    let mut table = Vec::new();
    for query in [scene.task_query(700, 502), scene.task_query(701, 503), scene.task_query(702, 501), scene.suc_query()] {
        table.extend(wrong.map(|task| query.with("taskId", task).refused(501, "taskId")));
        table.push(query.without("taskId").refused(501, "taskId"));
        table.push(query.with("taskId", UNKNOWN_TASK).refused(502, UNKNOWN_TASK));
    }
    scene.refuses(table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_with_wrong_parameters_are_refused_by_name() {
    let scene = Scene::set().await;
    let (started, held, failed) = (scene.task_query(700, 502), scene.task_query(701, 503), scene.task_query(701, 500));
    let mut table = vec![started.without("srcCid").refused(501, "srcCid"), started.without("status").refused(501, "status")];
    for cid in ["", &"c".repeat(5000), "a%0Ab"] {
        table.push(started.with("srcCid", cid).refused(501, "srcCid"));
    }
    for status in ["", "x", "0", "699", "703", "-700", "700.0", "99999999999999999999"] {
        table.push(started.with("status", status).refused(501, "status"));
    }
    for result in ["x", "504", "200", "-503", "99999999999999999999"] {
        table.push(held.with("result", result).refused(501, "result"));
    }
    for result in ["x", "502", "503"] {
        table.push(scene.task_query(702, 501).with("result", result).refused(501, "result"));
    }
    for query in [held, failed, scene.task_query(701, 501)] {
        table.extend(MALFORMED_RANGES.iter().chain(&NO_PIECES).map(|range| query.with("range", range).refused(501, "range")));
    }
    table.push(Refused::with_code("no parameters", get("/peer/task"), 501, "taskId"));
    scene.refuses(table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_written_pieces_with_wrong_parameters_are_refused_by_name() {
    let scene = Scene::set().await;
    let query = scene.suc_query();
    let mut table = vec![query.without("cid").refused(501, "cid"), query.without("pieceRange").refused(501, "pieceRange")];
    for cid in ["", &"c".repeat(5000), "a%0Ab"] {
        table.push(query.with("cid", cid).refused(501, "cid"));
    }
    table.push(query.with("pieceRange", "").refused(501, "pieceRange"));
    table.extend(MALFORMED_RANGES.map(|range| query.with("pieceRange", range).refused(501, "pieceRange")));
    table.extend(NO_PIECES.map(|range| query.with("pieceRange", range).refused(501, "range")));
    table.push(Refused::with_code("no parameters", get("/peer/piece/suc"), 501, "taskId"));
    scene.refuses(table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_comes_twice_is_taken_twice_and_changes_nothing() {
    let scene = Scene::set().await;
    let goodbye = scene.task_query(702, 501);
    say_goodbye(&scene, &goodbye).await;
    let before = scene.service.dump().await.sorted();
    for piece in 0..PIECES {
        for _ in 0..2 {
            let answer = scene.ask(&scene.suc_query().with("pieceRange", &range_of(piece))).await;
            assert_eq!((answer.status, answer.code), (200, 611), "{answer}");
        }
    }
    say_goodbye(&scene, &goodbye).await;
    assert_eq!(scene.service.dump().await.sorted(), before, "what was known already changed what is stored");
}

async fn say_goodbye(scene: &Scene, goodbye: &Query) {
    let answer = scene.ask(goodbye).await;
    assert_eq!((answer.status, answer.code), (200, 200), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_piece_may_be_reported_twice() {
    let scene = Scene::set().await;
    for _ in 0..2 {
        let answer = scene.ask(&scene.task_query(701, 503)).await;
        assert_eq!((answer.status, answer.code), (200, 600), "a client with every piece: {answer}");
    }
    let held = scene.service.dump().await.held(scene.task(), &scene.cid);
    assert_eq!(held, (0..PIECES).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_client_of_a_known_task_is_served() {
    let scene = Scene::set().await;
    let stranger = "127.0.0.1-1-1795423513.000";
    // It reports what it holds, as a client does that migrated here; a 502 would send it to the source.
    for piece in 0..PIECES {
        let report = scene.task_query(701, 503).with("srcCid", stranger).with("range", &range_of(piece));
        let answer = scene.ask(&report).await;
        assert!(matches!(answer.code, 600..=602), "piece {piece}: {answer}");
    }
    let answer = scene.ask(&scene.task_query(701, 502).with("srcCid", stranger).with("range", "")).await;
    assert_eq!(answer.code, 600, "it holds every piece: {answer}");
    let answer = scene.ask(&scene.suc_query().with("cid", stranger)).await;
    assert!(matches!(answer.code, 200 | 611), "{answer}");
    scene.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_client_that_begins_is_given_pieces() {
    let scene = Scene::set().await;
    let begins = scene.task_query(700, 502).with("srcCid", "127.0.0.1-2-1795423513.000").with("range", "");
    let answer = scene.ask(&begins).await;
    assert_eq!(answer.code, 601, "{answer}");
    assert_eq!(answer.data.as_array().map(Vec::len), Some(PIECES as usize), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_for_another_task_is_checked_against_that_one() {
    let scene = Scene::set().await;
    // It is there with one piece, and the client of the scene is none of its clients.
    scene.still_serves().await;
    let dump = scene.service.dump().await;
    let another = dump.of_kind("task").find(|line| line["task"] != scene.task()).expect("there is a second task");
    let another = another["task"].as_str().expect("a task id").to_owned();

    let out_of_range = scene.suc_query().with("taskId", &another).with("pieceRange", &range_of(1));
    out_of_range.refused(501, "range").check(scene.api()).await;
    let answer = scene.ask(&scene.suc_query().with("taskId", &another)).await;
    assert!(matches!(answer.code, 200 | 611), "a report of a piece that the task has is believed: {answer}");
    let held = scene.service.dump().await.held(scene.task(), &scene.cid);
    assert_eq!(held, (0..PIECES).collect(), "the task that was not meant has changed");
}
