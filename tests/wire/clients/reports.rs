//! Reports in every order that the network makes of them, told one by one.

use serde_json::Value;

use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{piece_count, random_content, range_of};
use crate::harness::service::Service;

/// Three pieces, the last not full.
const FILE_BYTES: usize = 9_000_000;

/// A report of a piece.
#[derive(Clone, Copy, Debug)]
enum Report {
    Held,
    Written,
}

/// Ways in which the reports of one piece arrive. All mean that the client has it.
const ORDERS: [&[Report]; 6] = [
    &[Report::Held, Report::Written],
    &[Report::Written, Report::Held],
    &[Report::Written],
    &[Report::Held],
    &[Report::Written, Report::Written, Report::Held, Report::Held],
    &[Report::Held, Report::Written, Report::Held],
];

/// A task that is stored whole.
struct Stage {
    _origin: Origin,
    service: Service,
    url: String,
    task: String,
}

impl Stage {
    async fn set() -> Self {
        let (origin, service) = (Origin::start().await, Service::start().await);
        let url = origin.put("file", File::new(random_content(FILE_BYTES)));
        let mut stage = Self { _origin: origin, service, url, task: String::new() };
        let first = Client::start(&Release::GO_1_0_6).await;
        stage.task = stage.register(&first).await;
        let pieces = piece_count(FILE_BYTES as u64) as usize;
        eventually("the file is stored", async || (stage.service.dump().await.of_kind("piece").count() == pieces).then_some(()))
            .await;
        stage
    }

    async fn register(&self, client: &Client) -> String {
        let registered = client.register(self.service.api(), &Wanted::url(&self.url)).await;
        let registered = registered.unwrap_or_else(|surprise| panic!("{surprise}"));
        registered.data["taskId"].as_str().unwrap_or_else(|| panic!("{registered}")).to_owned()
    }

    async fn ask(&self, target: &str) -> Answer {
        exchange::ask(self.service.api(), get(target)).await
    }

    async fn begin(&self, cid: &str) -> Answer {
        self.ask(&format!("/peer/task?srcCid={cid}&dstCid=&range=&result=502&status=700&taskId={}", self.task)).await
    }

    async fn report(&self, cid: &str, report: Report, server: &str, range: &str) -> Answer {
        let task = &self.task;
        self.ask(&match report {
            Report::Held => format!("/peer/task?srcCid={cid}&dstCid={server}&range={range}&result=503&status=701&taskId={task}"),
            Report::Written => format!("/peer/piece/suc?taskId={task}&cid={cid}&dstCid={server}&pieceRange={range}"),
        })
        .await
    }
}

fn text(piece: &Value, name: &str) -> String {
    piece[name].as_str().unwrap_or_else(|| panic!("no string {name} in {piece}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_in_any_order_complete_a_download_and_leave_nothing_behind() {
    let stage = Stage::set().await;
    for order in ORDERS {
        let client = Client::start(&Release::GO_1_0_6).await;
        stage.register(&client).await;
        let begun = stage.begin(client.cid()).await;
        assert_eq!(begun.code, 601, "{begun}");
        // What is told of a piece that is on its way is told again until it is reported.
        let mut told = begun.data.as_array().expect("pieces").clone();
        let mut reported = 0;
        while let Some(piece) = told.pop() {
            reported += 1;
            for report in order {
                let answer = stage.report(client.cid(), *report, &text(&piece, "cid"), &text(&piece, "range")).await;
                assert!(matches!(answer.code, 600..=602 | 611), "{order:?}: {answer}");
            }
            if told.is_empty() && reported < piece_count(FILE_BYTES as u64) {
                let more = stage.begin(client.cid()).await;
                told.clone_from(more.data.as_array().unwrap_or_else(|| panic!("{order:?}: {more}")));
            }
        }
        let end = stage.begin(client.cid()).await;
        assert_eq!(end.code, 600, "{order:?}: {end}");
        // The pieces that are held and not written are counted on, but not served.
        let (dump, all) = (stage.service.dump().await, (0..piece_count(FILE_BYTES as u64)).collect());
        assert_eq!(dump.held(&stage.task, client.cid()), all, "{order:?}");
        let written = order.iter().any(|report| matches!(report, Report::Written));
        assert_eq!(dump.servable(&stage.task, client.cid()).len(), if written { all.len() } else { 0 }, "{order:?}");
        let goodbye = stage.ask(&format!("/peer/service/down?taskId={}&cid={}", stage.task, client.cid())).await;
        assert_eq!(goodbye.code, 612, "{goodbye}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reported_registers_again_and_is_believed_what_it_holds() {
    let stage = Stage::set().await;
    let client = Client::start(&Release::GO_0_4_3).await;
    stage.register(&client).await;
    assert_eq!(stage.begin(client.cid()).await.code, 601);
    // It says nothing of what it fetched, until it has registered again; then it names no server.
    stage.register(&client).await;
    let mut last = stage.begin(client.cid()).await;
    assert_eq!(last.code, 601, "{last}");
    for piece in 0..piece_count(FILE_BYTES as u64) {
        last = stage.report(client.cid(), Report::Held, "", &range_of(piece)).await;
        assert!(matches!(last.code, 600..=602), "piece {piece}: {last}");
    }
    assert_eq!(last.code, 600, "it holds every piece: {last}");
}
