//! The simulated cloud as a value: an account, its tokens, its plugs, and the response to each method. No
//! socket.
//!
//! A request comes in as parsed JSON and leaves as a response. A passthrough is returned to the server, which may have
//! to wait for the plug. Error codes and messages are those of the real cloud, as observed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use serde_json::{Value, json};

use super::rule::Method;
use super::signed::SimKeys;
use crate::handle::PlugHandle;

/// Valid tokens of one account; an older one is voided. Observed at the real cloud.
const MOST_TOKENS: usize = 20;

/// Wrong passwords in a row that lock the account, by default. The real number is not published.
const LOCK_AFTER: u32 = 5;

/// The `appType`s that the real cloud accepts, as observed.
const APP_TYPES: [&str; 5] = ["Kasa_Android", "Kasa_iOS", "Tapo_Android", "Tapo_Ios", "Kasa_Android_Mix"];

/// The one account of the cloud.
#[derive(Clone)]
pub struct SimAccount {
    /// The e-mail address. The cloud ignores its case.
    pub(crate) username: String,
    /// Compared byte by byte.
    pub password: String,
    /// Two-step verification is on: a login gets -23003 from the first version, -20677 from the second.
    pub two_step: bool,
    /// The second version has -20677 as text in its `result`, with an outer code of 0.
    pub nests_two_step: bool,
    /// The second version accepts requests that are signed with these; `None`: it accepts none.
    pub keys: Option<SimKeys>,
    /// The host that serves the account's own calls in the second version. Others say -20212 and name it.
    pub home: usize,
    /// The code that a login with two-step verification needs, once for each terminal.
    pub code: String,
    /// Terminals that need no code any more.
    confirmed: Vec<String>,
    /// The URL that each host names instead of its, in the order of the hosts; further hosts name the last one.
    pub named: Vec<String>,
    /// Locked: a login gets -20661.
    pub locked: bool,
    /// Wrong passwords in a row that lock the account.
    pub(crate) lock_after: u32,
    /// Each refresh returns a new refresh token and voids the old one.
    pub rotates_refresh_token: bool,
    /// The only `appType` that this account may log in with; another gets -20600. `None`: any that the cloud knows.
    pub app_type: Option<String>,
    wrong_passwords: u32,
}

impl SimAccount {
    /// An account without two-step verification, not locked.
    pub fn new(username: &str, password: &str) -> Self {
        Self {
            username: username.to_owned(),
            password: password.to_owned(),
            two_step: false,
            nests_two_step: false,
            keys: None,
            home: 0,
            named: Vec::new(),
            code: "123456".to_owned(),
            confirmed: Vec::new(),
            locked: false,
            lock_after: LOCK_AFTER,
            rotates_refresh_token: false,
            app_type: None,
            wrong_passwords: 0,
        }
    }
}

pub(super) struct AccountServer {
    pub(super) account: SimAccount,
    /// By device id.
    plugs: BTreeMap<String, PlugHandle>,
    sessions: VecDeque<IssuedToken>,
    /// Base URL of each host; the index is the region.
    pub(super) hosts: Vec<String>,
    /// By logins and refreshes.
    pub(super) tokens_issued: u64,
}

struct IssuedToken {
    token: String,
    token_state: TokenStatus,
    refresh_token: String,
    refresh_state: TokenStatus,
    terminal: String,
    app_type: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenStatus {
    Good,
    /// A request with this token gets this error code.
    Void(i64),
}

pub(super) struct ParsedCall<'a> {
    pub(super) method: Method,
    pub(super) params: &'a Value,
    /// From the query string.
    pub(super) token: Option<&'a str>,
    /// Index of the host that received it.
    pub(super) host: usize,
    /// Whether it came to a path of the second version.
    pub(super) is_second: bool,
}

pub(super) enum CallResult {
    /// The response is ready.
    Now(Value),
    /// The request goes on to a plug.
    Forward {
        plug: PlugHandle,
        /// The plug's JSON request.
        request: String,
    },
}

impl AccountServer {
    pub(super) fn new(account: SimAccount, hosts: Vec<String>) -> Self {
        Self { account, plugs: BTreeMap::new(), sessions: VecDeque::new(), hosts, tokens_issued: 0 }
    }

    /// Adds a plug under its present device id.
    pub(super) fn add(&mut self, plug: PlugHandle) {
        self.plugs.insert(plug.device_id(), plug);
    }

    pub(super) fn answer(&mut self, call: &ParsedCall<'_>) -> CallResult {
        if call.is_second
            && let Some(refusal) = self.refusal_of_second(call)
        {
            return CallResult::Now(refusal);
        }
        let answer = match call.method {
            Method::AccountHost => Ok(json!({"accountStatus": 1, "appServerUrl": self.home_url(call.host)})),
            Method::Login => self.login(call.params, call.is_second),
            Method::SendCode => self.send_code(call.params),
            Method::CheckCode => self.check_code(call.params),
            Method::RefreshToken => self.refresh(call.params),
            Method::DeviceList => self.check_token(call).map(|()| self.device_list()),
            Method::Passthrough => match self.check_token(call).and_then(|()| self.passthrough(call)) {
                Ok((plug, request)) => return CallResult::Forward { plug, request },
                Err(code) => Err(code),
            },
            Method::Other => Err(NO_SUCH_METHOD),
        };
        CallResult::Now(answer.map_or_else(failure, success))
    }

    /// What the second version refuses before it looks at the password.
    fn refusal_of_second(&self, call: &ParsedCall<'_>) -> Option<Value> {
        if !call.params["method"].is_null() {
            return Some(failure(INVALID_PARAMETER));
        }
        if call.method == Method::AccountHost {
            let username = text(call.params, "cloudUserName")
                .and_then(|username| text(call.params, "appType").and(Ok(username)));
            return match username {
                Ok(username) if username.eq_ignore_ascii_case(&self.account.username) => None,
                Ok(_) => Some(failure(ACCOUNT_NOT_FOUND)),
                Err(code) => Some(failure(code)),
            };
        }
        if call.host != self.account.home {
            let mut refusal = failure(WRONG_ENTRY);
            refusal["result"] = json!({"appServerUrl": self.home_url(call.host)});
            return Some(refusal);
        }
        if call.method != Method::Login {
            return None;
        }
        let missing =
            ["appVersion", "platform", "terminalName"].iter().find_map(|name| text(call.params, name).err());
        if let Some(code) = missing {
            return Some(failure(code));
        }
        let is_right = call.params["cloudPassword"].as_str() == Some(&self.account.password);
        let is_confirmed = self.account.confirmed.iter().any(|it| call.params["terminalUUID"] == it.as_str());
        let needs_code = self.account.two_step && !is_confirmed;
        (needs_code && is_right && !self.account.locked).then(|| self.two_step_needed())
    }

    fn two_step_needed(&self) -> Value {
        let result = json!({"MFAProcessId": PROCESS, "supportedMFATypes": [1, 2]});
        if self.account.nests_two_step {
            let mut result = result;
            result["errorCode"] = TWO_STEP_NEEDED.to_string().into();
            return success(result);
        }
        let mut refusal = failure(TWO_STEP_NEEDED);
        refusal["result"] = result;
        refusal
    }

    /// The URL that this host names as that of the account.
    fn home_url(&self, host: usize) -> String {
        let named = self.account.named.get(host).or(self.account.named.last());
        named.or(self.hosts.get(self.account.home)).cloned().unwrap_or_default()
    }

    /// Voids every token: a request with one gets this error code from now on.
    pub(super) fn void_tokens(&mut self, code: i64) {
        for session in &mut self.sessions {
            session.token_state = TokenStatus::Void(code);
        }
    }

    /// Voids every refresh token: a refresh with one gets this error code from now on.
    pub(super) fn void_refresh_tokens(&mut self, code: i64) {
        for session in &mut self.sessions {
            session.refresh_state = TokenStatus::Void(code);
        }
    }

    #[cfg(test)]
    fn is_good(&self, token: &str) -> bool {
        self.sessions.iter().any(|session| session.token == token && session.token_state == TokenStatus::Good)
    }

    /// Sends a code, for a right password only.
    fn send_code(&mut self, params: &Value) -> Result<Value, i64> {
        text(params, "appType")?;
        text(params, "terminalUUID")?;
        self.check_password(text(params, "cloudUserName")?, text(params, "cloudPassword")?, true)?;
        Ok(json!({}))
    }

    /// Completes a login that waits for a code.
    fn check_code(&mut self, params: &Value) -> Result<Value, i64> {
        let (app_type, terminal) = (text(params, "appType")?, text(params, "terminalUUID")?);
        if !text(params, "cloudUserName")?.eq_ignore_ascii_case(&self.account.username) {
            return Err(ACCOUNT_NOT_FOUND);
        }
        if text(params, "MFAProcessId")? != PROCESS || text(params, "code")? != self.account.code {
            return Err(CODE_INEFFECTIVE);
        }
        if params["terminalBindEnabled"] == true {
            self.account.confirmed.push(terminal.to_owned());
        }
        let (token, refresh_token) = self.open_session(terminal, app_type);
        Ok(json!({"accountId": "10000001", "email": self.account.username, "token": token,
            "refreshToken": refresh_token, "errorCode": "0"}))
    }

    fn login(&mut self, params: &Value, is_second: bool) -> Result<Value, i64> {
        let app_type = text(params, "appType")?;
        let username = text(params, "cloudUserName")?;
        let password = text(params, "cloudPassword")?;
        let terminal = text(params, "terminalUUID")?;
        if !APP_TYPES.contains(&app_type) {
            return Err(APP_NOT_FOUND);
        }
        if self.account.app_type.as_deref().is_some_and(|only| only != app_type) {
            return Err(ACCOUNT_NOT_FOUND);
        }
        self.check_password(username, password, is_second)?;
        let session = self.open_session(terminal, app_type);
        let mut result = json!({
            "accountId": "10000001",
            "regTime": "2020-01-02 03:04:05",
            "countryCode": "DE",
            "nickname": "A user",
            "riskDetected": 0,
            "email": self.account.username,
            "token": session.0,
        });
        if matches!(&params["refreshTokenNeeded"], Value::Bool(true))
            || params["refreshTokenNeeded"].as_str() == Some("true")
        {
            result["refreshToken"] = session.1.into();
        }
        Ok(result)
    }

    fn check_password(&mut self, username: &str, password: &str, is_second: bool) -> Result<(), i64> {
        if !username.eq_ignore_ascii_case(&self.account.username) {
            return Err(ACCOUNT_NOT_FOUND);
        }
        if self.account.locked {
            return Err(ACCOUNT_LOCKED);
        }
        if password != self.account.password {
            self.account.wrong_passwords += 1;
            self.account.locked = self.account.wrong_passwords >= self.account.lock_after;
            return Err(WRONG_PASSWORD);
        }
        if self.account.two_step && !is_second {
            return Err(APP_TOO_OLD);
        }
        self.account.wrong_passwords = 0;
        Ok(())
    }

    /// Returns the token and the refresh token of a new session.
    fn open_session(&mut self, terminal: &str, app_type: &str) -> (String, String) {
        // The same number of void tokens is kept, so that a request with one gets the code of the real cloud.
        for session in self.sessions.iter_mut().skip(MOST_TOKENS - 1) {
            session.token_state = TokenStatus::Void(LOGGED_IN_ELSEWHERE);
        }
        self.sessions.truncate(2 * MOST_TOKENS - 1);
        let (token, refresh_token) = (new_token(), new_token());
        self.sessions.push_front(IssuedToken {
            token: token.clone(),
            token_state: TokenStatus::Good,
            refresh_token: refresh_token.clone(),
            refresh_state: TokenStatus::Good,
            terminal: terminal.to_owned(),
            app_type: app_type.to_owned(),
        });
        self.tokens_issued += 1;
        (token, refresh_token)
    }

    /// The token that was refreshed is void at once, also for requests under way.
    fn refresh(&mut self, params: &Value) -> Result<Value, i64> {
        let app_type = text(params, "appType")?;
        let terminal = text(params, "terminalUUID")?;
        let refresh_token = text(params, "refreshToken")?;
        let fits = |session: &&mut IssuedToken| session.refresh_token == refresh_token;
        let session = self.sessions.iter_mut().find(fits).ok_or(REFRESH_TOKEN_INCORRECT)?;
        if session.terminal != terminal || session.app_type != app_type {
            return Err(REFRESH_TOKEN_INCORRECT);
        }
        if let TokenStatus::Void(code) = session.refresh_state {
            return Err(code);
        }
        session.token = new_token();
        session.token_state = TokenStatus::Good;
        self.tokens_issued += 1;
        let mut result = json!({"token": session.token});
        if self.account.rotates_refresh_token {
            session.refresh_token = new_token();
            result["refreshToken"] = session.refresh_token.clone().into();
        }
        Ok(result)
    }

    /// Clients send the token in the query string or in the parameters.
    fn check_token(&self, call: &ParsedCall<'_>) -> Result<(), i64> {
        let token = call.token.or_else(|| call.params["token"].as_str()).ok_or(MISSING_PARAMETER)?;
        match self.sessions.iter().find(|session| session.token == token).map(|s| s.token_state) {
            Some(TokenStatus::Good) => Ok(()),
            Some(TokenStatus::Void(code)) => Err(code),
            None => Err(TOKEN_EXPIRED),
        }
    }

    fn device_list(&self) -> Value {
        let now = Instant::now();
        let rows: Vec<Value> = self.plugs.values().filter_map(|plug| self.row(plug, now)).collect();
        json!({"deviceList": rows})
    }

    fn row(&self, plug: &PlugHandle, now: Instant) -> Option<Value> {
        plug.read(|plug| {
            let right_url = || self.hosts.get(plug.region).cloned().unwrap_or_default();
            plug.bound.then(|| {
                json!({
                    "deviceId": plug.device_id,
                    "alias": plug.alias,
                    "deviceMac": plug.mac.replace(':', ""),
                    "deviceModel": plug.model.name,
                    "deviceName": plug.model.dev_name,
                    "deviceType": plug.model.kind,
                    "deviceHwVer": plug.model.hw_ver,
                    "fwVer": plug.model.sw_ver,
                    "fwId": "00000000000000000000000000000000",
                    "hwId": "0000000000000000000000000000AAAA",
                    "oemId": "0000000000000000000000000000BBBB",
                    "deviceRegion": "eu-west-1",
                    "isSameRegion": true,
                    "role": 0,
                    "status": u8::from(plug.is_cloud_connected(now)),
                    "appServerUrl": plug.app_server_url.clone().unwrap_or_else(right_url),
                })
            })
        })
    }

    fn passthrough(&self, call: &ParsedCall<'_>) -> Result<(PlugHandle, String), i64> {
        let device_id = text(call.params, "deviceId")?;
        let request = match &call.params["requestData"] {
            Value::Null => return Err(MISSING_REQUEST_DATA),
            Value::String(request) => request.clone(),
            _ => return Err(WRONG_TYPE),
        };
        let is_bound = |plug: &&PlugHandle| plug.read(|plug| plug.bound);
        let plug = self.plugs.get(device_id).filter(is_bound).ok_or(NOT_BOUND)?;
        let speaks_to_us = plug.read(|plug| plug.region == call.host && plug.model.kind.starts_with("IOT."));
        if speaks_to_us { Ok((plug.clone(), request)) } else { Err(DEVICE_OFFLINE) }
    }
}

pub(super) const GENERIC_ERROR: i64 = -10000;
pub(super) const SIGNATURE_DOES_NOT_MATCH: i64 = -10301;
pub(super) const JSON_FORMAT_ERROR: i64 = -10100;
pub(super) const BODY_IS_NULL: i64 = -10101;
pub(super) const REQUEST_TIMEOUT: i64 = -20002;
pub(super) const NO_SUCH_METHOD: i64 = -20103;
const MISSING_PARAMETER: i64 = -20104;
const WRONG_TYPE: i64 = -20105;
const INVALID_PARAMETER: i64 = -20107;
const WRONG_ENTRY: i64 = -20212;
pub(super) const DEVICE_OFFLINE: i64 = -20571;
const MISSING_REQUEST_DATA: i64 = -20573;
const NOT_BOUND: i64 = -20580;
const ACCOUNT_NOT_FOUND: i64 = -20600;
const WRONG_PASSWORD: i64 = -20601;
const TOKEN_EXPIRED: i64 = -20651;
const REFRESH_TOKEN_INCORRECT: i64 = -20656;
const ACCOUNT_LOCKED: i64 = -20661;
const LOGGED_IN_ELSEWHERE: i64 = -20675;
/// Names every login that waits for a code.
const PROCESS: &str = "process-1";
const CODE_INEFFECTIVE: i64 = -20676;
const TWO_STEP_NEEDED: i64 = -20677;
const APP_NOT_FOUND: i64 = -23001;
const APP_TOO_OLD: i64 = -23003;

pub(super) fn success(result: Value) -> Value {
    json!({"error_code": 0, "result": result})
}

pub(super) fn failure(code: i64) -> Value {
    json!({"error_code": code, "msg": message(code)})
}

fn message(code: i64) -> &'static str {
    match code {
        GENERIC_ERROR => "Generic error",
        JSON_FORMAT_ERROR => "JSON format error",
        BODY_IS_NULL => "JSON body is NULL",
        REQUEST_TIMEOUT => "Request timeout",
        -20004 => "API rate limit exceeded",
        NO_SUCH_METHOD => "The method does not exist or is not available",
        MISSING_PARAMETER => "Parameter doesn't exist",
        WRONG_TYPE => "Parameter type error",
        SIGNATURE_DOES_NOT_MATCH => "Signature dose not match",
        INVALID_PARAMETER => "Parameter is invalid",
        WRONG_ENTRY => "Incorrect service entry address",
        CODE_INEFFECTIVE => "Verification code ineffective",
        TWO_STEP_NEEDED => "MFA feature enabled",
        DEVICE_OFFLINE => "Device is offline",
        MISSING_REQUEST_DATA => "requestData is missing",
        NOT_BOUND => "Account is not binded to the device",
        ACCOUNT_NOT_FOUND => "Account not found",
        WRONG_PASSWORD => "Incorrect email or password",
        TOKEN_EXPIRED => "Token expired",
        -20652 => "Token incorrect",
        -20655 => "Refresh token expired",
        REFRESH_TOKEN_INCORRECT => "Refresh token incorrect",
        ACCOUNT_LOCKED => "Account locked",
        LOGGED_IN_ELSEWHERE => "Account login in other places",
        APP_NOT_FOUND => "App not found",
        APP_TOO_OLD => "App version is too old",
        _ => "Unknown error",
    }
}

/// A parameter that must be a string; it may be empty.
fn text<'a>(params: &'a Value, name: &str) -> Result<&'a str, i64> {
    match &params[name] {
        Value::Null => Err(MISSING_PARAMETER),
        Value::String(text) => Ok(text),
        _ => Err(WRONG_TYPE),
    }
}

/// As long as a real one: eight characters, a dash, twenty-three characters.
fn new_token() -> String {
    let mut token = uuid::Uuid::new_v4().simple().to_string();
    token.truncate(31);
    token.insert(8, '-');
    token
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::notify::ChangeNotifier;
    use crate::plug::SimPlug;

    const USER: &str = "user@example.com";
    const PASSWORD: &str = "\"'\\/{}$ü ";

    fn server() -> AccountServer {
        let hosts = vec!["http://wap".to_owned(), "http://eu".to_owned(), "http://us".to_owned()];
        let mut server = AccountServer::new(SimAccount::new(USER, PASSWORD), hosts);
        let plug = SimPlug::new(Model::HS100_HW1, 7, "Lamp", Instant::now());
        server.add(PlugHandle::new(plug, ChangeNotifier::new()));
        server
    }

    fn login_params() -> Value {
        json!({"appType": "Kasa_Android", "cloudUserName": USER, "cloudPassword": PASSWORD,
               "terminalUUID": "", "refreshTokenNeeded": true})
    }

    fn call(server: &mut AccountServer, method: Method, params: &Value, token: Option<&str>) -> Value {
        match server.answer(&ParsedCall { method, params, token, host: 1, is_second: false }) {
            CallResult::Now(answer) => answer,
            CallResult::Forward { request, .. } => json!({"asks": request}),
        }
    }

    fn log_in(server: &mut AccountServer) -> (String, String) {
        let answer = call(server, Method::Login, &login_params(), None);
        let text = |name| answer["result"][name].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        (text("token"), text("refreshToken"))
    }

    fn without(mut params: Value, name: &str) -> Value {
        params.as_object_mut().unwrap().remove(name).unwrap();
        params
    }

    fn with(mut params: Value, name: &str, value: Value) -> Value {
        params[name] = value;
        params
    }

    #[test]
    fn a_login_is_answered_by_code() {
        let good = login_params;
        let table = [
            (good(), 0),
            (with(good(), "cloudUserName", "USER@example.com".into()), 0),
            (without(good(), "appType"), -20104),
            (without(good(), "cloudUserName"), -20104),
            (without(good(), "cloudPassword"), -20104),
            (without(good(), "terminalUUID"), -20104),
            (with(good(), "terminalUUID", 7.into()), -20105),
            (with(good(), "appType", "Toaster".into()), -23001),
            (with(good(), "cloudUserName", "nobody@example.com".into()), -20600),
            (with(good(), "cloudPassword", PASSWORD.trim().into()), -20601),
            (Value::Null, -20104),
        ];
        for (params, code) in table {
            assert_eq!(call(&mut server(), Method::Login, &params, None)["error_code"], code, "{params}");
        }
    }

    #[test]
    fn an_account_may_insist_on_an_app() {
        let mut server = server();
        server.account.app_type = Some("Kasa_iOS".to_owned());
        assert_eq!(call(&mut server, Method::Login, &login_params(), None)["error_code"], -20600);
        let params = with(login_params(), "appType", "Kasa_iOS".into());
        assert_eq!(call(&mut server, Method::Login, &params, None)["error_code"], 0);
    }

    #[test]
    fn an_account_with_two_step_verification_is_closed_to_the_right_password() {
        let mut server = server();
        server.account.two_step = true;
        assert_eq!(call(&mut server, Method::Login, &login_params(), None)["error_code"], -23003);
        assert_eq!(server.tokens_issued, 0);
    }

    #[test]
    fn wrong_passwords_in_a_row_lock_the_account() {
        let mut server = server();
        let wrong = with(login_params(), "cloudPassword", "wrong".into());
        for _ in 0..LOCK_AFTER - 1 {
            assert_eq!(call(&mut server, Method::Login, &wrong, None)["error_code"], -20601);
        }
        log_in(&mut server);
        for _ in 0..LOCK_AFTER {
            assert_eq!(call(&mut server, Method::Login, &wrong, None)["error_code"], -20601);
        }
        assert_eq!(call(&mut server, Method::Login, &login_params(), None)["error_code"], -20661);
    }

    #[test]
    fn a_refresh_token_comes_only_when_it_is_asked_for() {
        for (needed, comes) in [(json!(true), true), (json!("true"), true), (json!(false), false)] {
            let params = with(login_params(), "refreshTokenNeeded", needed);
            let answer = call(&mut server(), Method::Login, &params, None);
            assert_eq!(answer["result"]["refreshToken"].is_string(), comes, "{params}");
        }
        let (token, _) = log_in(&mut server());
        assert_eq!((token.len(), token.find('-')), (32, Some(8)));
    }

    #[test]
    fn a_token_is_taken_from_the_query_and_from_the_parameters() {
        let mut server = server();
        let (token, _) = log_in(&mut server);
        let list = |server: &mut AccountServer, params: Value, token: Option<&str>| {
            call(server, Method::DeviceList, &params, token)["error_code"].clone()
        };
        assert_eq!(list(&mut server, Value::Null, Some(&token)), 0);
        assert_eq!(list(&mut server, json!({"token": token}), None), 0);
        assert_eq!(list(&mut server, Value::Null, None), -20104);
        assert_eq!(list(&mut server, Value::Null, Some("made-up")), -20651);
        server.void_tokens(-20651);
        assert_eq!(list(&mut server, Value::Null, Some(&token)), -20651);
        assert!(!server.is_good(&token));
        log_in(&mut server);
        assert_eq!(list(&mut server, Value::Null, Some(&token)), -20651, "a new login does not revive it");
    }

    #[test]
    fn the_oldest_token_gives_way_to_the_twenty_first() {
        let mut server = server();
        let (first, _) = log_in(&mut server);
        for _ in 1..MOST_TOKENS {
            log_in(&mut server);
        }
        assert!(server.is_good(&first));
        log_in(&mut server);
        let answer = call(&mut server, Method::DeviceList, &Value::Null, Some(&first));
        assert_eq!(answer["error_code"], -20675);
        for _ in 0..3 * MOST_TOKENS {
            log_in(&mut server);
        }
        assert_eq!(server.sessions.len(), 2 * MOST_TOKENS);
    }

    #[test]
    fn a_refresh_is_answered_by_code() {
        let mut server = server();
        let (token, refresh_token) = log_in(&mut server);
        let good = json!({"appType": "Kasa_Android", "terminalUUID": "", "refreshToken": refresh_token});
        let mut code =
            |params: Value| call(&mut server, Method::RefreshToken, &params, None)["error_code"].clone();
        assert_eq!(code(without(good.clone(), "refreshToken")), -20104);
        assert_eq!(code(without(good.clone(), "terminalUUID")), -20104);
        assert_eq!(code(without(good.clone(), "appType")), -20104);
        assert_eq!(code(with(good.clone(), "refreshToken", "made-up".into())), -20656);
        assert_eq!(code(with(good.clone(), "terminalUUID", "another".into())), -20656);
        assert_eq!(code(with(good.clone(), "appType", "Kasa_iOS".into())), -20656);

        let answer = call(&mut server, Method::RefreshToken, &good, None);
        let renewed = answer["result"]["token"].as_str().unwrap();
        assert!(server.is_good(renewed) && !server.is_good(&token));
        assert!(answer["result"]["refreshToken"].is_null(), "the old one stays good");

        server.void_refresh_tokens(-20655);
        assert_eq!(call(&mut server, Method::RefreshToken, &good, None)["error_code"], -20655);
    }

    #[test]
    fn a_rotating_account_voids_the_refresh_token_that_was_used() {
        let mut server = server();
        server.account.rotates_refresh_token = true;
        let (_, refresh_token) = log_in(&mut server);
        let params = json!({"appType": "Kasa_Android", "terminalUUID": "", "refreshToken": refresh_token});
        let answer = call(&mut server, Method::RefreshToken, &params, None);
        assert_ne!(answer["result"]["refreshToken"], refresh_token.as_str());
        assert_eq!(call(&mut server, Method::RefreshToken, &params, None)["error_code"], -20656);
    }

    #[test]
    fn the_device_list_tells_each_plug_as_the_cloud_sees_it() {
        let mut server = server();
        let (token, _) = log_in(&mut server);
        let plug = server.plugs.values().next().unwrap().clone();
        let mut list = || call(&mut server, Method::DeviceList, &Value::Null, Some(&token))["result"].clone();
        let row = list()["deviceList"][0].clone();
        assert_eq!(row["deviceId"], "8006000000000000000000000000000000000007");
        assert_eq!(row["deviceMac"], "50C7BF000007");
        assert_eq!((&row["appServerUrl"], &row["status"]), (&json!("http://eu"), &json!(1)));
        plug.with(|plug| plug.powered = false);
        assert_eq!(list()["deviceList"][0]["status"], 0);
        plug.with(|plug| plug.app_server_url = Some("https://evil.example".into()));
        assert_eq!(list()["deviceList"][0]["appServerUrl"], "https://evil.example");
        plug.with(|plug| plug.bound = false);
        assert_eq!(list()["deviceList"], json!([]));
    }

    #[test]
    fn a_passthrough_is_answered_by_code_until_the_plug_is_asked() {
        let mut server = server();
        let (token, _) = log_in(&mut server);
        let plug = server.plugs.values().next().unwrap().clone();
        let good = json!({"deviceId": plug.device_id(), "requestData": "{}"});
        let mut answer = |params: Value| call(&mut server, Method::Passthrough, &params, Some(&token));
        assert_eq!(answer(good.clone()), json!({"asks": "{}"}));
        assert_eq!(answer(without(good.clone(), "deviceId"))["error_code"], -20104);
        assert_eq!(answer(without(good.clone(), "requestData"))["error_code"], -20573);
        assert_eq!(answer(with(good.clone(), "requestData", json!({})))["error_code"], -20105);
        let child = format!("{}00", plug.device_id());
        assert_eq!(answer(with(good.clone(), "deviceId", child.into()))["error_code"], -20580);
        plug.with(|plug| plug.region = 2);
        assert_eq!(answer(good.clone())["error_code"], -20571, "another region's host does not find it");
        plug.with(|plug| (plug.region, plug.model.kind) = (1, "SMART.TAPOPLUG"));
        assert_eq!(answer(good.clone())["error_code"], -20571);
        plug.with(|plug| plug.bound = false);
        assert_eq!(answer(good)["error_code"], -20580);
    }

    #[test]
    fn an_unknown_method_is_told_so() {
        assert_eq!(call(&mut server(), Method::named("logout"), &Value::Null, None)["error_code"], -20103);
    }
}
