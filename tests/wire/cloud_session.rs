//! The life of the account's token, with real sockets and a canned cloud.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::support::cloud::*;
use hs100d::bridge::event::CloudStatus;
use hs100d::model::{Failure, RelayState};
use hs100d::secret::Secret;
use hs100d::smarthome::message::{Reply, Request};
use hs100d::transport::cloud::CloudError;

fn stopped<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result {
        Err(Failure::CloudStopped(why)) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_is_sent_before_the_first_call_and_then_one_login_serves_all() {
    let canned = CannedCloud::start().await;
    let mut client = TestClient::new(&canned, Some(PASSWORD), None);
    tokio::task::yield_now().await;
    assert_eq!(canned.with(|account| account.seen.len()), 0);
    assert_eq!(client.cloud.status(), CloudStatus::Off);

    assert_eq!(client.ask(KETTLE, Request::SetRelay(RelayState::On)).await, Ok(Reply::Done));
    assert_eq!(client.read(KETTLE).await, Ok(RelayState::On));
    assert_eq!(client.read(LAMP).await, Ok(RelayState::On));
    assert_eq!((canned.count("login"), canned.count("getDeviceList")), (1, 1));
    until("the status is ok", || client.cloud.status() == CloudStatus::Ok).await;
    assert_eq!(client.statuses(), [CloudStatus::Ok]);
}

#[tokio::test]
async fn a_password_of_odd_characters_arrives_intact_with_all_that_a_login_needs() {
    let canned = CannedCloud::start().await;
    let client = TestClient::new(&canned, Some(PASSWORD), None);
    client.read(KETTLE).await.unwrap();
    canned.with(|account| {
        let (head, login) = &account.seen[0];
        assert!(head.starts_with("post / http/1.1"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert_eq!(login["params"]["cloudPassword"], PASSWORD);
        assert_eq!(login["params"]["cloudUserName"], USERNAME);
        assert_eq!(login["params"]["terminalUUID"], TERMINAL.to_string());
        assert_eq!(login["params"]["refreshTokenNeeded"], true);
        let heads = account.seen.iter().map(|(head, _)| head);
        assert!(heads.into_iter().all(|head| !head.contains("token")), "no token stands in a URL");
    });
}

#[tokio::test]
async fn two_plugs_with_an_expired_token_make_one_refresh() {
    let canned = CannedCloud::start().await;
    let client = TestClient::new(&canned, Some(PASSWORD), None);
    client.read(KETTLE).await.unwrap();
    for round in 1..=3 {
        canned.expire_token();
        let (kettle, lamp, again) = tokio::join!(client.read(KETTLE), client.read(LAMP), client.read(KETTLE));
        assert_eq!((kettle, lamp, again), (Ok(RelayState::Off), Ok(RelayState::Off), Ok(RelayState::Off)));
        assert_eq!(canned.count("refreshToken"), round);
    }
    assert_eq!(canned.count("login"), 1);
    until("each token was saved", || client.store.saved.lock().unwrap().len() == 4).await;
}

#[tokio::test]
async fn a_refused_refresh_leads_to_one_login_for_all() {
    let canned = CannedCloud::start().await;
    let client = TestClient::new(&canned, Some(PASSWORD), Some(tokens("old", Some("old"))));
    let (kettle, lamp) = tokio::join!(client.read(KETTLE), client.read(LAMP));
    assert_eq!((kettle, lamp), (Ok(RelayState::Off), Ok(RelayState::Off)));
    assert_eq!((canned.count("refreshToken"), canned.count("login")), (1, 1));
}

#[tokio::test]
async fn a_token_that_was_saved_survives_a_restart_without_a_login() {
    let canned = CannedCloud::start().await;
    let first = TestClient::new(&canned, Some(PASSWORD), None);
    first.read(KETTLE).await.unwrap();
    until("the token was saved", || !first.store.saved.lock().unwrap().is_empty()).await;
    let saved = first.store.saved.lock().unwrap()[0].clone();
    drop(first);

    let second = TestClient::new(&canned, None, Some(saved.clone()));
    assert_eq!(second.read(KETTLE).await, Ok(RelayState::Off));
    assert_eq!((canned.count("login"), canned.count("refreshToken")), (1, 0));

    canned.expire_token();
    let third = TestClient::new(&canned, None, Some(saved));
    assert_eq!(third.read(KETTLE).await, Ok(RelayState::Off));
    assert_eq!((canned.count("login"), canned.count("refreshToken")), (1, 1));
}

#[tokio::test]
async fn a_wrong_password_is_tried_exactly_once_until_the_user_acts() {
    let canned = CannedCloud::start().await;
    canned.with(|account| account.password = "another");
    let mut client = TestClient::new(&canned, Some(PASSWORD), None);
    let (kettle, lamp) = tokio::join!(client.read(KETTLE), client.read(LAMP));
    let why = stopped(kettle);
    assert!(why.contains("password") && why.contains("hs100d cloud login"), "{why}");
    assert_eq!(stopped(lamp), why);
    for _ in 0..50 {
        assert_eq!(stopped(client.read(KETTLE).await), why);
    }
    assert!(matches!(client.cloud.list().await, Err(CloudError::Stopped(_))));
    assert_eq!(canned.count("login"), 1);
    assert_eq!(client.statuses(), [CloudStatus::Stopped(why.into())]);

    for _ in 0..5 {
        client.cloud.rearm(None).await;
        let why = stopped(client.read(KETTLE).await);
        assert!(why.contains("not sent again") && why.contains("reload"), "{why}");
        assert!(
            matches!(*client.statuses(), [CloudStatus::Down(_), CloudStatus::Stopped(_)]),
            "each outcome is reported"
        );
    }
    assert_eq!(canned.count("login"), 1, "a reload sends no refused password again");

    canned.with(|account| account.password = PASSWORD);
    client.cloud.login(Secret::new(PASSWORD.to_owned())).await.unwrap();
    assert_eq!(client.read(KETTLE).await, Ok(RelayState::Off));
    assert_eq!(canned.count("login"), 2);
    until("the status is ok", || client.cloud.status() == CloudStatus::Ok).await;
    assert!(matches!(*client.statuses(), [CloudStatus::Down(_), CloudStatus::Ok]));
    canned.with(|account| account.refresh_token = "dead".to_owned());
    canned.expire_token();
    assert_eq!(client.read(KETTLE).await, Ok(RelayState::Off), "what was accepted is no refused login");
}

#[tokio::test]
async fn two_step_verification_and_locks_stop_the_cloud_with_a_remedy() {
    for (code, remedy) in [(-23003, "two-step"), (-20677, "two-step"), (-20661, "locked"), (-20675, "locked")]
    {
        let canned = CannedCloud::start().await;
        canned.fail("login", code);
        let client = TestClient::new(&canned, Some(PASSWORD), None);
        for _ in 0..5 {
            let why = stopped(client.read(KETTLE).await);
            assert!(why.contains(remedy) && why.contains("reload"), "{why}");
        }
        assert_eq!(canned.count("login"), 1, "{code}");
    }
}

#[tokio::test]
async fn two_step_verification_is_seen_in_the_nested_code_as_well() {
    let canned = CannedCloud::start().await;
    let nested = r#"{"error_code":0,"result":{"errorCode":"-20677","MFAProcessId":"x"}}"#;
    canned.instead("login", Raw::http("200 OK", "", nested));
    let client = TestClient::new(&canned, Some(PASSWORD), None);
    assert!(stopped(client.read(KETTLE).await).contains("two-step"));
    stopped(client.read(KETTLE).await);
    assert_eq!(canned.count("login"), 1);
}

#[tokio::test]
async fn a_throttled_account_is_left_alone_and_never_logged_in_for_it() {
    let canned = CannedCloud::start().await;
    let client = TestClient::new(&canned, Some(PASSWORD), None);
    client.read(KETTLE).await.unwrap();
    canned.fail("passthrough", -20004);
    for _ in 0..20 {
        assert_eq!(client.read(KETTLE).await, Err(Failure::Throttled));
    }
    assert_eq!((canned.count("passthrough"), canned.count("login"), canned.count("refreshToken")), (2, 1, 0));
    assert!(matches!(client.cloud.status(), CloudStatus::Down(_)));
}

#[tokio::test]
async fn turned_away_by_status_or_black_list_is_throttled_too() {
    for raw in [
        Raw::http("429 Too Many Requests", "", "slow down"),
        Raw::http("403 Forbidden", "", "<html>no</html>"),
        Raw::http("200 OK", "", "Access denied request in blackList"),
    ] {
        let canned = CannedCloud::start().await;
        canned.instead("login", raw);
        let client = TestClient::new(&canned, Some(PASSWORD), None);
        for _ in 0..5 {
            assert_eq!(client.read(KETTLE).await, Err(Failure::Throttled));
        }
        assert_eq!(canned.count("login"), 1);
    }
}

#[tokio::test]
async fn an_expired_login_without_a_password_says_what_to_do() {
    let canned = CannedCloud::start().await;
    let client = TestClient::new(&canned, None, Some(tokens("old", None)));
    assert!(stopped(client.read(KETTLE).await).contains("hs100d cloud login"));
    assert_eq!(canned.count("login"), 0);

    client.cloud.login(Secret::new(PASSWORD.to_owned())).await.unwrap();
    assert_eq!(client.store.saved.lock().unwrap().len(), 1, "saved before it is said to be done");
    assert_eq!(client.read(KETTLE).await, Ok(RelayState::Off));
}

#[tokio::test]
async fn a_login_by_hand_reports_what_went_wrong() {
    let canned = CannedCloud::start().await;
    let client = TestClient::new(&canned, None, None);
    let wrong = client.cloud.login(Secret::new("wrong".to_owned())).await.unwrap_err();
    assert!(
        matches!(&wrong, CloudError::Stopped(why) if why.contains("password") && !why.contains("hs100d cloud login")),
        "{wrong:?}"
    );

    let store = MemoryTokenStore { fails: true, ..MemoryTokenStore::default() };
    let fails = TestClient::with_store(&canned, None, None, store);
    let unsaved = fails.cloud.login(Secret::new(PASSWORD.to_owned())).await.unwrap_err();
    assert!(matches!(&unsaved, CloudError::NotSaved(why) if why.contains("disk full")), "{unsaved:?}");
    assert_eq!(fails.read(KETTLE).await, Ok(RelayState::Off), "it serves all the same");
}

#[tokio::test]
async fn a_token_that_is_always_refused_does_not_make_a_storm_of_refreshes() {
    let canned = CannedCloud::start().await;
    let client = TestClient::new(&canned, Some(PASSWORD), None);
    client.read(KETTLE).await.unwrap();
    canned.fail("passthrough", -20651);
    for _ in 0..20 {
        assert!(matches!(client.read(KETTLE).await, Err(Failure::CloudDown(_))));
    }
    assert_eq!((canned.count("refreshToken"), canned.count("login")), (1, 1));
    assert_eq!(canned.count("passthrough"), 3);
}

#[tokio::test]
async fn a_login_goes_on_for_the_others_when_the_call_that_wanted_it_is_dropped() {
    let canned = CannedCloud::start().await;
    let client = TestClient::new(&canned, Some(PASSWORD), None);
    canned.instead("login", Raw { bytes: vec![], then: Then::Hang });
    {
        let dropped = client.read(KETTLE);
        tokio::pin!(dropped);
        tokio::select! {
            result = &mut dropped => panic!("{result:?}"),
            () = until("the login is under way", || canned.count("login") == 1) => {}
        }
    }
    // A caller with little time left waits for the same login, and no request was sent to any plug.
    let late = client.cloud.perform(&exchange(KETTLE, Request::SysInfo, Duration::from_millis(50))).await;
    assert!(matches!(late.result, Err(Failure::CloudDown(_))), "{late:?}");
    assert_eq!(canned.count("login"), 1);
}

#[tokio::test]
async fn a_call_that_is_dropped_midway_leaves_nothing_wrong() {
    let canned = CannedCloud::start().await;
    let client = TestClient::new(&canned, Some(PASSWORD), None);
    client.read(KETTLE).await.unwrap();
    canned.instead("passthrough", Raw { bytes: b"HTTP/1.1 200 OK\r\n".to_vec(), then: Then::Hang });
    {
        let dropped = client.read(KETTLE);
        tokio::pin!(dropped);
        tokio::select! {
            result = &mut dropped => panic!("{result:?}"),
            () = until("the call is under way", || canned.count("passthrough") == 2) => {}
        }
    }
    canned.heal("passthrough");
    assert_eq!(client.read(KETTLE).await, Ok(RelayState::Off));
    until("the status is ok", || client.cloud.status() == CloudStatus::Ok).await;
}
