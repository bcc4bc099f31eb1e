//! The responses of the API as values. Pure. `request` has the requests.
//!
//! The HTTP status is nearly always 200; whether the call succeeded is in `error_code`, sometimes also in
//! `result.errorCode`. The plug's own reply inside a passthrough is parsed by [`hs100d_core::smarthome::message`].

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use zeroize::Zeroize;

use crate::cloud::codes;
use crate::cloud::error::ApiError;
use crate::cloud::host::{RefusedServer, TrustedHost};
use crate::cloud::request::CodeBy;
use hs100d_core::bridge::event::AccountPlug;
use hs100d_core::model::{DeviceId, Mac};
use hs100d_core::secret::Secret;
use hs100d_core::smarthome::lenient::repaired;

/// A response, whatever its status.
#[derive(PartialEq, Eq)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The whole body; may hold tokens. Invalid UTF-8 in it, as in an odd alias, is replaced.
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

/// Returns the `result` of a response, or the error at either level of its envelope. A missing `result` is an empty one.
pub fn open(response: &HttpResponse) -> Result<&str, ApiError> {
    match read_object(&response.body) {
        Ok(envelope) => open_envelope(response, &envelope),
        Err(_) if is_blacklisting(&response.body) => Err(ApiError::Blacklisted),
        Err(_) if response.status != 200 => Err(ApiError::Http(response.status)),
        Err(error) => Err(error),
    }
}

fn open_envelope<'a>(response: &HttpResponse, envelope: &Envelope<'a>) -> Result<&'a str, ApiError> {
    let result = envelope.result.map_or("{}", RawValue::get);
    let inner = read_object::<Inner<'_>>(result).ok().and_then(|inner| inner.error_code.get());
    let outer = envelope.error_code.get();
    let code = outer.filter(|&code| code != 0).or(inner).or(outer);
    match code {
        // With these two statuses the HTTP server itself refuses, whatever the body says.
        _ if matches!(response.status, 403 | 429) => Err(ApiError::Http(response.status)),
        Some(0) if response.status == 200 => Ok(result),
        Some(code) if code != 0 && codes::CodeRow::of(code).is_some() => Err(ApiError::Code(code)),
        // Only the text of this error is documented, not its code.
        _ if is_blacklisting(&response.body) => Err(ApiError::Blacklisted),
        Some(code) if code != 0 => Err(ApiError::Code(code)),
        _ if response.status != 200 => Err(ApiError::Http(response.status)),
        _ => Err(ApiError::NotAnAnswer("an answer without error_code".into())),
    }
}

/// "Access denied request in blackList" is the response to a blocked client.
fn is_blacklisting(body: &str) -> bool {
    const WORD: &[u8] = b"blacklist";
    /// The text is one line; a longer body is about something else.
    const LINE: usize = 1024;
    body.len() <= LINE && body.as_bytes().windows(WORD.len()).any(|window| window.eq_ignore_ascii_case(WORD))
}

/// Parses a JSON object only: serde would also fill a struct from an array.
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

/// The second place of an error code.
#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(rename = "errorCode", borrow, default)]
    error_code: ErrorCode<'a>,
}

/// A number, whatever its JSON type.
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

/// What a login or refresh returns.
#[derive(PartialEq, Eq)]
pub struct Granted {
    /// Part of every call.
    pub token: Secret,
    /// Gets the next token; `None` if the present one stays valid.
    pub refresh_token: Option<Secret>,
    /// The account's e-mail address as it was registered. Only a login returns it.
    pub email: Option<String>,
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, refresh_token, email: _ } = self;
        f.debug_struct("Granted").field("token", token).field("refresh_token", refresh_token).finish()
    }
}

/// Parses the response to a login or refresh. Only `token` is required.
pub fn read_granted(response: &HttpResponse) -> Result<Granted, ApiError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw<'a> {
        #[serde(default)]
        token: String,
        refresh_token: Option<String>,
        /// Of any type: it must not cost the login.
        #[serde(borrow)]
        email: Option<&'a RawValue>,
    }
    let raw: Raw<'_> = read_object(open(response)?)?;
    if raw.token.is_empty() {
        return Err(ApiError::NotAnAnswer("an answer without a token".into()));
    }
    Ok(Granted {
        token: Secret::new(raw.token),
        refresh_token: raw.refresh_token.filter(|token| !token.is_empty()).map(Secret::new),
        email: raw
            .email
            .and_then(|email| serde_json::from_str(email.get()).ok())
            .filter(|email: &String| is_email(email)),
    })
}

/// Whether it is worth keeping.
fn is_email(text: &str) -> bool {
    /// The longest address that mail servers deliver to.
    const LONGEST: usize = 254;
    text.contains('@') && text.len() <= LONGEST
}

/// What a login needs that waits for a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwoStep {
    /// Names the login: `MFAProcessId`.
    pub(crate) process: Secret,
    /// How a code may be sent, in the order of the answer. Never empty.
    pub ways: Vec<CodeBy>,
}

/// The login that waits for a code, in an answer that says so. It may stand beside the error code or in the result.
pub fn read_two_step(response: &HttpResponse) -> Option<TwoStep> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(rename = "MFAProcessId", alias = "mfaProcessId", borrow, default)]
        process: Lenient<'a>,
        #[serde(rename = "supportedMFATypes", borrow, default)]
        ways: Option<Vec<ErrorCode<'a>>>,
    }
    if open(response) != Err(ApiError::Code(codes::CODE_NEEDED)) {
        return None;
    }
    let envelope: Envelope<'_> = read_object(&response.body).ok()?;
    let places = [envelope.result.map(RawValue::get), Some(response.body.as_str())];
    let found = places.into_iter().flatten().filter_map(|place| read_object::<Raw<'_>>(place).ok());
    let raw = found.into_iter().find(|raw| !raw.process.as_str().is_empty())?;
    let known = raw.ways.iter().flatten().filter_map(|way| CodeBy::of(way.get()?));
    let mut ways: Vec<_> = known.collect();
    if ways.is_empty() {
        // Every account has an e-mail address.
        ways.push(CodeBy::Email);
    }
    Some(TwoStep { process: Secret::new(raw.process.as_str().to_owned()), ways })
}

/// Parses the response to the request for a code. A cloud without this call has sent the code with the login.
pub(crate) fn read_code_sent(response: &HttpResponse) -> Result<(), ApiError> {
    match open(response) {
        Ok(_) | Err(ApiError::Code(codes::NO_SUCH_METHOD)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Parses the response to `getAccountStatusAndUrl`. `None`: it names no host.
pub fn read_account_host(response: &HttpResponse) -> Result<Option<String>, ApiError> {
    Ok(read_object::<AppServer<'_>>(open(response)?)?.url())
}

/// The host that an answer names which says that it comes from the wrong one.
pub fn read_right_host(response: &HttpResponse) -> Option<String> {
    let is_wrong = matches!(open(response), Err(ApiError::Code(codes::WRONG_SERVER)));
    let envelope: Envelope<'_> = is_wrong.then(|| read_object(&response.body).ok()).flatten()?;
    read_object::<AppServer<'_>>(envelope.result?.get()).ok()?.url()
}

/// The host that the cloud names for an account.
#[derive(Deserialize)]
struct AppServer<'a> {
    #[serde(rename = "appServerUrl", borrow, default)]
    url: Lenient<'a>,
}

impl AppServer<'_> {
    fn url(&self) -> Option<String> {
        Some(self.url.as_str().to_owned()).filter(|url| !url.is_empty())
    }
}

/// Returns the plug's own JSON from the response to a passthrough: a string or, with a few devices, an object.
pub fn read_passthrough(response: &HttpResponse) -> Result<Cow<'_, str>, ApiError> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(rename = "responseData", borrow)]
        response_data: Option<&'a RawValue>,
    }
    let missing = || ApiError::NotAnAnswer("an answer without responseData".into());
    let raw: Raw<'_> = read_object(open(response)?)?;
    let data = raw.response_data.ok_or_else(missing)?.get();
    if data.starts_with('"') {
        return serde_json::from_str::<Text<'_>>(data).map(|text| text.0).map_err(|error| describe(&error));
    }
    if data == "null" { Err(missing()) } else { Ok(Cow::Borrowed(data)) }
}

/// A string, borrowed if it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The error code of a SMART device (Tapo) that does not know the request, such as -1003.
pub fn smart_error(response_data: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(borrow, default)]
        error_code: ErrorCode<'a>,
    }
    read_object::<Raw<'_>>(response_data).ok()?.error_code.get().filter(|&code| code != 0)
}

/// A device in the account's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The same as on the LAN.
    pub device_id: DeviceId,
    /// `None` if the list has none, or not a valid one.
    pub mac: Option<Mac>,
    /// The name that its owner chose in the app.
    pub alias: Box<str>,
    /// Model and region, such as `HS100(EU)`.
    pub model: Box<str>,
    /// `IOT.SMARTPLUGSWITCH` for this family; `SMART.…` for devices with another protocol, such as Tapo.
    pub kind: Box<str>,
    /// The server that the plug is connected to, or why that is not used.
    pub server: Result<TrustedHost, RefusedServer>,
    /// Whether it is connected to the cloud.
    pub connected: bool,
    /// Whether its region is that of the account.
    pub same_region: bool,
}

impl Row {
    /// Whether it is of the family that we support.
    pub fn is_supported(&self) -> bool {
        !is_smart(&self.kind)
    }

    /// The same for the bridge.
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

/// Parses the device list. A missing list is an empty one. A row that cannot be parsed is skipped. A row without a server
/// has that of the account.
pub fn read_device_list(response: &HttpResponse, account: &TrustedHost) -> Result<Vec<Row>, ApiError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw<'a> {
        #[serde(borrow)]
        device_list: Option<Vec<&'a RawValue>>,
    }
    let raw: Raw<'_> = read_object(open(response)?)?;
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

/// The same without duplicate keys and unpaired surrogates, which would make the whole row invalid.
fn in_plain_json(json: &RawValue) -> Option<String> {
    let repaired = repaired(json.get());
    let value: serde_json::Value = serde_json::from_str(repaired.as_deref().unwrap_or(json.get())).ok()?;
    Some(value.to_string())
}

/// A string; any other type counts as an empty one.
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

/// SMART devices have their alias in base64.
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
    use crate::cloud::codes::Reaction;
    use crate::cloud::host::{BadHost, check_host};

    const ID: &str = "8006000000000000000000000000000000000007";

    fn page(status: u16, body: &str) -> HttpResponse {
        HttpResponse { status, body: body.into() }
    }

    fn ok(body: Value) -> HttpResponse {
        page(200, &body.to_string())
    }

    fn account() -> TrustedHost {
        check_host("https://wap.tplinkcloud.com").unwrap()
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
    fn the_host_of_the_account_is_found_where_each_answer_has_it() {
        let host = "https://n-euw1-wap.tplinkcloud.com";
        let found = json!({"error_code": 0, "result": {"accountStatus": 1, "appServerUrl": host}});
        assert_eq!(read_account_host(&ok(found.clone())), Ok(Some(host.to_owned())));
        assert_eq!(read_right_host(&ok(found)), None, "it is no refusal");
        for silent in [json!({}), json!({"appServerUrl": 7}), json!({"appServerUrl": ""})] {
            assert_eq!(read_account_host(&ok(json!({"error_code": 0, "result": silent.clone()}))), Ok(None));
            assert_eq!(read_right_host(&ok(json!({"error_code": -20212, "result": silent}))), None);
        }
        for refusal in [
            json!({"error_code": -20212, "result": {"appServerUrl": host}}),
            json!({"error_code": 0, "result": {"errorCode": "-20212", "appServerUrl": host}}),
        ] {
            assert_eq!(read_right_host(&ok(refusal)), Some(host.to_owned()));
        }
        assert_eq!(
            read_right_host(&ok(json!({"error_code": -20601, "result": {"appServerUrl": host}}))),
            None
        );
    }

    #[test]
    fn a_login_that_waits_for_a_code_is_recognised_in_every_form() {
        for body in [
            json!({"error_code": -20677, "result": {"MFAProcessId": "id", "supportedMFATypes": [1, 2, 9]}}),
            json!({"error_code": "-20677", "MFAProcessId": "id", "supportedMFATypes": ["1", "2"]}),
            json!({"error_code": 0, "result": {"errorCode": "-20677", "mfaProcessId": "id", "supportedMFATypes": [1, 2]}}),
            json!({"error_code": 0, "result": {"errorCode": -20677, "MFAProcessId": "id", "supportedMFATypes": [1, 2]}}),
        ] {
            let found = read_two_step(&ok(body.clone())).unwrap_or_else(|| panic!("{body}"));
            assert_eq!((found.process.expose(), &found.ways[..]), ("id", &[CodeBy::Push, CodeBy::Email][..]));
            assert!(!format!("{found:?}").contains("id\""));
        }
        let silent = read_two_step(&ok(json!({"error_code": -20677, "result": {"MFAProcessId": "id"}})));
        assert_eq!(silent.unwrap().ways, [CodeBy::Email]);
        for body in [
            json!({"error_code": -20677}),
            json!({"error_code": -20677, "result": {"MFAProcessId": 7}}),
            json!({"error_code": -20601, "result": {"MFAProcessId": "id"}}),
            json!({"error_code": 0, "result": {"errorCode": "0", "MFAProcessId": "id"}}),
        ] {
            assert_eq!(read_two_step(&ok(body.clone())), None, "{body}");
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
            let error = open(&page(status, r#"{"error_code":-20651}"#)).unwrap_err();
            assert_eq!(error, ApiError::Http(status));
            assert_eq!(error.reaction(), Reaction::HoldBack);
        }
    }

    #[test]
    fn a_black_list_is_recognised_with_and_without_json_around_it() {
        for body in [
            "Access denied request in blackList",
            r#"{"error_code":-12345,"msg":"Access denied request in blackList"}"#,
            r#"{"msg":"Access denied request in BlackList"}"#,
        ] {
            let error = open(&page(200, body)).unwrap_err();
            assert_eq!(error.reaction(), Reaction::HoldBackLong, "{body}");
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
                refresh_token: Some(Secret::new("r".to_owned())),
                email: None,
            })
        );
        assert_eq!(granted(json!({"token": "t", "refreshToken": ""})).unwrap().refresh_token, None);
        assert_eq!(granted(json!({"token": "t", "refreshToken": null})).unwrap().refresh_token, None);
        for bad in [json!({}), json!(null), json!({"token": ""}), json!({"token": 7}), json!(["t"])] {
            assert!(matches!(granted(bad.clone()), Err(ApiError::NotAnAnswer(_))), "{bad}");
        }
    }

    #[test]
    fn a_login_tells_how_the_e_mail_address_was_registered() {
        let email = |email: Value| {
            let result = json!({"token": "t", "email": email});
            read_granted(&ok(json!({"error_code": 0, "result": result}))).unwrap().email
        };
        assert_eq!(email(json!("Me@Example.com")).as_deref(), Some("Me@Example.com"));
        for odd in [json!(null), json!(7), json!(""), json!("+4912345"), json!("@".repeat(300)), json!({})] {
            assert_eq!(email(odd.clone()), None, "{odd}");
        }
        let granted = Granted {
            token: Secret::new("t".to_owned()),
            refresh_token: None,
            email: Some("me@example.com".to_owned()),
        };
        assert_eq!(format!("{granted:?}"), "Granted { token: [redacted], refresh_token: None }");
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
}
