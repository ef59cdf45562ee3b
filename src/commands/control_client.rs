//! Asking the service that has a home, over its control socket.

use std::time::Duration;

use anyhow::Context;
use reqwest::Method;

use crate::config::Home;

/// A service that has the home and does not answer is starting, or stopping; it is asked this often, a second apart.
const ASKS_MAX: u32 = 30;

/// Sends a request and hands out the lines of the answer for as long as `each` wants more.
pub fn ask_running(
    home: &Home,
    method: &Method,
    path_and_query: &str,
    each: &mut dyn FnMut(&[u8]) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = reqwest::Client::builder().unix_socket(home.control_socket()).no_proxy().build()?;
        let url = format!("http://supernode{path_and_query}");
        let mut asked = 0;
        let mut response = loop {
            match client.request(method.clone(), &url).send().await {
                Ok(response) => break response.error_for_status()?,
                Err(error) if asked == ASKS_MAX => {
                    return Err(error).context("the service that has this home does not answer on its control socket");
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
            asked += 1;
        };
        let mut rest = Vec::new();
        while let Some(chunk) = response.chunk().await.context("the running service broke off")? {
            rest.extend_from_slice(&chunk);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            for line in rest[..end].split(|byte| *byte == b'\n') {
                if !each(line).context("the running service said")? {
                    return Ok(());
                }
            }
            rest.drain(..=end);
        }
        Ok(())
    })
}
