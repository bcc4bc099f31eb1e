//! Exchanges with plugs over the cloud, with real sockets and a canned cloud: the outcome of each fault, and that no
//! token goes to the wrong place.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use crate::support::cloud::*;
use hs100d::bridge::event::{CloudStatus, Event, Target};
use hs100d::model::{Address, Failure, LanProtocol, RelayState};
use hs100d::smarthome::message::{Reply, Request};
use hs100d::transport::cloud::host::BadHost;
use hs100d::transport::cloud::request::AppIdentity;
use hs100d::transport::cloud::session::AccountMemory;
use hs100d::transport::cloud::{Cloud, CloudError, CloudOptions, CloudStartError};
use serde_json::json;
use tokio::sync::mpsc;

/// A client that has a valid token already.
async fn client() -> (CannedCloud, TestClient) {
    let canned = CannedCloud::start().await;
    let client = TestClient::new(&canned, None, Some(tokens("token-0", Some("refresh-0"))));
    (canned, client)
}

/// The client's own bound must end it; this one only keeps a broken test from hanging.
async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.unwrap()
}

#[tokio::test]
async fn each_error_of_the_cloud_becomes_the_failure_that_the_bridge_acts_on() {
    let down = |result: &Result<_, _>| matches!(result, Err(Failure::CloudDown(_)));
    type Check = fn(&Result<Reply, Failure>) -> bool;
    let table: [(i64, Check); 12] = [
        (-20571, |result| *result == Err(Failure::CloudOffline)),
        (-25001, |result| *result == Err(Failure::CloudOffline)),
        (-20002, |result| *result == Err(Failure::Silent)),
        (-20580, |result| *result == Err(Failure::NotInAccount)),
        (-20501, |result| *result == Err(Failure::NotInAccount)),
        (-20506, |result| *result == Err(Failure::NotInAccount)),
        (-20504, |result| matches!(result, Err(Failure::CloudRefused(_)))),
        (-20104, |result| matches!(result, Err(Failure::CloudRefused(_)))),
        (-20003, |result| *result == Err(Failure::Throttled)),
        (-10201, |result| *result == Err(Failure::Throttled)),
        (-20001, |result| matches!(result, Err(Failure::CloudStopped(_)))),
        (-20661, |result| matches!(result, Err(Failure::CloudStopped(_)))),
    ];
    for (code, is_right) in table {
        let (canned, client) = client().await;
        canned.fail("passthrough", code);
        let result = client.ask(KETTLE, Request::SysInfo).await;
        assert!(is_right(&result), "{code}: {result:?}");
        assert_eq!(canned.count("login") + canned.count("refreshToken"), 0, "{code}");
    }
    for code in [-1, -20000, -30000, -30512, -99999, 7] {
        let (canned, client) = client().await;
        canned.fail("passthrough", code);
        let result = client.ask(KETTLE, Request::SysInfo).await;
        assert!(down(&result), "{code}: {result:?}");
        assert!(result.unwrap_err().to_string().contains(&code.to_string()), "the number is said");
        assert_eq!(canned.count("login") + canned.count("refreshToken"), 0, "{code}");
        assert!(matches!(client.cloud.status(), CloudStatus::Down(_)), "{code}");
        canned.heal("passthrough");
        assert_eq!(client.read(KETTLE).await, Ok(RelayState::Off));
        until("the status is ok again", || client.cloud.status() == CloudStatus::Ok).await;
    }
}

#[tokio::test]
async fn what_is_no_answer_is_the_clouds_fault_and_is_survived() {
    let html = "<html><body>Please log in to the hotel's network</body></html>";
    let huge = "x".repeat(300 * 1024);
    let cut_off = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"error_code\":0,\"result\":{".to_vec();
    for raw in [
        Raw::http("200 OK", "Content-Type: text/html\r\n", html),
        Raw::http("502 Bad Gateway", "", html),
        Raw::http("503 Service Unavailable", "", ""),
        Raw::http("200 OK", "", ""),
        Raw::http("200 OK", "", "{}"),
        Raw::http("200 OK", "", "[]"),
        Raw::http("200 OK", "", "\u{0}\u{1}\u{2}"),
        Raw::http("200 OK", "", "{\"error_code\":0,\"result\":{}}"),
        Raw::http("200 OK", "", "{\"error_code\":0,\"result\":{\"responseData\":null}}"),
        Raw::http("200 OK", "", &huge),
        Raw {
            bytes: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
            then: Then::Close,
        },
        Raw { bytes: b"SSH-2.0-nothing\r\n".to_vec(), then: Then::Close },
        Raw { bytes: cut_off, then: Then::Close },
        Raw { bytes: vec![], then: Then::Close },
    ] {
        let (canned, client) = client().await;
        canned.instead("passthrough", raw.clone());
        let result = within(client.ask(KETTLE, Request::SysInfo)).await;
        let shown = String::from_utf8_lossy(&raw.bytes[..raw.bytes.len().min(80)]).into_owned();
        let Err(Failure::CloudDown(why)) = result else { panic!("{shown}: {result:?}") };
        assert!(!why.contains("hotel"), "{why}");
        canned.heal("passthrough");
        assert_eq!(within(client.read(KETTLE)).await, Ok(RelayState::Off), "{shown}");
    }
}

#[tokio::test]
async fn what_fails_for_one_plug_alone_is_told_of_that_plug_and_leaves_the_cloud_ok() {
    let page = |status: &str, body: &str| Raw::http(status, "", body);
    for raw in [
        page("200 OK", r#"{"error_code":0,"result":{"responseData":null}}"#),
        page("200 OK", r#"{"error_code":-99999,"msg":"?"}"#),
        page("500 Internal Server Error", "<html>"),
        Raw { bytes: vec![], then: Then::Close },
    ] {
        let (canned, mut client) = client().await;
        canned.with(|account| account.instead_for.insert(KETTLE, raw.clone()));
        client.read(LAMP).await.unwrap();
        for _ in 0..5 {
            let kettle = client.ask(KETTLE, Request::SysInfo).await;
            assert!(matches!(kettle, Err(Failure::CloudFailsHere(_))), "{kettle:?}");
            assert_eq!(client.read(LAMP).await, Ok(RelayState::Off));
        }
        assert_eq!(client.statuses(), [CloudStatus::Ok], "reported once, and no other status");

        canned.instead("passthrough", raw);
        let (lamp, kettle) = (client.read(LAMP).await, client.read(KETTLE).await);
        assert!(lamp.is_err() && kettle.is_err());
        let lamp = client.read(LAMP).await;
        assert!(matches!(lamp, Err(Failure::CloudDown(_) | Failure::CloudFailsHere(_))), "{lamp:?}");
    }
}

#[tokio::test]
async fn an_endless_body_is_given_up_at_the_bound() {
    let (canned, client) = client().await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec();
    let bytes = [head, vec![b' '; 1024 * 1024]].concat();
    canned.instead("passthrough", Raw { bytes, then: Then::Hang });
    let result = within(client.ask(KETTLE, Request::SysInfo)).await;
    assert!(matches!(&result, Err(Failure::CloudDown(why)) if why.contains("too large")), "{result:?}");
}

#[tokio::test]
async fn a_cloud_that_holds_the_request_is_silent_by_the_exchanges_own_deadline() {
    for bytes in [vec![], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec()] {
        let (canned, client) = client().await;
        client.read(KETTLE).await.unwrap();
        until("the status is ok", || client.cloud.status() == CloudStatus::Ok).await;
        canned.instead("passthrough", Raw { bytes, then: Then::Hang });
        let short = exchange(KETTLE, Request::SetRelay(RelayState::On), Duration::from_millis(100));
        assert_eq!(within(client.cloud.perform(&short)).await.result, Err(Failure::Silent));
        assert_eq!(client.cloud.status(), CloudStatus::Ok, "one silent plug says nothing of the cloud");
    }
}

#[tokio::test]
async fn a_deadline_that_has_passed_sends_nothing() {
    let (canned, client) = client().await;
    client.read(KETTLE).await.unwrap();
    let late = exchange(KETTLE, Request::SetRelay(RelayState::On), Duration::ZERO);
    assert!(within(client.cloud.perform(&late)).await.result.is_err());
    assert!(!canned.with(|account| account.relay_on));
}

#[tokio::test]
async fn a_kept_connection_that_died_is_no_failure() {
    let (canned, client) = client().await;
    client.read(KETTLE).await.unwrap();
    canned.with(|account| account.drop_next = 1);
    assert_eq!(client.ask(KETTLE, Request::SetRelay(RelayState::On)).await, Ok(Reply::Done));
    assert!(canned.with(|account| account.relay_on));
}

#[tokio::test]
async fn a_password_is_never_sent_twice_when_the_connection_breaks() {
    let canned = CannedCloud::start().await;
    canned.with(|account| account.drop_next = 1);
    let client = TestClient::new(&canned, Some(PASSWORD), None);
    assert!(matches!(client.read(KETTLE).await, Err(Failure::CloudDown(_))));
    assert_eq!(canned.count("login"), 1);
}

#[tokio::test]
async fn a_host_that_is_not_there_is_down_and_is_tried_again() {
    // Held, so that no other program listens there.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", held.local_addr().unwrap());
    let mut canned = CannedCloud::start().await;
    let working = std::mem::replace(&mut canned.url, url);
    let client = TestClient::new(&canned, Some(PASSWORD), None);
    for _ in 0..3 {
        let result = within(client.read(KETTLE)).await;
        assert!(matches!(&result, Err(Failure::CloudDown(why)) if why.contains("refused")), "{result:?}");
    }
    canned.url = working;
    let client = TestClient::new(&canned, Some(PASSWORD), None);
    assert_eq!(client.read(KETTLE).await, Ok(RelayState::Off));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for method in ["login", "passthrough", "getDeviceList"] {
        for status in
            ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
        {
            let (canned, elsewhere) = (CannedCloud::start().await, CannedCloud::start().await);
            let location = format!("Location: {}/\r\n", elsewhere.url);
            canned.instead(method, Raw::http(status, &location, ""));
            let client = TestClient::new(&canned, Some(PASSWORD), None);
            let result = client.read(KETTLE).await;
            assert!(matches!(result, Err(Failure::CloudDown(_))), "{result:?}");
            assert_eq!(elsewhere.with(|account| account.seen.len()), 0);
        }
    }
}

#[tokio::test]
async fn no_token_goes_to_a_host_outside_the_vendors_domain() {
    for (foreign, why) in [
        ("https://tplinkcloud.com.evil.example", "must name a host under tplinkcloud.com"),
        ("https://eviltplinkcloud.com", "must name a host under tplinkcloud.com"),
        ("http://use1-wap.tplinkcloud.com", "must begin with https://"),
        ("https://use1-wap.tplinkcloud.com", "must not lead from the internet to this machine"),
        ("https://127.0.0.1:8443", "not an IP address"),
        ("ftp://127.0.0.1", "must begin with https://"),
        ("not a url", "is not a URL"),
    ] {
        let (canned, client) = client().await;
        canned.with(|account| account.rows = vec![row(KETTLE, foreign)]);
        let result = client.ask(KETTLE, Request::SetRelay(RelayState::On)).await;
        assert!(
            matches!(&result, Err(Failure::CloudRefused(message)) if message.contains(why) && message.contains(foreign)),
            "{foreign}: {result:?}"
        );
        assert_eq!(canned.count("passthrough"), 0, "{foreign}");
    }
}

#[tokio::test]
async fn a_bad_url_in_the_config_is_refused_at_the_start() {
    let start = |url: &str| {
        let (events, _) = mpsc::unbounded_channel();
        let options = CloudOptions {
            username: USERNAME.to_owned(),
            password: None,
            url: url.to_owned(),
            app: AppIdentity::default(),
            keys: None,
            ca_file: None,
        };
        let (shared, memory) = (Arc::new(MemoryTokenStore::default()), AccountMemory::default());
        Cloud::start(options, TERMINAL, None, shared, events, memory).map(drop)
    };
    assert!(matches!(start("http://wap.tplinkcloud.com"), Err(CloudStartError::Host(BadHost::NotHttps))));
    assert!(matches!(start("https://evil.example"), Err(CloudStartError::Host(BadHost::Foreign))));
    assert!(start("http://127.0.0.1:1").is_ok());
}

#[tokio::test]
async fn a_plug_that_moved_to_another_region_is_found_there() {
    for code in [-20571, -20580] {
        let (canned, client) = client().await;
        let region = CannedCloud::start().await;
        client.read(KETTLE).await.unwrap();
        canned.fail("passthrough", code);
        canned.with(|account| account.rows = vec![row(KETTLE, &region.url)]);
        assert_eq!(client.ask(KETTLE, Request::SetRelay(RelayState::On)).await, Ok(Reply::Done));
        assert!(region.with(|account| account.relay_on));
        assert_eq!(canned.count("getDeviceList"), 2);
        assert_eq!(client.read(KETTLE).await, Ok(RelayState::On));
        assert_eq!(region.count("passthrough"), 2);
    }
}

#[tokio::test]
async fn a_plug_that_is_simply_offline_has_the_list_read_once_and_no_login() {
    let (canned, client) = client().await;
    canned.fail("passthrough", -20571);
    for _ in 0..10 {
        assert_eq!(client.read(KETTLE).await, Err(Failure::CloudOffline));
    }
    assert_eq!((canned.count("getDeviceList"), canned.count("passthrough")), (2, 10));
    assert_eq!(canned.count("login") + canned.count("refreshToken"), 0);
}

#[tokio::test]
async fn a_plug_that_the_account_does_not_list_is_not_in_the_account_and_the_list_is_left_in_peace() {
    let (canned, client) = client().await;
    canned.with(|account| account.rows = vec![row(LAMP, "")]);
    for _ in 0..10 {
        assert_eq!(client.read(KETTLE).await, Err(Failure::NotInAccount));
    }
    assert_eq!((canned.count("getDeviceList"), canned.count("passthrough")), (2, 0));
    assert_eq!(client.read(LAMP).await, Ok(RelayState::Off), "without a server of its own, the account's");
}

#[tokio::test]
async fn a_list_that_fails_is_not_asked_for_again_at_once_and_forgets_nothing() {
    let (canned, client) = client().await;
    canned.fail("getDeviceList", -20000);
    for _ in 0..10 {
        assert!(matches!(client.read(KETTLE).await, Err(Failure::CloudDown(_))));
    }
    assert_eq!(canned.count("getDeviceList"), 1);
    assert!(matches!(client.cloud.list().await, Err(CloudError::Down(_))));
}

#[tokio::test]
async fn the_list_is_told_to_the_bridge_and_shown_in_full() {
    let (canned, mut client) = client().await;
    let rows = client.cloud.list().await.unwrap();
    assert_eq!(rows.len(), 2);
    let kettle = rows.iter().find(|row| row.device_id.as_str() == KETTLE).unwrap();
    assert_eq!((&*kettle.alias, &*kettle.model, kettle.connected), ("Kettle", "HS100(EU)", true));
    assert_eq!(kettle.server.as_ref().unwrap().to_string(), canned.url);
    let told = loop {
        match client.events.recv().await.unwrap() {
            Event::Account(plugs) => break plugs,
            Event::Cloud(status) => assert_eq!(status, CloudStatus::Ok),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told.len(), 2);
    client.cloud.list().await.unwrap();
    assert_eq!(canned.count("getDeviceList"), 1, "a list of this minute is as good as a new one");
}

#[tokio::test]
async fn ten_thousand_plugs_fit_into_one_list() {
    let (canned, client) = client().await;
    let rows: Vec<_> = (0..10_000).map(|n| row(&format!("8006{n:036}"), "")).collect();
    canned.with(|account| account.rows = rows);
    assert_eq!(client.cloud.list().await.unwrap().len(), 10_000);
    assert_eq!(client.read(&format!("8006{:036}", 9_999)).await, Ok(RelayState::Off));
}

#[tokio::test]
async fn a_plug_listed_as_offline_is_tried_all_the_same() {
    let (canned, client) = client().await;
    let mut offline = row(KETTLE, "");
    offline["status"] = json!(0);
    canned.with(|account| account.rows = vec![offline]);
    assert_eq!(client.read(KETTLE).await, Ok(RelayState::Off));
}

fn response(data: &serde_json::Value) -> Raw {
    Raw::http("200 OK", "", &json!({"error_code": 0, "result": {"responseData": data}}).to_string())
}

#[tokio::test]
async fn the_plugs_own_errors_come_through() {
    let (canned, client) = client().await;
    canned.instead("passthrough", response(&json!(r#"{"system":{"set_relay_state":{"err_code":-3}}}"#)));
    let result = client.ask(KETTLE, Request::SetRelay(RelayState::On)).await;
    assert_eq!(result, Err(Failure::Device { code: -3, message: "invalid argument".into() }));

    canned.instead("passthrough", response(&json!({"system": {"set_relay_state": {"err_code": 0}}})));
    let object = client.ask(KETTLE, Request::SetRelay(RelayState::On)).await;
    assert_eq!(object, Ok(Reply::Done), "an object serves as well as a text");

    canned.instead("passthrough", response(&json!("{\"system\":{")));
    assert!(matches!(client.ask(KETTLE, Request::SysInfo).await, Err(Failure::Garbage(_))));
}

#[tokio::test]
async fn an_answer_of_another_plug_is_not_taken_for_this_ones() {
    let (canned, client) = client().await;
    let other = json!({"system": {"get_sysinfo": {"err_code": 0, "deviceId": LAMP, "relay_state": 1}}});
    canned.instead("passthrough", response(&other));
    let result = client.ask(KETTLE, Request::SysInfo).await;
    assert_eq!(result, Err(Failure::WrongPlug { found: "8006…0008".into() }));
}

#[tokio::test]
async fn devices_of_the_other_family_are_not_supported() {
    let (canned, client) = client().await;
    let mut tapo = row(LAMP, "");
    tapo["deviceType"] = json!("SMART.TAPOPLUG");
    canned.with(|account| account.rows = vec![row(KETTLE, ""), tapo]);
    assert!(matches!(client.read(LAMP).await, Err(Failure::Unsupported(_))));
    assert_eq!(canned.count("passthrough"), 0);
    canned.instead("passthrough", response(&json!({"error_code": -1003})));
    assert!(matches!(client.read(KETTLE).await, Err(Failure::Unsupported(_))));
}

#[tokio::test]
async fn polls_leave_room_for_commands() {
    let (_canned, client) = client().await;
    let mut poll = exchange(KETTLE, Request::SysInfo, Duration::from_secs(10));
    poll.urgent = false;
    let mut polls = 0;
    while client.cloud.perform(&poll).await.result != Err(Failure::Throttled) {
        polls += 1;
        assert!(polls < 500, "polls are never held back");
    }
    for _ in 0..20 {
        // Too little time for the bucket to refill, so the reserve must be there.
        let command = exchange(KETTLE, Request::SetRelay(RelayState::On), Duration::from_millis(900));
        assert_eq!(client.cloud.perform(&command).await.result, Ok(Reply::Done));
    }
    until("our own pacing is no fault of the cloud", || client.cloud.status() == CloudStatus::Ok).await;
}

#[tokio::test]
async fn an_exchange_for_the_lan_is_not_for_this_wire() {
    let (canned, client) = client().await;
    let mut local = exchange(KETTLE, Request::SysInfo, Duration::from_secs(1));
    let address = Address::new("127.0.0.1", 1).unwrap();
    local.target = Target::Local {
        address,
        protocol: LanProtocol::Xor,
        expect: hs100d::bridge::event::Identity::default(),
    };
    assert!(client.cloud.perform(&local).await.result.is_err());
    assert_eq!(canned.with(|account| account.seen.len()), 0);
}
