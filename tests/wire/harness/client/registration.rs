//! A registration as each release writes it.

use std::net::SocketAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use super::release::Form;
use super::{Client, Wanted};
use crate::harness::exchange;

const TARGET: &str = "/peer/registry";

impl Client {
    pub(super) fn registration(&self, api: SocketAddr, wanted: &Wanted) -> Request<Full<Bytes>> {
        match self.release.form {
            Form::Json => exchange::post_json(TARGET, &self.registration_json(api, wanted)),
            Form::Repeated | Form::Documented => {
                let request = exchange::request("POST", TARGET, self.registration_form(wanted).into());
                exchange::with_header(request, "content-type", "application/x-www-form-urlencoded")
            }
        }
    }

    fn registration_json(&self, api: SocketAddr, wanted: &Wanted) -> Value {
        let mut body = json!({
            "superNodeIp": api.to_string(),
            "rawUrl": wanted.raw_url,
            "taskUrl": wanted.task_url,
            "cid": self.cid,
            "ip": "127.0.0.1",
            "hostName": "host",
            "port": self.upload.port(),
            "path": self.upload.path(),
            "version": self.release.version,
        });
        // Published clients leave out what is empty.
        if !wanted.headers.is_empty() {
            body["headers"] = json!(wanted.headers);
        }
        if let Some(md5) = &wanted.md5 {
            body["md5"] = json!(md5);
        }
        if wanted.insecure {
            body["insecure"] = json!(true);
        }
        if !wanted.root_cas.is_empty() {
            body["rootCAs"] = wanted.root_cas.iter().map(|pem| BASE64_STANDARD.encode(pem)).collect();
        }
        body
    }

    fn registration_form(&self, wanted: &Wanted) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("cid", &self.cid)
            .append_pair("ip", "127.0.0.1")
            .append_pair("hostName", "host")
            .append_pair("superNodeIp", "127.0.0.1")
            .append_pair("port", &self.upload.port().to_string())
            .append_pair("callSystem", "test")
            .append_pair("dfdaemon", "false")
            .append_pair("path", self.upload.path())
            .append_pair("rawUrl", &wanted.raw_url)
            .append_pair("taskUrl", &wanted.task_url)
            .append_pair("md5", "")
            .append_pair("identifier", "");
        if let Some(version) = self.release.version {
            form.append_pair("version", version);
        }
        for header in &wanted.headers {
            match self.release.form {
                Form::Documented => {
                    let (name, value) = header.split_once(": ").expect("a test writes its headers as dfget does");
                    form.append_pair(&format!("headers[{name}]"), value);
                }
                Form::Json | Form::Repeated => {
                    form.append_pair("headers", header);
                }
            }
        }
        form.finish()
    }
}
