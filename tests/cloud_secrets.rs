//! The cloud client writes no secret at any log level, in any error or `Debug` text.
//!
//! The only test of its program, because it captures the log of the whole process.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::support::cloud::*;
use hs100d::secret::Secret;

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_in_a_log_at_trace_level_nor_in_an_error_nor_in_debug() {
    let page = Page::default();
    let writer = page.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let mut output = String::new();

    let canned = CannedCloud::start().await;
    let store = MemoryTokenStore { fails: true, ..MemoryTokenStore::default() };
    let saved = tokens("secret-saved", Some("secret-saved-refresh"));
    let mut client = TestClient::with_store(&canned, Some(PASSWORD), Some(saved.clone()), store);
    output += &format!("{:?} {:?} {saved:?}", client.cloud, options(&canned, Some(PASSWORD)));
    output += &format!("{:?}", client.read(KETTLE).await);
    let echo = format!(r#"<html>secret-token-1 {USERNAME} {KETTLE}</html>"#);
    canned.instead("passthrough", Raw::http("200 OK", "", &echo));
    output += &format!("{:?}", client.read(KETTLE).await);
    canned.instead("passthrough", Raw { bytes: b"HTTP/1.1 200 OK\r\nContent".to_vec(), then: Then::Close });
    output += &format!("{:?}", client.read(KETTLE).await);
    canned.fail("refreshToken", -20655);
    canned.heal("passthrough");
    canned.fail("login", -20601);
    canned.expire_token();
    output += &format!(
        "{:?} {:?}",
        client.read(KETTLE).await,
        client.cloud.login(Secret::new(PASSWORD.into())).await
    );
    output += &format!("{:?}", client.statuses());

    #[cfg(feature = "sim")]
    let signed_secrets = signed(&mut output).await;
    #[cfg(not(feature = "sim"))]
    let signed_secrets: Vec<String> = Vec::new();

    output += &String::from_utf8_lossy(&page.0.lock().unwrap());
    assert!(output.contains("the account gave a token"), "the log was captured: {output}");
    assert!(output.contains("cannot be saved"), "{output}");
    let secrets = [PASSWORD, "secret-", USERNAME, KETTLE, "\\/{}$"].into_iter();
    for secret in secrets.chain(signed_secrets.iter().map(String::as_str)) {
        assert!(!output.contains(secret), "{secret:?} is in {output}");
    }
}

/// The same with signed requests. Returns their secrets: the keys and the tokens, which are in the URLs.
#[cfg(feature = "sim")]
async fn signed(output: &mut String) -> Vec<String> {
    use hs100d::sim::cloud::rule::{CloudFault, Times};
    use hs100d::sim::cloud::signed::SimKeys;
    use hs100d::sim::home::{HomeOptions, SimHome};
    use hs100d::smarthome::message::Request;
    use hs100d::transport::cloud::session::AccountMemory;
    use hs100d::transport::cloud::signature::AppKeys;
    use hs100d::transport::cloud::{Cloud, CloudOptions};

    let mut home_options = HomeOptions::of(&["Kettle"]);
    let keys = SimKeys { access_key: "made-up-access".to_owned(), secret_key: "made-up-sign".to_owned() };
    home_options.account.keys = Some(keys.clone());
    let home = SimHome::start(home_options).await.unwrap();
    let client = |secret_key: &str| {
        let canned = CloudOptions {
            username: HomeOptions::ACCOUNT.0.to_owned(),
            password: Some(Secret::new(HomeOptions::ACCOUNT.1.to_owned())),
            url: home.cloud().url(),
            app: hs100d::transport::cloud::request::AppIdentity::default(),
            keys: Some(AppKeys {
                access_key: Secret::new(keys.access_key.clone()),
                secret_key: Secret::new(secret_key.to_owned()),
            }),
            ca_file: None,
        };
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let (store, memory) = (std::sync::Arc::new(MemoryTokenStore::default()), AccountMemory::default());
        Cloud::start(canned, support::cloud::TERMINAL, None, store, events, memory).unwrap()
    };
    let id = home.plug(0).device_id();
    let read = || support::cloud::exchange(&id, Request::SysInfo, std::time::Duration::from_secs(10));
    let cloud = client(&keys.secret_key);
    assert!(cloud.perform(&read()).await.result.is_ok());
    home.cloud().fail(None, Times::Next(4), CloudFault::CutOff);
    for _ in 0..2 {
        *output += &format!("{cloud:?} {:?}", cloud.perform(&read()).await.result);
    }
    *output += &format!("{:?}", client("another-made-up-sign").perform(&read()).await.result);
    let records = home.cloud().records();
    let tokens =
        records.iter().filter_map(|it| it.uri.split_once("token=")).map(|(_, token)| token.to_owned());
    let mut secrets: Vec<String> = tokens.collect();
    assert!(!secrets.is_empty());
    secrets.extend([keys.access_key, "made-up-sign".to_owned()]);
    secrets
}
