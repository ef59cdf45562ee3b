//! `/peers`: what clients say of themselves.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use warp::Reply;
use warp::reply::Response;

use super::{Refused, client_in_path, json, listed, reply, window};
use crate::domain::{ClientId, Peer};
use crate::http::Api;
use crate::http::client_api::read_object;
use crate::http::params::{BadParam, Params};
use crate::http::registration::{CALL_SYSTEM_MAX_BYTES, HOST_NAME_MAX_BYTES, VERSION_MAX_BYTES, limited};

/// A client of this supernode, as it introduced itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct PeerInfo {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "IP")]
    ip: String,
    /// From which others fetch; 0 for one that cannot serve.
    port: u16,
    #[serde(rename = "hostName")]
    host_name: String,
    version: String,
    #[serde(rename = "callSystem")]
    call_system: String,
    dfdaemon: bool,
}

impl From<Peer> for PeerInfo {
    fn from(peer: Peer) -> Self {
        let Peer { id, ip, port, host_name, version, call_system, dfdaemon, seed_host: _ } = peer;
        Self { id: id.to_string(), ip: ip.to_string(), port, host_name, version, call_system, dfdaemon }
    }
}

/// What a peer says that registers for itself.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes a body that is read by parameter, in any spelling")]
pub struct PeerCreateRequest {
    #[schema(rename = "IP")]
    ip: String,
    #[schema(rename = "hostName")]
    host_name: String,
    port: u16,
    version: Option<String>,
    #[schema(rename = "callSystem")]
    call_system: Option<String>,
    dfdaemon: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PeerCreateResponse {
    #[serde(rename = "ID")]
    id: String,
}

/// All peers, a page at a time, in the order of their ids.
#[utoipa::path(get, path = "/peers", tag = "peers",
    params(("pageNum" = Option<usize>, Query, description = "From 0"), ("pageSize" = Option<usize>, Query, description = "1 to 1000, 100 by default")),
    responses((status = 200, body = Vec<PeerInfo>, description = "X-Total-Count tells how many there are"), (status = 400, body = super::super::wire::Failure)))]
pub async fn list(api: Arc<Api>, query: String) -> Response {
    let listing = async {
        let window = window(&Params::of_query(&query))?;
        Ok(listed(api.cluster.peers(window).await?, PeerInfo::from))
    };
    reply(listing.await)
}

/// Registers a peer that names no task yet.
#[utoipa::path(post, path = "/peers", tag = "peers", request_body = PeerCreateRequest,
    responses((status = 201, body = PeerCreateResponse), (status = 400, body = super::super::wire::Failure)))]
pub async fn add(api: Arc<Api>, body: Bytes) -> Response {
    let params = match read_object(&body) {
        Ok(params) => params,
        Err(answer) => return answer.into_response(),
    };
    let adding = async {
        let peer = new_peer(&params)?;
        let id = peer.id.to_string();
        api.cluster.add_peer(peer).await?;
        Ok(json(StatusCode::CREATED, &PeerCreateResponse { id }))
    };
    reply(adding.await)
}

/// The id is made of what the peer says and the time, as the published server makes it.
fn new_peer(params: &Params<'_>) -> Result<Peer, Refused> {
    let ip = params.required("IP")?.parse().map_err(|_| BadParam::new("IP", "must be an IP address"))?;
    params.required("hostName")?;
    let host_name = limited(params, "hostName", HOST_NAME_MAX_BYTES)?;
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // A long name is cut so that the id stays one.
    let short: String = host_name.chars().take(40).collect();
    let id = format!("{short}-{ip}-{}", since_epoch.as_nanos());
    Ok(Peer {
        id: ClientId::parse(&id).map_err(|error| BadParam::new("hostName", error.to_string()))?,
        ip,
        port: params.number("port", "a number from 0 to 65535")?,
        host_name: host_name.to_owned(),
        version: limited(params, "version", VERSION_MAX_BYTES)?.to_owned(),
        call_system: limited(params, "callSystem", CALL_SYSTEM_MAX_BYTES)?.to_owned(),
        dfdaemon: params.flag("dfdaemon")?,
        seed_host: "".into(),
    })
}

/// One peer.
#[utoipa::path(get, path = "/peers/{id}", tag = "peers", params(("id" = String, Path, description = "Its cid")),
    responses((status = 200, body = PeerInfo), (status = 400, body = super::super::wire::Failure), (status = 404, body = super::super::wire::Failure)))]
pub async fn get(id: String, api: Arc<Api>) -> Response {
    let getting = async {
        let peer = api.cluster.peer(client_in_path(&id)?).await?;
        Ok(json(StatusCode::OK, &PeerInfo::from(peer.ok_or(NO_PEER)?)))
    };
    reply(getting.await)
}

/// Forgets a peer and takes it out of every task: nobody is sent there any more.
#[utoipa::path(delete, path = "/peers/{id}", tag = "peers", params(("id" = String, Path, description = "Its cid")),
    responses((status = 204), (status = 400, body = super::super::wire::Failure), (status = 404, body = super::super::wire::Failure)))]
pub async fn delete(id: String, api: Arc<Api>) -> Response {
    let deleting = async {
        match api.cluster.forget_peer(client_in_path(&id)?).await? {
            true => Ok(StatusCode::NO_CONTENT.into_response()),
            false => Err(NO_PEER),
        }
    };
    reply(deleting.await)
}

const NO_PEER: Refused = Refused::NotFound("there is no such peer");
