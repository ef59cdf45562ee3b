//! Bodies as the interface description shows them. They are read by parameter, in any spelling and as form or JSON, so no
//! handler uses these types.

#![allow(dead_code, reason = "describes bodies that are read by parameter")]

use utoipa::ToSchema;

/// A registration; as a form, `headers` and `rootCAs` are repeated.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct RegistrationBody {
    /// The client's id.
    cid: String,
    ip: String,
    /// From which others fetch; 0 for a client that cannot serve.
    port: u16,
    /// Under which path it serves; starts with `/`.
    path: String,
    raw_url: String,
    /// `rawUrl` without what is filtered out; made of it and `filter` where missing.
    task_url: Option<String>,
    filter: Option<String>,
    md5: Option<String>,
    identifier: Option<String>,
    /// `Name: value`
    headers: Option<Vec<String>>,
    host_name: Option<String>,
    version: Option<String>,
    call_system: Option<String>,
    dfdaemon: Option<bool>,
    /// How the client reaches this supernode: it is sent there for pieces as well.
    super_node_ip: Option<String>,
    /// Do not verify the source's certificate.
    insecure: Option<bool>,
    /// Certificates to trust for this task: PEM in base64.
    #[schema(rename = "rootCAs")]
    root_cas: Option<Vec<String>>,
}

#[derive(ToSchema)]
pub struct HeartbeatBody {
    #[schema(rename = "cID")]
    client: String,
    #[schema(rename = "IP")]
    ip: String,
    port: u16,
}

#[derive(ToSchema)]
pub struct NetworkBody {
    /// Task URLs.
    urls: Vec<String>,
}

/// How a download went.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct MetricsBody {
    success: bool,
    /// Seconds.
    duration: f64,
    /// Bytes; -1 where unknown.
    file_length: i64,
    call_system: Option<String>,
    backsource_reason: Option<String>,
    #[schema(rename = "taskId")]
    task: Option<String>,
    #[schema(rename = "cID")]
    client: Option<String>,
    #[schema(rename = "IP")]
    ip: Option<String>,
    port: Option<u16>,
}
