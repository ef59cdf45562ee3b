//! Where sources may be.

use super::download;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::exchange::Answer;
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

async fn register(service: &Service, url: &str) -> Answer {
    let client = Client::start(&Release::GO_1_0_6).await;
    client.register(service.api(), &Wanted::url(url)).await.unwrap_or_else(|surprise| panic!("{surprise}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_is_not_asked_by_name_or_by_address() {
    let (origin, content) = (Origin::start().await, random_content(1000));
    let url = origin.put("file", File::new(content.clone()));
    let by_name = url.replace("127.0.0.1", "localhost");
    let denying = Service::start_configured("base:\n  source:\n    deny: [127.0.0.0/8, '::1']\n").await;
    for url in [&url, &by_name, &url.replace("127.0.0.1", "0.0.0.0"), &url.replace("127.0.0.1", "[::ffff:127.0.0.1]")] {
        let refused = register(&denying, url).await;
        assert_eq!(refused.code, 607, "{url}: {refused}");
        assert!(refused.msg.contains("source.deny"), "{url}: {refused}");
    }
    assert_eq!(origin.record("file").0.len(), 0, "a source that is denied was asked");
    let allowing = Service::start_configured("base: {source: {allow: localhost}}\n").await;
    assert_eq!(register(&allowing, &url).await.code, 607, "an address that no name allows");
    assert!(download(&allowing, &by_name).await.content == content, "the file arrived with other bytes");
}
