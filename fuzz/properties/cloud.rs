//! The responses of the cloud, and the servers that it names.

use hs100d::model::{DeviceId, RelayState};
use hs100d::secret::Secret;
use hs100d::smarthome::message::Request;
use hs100d::transport::cloud::api::{self, Granted, HttpResponse, Row};
use hs100d::transport::cloud::codes;
use hs100d::transport::cloud::error::ApiError;
use hs100d::transport::cloud::host::{TrustedHost, check_host};
use hs100d::transport::cloud::request::{ApiRequest, AppIdentity, CloudApi};
use hs100d::transport::cloud::signature::AppKeys;
use serde_json::{Value, json};

use super::texts::fits_a_line;

/// The HTTP statuses of the responses.
const STATUSES: [u16; 8] = [200, 200, 200, 307, 403, 429, 500, 502];
/// The longest error text for a page, in bytes.
const LONGEST_COMPLAINT: usize = 200;
/// All error texts for a page that cannot be parsed. None quotes the server.
const COMPLAINTS: [&str; 6] = [
    "an empty answer",
    "JSON cut off",
    "JSON of another shape than expected",
    "an answer without error_code",
    "an answer without a token",
    "an answer without responseData",
];

/// The first byte chooses the HTTP status; the rest is the body.
pub fn hold(input: &[u8]) {
    let Some((&choice, body)) = input.split_first() else { return };
    let status = STATUSES[usize::from(choice) % STATUSES.len()];
    let page = HttpResponse { status, body: String::from_utf8_lossy(body).into_owned() };
    assert_eq!(format!("{page:?}"), format!("HTTP {status} with {} bytes", page.body.len()));
    an_envelope_opens_only_to_success(&page);
    granted_tokens_are_kept_and_not_shown(&page);
    a_login_waits_for_a_code_only_if_the_answer_says_so(&page);
    another_host_is_named_only_by_a_refusal(&page);
    a_passthrough_brings_the_plugs_own_words(&page);
    rows_lead_only_to_hosts_that_may_have_the_token(&page);
    a_host_is_admitted_for_what_it_is(&page.body);
    what_we_say_is_json_whatever_is_in_it(&page.body);
    a_signed_request_keeps_its_token_in_the_query(&page.body);
}

fn an_envelope_opens_only_to_success(page: &HttpResponse) {
    match api::open(page) {
        Ok(result) => {
            assert_eq!(page.status, 200);
            serde_json::from_str::<serde::de::IgnoredAny>(result).expect("a result is JSON");
        }
        Err(trouble) => complaint_holds(&trouble, page.status),
    }
}

/// Error texts are our own, whatever the server sent.
fn complaint_holds(trouble: &ApiError, status: u16) {
    fits_a_line(&trouble.to_string(), LONGEST_COMPLAINT);
    match trouble {
        ApiError::NotAnAnswer(words) => assert!(COMPLAINTS.contains(&&**words), "{words}"),
        ApiError::Code(code) => {
            assert_ne!(*code, 0);
            assert_eq!(trouble.to_string(), format!("{} (error {code})", codes::name(*code)));
        }
        ApiError::Http(told) => assert!(*told == status && status != 200),
        ApiError::Blacklisted | ApiError::NotJson => {}
        _ => panic!("{trouble:?} is not of the page"),
    }
    let _ = trouble.reaction();
}

fn granted_tokens_are_kept_and_not_shown(page: &HttpResponse) {
    let granted = match api::read_granted(page) {
        Ok(granted) => granted,
        Err(trouble) => return complaint_holds(&trouble, page.status),
    };
    let Granted { token, refresh_token, email } = &granted;
    assert!(!token.expose().is_empty() && refresh_token.as_ref().is_none_or(|it| !it.expose().is_empty()));
    let refresh = if refresh_token.is_some() { "Some([redacted])" } else { "None" };
    let shown = format!("Granted {{ token: [redacted], refresh_token: {refresh} }}");
    assert_eq!(format!("{granted:?}"), shown);
    let refresh_token = refresh_token.as_ref().map(Secret::expose);
    let again = success(json!({"token": token.expose(), "refreshToken": refresh_token, "email": email}));
    assert_eq!(api::read_granted(&again), Ok(granted));
}

fn a_passthrough_brings_the_plugs_own_words(page: &HttpResponse) {
    let words = match api::read_passthrough(page) {
        Ok(words) => words,
        Err(trouble) => return complaint_holds(&trouble, page.status),
    };
    assert_ne!(api::smart_error(&words), Some(0));
    let again = success(json!({ "responseData": words }));
    assert_eq!(api::read_passthrough(&again).as_deref(), Ok(&*words));
}

fn rows_lead_only_to_hosts_that_may_have_the_token(page: &HttpResponse) {
    for account in ["https://wap.tplinkcloud.com", "http://127.0.0.1:18181"] {
        let account = check_host(account).unwrap();
        let rows = match api::read_device_list(page, &account) {
            Ok(rows) => rows,
            Err(trouble) => return complaint_holds(&trouble, page.status),
        };
        for row in &rows {
            match &row.server {
                Ok(server) => {
                    assert_eq!(server.is_loopback(), account.is_loopback(), "{server}");
                    may_have_a_token(server);
                }
                Err(bad) => fits_a_line(&bad.to_string(), LONGEST_COMPLAINT),
            }
            assert_eq!(row.to_account_plug().device_id, row.device_id);
        }
        the_list_reads_back(&rows, &account);
    }
}

/// Rows of the other family are left out: they encode their aliases differently.
fn the_list_reads_back(rows: &[Row], account: &TrustedHost) {
    let ours: Vec<Row> =
        rows.iter().filter(|row| row.is_supported() && row.server.is_ok()).cloned().collect();
    let written = ours.iter().map(|row| {
        json!({
            "deviceId": row.device_id.as_str(),
            "deviceMac": row.mac.map(|mac| mac.to_string()),
            "alias": row.alias,
            "deviceModel": row.model,
            "deviceType": row.kind,
            "appServerUrl": row.server.as_ref().unwrap().to_string(),
            "status": u8::from(row.connected),
            "isSameRegion": row.same_region,
        })
    });
    let page = success(json!({ "deviceList": written.collect::<Vec<_>>() }));
    assert_eq!(api::read_device_list(&page, account), Ok(ours));
}

/// The body as a URL, as if the device list had named it.
fn a_host_is_admitted_for_what_it_is(text: &str) {
    match check_host(text) {
        Ok(host) => {
            may_have_a_token(&host);
            assert_eq!(check_host(&host.to_string()).as_ref(), Ok(&host), "{text}");
        }
        Err(bad) => fits_a_line(&bad.to_string(), LONGEST_COMPLAINT),
    }
}

/// A second, simpler implementation of the rules, on the printed URL.
fn may_have_a_token(host: &TrustedHost) {
    let url = host.to_string();
    if let Some(name) = url.strip_prefix("https://") {
        assert!(!host.is_loopback(), "{url}");
        assert!(name == "tplinkcloud.com" || name.ends_with(".tplinkcloud.com"), "{url}");
        let is_bare =
            |b: u8| !matches!(b, b'/' | b':' | b'@' | b'?' | b'#' | b'\\' | b'%') && b > b' ' && b < 127;
        assert!(name.bytes().all(is_bare), "{url}");
        return;
    }
    let name = url.strip_prefix("http://").expect("http or https");
    let is_here = |start: &str| {
        let rest = name.strip_prefix(start);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':') && rest[1..].parse::<u16>().is_ok())
    };
    let v4 = name.split(':').next().unwrap();
    let is_loopback_v4 = v4.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.octets()[0] == 127);
    assert!(
        host.is_loopback() && (is_here("localhost") || is_here("[::1]") || is_loopback_v4 && is_here(v4)),
        "{url}"
    );
}

/// A login that waits for a code is never a success, and its id is not shown.
fn a_login_waits_for_a_code_only_if_the_answer_says_so(page: &HttpResponse) {
    let Some(two_step) = api::read_two_step(page) else { return };
    assert_eq!(api::open(page), Err(ApiError::Code(-20677)));
    assert!(api::read_granted(page).is_err());
    let shown = format!("{two_step:?}");
    assert!(
        shown.starts_with("TwoStep { process: [redacted], ways: [") && !shown.contains("ways: []"),
        "{shown}"
    );
}

/// A host that takes the place of another comes only with -20212; a question for it is answered only by a success.
fn another_host_is_named_only_by_a_refusal(page: &HttpResponse) {
    if let Some(named) = api::read_right_host(page) {
        assert!(!named.is_empty());
        assert_eq!(api::open(page), Err(ApiError::Code(-20212)));
    }
    match api::read_account_host(page) {
        Ok(named) => assert!(api::open(page).is_ok() && named.is_none_or(|named| !named.is_empty())),
        Err(trouble) => complaint_holds(&trouble, page.status),
    }
}

/// Passwords, tokens and names may contain anything.
fn what_we_say_is_json_whatever_is_in_it(text: &str) {
    let secret = Secret::new(text.to_owned());
    let app = AppIdentity { app_type: text.to_owned(), version: None };
    let api = CloudApi::new(app, text, None);
    let json = |call: ApiRequest| {
        serde_json::from_slice::<Value>(&call.body).expect("a call is JSON")["params"].take()
    };
    let login = json(api.login(text, &secret));
    for key in ["appType", "cloudUserName", "cloudPassword"] {
        assert_eq!(login[key], text);
    }
    assert_eq!(json(api.refresh(&secret))["refreshToken"], text);
    assert_eq!(json(api.device_list(&secret))["token"], text);
    let id = DeviceId::new("8006000000000000000000000000000000000007").unwrap();
    let alias = Request::SetAlias(None, text.into());
    for (request, words) in [
        (Request::SetRelay(RelayState::On), json!({"system": {"set_relay_state": {"state": 1}}})),
        (alias, json!({"system": {"set_dev_alias": {"alias": text}}})),
    ] {
        let params = json(api.passthrough(&secret, &id, &request));
        assert_eq!(params["token"], text);
        let data = params["requestData"].as_str().expect("requestData is a text");
        assert_eq!(serde_json::from_str::<Value>(data).expect("which holds JSON"), words);
    }
}

/// The second version has the parameters alone in the body, and of them only the password is secret.
fn a_signed_request_keeps_its_token_in_the_query(text: &str) {
    let secret = || Secret::new(text.to_owned());
    let app = AppIdentity { app_type: text.to_owned(), version: Some(text.to_owned()) };
    let api = CloudApi::new(app, text, Some(AppKeys { access_key: secret(), secret_key: secret() }));
    let body = |call: &ApiRequest| serde_json::from_slice::<Value>(&call.body).expect("a call is JSON");
    let (login, refresh, list) =
        (api.login(text, &secret()), api.refresh(&secret()), api.device_list(&secret()));
    for key in ["appType", "appVersion", "cloudUserName", "cloudPassword", "terminalUUID"] {
        assert_eq!(body(&login)[key], text);
    }
    assert_eq!(body(&refresh)["refreshToken"], text);
    assert_eq!(body(&list), json!({"method": "getDeviceList", "params": {}}));
    for (call, tokens) in [(&login, 0), (&refresh, 0), (&list, 1)] {
        // A token or a name cannot end its own part of the query, so each key stands in it once.
        let names: Vec<_> = call.query.split('&').map(|part| part.split('=').next().unwrap()).collect();
        assert_eq!(names.iter().filter(|name| **name == "token").count(), tokens, "{names:?}");
        assert_eq!(names.len(), 10 + tokens, "{names:?}");
        assert!(call.query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{names:?}");
        assert_eq!(format!("{call:?}"), format!("ApiRequest {{ path: {:?}, .. }}", call.path));
    }
}

fn success(result: Value) -> HttpResponse {
    HttpResponse { status: 200, body: json!({"error_code": 0, "result": result}).to_string() }
}
