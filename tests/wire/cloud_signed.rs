//! The second version of the cloud's interface, over real sockets: the client against the simulated cloud, which checks each
//! signature with code of its own.

#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used)] // As in any test.

use std::time::Duration;

use hs100d::model::{Failure, RelayState};
use hs100d::secret::Secret;
use hs100d::sim::cloud::rule::{CloudFault, Method, Times};
use hs100d::sim::cloud::signed::SimKeys;
use hs100d::sim::home::{HomeOptions, SimHome};
use hs100d::smarthome::message::{Reply, Request};
use hs100d::transport::cloud::request::{AppIdentity, CodeBy};
use hs100d::transport::cloud::signature::AppKeys;
use hs100d::transport::cloud::{Cloud, CloudOptions};

use crate::support::cloud::{ask_at_home as ask, client_of, exchange, until};

const ACCESS_KEY: &str = "made-up-access-key";
const SECRET_KEY: &str = "made-up-secret-key";
const ON: Request = Request::SetRelay(RelayState::On);

/// A home whose account is served by host 1.
async fn home() -> SimHome {
    let mut home_options = HomeOptions::of(&["Kettle", "Lamp"]);
    let third_host = home_options.cloud[0];
    home_options.cloud.push(third_host);
    let home = SimHome::start(home_options).await.unwrap();
    home.cloud().account(|account| {
        account.keys = Some(SimKeys { access_key: ACCESS_KEY.to_owned(), secret_key: SECRET_KEY.to_owned() });
        account.home = 1;
    });
    home
}

fn client(home: &SimHome, secret_key: &str) -> Cloud {
    let secret = |text: &str| Secret::new(text.to_owned());
    let options = CloudOptions {
        username: HomeOptions::ACCOUNT.0.to_owned(),
        password: Some(secret(HomeOptions::ACCOUNT.1)),
        url: home.cloud().url(),
        app: AppIdentity { app_type: AppIdentity::SIGNED_APP_TYPE.to_owned(), version: None },
        keys: Some(AppKeys { access_key: secret(ACCESS_KEY), secret_key: secret(secret_key) }),
        ca_file: None,
    };
    client_of(options, None)
}

fn why_stopped(result: Result<Reply, Failure>) -> Box<str> {
    match result {
        Err(Failure::CloudStopped(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn with_keys_the_account_is_found_logged_in_and_used_with_signed_requests() {
    let home = home().await;
    let cloud = client(&home, SECRET_KEY);
    assert_eq!(ask(&home, &cloud, 0, ON).await, Ok(Reply::Done));
    assert!(home.plug(0).is_on());
    home.cloud().void_tokens(-20651);
    assert!(ask(&home, &cloud, 0, Request::SysInfo).await.is_ok());
    let records = home.cloud().records();
    let calls: Vec<_> = records.iter().map(|record| (record.method, record.host)).collect();
    assert_eq!(calls[..3], [(Method::AccountHost, 0), (Method::Login, 1), (Method::DeviceList, 1)]);
    assert!(calls.contains(&(Method::RefreshToken, 1)), "{calls:?}");
    assert_eq!(home.cloud().calls(Method::AccountHost), 1);
    for record in &records {
        assert!(record.uri.contains("appName=Kasa_Android_Mix&appVer="), "{:?}", record.method);
        let has_password = record.body.contains("cloudPassword");
        assert_eq!(has_password, record.method == Method::Login, "{:?}", record.method);
    }
}

#[tokio::test]
async fn many_plugs_cost_one_search_for_the_host_and_one_login() {
    let home = home().await;
    let cloud = client(&home, SECRET_KEY);
    let calls = (0..8).map(|n| {
        let (cloud, id) = (cloud.clone(), home.plug(n % 2).device_id());
        tokio::spawn(async move {
            cloud.perform(&exchange(&id, Request::SysInfo, Duration::from_secs(10))).await.result
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    let counts = [Method::AccountHost, Method::Login, Method::DeviceList].map(|it| home.cloud().calls(it));
    assert_eq!(counts, [1, 1, 1]);
}

#[tokio::test]
async fn keys_that_do_not_fit_stop_the_cloud_before_the_password_is_sent() {
    let home = home().await;
    let cloud = client(&home, "another-made-up-key");
    for _ in 0..3 {
        let why = why_stopped(ask(&home, &cloud, 0, ON).await);
        assert!(why.contains("error -10301") && why.contains("[cloud.v2]"), "{why}");
        assert!(!why.contains("made-up"), "{why}");
    }
    assert_eq!(home.cloud().records().len(), 1, "and nothing is tried again");
    assert_eq!(home.cloud().calls(Method::Login), 0);
}

#[tokio::test]
async fn an_account_that_has_moved_is_followed_to_its_new_host() {
    let home = home().await;
    let cloud = client(&home, SECRET_KEY);
    ask(&home, &cloud, 0, ON).await.unwrap();
    home.cloud().account(|account| account.home = 2);
    home.cloud().void_tokens(-20651);
    home.cloud().void_refresh_tokens(-20655);
    ask(&home, &cloud, 0, Request::SysInfo).await.unwrap();
    let records = home.cloud().records();
    let logins: Vec<_> = records.iter().filter(|it| it.method == Method::Login).map(|it| it.host).collect();
    assert_eq!(logins.last(), Some(&2), "{logins:?}");
}

#[tokio::test]
async fn a_wrong_host_that_names_itself_is_not_asked_again() {
    let home = home().await;
    let cloud = client(&home, SECRET_KEY);
    home.cloud().account(|account| account.named = vec![home.cloud().host_url(2)]);
    let why = why_stopped(ask(&home, &cloud, 0, ON).await);
    assert!(why.contains("error -20212"), "{why}");
    assert_eq!(home.cloud().calls(Method::Login), 1);
}

#[tokio::test]
async fn two_hosts_that_name_each_other_are_asked_once_each() {
    let home = home().await;
    let cloud = client(&home, SECRET_KEY);
    let [first, second] = [1, 2].map(|host| home.cloud().host_url(host));
    home.cloud().account(|account| (account.home, account.named) = (0, vec![first.clone(), second, first]));
    for _ in 0..3 {
        let why = why_stopped(ask(&home, &cloud, 0, ON).await);
        assert!(why.contains("error -20212"), "{why}");
    }
    let calls: Vec<_> = home.cloud().records().iter().map(|record| (record.method, record.host)).collect();
    assert_eq!(calls, [(Method::AccountHost, 0), (Method::Login, 1), (Method::Login, 2)]);
}

#[tokio::test]
async fn a_foreign_host_that_the_account_names_gets_no_password() {
    let home = home().await;
    let cloud = client(&home, SECRET_KEY);
    for named in ["https://evil.example", "https://wap.tplinkcloud.com"] {
        home.cloud().account(|account| account.named = vec![named.to_owned()]);
        let result = ask(&home, &cloud, 0, ON).await;
        let Err(Failure::CloudDown(why)) = &result else { panic!("{result:?}") };
        assert!(why.contains("a server that is not used") && why.contains(named), "{why}");
        cloud.rearm(None).await;
    }
    assert_eq!(home.cloud().calls(Method::Login), 0);
}

#[tokio::test]
async fn two_step_verification_stops_the_cloud_wherever_the_answer_says_so() {
    for nested in [false, true] {
        let home = home().await;
        home.cloud().account(|account| (account.two_step, account.nests_two_step) = (true, nested));
        let cloud = client(&home, SECRET_KEY);
        for _ in 0..3 {
            let why = why_stopped(ask(&home, &cloud, 0, ON).await);
            assert!(why.contains("two-step verification (error -20677)"), "{why}");
        }
        assert_eq!(home.cloud().calls(Method::Login), 1, "nested: {nested}");
    }
}

#[tokio::test]
async fn a_code_confirms_the_installation_and_later_logins_need_none() {
    for (nested, by) in [(false, CodeBy::Email), (true, CodeBy::Push)] {
        let home = home().await;
        home.cloud().account(|account| (account.two_step, account.nests_two_step) = (true, nested));
        let cloud = client(&home, SECRET_KEY);
        let password = || Secret::new(HomeOptions::ACCOUNT.1.to_owned());
        let refused = cloud.login(password()).await.unwrap_err().to_string();
        assert!(refused.contains("two-step verification (error -20677)"), "{refused}");
        let two_step = cloud.two_step().unwrap();
        cloud.send_code(by, &password()).await.unwrap();
        let code = |text: &str| Secret::new(text.to_owned());
        let wrong = cloud.login_with_code(password(), &two_step, by, code("654321")).await.unwrap_err();
        assert!(wrong.to_string().contains("error -20676"), "{wrong}");
        assert!(cloud.two_step().is_none(), "a wrong code needs a new login");
        let again = why_stopped(ask(&home, &cloud, 0, ON).await);
        assert!(again.contains("error -20676") && home.cloud().calls(Method::CheckCode) == 1, "{again}");
        cloud.login_with_code(password(), &two_step, by, code("123456")).await.unwrap();
        assert_eq!(ask(&home, &cloud, 0, ON).await, Ok(Reply::Done));
        // The terminal is bound, so the password alone is enough from here on.
        home.cloud().void_tokens(-20651);
        home.cloud().void_refresh_tokens(-20655);
        assert!(ask(&home, &cloud, 0, Request::SysInfo).await.is_ok());
        assert_eq!(home.cloud().calls(Method::SendCode), 1);
    }
}

#[tokio::test]
async fn a_code_that_is_refused_is_told_in_one_line_and_not_tried_again() {
    for (refusal, said) in [
        (-20676, "verification code not accepted (error -20676)"),
        (-20661, "the account is locked (error -20661)"),
        (-20662, "locked for too many verification codes (error -20662)"),
        (-20675, "logged in elsewhere, or locked (error -20675)"),
        (-21001, "too many verification codes from this address (error -21001)"),
    ] {
        for fault in [CloudFault::Code(refusal), CloudFault::NestedCode(refusal)] {
            let home = home().await;
            home.cloud().account(|account| account.two_step = true);
            let cloud = client(&home, SECRET_KEY);
            let password = || Secret::new(HomeOptions::ACCOUNT.1.to_owned());
            cloud.login(password()).await.unwrap_err();
            let two_step = cloud.two_step().unwrap();
            home.cloud().fail(Some(Method::CheckCode), Times::Always, fault);
            let code = Secret::new("123456".to_owned());
            let typed = cloud.login_with_code(password(), &two_step, CodeBy::Email, code).await;
            let shown = typed.unwrap_err().to_string();
            assert!(!shown.contains('\n') && !shown.contains("123456"), "{shown}");
            for _ in 0..3 {
                ask(&home, &cloud, 0, ON).await.unwrap_err();
            }
            let status = format!("{:?}", cloud.status());
            assert!(status.contains(said), "{status}");
            let counts = [Method::Login, Method::CheckCode].map(|method| home.cloud().calls(method));
            assert_eq!(counts, [1, 1], "{refusal}");
        }
    }
}

#[tokio::test]
async fn a_code_that_cannot_be_sent_is_told_and_a_cloud_that_has_sent_it_with_the_login_is_believed() {
    let home = home().await;
    let cloud = client(&home, SECRET_KEY);
    let password = Secret::new(HomeOptions::ACCOUNT.1.to_owned());
    home.cloud().fail(Some(Method::SendCode), Times::Next(1), CloudFault::Code(-21001));
    let error = cloud.send_code(CodeBy::Email, &password).await.unwrap_err().to_string();
    assert!(error.contains("no code was sent: too many verification codes"), "{error}");
    home.cloud().fail(Some(Method::SendCode), Times::Next(1), CloudFault::Code(-20103));
    cloud.send_code(CodeBy::Email, &password).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_sent_once() {
    let home = home().await;
    home.cloud().account(|account| account.password = "another".to_owned());
    let cloud = client(&home, SECRET_KEY);
    assert!(why_stopped(ask(&home, &cloud, 0, ON).await).contains("error -20601"));
    for _ in 0..3 {
        cloud.rearm(None).await;
        assert!(why_stopped(ask(&home, &cloud, 0, ON).await).contains("not sent again"));
    }
    assert_eq!(home.cloud().calls(Method::Login), 1);
}

#[tokio::test]
async fn a_search_for_the_host_that_fails_is_made_again_at_the_next_call() {
    let home = home().await;
    for fault in [CloudFault::Close, CloudFault::Html, CloudFault::Status(503), CloudFault::CutOff] {
        let cloud = client(&home, SECRET_KEY);
        home.cloud().fail(Some(Method::AccountHost), Times::Next(1), fault.clone());
        let result = ask(&home, &cloud, 0, ON).await;
        assert!(matches!(result, Err(Failure::CloudDown(_))), "{fault:?}: {result:?}");
        cloud.rearm(None).await;
        assert_eq!(ask(&home, &cloud, 0, ON).await, Ok(Reply::Done), "{fault:?}");
    }
}

#[tokio::test]
async fn a_search_for_the_host_that_fails_is_not_made_for_each_call() {
    for fault in [CloudFault::Close, CloudFault::Html, CloudFault::Status(503), CloudFault::Code(-1)] {
        let home = home().await;
        let cloud = client(&home, SECRET_KEY);
        home.cloud().fail(Some(Method::AccountHost), Times::Always, fault.clone());
        for _ in 0..20 {
            ask(&home, &cloud, 0, ON).await.unwrap_err();
        }
        let calls: Vec<_> = home.cloud().records().iter().map(|record| record.method).collect();
        assert_eq!(calls, [Method::AccountHost], "{fault:?}");
    }
}

#[tokio::test]
async fn a_silent_search_for_the_host_has_the_time_of_the_login_and_calls_share_it() {
    a_search_ends_once_for_all(CloudFault::Silent).await;
}

#[tokio::test]
async fn a_slow_search_for_the_host_has_the_time_of_the_login_and_calls_share_it() {
    a_search_ends_once_for_all(CloudFault::SlowBytes(Duration::from_secs(2))).await;
}

async fn a_search_ends_once_for_all(fault: CloudFault) {
    let home = home().await;
    let cloud = client(&home, SECRET_KEY);
    home.cloud().fail(Some(Method::AccountHost), Times::Always, fault);
    let password = Secret::new(HomeOptions::ACCOUNT.1.to_owned());
    let login = tokio::spawn({
        let cloud = cloud.clone();
        async move { cloud.login(password).await }
    });
    until("the host is searched", || home.cloud().calls(Method::AccountHost) == 1).await;
    let id = home.plug(0).device_id();
    for _ in 0..3 {
        let result = cloud.perform(&exchange(&id, ON, Duration::from_millis(100))).await.result;
        assert!(matches!(result, Err(Failure::CloudDown(_))), "{result:?}");
    }
    let ended = tokio::time::timeout(Duration::from_secs(60), login).await.unwrap();
    let error = ended.unwrap().unwrap_err().to_string();
    assert!(error.contains("no answer in time"), "{error}");
    ask(&home, &cloud, 0, ON).await.unwrap_err();
    assert_eq!(home.cloud().records().len(), 1);
}
