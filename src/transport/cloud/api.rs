//! The words of the V1 API: calls as JSON, answers as values. Pure.
//!
//! Every call is a POST of `{"method":…,"params":{…}}` to the path `/`; an answer carries its success in
//! `error_code`, sometimes once more in `result.errorCode`, while HTTP says 200 to almost everything. What a plug
//! itself answers inside a passthrough is left to [`crate::smarthome::message`].

use std::borrow::Cow;
use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroize;

use crate::bridge::event::AccountPlug;
use crate::model::{DeviceId, Mac};
use crate::secret::{Secret, SecretBuf};
use crate::smarthome::lenient::repaired;
use crate::smarthome::message::{OutletIds, Request};
use crate::transport::cloud::codes::{self, Reaction};
use crate::transport::cloud::host::{RefusedServer, TrustedHost};

/// The app that we log in as. The cloud rejects names that it does not know; this one has the V1 API.
const APP_TYPE: &str = "Kasa_Android";

/// One call as it is sent.
#[derive(Serialize)]
struct ApiCall<P> {
    method: &'static str,
    params: P,
}

impl<P: Serialize> ApiCall<P> {
    fn to_json(&self) -> SecretBuf {
        let mut json = SecretBuf::default();
        // Structs of texts always serialize, and memory always takes them; there is no error to report.
        serde_json::to_writer(&mut json, self).ok();
        json
    }
}

/// `login`. All four parameters are mandatory; `refreshTokenNeeded` brings the refresh token.
pub fn login(username: &str, password: &Secret, terminal: &str) -> SecretBuf {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Login<'a> {
        app_type: &'a str,
        cloud_user_name: &'a str,
        cloud_password: &'a str,
        #[serde(rename = "terminalUUID")]
        terminal: &'a str,
        refresh_token_needed: bool,
    }
    let params = Login {
        app_type: APP_TYPE,
        cloud_user_name: username,
        cloud_password: password.expose(),
        terminal,
        refresh_token_needed: true,
    };
    ApiCall { method: "login", params }.to_json()
}

/// `refreshToken`, with the app and the terminal of the login.
pub fn refresh(refresh_token: &Secret, terminal: &str) -> SecretBuf {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Refresh<'a> {
        app_type: &'a str,
        refresh_token: &'a str,
        #[serde(rename = "terminalUUID")]
        terminal: &'a str,
    }
    let params = Refresh { app_type: APP_TYPE, refresh_token: refresh_token.expose(), terminal };
    ApiCall { method: "refreshToken", params }.to_json()
}

/// The part that each call on the account's behalf begins with.
///
/// The token travels in the body and not, as with most clients, in the query: URLs end up in the logs of proxies
/// and in error texts, bodies do not. Home Assistant's integration on pykasacloud has done so against the live
/// cloud for years.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WithToken<'a> {
    token: &'a str,
    app_type: &'a str,
}

impl<'a> WithToken<'a> {
    fn of(token: &'a Secret) -> Self {
        Self { token: token.expose(), app_type: APP_TYPE }
    }
}

/// `getDeviceList`.
pub fn device_list(token: &Secret) -> SecretBuf {
    ApiCall { method: "getDeviceList", params: WithToken::of(token) }.to_json()
}

/// `passthrough`. `requestData` is a string that holds the plug's own JSON, not an object.
pub fn passthrough(token: &Secret, device_id: &DeviceId, request: &Request) -> SecretBuf {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Passthrough<'a> {
        #[serde(flatten)]
        pass: WithToken<'a>,
        device_id: &'a str,
        request_data: &'a str,
    }
    let mut words = Vec::new();
    request.write_json(OutletIds::Long(device_id), &mut words);
    let words = String::from_utf8_lossy(&words);
    let params =
        Passthrough { pass: WithToken::of(token), device_id: device_id.as_str(), request_data: &words };
    ApiCall { method: "passthrough", params }.to_json()
}

/// What came back over HTTP.
#[derive(PartialEq, Eq)]
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u16,
    /// The body, whole; may hold tokens. What is not UTF-8 in it is replaced, as in an odd alias.
    pub body: String,
}

impl Drop for HttpResponse {
    fn drop(&mut self) {
        self.body.zeroize();
    }
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {} with {} bytes", self.status, self.body.len())
    }
}

/// Why a call has no result. Prints in our own words, never in the server's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No connection came about, so nothing was sent.
    #[error("no connection: {0}")]
    Unreachable(ConnectError),
    /// The connection broke after the request had begun.
    #[error("the connection broke before the whole answer was there")]
    Broken,
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// More came than any honest answer holds.
    #[error("the answer is too large")]
    TooLarge,
    /// An HTTP status that is no success, without a code.
    #[error("HTTP status {0}")]
    Http(u16),
    /// Somebody else's page.
    #[error("an answer that is not JSON, as from a proxy or a login page in between")]
    NotJson,
    /// Not the JSON that was expected.
    #[error("{0}")]
    NotAnAnswer(Box<str>),
    /// The server says that it has had enough of us.
    #[error("TP-Link has put this client on its black list")]
    Blacklisted,
    /// An error of the cloud's own.
    #[error("{name} (error {0})", name = codes::name(*.0))]
    Code(i64),
}

impl ApiError {
    /// What to do about it.
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Unreachable(_) => Reaction::Retry,
            Self::Broken => Reaction::Retry,
            Self::TimedOut => Reaction::Retry,
            Self::TooLarge => Reaction::Retry,
            Self::Http(403 | 429) => Reaction::HoldBack,
            Self::Http(_) => Reaction::Retry,
            Self::NotJson => Reaction::Retry,
            Self::NotAnAnswer(_) => Reaction::Retry,
            Self::Blacklisted => Reaction::HoldBackLong,
            Self::Code(code) => codes::reaction(*code),
        }
    }
}

/// Why no connection came about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nothing came back.
    #[error("the host does not answer")]
    Silent,
    /// There is no such name, or nobody to ask for it.
    #[error("the host's name does not resolve")]
    NameUnresolved,
    /// Its certificate is not valid at this hour, which says as much of our own clock.
    #[error("its certificate is not valid at this hour; is the clock right?")]
    Clock,
    /// Its certificate is not accepted.
    #[error("its certificate is not accepted; is the clock right, does a proxy intercept TLS?")]
    Certificate,
    /// It speaks no TLS.
    #[error("TLS failed; does something else answer in the host's place?")]
    Tls,
    /// Nothing was tried.
    #[error("too many files are open; raise the limit")]
    OutOfFiles,
    /// What the system says.
    #[error("{0}")]
    Other(Box<str>),
}

impl From<&str> for ConnectError {
    fn from(why: &str) -> Self {
        Self::Other(why.into())
    }
}

/// Reads a page as far as its `result`, which an error at either level of the envelope takes the place of. No
/// `result` is an empty one.
pub fn open(page: &HttpResponse) -> Result<&str, ApiError> {
    match read_object(&page.body) {
        Ok(envelope) => open_envelope(page, &envelope),
        Err(_) if is_blacklisting(&page.body) => Err(ApiError::Blacklisted),
        Err(_) if page.status != 200 => Err(ApiError::Http(page.status)),
        Err(trouble) => Err(trouble),
    }
}

fn open_envelope<'a>(page: &HttpResponse, envelope: &Envelope<'a>) -> Result<&'a str, ApiError> {
    let result = envelope.result.map_or("{}", RawValue::get);
    let inner = read_object::<Inner<'_>>(result).ok().and_then(|inner| inner.error_code.get());
    let outer = envelope.error_code.get();
    let code = outer.filter(|&code| code != 0).or(inner).or(outer);
    match code {
        // An honest HTTP server that refuses says so by its status, whatever it writes beside it.
        _ if matches!(page.status, 403 | 429) => Err(ApiError::Http(page.status)),
        Some(0) if page.status == 200 => Ok(result),
        Some(code) if code != 0 && codes::CodeRow::of(code).is_some() => Err(ApiError::Code(code)),
        // The code that comes with it has not been written down by anybody, only its text.
        _ if is_blacklisting(&page.body) => Err(ApiError::Blacklisted),
        Some(code) if code != 0 => Err(ApiError::Code(code)),
        _ if page.status != 200 => Err(ApiError::Http(page.status)),
        _ => Err(ApiError::NotAnAnswer("an answer without error_code".into())),
    }
}

/// "Access denied request in blackList", as a blocked client was told.
fn is_blacklisting(body: &str) -> bool {
    const WORD: &[u8] = b"blacklist";
    /// The text is a line; a page that is longer is about something else.
    const LINE: usize = 1024;
    body.len() <= LINE && body.as_bytes().windows(WORD.len()).any(|window| window.eq_ignore_ascii_case(WORD))
}

/// Reads a JSON object, and nothing else: serde would fill a struct from an array as well.
fn read_object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, ApiError> {
    match json.trim_ascii_start().bytes().next() {
        Some(b'{') => serde_json::from_str(json).map_err(|error| describe(&error)),
        Some(b'[' | b'"' | b'0'..=b'9' | b'-') => Err(misshapen()),
        Some(_) => Err(not_json()),
        None => Err(ApiError::NotAnAnswer("an empty answer".into())),
    }
}

fn describe(error: &serde_json::Error) -> ApiError {
    match error.classify() {
        serde_json::error::Category::Eof => ApiError::NotAnAnswer("JSON cut off".into()),
        serde_json::error::Category::Data => misshapen(),
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => not_json(),
    }
}

fn misshapen() -> ApiError {
    ApiError::NotAnAnswer("JSON of another shape than expected".into())
}

fn not_json() -> ApiError {
    ApiError::NotJson
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    error_code: ErrorCode<'a>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
}

/// The second place where an error may stand, as a number or as a text.
#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(rename = "errorCode", borrow, default)]
    error_code: ErrorCode<'a>,
}

/// A number, however it is written.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum ErrorCode<'a> {
    Whole(i64),
    Broken(f64),
    Text(#[serde(borrow)] Cow<'a, str>),
    Yes(bool),
    #[default]
    Absent,
    Other(IgnoredAny),
}

impl ErrorCode<'_> {
    fn get(&self) -> Option<i64> {
        match self {
            Self::Whole(number) => Some(*number),
            Self::Broken(number) => Some(*number as i64),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Yes(yes) => Some(i64::from(*yes)),
            Self::Absent | Self::Other(IgnoredAny) => None,
        }
    }
}

/// What a login or a refresh brings. A refresh may keep the old refresh token by not naming one.
#[derive(Debug, PartialEq, Eq)]
pub struct Granted {
    /// Goes with every call.
    pub token: Secret,
    /// Buys the next token; absent: the one before stays good.
    pub refresh_token: Option<Secret>,
}

/// Reads the answer to a login or a refresh; nothing but `token` is required in it.
pub fn read_granted(page: &HttpResponse) -> Result<Granted, ApiError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw {
        #[serde(default)]
        token: String,
        refresh_token: Option<String>,
    }
    let raw: Raw = read_object(open(page)?)?;
    if raw.token.is_empty() {
        return Err(ApiError::NotAnAnswer("an answer without a token".into()));
    }
    Ok(Granted {
        token: Secret::new(raw.token),
        refresh_token: raw.refresh_token.filter(|token| !token.is_empty()).map(Secret::new),
    })
}

/// Reads the answer to a passthrough as far as the plug's own words, which come as a text or, from a few devices,
/// as an object.
pub fn read_passthrough(page: &HttpResponse) -> Result<Cow<'_, str>, ApiError> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(rename = "responseData", borrow)]
        response_data: Option<&'a RawValue>,
    }
    let missing = || ApiError::NotAnAnswer("an answer without responseData".into());
    let raw: Raw<'_> = read_object(open(page)?)?;
    let data = raw.response_data.ok_or_else(missing)?.get();
    if data.starts_with('"') {
        return serde_json::from_str::<Text<'_>>(data).map(|text| text.0).map_err(|error| describe(&error));
    }
    if data == "null" { Err(missing()) } else { Ok(Cow::Borrowed(data)) }
}

/// A text that is borrowed where it holds no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The error of a device that took the request for one of the other command set, such as -1003.
pub fn smart_error(response_data: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow, default)]
        error_code: ErrorCode<'a>,
    }
    read_object::<Raw<'_>>(response_data).ok()?.error_code.get().filter(|&code| code != 0)
}

/// A device of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its identity, the same as on the LAN.
    pub device_id: DeviceId,
    /// Its MAC address.
    pub mac: Option<Mac>,
    /// The name that its owner gave it.
    pub alias: Box<str>,
    /// Model and region, such as `HS100(EU)`.
    pub model: Box<str>,
    /// `IOT.SMARTPLUGSWITCH` for this family; `SMART.…` for those that speak another language.
    pub kind: Box<str>,
    /// The server that has the plug's connection, or why it may not be used.
    pub server: Result<TrustedHost, RefusedServer>,
    /// Whether the cloud sees it connected.
    pub connected: bool,
    /// Whether the plug lives in the region of the account.
    pub same_region: bool,
}

impl Row {
    /// Whether it is of the family that this program speaks to.
    pub fn is_supported(&self) -> bool {
        !is_smart(&self.kind)
    }

    /// As the bridge wants to know it.
    pub fn to_account_plug(&self) -> AccountPlug {
        AccountPlug {
            device_id: self.device_id.clone(),
            mac: self.mac,
            alias: self.alias.clone(),
            model: self.model.clone(),
            kind: self.kind.clone(),
            connected: self.connected,
        }
    }
}

fn is_smart(kind: &str) -> bool {
    kind.starts_with("SMART.")
}

/// Reads the device list. A list that is missing is an empty one; a row that cannot be read is left out, and the
/// others stay. A server that is not named is the account's own.
pub fn read_device_list(page: &HttpResponse, account: &TrustedHost) -> Result<Vec<Row>, ApiError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw<'a> {
        #[serde(borrow)]
        device_list: Option<Vec<&'a RawValue>>,
    }
    let raw: Raw<'_> = read_object(open(page)?)?;
    let rows = raw.device_list.unwrap_or_default();
    Ok(rows.into_iter().filter_map(|row| read_row(row, account)).collect())
}

fn read_row(json: &RawValue, account: &TrustedHost) -> Option<Row> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    #[derive(Default)]
    struct Raw<'a> {
        #[serde(borrow)]
        device_id: Lenient<'a>,
        #[serde(borrow)]
        device_mac: Lenient<'a>,
        #[serde(borrow)]
        alias: Lenient<'a>,
        #[serde(borrow)]
        device_model: Lenient<'a>,
        #[serde(borrow)]
        device_type: Lenient<'a>,
        #[serde(borrow)]
        app_server_url: Lenient<'a>,
        #[serde(borrow)]
        status: ErrorCode<'a>,
        #[serde(borrow)]
        is_same_region: ErrorCode<'a>,
    }
    let plain;
    let raw: Raw<'_> = match read_object(json.get()) {
        Ok(raw) => raw,
        Err(_) => {
            plain = in_plain_json(json)?;
            read_object(&plain).ok()?
        }
    };
    let kind = raw.device_type.as_str();
    Some(Row {
        device_id: DeviceId::new(raw.device_id.as_str())?,
        mac: Mac::new(raw.device_mac.as_str()),
        alias: read_alias(raw.alias.as_str(), kind).into(),
        model: raw.device_model.as_str().into(),
        kind: kind.into(),
        server: match raw.app_server_url.as_str() {
            "" => Ok(account.clone()),
            url => account.check_server(url),
        },
        connected: raw.status.get() == Some(1),
        same_region: raw.is_same_region.get() != Some(0),
    })
}

/// The same without keys that come twice and halves of surrogate pairs, which would hide the whole row.
fn in_plain_json(json: &RawValue) -> Option<String> {
    let repaired = repaired(json.get());
    let value: serde_json::Value = serde_json::from_str(repaired.as_deref().unwrap_or(json.get())).ok()?;
    Some(value.to_string())
}

/// A text, or nothing where something else stands.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Lenient<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(IgnoredAny),
    #[default]
    Absent,
}

impl Lenient<'_> {
    fn as_str(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Other(IgnoredAny) | Self::Absent => "",
        }
    }
}

/// The other family's aliases come in base64.
fn read_alias<'a>(alias: &'a str, kind: &str) -> Cow<'a, str> {
    let decoded = is_smart(kind).then(|| decode_base64(alias)).flatten();
    decoded.and_then(|bytes| String::from_utf8(bytes).ok()).map_or(Cow::Borrowed(alias), Cow::Owned)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = DIGITS.iter().position(|&digit| digit == byte)?;
        bits = (bits << 6 | digit as u32) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::RelayState;
    use crate::transport::cloud::host::{BadHost, check_host};

    const ID: &str = "8006000000000000000000000000000000000007";

    fn page(status: u16, body: &str) -> HttpResponse {
        HttpResponse { status, body: body.into() }
    }

    fn ok(body: Value) -> HttpResponse {
        page(200, &body.to_string())
    }

    fn said(json: SecretBuf) -> Value {
        serde_json::from_slice(&json).unwrap()
    }

    fn account() -> TrustedHost {
        check_host("https://wap.tplinkcloud.com").unwrap()
    }

    #[test]
    fn a_login_says_all_that_is_mandatory_and_asks_for_a_refresh_token() {
        let password = Secret::new("\"'\\/{}$ü ".to_owned());
        assert_eq!(
            said(login("me@example.com", &password, "uuid")),
            json!({"method": "login", "params": {"appType": "Kasa_Android", "cloudUserName": "me@example.com",
                "cloudPassword": "\"'\\/{}$ü ", "terminalUUID": "uuid", "refreshTokenNeeded": true}})
        );
    }

    #[test]
    fn a_refresh_names_the_terminal_of_the_login() {
        assert_eq!(
            said(refresh(&Secret::new("r".to_owned()), "uuid")),
            json!({"method": "refreshToken",
                "params": {"appType": "Kasa_Android", "refreshToken": "r", "terminalUUID": "uuid"}})
        );
    }

    #[test]
    fn the_plugs_words_travel_as_a_text_and_the_token_in_the_body() {
        let token = Secret::new("t".to_owned());
        let request = Request::SetRelay(RelayState::On);
        assert_eq!(
            said(passthrough(&token, &DeviceId::new(ID).unwrap(), &request)),
            json!({"method": "passthrough", "params": {"token": "t", "appType": "Kasa_Android", "deviceId": ID,
                "requestData": r#"{"system":{"set_relay_state":{"state":1}}}"#}})
        );
        assert_eq!(
            said(device_list(&token)),
            json!({"method": "getDeviceList", "params": {"token": "t", "appType": "Kasa_Android"}})
        );
    }

    #[test]
    fn an_error_is_found_at_both_levels_as_a_number_or_a_text() {
        for body in [
            json!({"error_code": -20651, "msg": "Token expired"}),
            json!({"error_code": "-20651"}),
            json!({"error_code": -20651.0}),
            json!({"error_code": 0, "result": {"errorCode": "-20651"}}),
            json!({"error_code": 0, "result": {"errorCode": -20651, "token": "t"}}),
            json!({"result": {"errorCode": -20651}}),
            json!({"error_code": -20651, "result": {"errorCode": 0}}),
        ] {
            assert_eq!(open(&ok(body.clone())).err(), Some(ApiError::Code(-20651)), "{body}");
        }
    }

    #[test]
    fn success_at_both_levels_is_success() {
        for body in [
            json!({"error_code": 0}),
            json!({"error_code": 0, "result": {}}),
            json!({"error_code": "0", "result": {"errorCode": "0"}}),
            json!({"error_code": 0, "result": {"errorCode": null}}),
            json!({"error_code": 0, "result": [1], "msg": 7, "unheard_of": {}}),
        ] {
            assert!(open(&ok(body.clone())).is_ok(), "{body}");
        }
    }

    #[test]
    fn what_is_no_answer_is_told_apart_without_quoting_it() {
        let html = "<html><title>secret</title></html>";
        let text = |status, body| open(&page(status, body)).unwrap_err().to_string();
        assert!(text(200, html).contains("not JSON"));
        assert!(text(200, "").contains("empty"));
        assert!(text(200, "[0, {}]").contains("another shape"));
        assert!(text(200, r#"{"error_code":0,"result":{"tok"#).contains("cut off"));
        assert!(text(200, "[]").contains("another shape"));
        assert!(text(200, "{}").contains("without error_code"));
        assert!(text(502, html).contains("502"));
        assert!(text(307, "").contains("307"));
        assert!(!text(200, html).contains("secret"));
    }

    #[test]
    fn a_code_counts_more_than_the_status_except_where_we_are_turned_away() {
        assert_eq!(open(&page(400, r#"{"error_code":-10000}"#)).err(), Some(ApiError::Code(-10000)));
        assert_eq!(open(&page(500, r#"{"error_code":0,"result":{}}"#)).err(), Some(ApiError::Http(500)));
        for status in [403, 429] {
            let trouble = open(&page(status, r#"{"error_code":-20651}"#)).unwrap_err();
            assert_eq!(trouble, ApiError::Http(status));
            assert_eq!(trouble.reaction(), Reaction::HoldBack);
        }
    }

    #[test]
    fn a_black_list_is_recognised_with_and_without_json_around_it() {
        for body in [
            "Access denied request in blackList",
            r#"{"error_code":-12345,"msg":"Access denied request in blackList"}"#,
            r#"{"msg":"Access denied request in BlackList"}"#,
        ] {
            let trouble = open(&page(200, body)).unwrap_err();
            assert_eq!(trouble.reaction(), Reaction::HoldBackLong, "{body}");
        }
        // A plug of that name is no black list.
        assert!(open(&page(200, r#"{"error_code":0,"result":{"alias":"blacklist"}}"#)).is_ok());
        let about_a_plug = page(200, r#"{"error_code":-20571,"msg":"blacklist"}"#);
        assert_eq!(open(&about_a_plug).err(), Some(ApiError::Code(-20571)));
    }

    #[test]
    fn only_the_token_is_needed_of_a_login() {
        let granted = |result: Value| read_granted(&ok(json!({"error_code": 0, "result": result})));
        let whole = granted(json!({"accountId": "1", "token": "t", "refreshToken": "r", "riskDetected": 0}));
        assert_eq!(
            whole,
            Ok(Granted {
                token: Secret::new("t".to_owned()),
                refresh_token: Some(Secret::new("r".to_owned()))
            })
        );
        assert_eq!(granted(json!({"token": "t", "refreshToken": ""})).unwrap().refresh_token, None);
        assert_eq!(granted(json!({"token": "t", "refreshToken": null})).unwrap().refresh_token, None);
        for bad in [json!({}), json!(null), json!({"token": ""}), json!({"token": 7}), json!(["t"])] {
            assert!(matches!(granted(bad.clone()), Err(ApiError::NotAnAnswer(_))), "{bad}");
        }
    }

    #[test]
    fn response_data_is_a_text_or_an_object_or_missing() {
        let data = |result: Value| {
            let page = ok(json!({"error_code": 0, "result": result}));
            read_passthrough(&page).map(Cow::into_owned)
        };
        assert_eq!(data(json!({"responseData": "{\"a\":1}"})).unwrap(), r#"{"a":1}"#);
        assert_eq!(data(json!({"responseData": {"a": 1}})).unwrap(), r#"{"a":1}"#);
        for bad in [json!({}), json!(null), json!({"responseData": null}), json!(7)] {
            assert!(matches!(data(bad.clone()), Err(ApiError::NotAnAnswer(_))), "{bad}");
        }
    }

    #[test]
    fn the_other_command_set_gives_itself_away() {
        assert_eq!(smart_error(r#"{"error_code":-1003}"#), Some(-1003));
        assert_eq!(smart_error(r#"{"error_code":0}"#), None);
        assert_eq!(smart_error(r#"{"system":{}}"#), None);
        assert_eq!(smart_error("not json"), None);
    }

    fn list(rows: Value) -> Vec<Row> {
        read_device_list(&ok(json!({"error_code": 0, "result": {"deviceList": rows}})), &account()).unwrap()
    }

    #[test]
    fn a_row_is_read_whole_and_what_is_not_known_is_ignored() {
        let rows = list(json!([{"deviceId": ID, "alias": "Küche", "deviceMac": "50C7BF000007", "status": 1,
            "appServerUrl": "https://eu-wap.tplinkcloud.com", "deviceModel": "HS100(EU)", "isSameRegion": false,
            "deviceType": "IOT.SMARTPLUGSWITCH", "role": 0, "unheard_of": [{}]}]));
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((&*row.alias, &*row.model), ("Küche", "HS100(EU)"));
        assert_eq!(row.server.as_ref().unwrap().to_string(), "https://eu-wap.tplinkcloud.com");
        assert_eq!(row.mac, Mac::new("50:C7:BF:00:00:07"));
        assert!(row.connected && !row.same_region && row.is_supported());
    }

    #[test]
    fn an_odd_field_does_not_hide_its_row() {
        let id = "8006000000000000000000000000000000000007";
        for odd in [r#""alias":"\ud83d""#, r#""alias":"Lamp","alias":null"#, r#""status":1,"status":{}"#] {
            let json = format!(r#"{{"deviceId":"{id}","deviceType":"IOT.SMARTPLUGSWITCH",{odd}}}"#);
            let row: Box<RawValue> = serde_json::from_str(&json).unwrap();
            let row = read_row(&row, &account());
            assert_eq!(row.map(|row| row.device_id), DeviceId::new(id), "{odd}");
        }
    }

    #[test]
    fn a_bad_row_does_not_take_the_others_with_it() {
        let rows = list(json!([
            {"deviceId": ID, "alias": 7, "status": "0", "deviceMac": null},
            {"alias": "no id"}, 7, null, [ID], {"deviceId": "not hex"},
            {"deviceId": ID, "appServerUrl": "https://evil.example"}
        ]));
        assert_eq!(rows.len(), 2);
        assert_eq!((&*rows[0].alias, rows[0].connected, rows[0].same_region), ("", false, true));
        assert_eq!(rows[0].server, Ok(account()));
        assert_eq!(rows[1].server.as_ref().unwrap_err().why, BadHost::Foreign);
    }

    #[test]
    fn a_missing_list_is_an_empty_one_and_another_shape_is_an_error() {
        for result in [json!({}), json!(null), json!({"deviceList": null}), json!({"deviceList": []})] {
            let page = ok(json!({"error_code": 0, "result": result}));
            assert_eq!(read_device_list(&page, &account()), Ok(vec![]), "{result}");
        }
        let page = ok(json!({"error_code": 0, "result": {"deviceList": "none"}}));
        assert!(read_device_list(&page, &account()).is_err());
    }

    #[test]
    fn the_other_familys_alias_is_base64() {
        let alias = |alias: &str, kind: &str| {
            list(json!([{"deviceId": ID, "alias": alias, "deviceType": kind}]))[0].alias.to_string()
        };
        assert_eq!(alias("S8O8Y2hl", "SMART.TAPOPLUG"), "Küche");
        assert_eq!(alias("TGFtcA==", "SMART.TAPOPLUG"), "Lamp");
        assert_eq!(alias("TGFtcA==", "IOT.SMARTPLUGSWITCH"), "TGFtcA==");
        assert_eq!(alias("not base64!", "SMART.TAPOPLUG"), "not base64!");
    }

    #[test]
    fn troubles_print_in_our_own_words_with_the_number() {
        assert_eq!(ApiError::Code(-20571).to_string(), "the plug is offline (error -20571)");
        assert_eq!(ApiError::Code(-5).to_string(), "an error that is not known here (error -5)");
    }
}
