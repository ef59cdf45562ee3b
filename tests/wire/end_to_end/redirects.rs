//! Where sources lead, and where they may not.

use super::{download, download_wanted};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::exchange::Answer;
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::Service;

/// Where clouds hand out credentials, however it is written.
const METADATA: [&str; 5] = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/latest/meta-data/",
    "http://[fe80::1]/",
];

async fn register(service: &Service, url: &str) -> Answer {
    let client = Client::start(&Release::GO_1_0_6).await;
    client.register(service.api(), &Wanted::url(url)).await.unwrap_or_else(|surprise| panic!("{surprise}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_followed_and_credentials_stay_with_their_host() {
    let (first, second, service) = (Origin::start().await, Origin::start().await, Service::start().await);
    let content = random_content(5_000_000);
    let target = second.put("file", File::new(content.clone()));
    let url = first.put("moved", File { location: Some(target), ..File::new(Vec::new()) });
    let headers = vec!["Authorization: Bearer secret".to_owned(), "Cookie: session=secret".to_owned()];
    let downloaded = download_wanted(&service, &Wanted { headers, ..Wanted::url(&url) }).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    let (asked, led_to) = (first.record("moved").0, second.record("file").0);
    assert_eq!(asked[0].authorization.as_deref(), Some("Bearer secret"));
    assert_eq!((asked.len(), led_to.len()), (1, 1), "each was asked once");
    assert_eq!((&led_to[0].authorization, &led_to[0].cookie), (&None, &None), "credentials went on to another host");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_in_circles_come_to_an_end() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let url = origin.put("circle", File::new(Vec::new()));
    origin.put("circle", File { location: Some(url.clone()), ..File::new(Vec::new()) });
    let refused = register(&service, &url).await;
    assert_eq!(refused.code, 607, "{refused}");
    assert!(refused.msg.contains("redirects more than"), "{refused}");
    let requests = origin.record("circle").0.len();
    assert!(requests <= 12, "asked {requests} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_clouds_is_out_of_reach_directly_and_by_redirect() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    for (number, forbidden) in METADATA.into_iter().enumerate() {
        let led = origin.put(&format!("led-{number}"), File { location: Some(forbidden.to_owned()), ..File::new(Vec::new()) });
        for url in [forbidden, &led] {
            let refused = register(&service, url).await;
            assert_eq!(refused.code, 607, "{url}: {refused}");
            assert!(refused.msg.contains("source.allow"), "{url}: the message does not tell why: {refused}");
        }
    }
    let elsewhere = origin.put("file-scheme", File { location: Some("file:///etc/passwd".into()), ..File::new(Vec::new()) });
    assert_eq!(register(&service, &elsewhere).await.code, 607);
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
