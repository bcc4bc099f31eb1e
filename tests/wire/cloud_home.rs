//! The cloud client with the simulated home: two programs that share only the reference.

#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::support::cloud::{self, ask_at_home as ask, client_of, exchange, until};
use hs100d::bridge::event::CloudStatus;
use hs100d::model::{Failure, RelayState};
use hs100d::secret::Secret;
use hs100d::sim::cloud::rule::{CloudFault, Method, Times};
use hs100d::sim::fault::{CloudLink, SwitchAndReadFault};
use hs100d::sim::home::{HomeOptions, SimHome};
use hs100d::smarthome::message::{Reply, Request};
use hs100d::transport::cloud::request::AppIdentity;
use hs100d::transport::cloud::{Cloud, CloudOptions, Tokens};

/// A home with two plugs in two regions, and a client of its account.
async fn home() -> (SimHome, Cloud) {
    let mut home_options = HomeOptions::of(&["Kettle", "Lamp"]);
    home_options.account.password = cloud::PASSWORD.to_owned();
    home_options.account.rotates_refresh_token = true;
    let third_host = home_options.cloud[0];
    home_options.cloud.push(third_host);
    let home = SimHome::start(home_options).await.unwrap();
    let cloud = wire(&home, Some(cloud::PASSWORD), None);
    (home, cloud)
}

fn wire(home: &SimHome, password: Option<&str>, tokens: Option<Tokens>) -> Cloud {
    wire_as(home, password, tokens, AppIdentity::default())
}

fn wire_as(home: &SimHome, password: Option<&str>, tokens: Option<Tokens>, app: AppIdentity) -> Cloud {
    let options = CloudOptions {
        username: HomeOptions::ACCOUNT.0.to_owned(),
        password: password.map(|password| Secret::new(password.to_owned())),
        url: home.cloud().url(),
        app,
        keys: None,
        ca_file: None,
    };
    client_of(options, tokens)
}

const ON: Request = Request::SetRelay(RelayState::On);

#[tokio::test]
async fn plugs_of_two_regions_are_switched_and_read_each_at_its_own_server() {
    let (home, cloud) = home().await;
    for plug in 0..2 {
        assert_eq!(ask(&home, &cloud, plug, ON).await, Ok(Reply::Done));
        assert!(home.plug(plug).is_on());
        let read = ask(&home, &cloud, plug, Request::SysInfo).await;
        let Ok(Reply::SysInfo(reading)) = read else { panic!("{read:?}") };
        assert_eq!(reading.relay, Some(RelayState::On));
        assert_eq!(*reading.device.alias, home.plug(plug).alias());
    }
    assert_eq!(cloud.list().await.unwrap().len(), 2);
    assert_eq!(home.cloud().calls(Method::Login), 1);
    until("the status is ok", || cloud.status() == CloudStatus::Ok).await;
}

#[tokio::test]
async fn an_account_that_insists_on_an_app_is_served_once_the_config_names_it() {
    let (home, cloud) = home().await;
    home.cloud().account(|account| account.app_type = Some("Kasa_iOS".to_owned()));
    let stopped = ask(&home, &cloud, 0, ON).await;
    let Err(Failure::CloudStopped(why)) = stopped else { panic!("{stopped:?}") };
    assert!(why.contains("error -20600") && why.contains("[cloud] app_type"), "{why}");
    let app = AppIdentity { app_type: "Kasa_iOS".to_owned(), version: Some("3.4.451".to_owned()) };
    let other = wire_as(&home, Some(cloud::PASSWORD), None, app);
    assert_eq!(ask(&home, &other, 0, ON).await, Ok(Reply::Done));
    home.cloud().void_tokens(-20651);
    assert!(ask(&home, &other, 0, Request::SysInfo).await.is_ok());
    let records = home.cloud().records();
    let (refused, of_the_other) = records.split_at(1);
    assert!(refused[0].uri == "/" && refused[0].body.contains(r#""appType":"Kasa_Android""#));
    let methods: Vec<_> = of_the_other.iter().map(|record| record.method).collect();
    for method in [Method::Login, Method::DeviceList, Method::Passthrough, Method::RefreshToken] {
        assert!(methods.contains(&method), "{methods:?}");
    }
    for record in of_the_other {
        assert_eq!(record.uri, "/?appName=Kasa_iOS&appVer=3.4.451");
        assert!(record.body.contains(r#""appType":"Kasa_iOS""#), "{:?}", record.method);
    }
}

#[tokio::test]
async fn tokens_that_expire_under_many_calls_are_refreshed_once_each_time() {
    let (home, cloud) = home().await;
    ask(&home, &cloud, 0, Request::SysInfo).await.unwrap();
    for round in 1..=3 {
        home.cloud().void_tokens(-20651);
        let calls = (0..8).map(|n| {
            let (cloud, id) = (cloud.clone(), home.plug(n % 2).device_id());
            tokio::spawn(async move {
                cloud.perform(&exchange(&id, Request::SysInfo, Duration::from_secs(10))).await.result
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
        assert_eq!(home.cloud().calls(Method::RefreshToken), round);
    }
    assert_eq!(home.cloud().calls(Method::Login), 1);
    assert_eq!(home.cloud().most_at_once(Method::RefreshToken), 1);
}

#[tokio::test]
async fn a_void_refresh_token_costs_one_login() {
    let (home, cloud) = home().await;
    home.cloud().fail(Some(Method::Login), Times::Next(1), CloudFault::Status(503));
    assert!(matches!(ask(&home, &cloud, 0, ON).await, Err(Failure::CloudDown(_))));
    cloud.rearm(None).await;
    ask(&home, &cloud, 0, ON).await.unwrap();
    // A token that is voided right after its login is replaced at once. After two such logins there is no third, until
    // the user acts.
    let void = || {
        home.cloud().void_tokens(-20652);
        home.cloud().void_refresh_tokens(-20656);
    };
    void();
    ask(&home, &cloud, 0, ON).await.unwrap();
    void();
    assert_eq!(ask(&home, &cloud, 0, ON).await, Err(Failure::Throttled));
    cloud.rearm(None).await;
    ask(&home, &cloud, 0, ON).await.unwrap();
    assert_eq!(home.cloud().calls(Method::Login), 4);
}

#[tokio::test]
async fn an_account_with_two_step_verification_is_asked_once_and_then_left_alone() {
    for nested in [false, true] {
        let (home, cloud) = home().await;
        match nested {
            false => home.cloud().account(|account| account.two_step = true),
            true => home.cloud().fail(Some(Method::Login), Times::Always, CloudFault::NestedCode(-20677)),
        }
        for _ in 0..5 {
            let result = ask(&home, &cloud, 0, ON).await;
            assert!(
                matches!(&result, Err(Failure::CloudStopped(why)) if why.contains("two-step")),
                "{result:?}"
            );
        }
        assert_eq!(home.cloud().calls(Method::Login), 1);
        home.cloud().account(|account| account.two_step = false);
        home.cloud().mend();
        cloud.rearm(None).await;
        assert_eq!(ask(&home, &cloud, 0, ON).await, Ok(Reply::Done));
    }
}

#[tokio::test]
async fn a_wrong_password_never_locks_the_account() {
    let (home, _) = home().await;
    let cloud = wire(&home, Some("wrong"), None);
    for _ in 0..20 {
        assert!(matches!(ask(&home, &cloud, 0, ON).await, Err(Failure::CloudStopped(_))));
    }
    assert_eq!(home.cloud().calls(Method::Login), 1);
    cloud.login(Secret::new(cloud::PASSWORD.to_owned())).await.unwrap();
    assert_eq!(ask(&home, &cloud, 0, ON).await, Ok(Reply::Done));
}

#[tokio::test]
async fn each_way_in_which_a_plug_hangs_on_the_cloud_has_its_failure() {
    type Check = fn(&Result<Reply, Failure>) -> bool;
    let links: [(CloudLink, Check, bool); 7] = [
        (CloudLink::Works, |result| *result == Ok(Reply::Done), true),
        (CloudLink::Latency(Duration::from_millis(20)), |result| *result == Ok(Reply::Done), true),
        (CloudLink::ObjectReply, |result| *result == Ok(Reply::Done), true),
        (CloudLink::Offline, |result| *result == Err(Failure::CloudOffline), false),
        (CloudLink::TimesOut(Duration::from_millis(20)), |result| *result == Err(Failure::Silent), false),
        (CloudLink::Garbage, |result| matches!(result, Err(Failure::Garbage(_))), true),
        (CloudLink::DeviceError(-3), |result| matches!(result, Err(Failure::Device { code: -3, .. })), false),
    ];
    for (link, is_right, switches) in links {
        let (home, cloud) = home().await;
        home.plug(0).with(|plug| plug.cloud = link);
        let result = ask(&home, &cloud, 0, ON).await;
        assert!(is_right(&result), "{link:?}: {result:?}");
        assert_eq!(home.plug(0).is_on(), switches, "{link:?}");
        assert_eq!(
            ask(&home, &cloud, 1, ON).await,
            Ok(Reply::Done),
            "{link:?}: the other plug is none the worse"
        );
    }
}

#[tokio::test]
async fn each_fault_of_the_cloud_is_survived() {
    let throttled = |result: &Result<Reply, Failure>| *result == Err(Failure::Throttled);
    let down = |result: &Result<Reply, Failure>| matches!(result, Err(Failure::CloudDown(_)));
    let foreign = "http://127.0.0.1:9/".to_owned();
    for (fault, held_back) in [
        (CloudFault::Code(-20004), true),
        (CloudFault::Status(429), true),
        (CloudFault::Status(403), true),
        (CloudFault::Code(-20000), false),
        (CloudFault::NestedCode(-20000), false),
        (CloudFault::Status(500), false),
        (CloudFault::Html, false),
        (CloudFault::Redirect(foreign), false),
        (CloudFault::Close, false),
        (CloudFault::CutOff, false),
    ] {
        let (home, cloud) = home().await;
        ask(&home, &cloud, 0, Request::SysInfo).await.unwrap();
        home.cloud().fail(Some(Method::Passthrough), Times::Next(2), fault.clone());
        let result = ask(&home, &cloud, 0, Request::SysInfo).await;
        assert!(if held_back { throttled(&result) } else { down(&result) }, "{fault:?}: {result:?}");
        assert!(matches!(cloud.status(), CloudStatus::Down(_)), "{fault:?}");
        home.cloud().mend();
        let next = ask(&home, &cloud, 0, ON).await;
        assert!(if held_back { throttled(&next) } else { next == Ok(Reply::Done) }, "{fault:?}: {next:?}");
        assert_eq!(home.cloud().calls(Method::Login), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn slow_bytes_are_an_answer_and_silence_ends_with_the_deadline() {
    let (home, cloud) = home().await;
    home.cloud().fail(None, Times::Next(3), CloudFault::SlowBytes(Duration::from_micros(100)));
    assert_eq!(ask(&home, &cloud, 0, ON).await, Ok(Reply::Done));
    home.cloud().fail(None, Times::Always, CloudFault::Silent);
    let id = home.plug(0).device_id();
    let result = cloud.perform(&exchange(&id, ON, Duration::from_millis(100))).await.result;
    assert_eq!(result, Err(Failure::Silent));
}

#[tokio::test]
async fn a_cloud_that_went_away_is_used_again_when_it_is_back() {
    let (home, cloud) = home().await;
    ask(&home, &cloud, 0, Request::SysInfo).await.unwrap();
    home.cloud().set_reachable(false).await.unwrap();
    for _ in 0..3 {
        let result = ask(&home, &cloud, 0, ON).await;
        assert!(matches!(&result, Err(Failure::CloudDown(why)) if why.contains("refused")), "{result:?}");
    }
    home.cloud().set_reachable(true).await.unwrap();
    assert_eq!(ask(&home, &cloud, 0, ON).await, Ok(Reply::Done));
}

#[tokio::test]
async fn a_plug_is_switched_and_read_in_one_call() {
    let (home, cloud) = home().await;
    ask(&home, &cloud, 0, Request::SysInfo).await.unwrap();
    let before = home.cloud().calls(Method::Passthrough);
    for state in [RelayState::On, RelayState::Off] {
        let answer = ask(&home, &cloud, 0, Request::SetRelayAndRead(state)).await;
        let Ok(Reply::Switched(Some(reading))) = answer else { panic!("{answer:?}") };
        assert_eq!((reading.relay, home.plug(0).is_on()), (Some(state), state.is_on()));
    }
    assert_eq!(home.cloud().calls(Method::Passthrough), before + 2);
    home.plug(0).with(|plug| plug.switch_and_read = SwitchAndReadFault::SwitchOnly);
    assert_eq!(
        ask(&home, &cloud, 0, Request::SetRelayAndRead(RelayState::On)).await,
        Ok(Reply::Switched(None))
    );
    home.plug(0).with(|plug| plug.switch_and_read = SwitchAndReadFault::Garbled);
    let answer = ask(&home, &cloud, 0, Request::SetRelayAndRead(RelayState::Off)).await;
    assert!(matches!(answer, Err(Failure::Garbage(_))), "{answer:?}");
    assert!(!home.plug(0).is_on(), "it was switched all the same");
}
