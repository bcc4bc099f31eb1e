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

    output += &String::from_utf8_lossy(&page.0.lock().unwrap());
    assert!(output.contains("the account gave a token"), "the log was captured: {output}");
    assert!(output.contains("cannot be saved"), "{output}");
    for secret in [PASSWORD, "secret-", USERNAME, KETTLE, "\\/{}$"] {
        assert!(!output.contains(secret), "{secret:?} is in {output}");
    }
}
