//! One case on the wire: its source, its clients, and the requests that they send.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::case::{Caller, Content, Pick, SourceKind, Wrong, callers};
use crate::harness::exchange::{self, Answer, get, post_json, request, with_header};
use crate::harness::origin::Origin;
use crate::harness::pieces::{PIECE_SIZE, md5_hex, range_of};
use crate::harness::{eventually, service::Service};
use crate::wire::{Checked, call, expect_code, target};

/// A task that nobody registers.
pub const UNKNOWN_TASK: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// How clients say that they reach the supernode; they do not.
pub const SEED_HOST: &str = "127.0.0.9";

/// A case that is under way.
#[derive(Debug)]
pub struct Scene {
    pub api: SocketAddr,
    pub download: SocketAddr,
    pub kind: SourceKind,
    pub url: String,
    /// Hashes like an md5 of the same digits, which is how two registrations conflict.
    identifier: String,
    pub task: String,
    pub callers: Vec<Caller>,
}

impl Scene {
    /// Puts the source up, registers the first client, and waits until the supernode has the whole file.
    pub async fn set(service: &Service, origin: &Origin, kind: SourceKind, case: u64) -> Checked<Self> {
        let url = origin.put(&format!("case-{case}"), kind.file());
        let mut scene = Self {
            api: service.api(),
            download: service.download(),
            kind,
            url,
            identifier: md5_hex(&case.to_be_bytes()),
            task: UNKNOWN_TASK.to_owned(),
            callers: callers(case),
        };
        let answer = call(scene.api, scene.registration(0, scene.callers[0].port)).await?;
        if let Some(code) = kind.refused_with() {
            expect_code(&answer, &[code], "registering what the source refuses")?;
            return Ok(scene);
        }
        scene.check_registered(&answer, kind == SourceKind::UnknownLength)?;
        scene.task = answer.data["taskId"].as_str().ok_or_else(|| format!("no task id in {answer}"))?.to_owned();
        let whole = format!("/qtdown/{}/{}", &scene.task[..3], scene.task);
        eventually("the supernode has the whole file", || async {
            let head = exchange::call(scene.download, request("HEAD", &whole, Bytes::new())).await.ok()?;
            (head.status == 200).then_some(())
        })
        .await;
        Ok(scene)
    }

    pub fn content(&self) -> &'static Content {
        self.kind.content()
    }

    pub fn cid(&self, client: usize) -> &str {
        &self.callers[client].cid
    }

    /// A registration as the client's release writes it.
    pub fn registration(&self, client: usize, port: u16) -> Request<Full<Bytes>> {
        self.registry(client, &self.registration_fields(client, port))
    }

    pub fn wrong_registration(&self, client: usize, wrong: Wrong) -> (Request<Full<Bytes>>, i64, &'static str) {
        let mut fields = self.registration_fields(client, self.callers[client].port);
        let (name, value, code) = match wrong {
            Wrong::Port => ("port", "70000", 501),
            Wrong::Path => ("path", "no-slash", 501),
            Wrong::Ip => ("ip", "10.0.0.256", 501),
            Wrong::Cid => ("cid", "", 501),
            Wrong::NoUrl => ("rawUrl", "", 501),
            Wrong::Url => ("rawUrl", "ftp://127.0.0.1/x", 607),
            Wrong::Md5 => ("md5", "abc", 501),
        };
        fields[name] = json!(value);
        (self.registry(client, &fields), code, name)
    }

    pub fn conflicting_registration(&self, client: usize) -> Request<Full<Bytes>> {
        let mut fields = self.registration_fields(client, self.callers[client].port);
        fields["md5"] = fields["identifier"].take();
        self.registry(client, &fields)
    }

    fn registration_fields(&self, client: usize, port: u16) -> Value {
        let Caller { cid, ip, version, path, .. } = &self.callers[client];
        json!({
            "superNodeIp": format!("{SEED_HOST}:8002"), "rawUrl": self.url, "taskUrl": self.url, "cid": cid, "ip": ip,
            "hostName": "host", "port": port, "path": path, "version": version, "identifier": self.identifier,
        })
    }

    fn registry(&self, client: usize, fields: &Value) -> Request<Full<Bytes>> {
        if self.callers[client].version != "0.2.0" {
            return post_json("/peer/registry", fields);
        }
        let mut form = form_urlencoded::Serializer::new(String::new());
        for (name, value) in fields.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            form.append_pair(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
        let request = request("POST", "/peer/registry", form.finish().into());
        with_header(request, "content-type", "application/x-www-form-urlencoded")
    }

    /// A registration that was accepted tells what the task is.
    pub fn check_registered(&self, answer: &Answer, length_may_be_unknown: bool) -> Checked {
        expect_code(answer, &[200], "a registration")?;
        let (data, length) = (&answer.data, self.content().bytes.len());
        let length_is_right = data["fileLength"] == length || (length_may_be_unknown && data["fileLength"] == -1);
        let task_is_right = self.task == UNKNOWN_TASK || data["taskId"] == *self.task;
        let right = length_is_right && task_is_right && data["pieceSize"] == PIECE_SIZE && data["cdnSource"] == "supernode";
        if right { Ok(()) } else { Err(format!("a registration was answered {answer}")) }
    }

    pub fn ask(
        &self,
        client: usize,
        documented: bool,
        status: &str,
        result: &str,
        range: &str,
        server: &str,
    ) -> Request<Full<Bytes>> {
        let pairs = [
            ("srcCid", self.cid(client)),
            ("dstCid", server),
            ("range", range),
            ("result", result),
            ("status", status),
            ("taskId", &self.task),
        ];
        get(&target("/peer/task", documented, &pairs))
    }

    pub fn written(&self, client: usize, documented: bool, range: &str, server: &str) -> Request<Full<Bytes>> {
        let pairs = [("taskId", &*self.task), ("cid", self.cid(client)), ("dstCid", server), ("pieceRange", range)];
        get(&target("/peer/piece/suc", documented, &pairs))
    }

    pub fn going_down(&self, client: usize, documented: bool) -> Request<Full<Bytes>> {
        get(&target("/peer/service/down", documented, &[("taskId", &self.task), ("cid", self.cid(client))]))
    }

    pub fn bad_piece(&self, client: usize, range: &str, server: &str) -> Request<Full<Bytes>> {
        let pairs = [
            ("taskId", &*self.task),
            ("srcCid", self.cid(client)),
            ("dstCid", server),
            ("dstIp", "10.0.0.1"),
            ("range", range),
            ("realMd5", "x"),
            ("expectedMd5", "y"),
            ("errorType", "FILE_MD5_NOT_MATCH"),
        ];
        get(&target("/peer/piece/error", false, &pairs))
    }

    pub fn heartbeat(&self, client: usize, port: u16) -> Request<Full<Bytes>> {
        let Caller { cid, ip, .. } = &self.callers[client];
        post_json("/peer/heartbeat", &json!({ "IP": ip, "port": port, "cID": cid }))
    }

    pub fn network(&self) -> Request<Full<Bytes>> {
        post_json("/peer/network?start=0&limit=100", &json!({ "urls": [self.url, "http://127.0.0.1/another"] }))
    }

    pub fn metrics(&self, client: usize) -> Request<Full<Bytes>> {
        let Caller { cid, ip, port, .. } = &self.callers[client];
        let body = json!({
            "IP": ip, "port": port.to_string(), "cID": cid, "taskId": self.task, "callSystem": "model", "duration": 0.5,
            "success": client.is_multiple_of(2), "backsourceReason": "7", "fileLength": 10,
        });
        post_json("/task/metrics", &body)
    }

    /// Calls about a task that nobody registered, and the codes that they may get.
    pub fn about_unknown_task(&self, client: usize, number: usize) -> (Request<Full<Bytes>>, &'static [i64]) {
        let cid = self.cid(client);
        let query = |path: &str, rest: &str| get(&format!("{path}?taskId={UNKNOWN_TASK}&{rest}"));
        match number {
            0 => (query("/peer/task", &format!("srcCid={cid}&status=700&result=502")), &[502]),
            1 => (query("/peer/piece/suc", &format!("cid={cid}&dstCid=&pieceRange={}", range_of(0))), &[502]),
            2 => (query("/peer/service/down", &format!("cid={cid}")), &[502]),
            _ => {
                let rest = format!("srcCid={cid}&dstCid=x&range={}&errorType=FILE_NOT_EXIST", range_of(0));
                (query("/peer/piece/error", &rest), &[200, 502])
            }
        }
    }

    /// Calls that are 501, and what the message must name.
    pub fn malformed(&self, client: usize, number: usize) -> (Request<Full<Bytes>>, &'static str) {
        let (task, cid) = (&self.task, self.cid(client));
        let (path, rest, name) = match number {
            0 => ("/peer/task", "status=700".to_owned(), "srcCid"),
            1 => ("/peer/task", format!("srcCid={cid}&status=799"), "status"),
            2 => ("/peer/task", format!("srcCid={cid}&status=701&result=599&range={}", range_of(0)), "result"),
            3 => ("/peer/piece/suc", format!("cid={cid}&dstCid="), "pieceRange"),
            4 => ("/peer/piece/error", format!("srcCid={cid}&dstCid=x&errorType=X"), "errorType"),
            _ => ("/peer/piece/suc", format!("cid={cid}&dstCid=&pieceRange=9-5"), "pieceRange"),
        };
        (get(&format!("{path}?taskId={task}&{rest}")), name)
    }
}

/// The piece that is picked, given those that are on their way to the client.
pub fn picked(pick: Pick, in_flight: &[u32]) -> u32 {
    match pick {
        Pick::InFlight(number) => in_flight.get(number % in_flight.len().max(1)).copied().unwrap_or_default(),
        Pick::Any(piece) => piece,
    }
}
