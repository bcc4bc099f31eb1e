//! The requests of the API, in both of its versions. Pure.
//!
//! The first version: a POST of `{"method":…,"params":{…}}` to the path `/`. The second one has a path for each call of the
//! account, with the parameters alone as its body; device lists and passthroughs are as before. Its requests are signed
//! with the keys of an app, which the user supplies. Each request names an app: the cloud expects one of TP-Link's own, and
//! refuses some at times.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::cloud::signature::AppKeys;
use hs100d_core::model::DeviceId;
use hs100d_core::secret::{Secret, SecretBuf};
use hs100d_core::smarthome::message::{OutletIds, Request};

/// The version that requests of the second version of the API name, unless the config names another.
const SIGNED_VERSION: &str = "3.4.451";
/// The name under which this installation appears among the account's devices.
const TERMINAL_NAME: &str = "hs100d";
/// The path of device lists and passthroughs, and of all calls of the first version.
const ROOT: &str = "/";

/// The app that requests name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppIdentity {
    /// `appType`, such as `Kasa_Android`.
    pub app_type: String,
    /// `appVer`; `None`: the first version of the API gets none, the second one gets a usual one.
    pub version: Option<String>,
}

impl AppIdentity {
    /// Of requests of the first version.
    pub const APP_TYPE: &'static str = "Kasa_Android";
    /// Of signed requests.
    pub const SIGNED_APP_TYPE: &'static str = "Kasa_Android_Mix";
}

impl Default for AppIdentity {
    fn default() -> Self {
        Self { app_type: Self::APP_TYPE.to_owned(), version: None }
    }
}

/// How the owner of an account with two-step verification gets a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeBy {
    /// In one of TP-Link's apps.
    Push,
    /// By e-mail.
    Email,
}

impl CodeBy {
    /// `MFAType`
    const fn number(self) -> u8 {
        match self {
            Self::Push => 1,
            Self::Email => 2,
        }
    }

    /// The way of this `MFAType`.
    pub(crate) fn of(number: i64) -> Option<Self> {
        [Self::Push, Self::Email].into_iter().find(|by| i64::from(by.number()) == number)
    }
}

/// A code that the owner has typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedCode {
    /// The login that it completes: `MFAProcessId`.
    pub(crate) process: Secret,
    /// How it was sent.
    pub(crate) by: CodeBy,
    /// What was typed.
    pub(crate) code: Secret,
}

/// A request, ready to be sent. Cheap to clone.
#[derive(Clone, Default)]
pub struct ApiRequest {
    /// The path of its URL.
    pub path: &'static str,
    /// What follows the `?` of the URL; may hold a token. Empty: no `?`.
    pub query: Zeroizing<String>,
    /// JSON; may hold secrets. Zeroized with the last clone.
    pub body: Bytes,
    /// Sign it with these.
    pub(crate) keys: Option<AppKeys>,
}

impl fmt::Debug for ApiRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiRequest").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Makes the requests of one account. The version of the API is decided here.
#[derive(Debug)]
pub struct CloudApi {
    app: AppIdentity,
    /// Identifies this installation to the account.
    terminal: String,
    /// `None`: the first version.
    keys: Option<AppKeys>,
}

impl CloudApi {
    /// With keys, the second version of the API; without, the first.
    pub fn new(app: AppIdentity, terminal: &str, keys: Option<AppKeys>) -> Self {
        Self { app, terminal: terminal.to_owned(), keys }
    }

    /// The app that requests name.
    pub(crate) fn app_type(&self) -> &str {
        &self.app.app_type
    }

    /// Whether it is the second version.
    pub(crate) fn is_signed(&self) -> bool {
        self.keys.is_some()
    }

    /// `getAccountStatusAndUrl`: which host the account is at. `None` with the first version.
    pub(crate) fn account_host(&self, username: &str) -> Option<ApiRequest> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct HostParams<'a> {
            app_type: &'a str,
            cloud_user_name: &'a str,
        }
        let params = HostParams { app_type: &self.app.app_type, cloud_user_name: username };
        self.is_signed().then(|| self.request("/api/v2/account/getAccountStatusAndUrl", None, &params))
    }

    /// `login`. The first version has four mandatory parameters; `refreshTokenNeeded` requests a refresh token.
    pub fn login(&self, username: &str, password: &Secret) -> ApiRequest {
        let login = LoginParams { owner: self.owner(username, password), refresh_token_needed: true };
        if !self.is_signed() {
            return self.call("login", login);
        }
        let login = SignedLoginParams {
            login,
            app_version: self.app_version(),
            platform: "Android",
            support_bind_account: false,
            terminal_name: TERMINAL_NAME,
            terminal_meta: TERMINAL_NAME,
        };
        self.request("/api/v2/account/login", None, &login)
    }

    /// `getPushVC4TerminalMFA` or `getEmailVC4TerminalMFA`: send a code to the owner. `None` with the first version.
    pub(crate) fn code(&self, by: CodeBy, username: &str, password: &Secret) -> Option<ApiRequest> {
        let path = match by {
            CodeBy::Push => "/api/v2/account/getPushVC4TerminalMFA",
            CodeBy::Email => "/api/v2/account/getEmailVC4TerminalMFA",
        };
        self.is_signed().then(|| self.request(path, None, &self.owner(username, password)))
    }

    /// `checkMFACodeAndLogin`: completes a login. The terminal is bound, so that its later logins need no code.
    pub(crate) fn login_with_code(&self, username: &str, typed: &TypedCode) -> ApiRequest {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct CodeLogin<'a> {
            app_type: &'a str,
            cloud_user_name: &'a str,
            code: &'a str,
            #[serde(rename = "MFAProcessId")]
            process: &'a str,
            #[serde(rename = "MFAType")]
            by: u8,
            terminal_bind_enabled: bool,
            #[serde(rename = "terminalUUID")]
            terminal: &'a str,
            refresh_token_needed: bool,
        }
        let params = CodeLogin {
            app_type: &self.app.app_type,
            cloud_user_name: username,
            code: typed.code.expose(),
            process: typed.process.expose(),
            by: typed.by.number(),
            terminal_bind_enabled: true,
            terminal: &self.terminal,
            refresh_token_needed: true,
        };
        self.request("/api/v2/account/checkMFACodeAndLogin", None, &params)
    }

    /// `refreshToken`, with the app and terminal of the login.
    pub fn refresh(&self, refresh_token: &Secret) -> ApiRequest {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Refresh<'a> {
            app_type: &'a str,
            refresh_token: &'a str,
            #[serde(rename = "terminalUUID")]
            terminal: &'a str,
        }
        let params = Refresh {
            app_type: &self.app.app_type,
            refresh_token: refresh_token.expose(),
            terminal: &self.terminal,
        };
        match self.is_signed() {
            true => self.request("/api/v2/account/refreshToken", None, &params),
            false => self.call("refreshToken", params),
        }
    }

    /// `getDeviceList`.
    pub fn device_list(&self, token: &Secret) -> ApiRequest {
        self.call_with_token("getDeviceList", token, NoParams {})
    }

    /// `passthrough`. `requestData` is a string with the plug's own JSON in it, not an object.
    pub fn passthrough(&self, token: &Secret, device_id: &DeviceId, request: &Request) -> ApiRequest {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Passthrough<'a> {
            device_id: &'a str,
            request_data: &'a str,
        }
        let mut json = Vec::new();
        request.write_json(OutletIds::Long(device_id), &mut json);
        let json = String::from_utf8_lossy(&json);
        let params = Passthrough { device_id: device_id.as_str(), request_data: &json };
        self.call_with_token("passthrough", token, params)
    }

    fn owner<'a>(&'a self, username: &'a str, password: &'a Secret) -> OwnerParams<'a> {
        OwnerParams {
            app_type: &self.app.app_type,
            cloud_user_name: username,
            cloud_password: password.expose(),
            terminal: &self.terminal,
        }
    }

    fn call(&self, method: &'static str, params: impl Serialize) -> ApiRequest {
        self.request(ROOT, None, &ApiCall { method, params })
    }

    /// With the first version the token is in the body, because URLs appear in proxy logs and error texts; Home Assistant's
    /// integration on pykasacloud has done the same for years. The second version is known only with a token in the query.
    fn call_with_token(&self, method: &'static str, token: &Secret, params: impl Serialize) -> ApiRequest {
        if self.is_signed() {
            return self.request(ROOT, Some(token), &ApiCall { method, params });
        }
        self.call(method, WithToken { token: token.expose(), app_type: &self.app.app_type, params })
    }

    fn request(&self, path: &'static str, token: Option<&Secret>, body: &impl Serialize) -> ApiRequest {
        ApiRequest { path, query: self.query(token), body: to_json(body), keys: self.keys.clone() }
    }

    /// Names the app and its version, as TP-Link's own apps do. With the first version only if the config names a version.
    fn query(&self, token: Option<&Secret>) -> Zeroizing<String> {
        if !self.is_signed() && self.app.version.is_none() {
            return Zeroizing::default();
        }
        // Large enough for any token, so that no half of one stays behind.
        let mut query = form_urlencoded::Serializer::new(String::with_capacity(4096));
        query.append_pair("appName", &self.app.app_type).append_pair("appVer", self.app_version());
        if self.is_signed() {
            query
                .append_pair("netType", "wifi")
                .append_pair("termID", &self.terminal)
                .append_pair("ospf", "Linux")
                .append_pair("brand", "TPLINK")
                .append_pair("locale", "en_US")
                .append_pair("model", TERMINAL_NAME)
                .append_pair("termName", TERMINAL_NAME)
                .append_pair("termMeta", TERMINAL_NAME);
        }
        if let Some(token) = token {
            query.append_pair("token", token.expose());
        }
        Zeroizing::new(query.finish())
    }

    fn app_version(&self) -> &str {
        self.app.version.as_deref().unwrap_or(SIGNED_VERSION)
    }
}

/// The body of a call of the first version, and of device lists and passthroughs of the second.
#[derive(Serialize)]
struct ApiCall<P> {
    method: &'static str,
    params: P,
}

/// The first parameters of each request of the first version that needs a token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WithToken<'a, P> {
    token: &'a str,
    app_type: &'a str,
    #[serde(flatten)]
    params: P,
}

#[derive(Serialize)]
struct NoParams {}

/// The parameters by which the owner of the account is known.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OwnerParams<'a> {
    app_type: &'a str,
    cloud_user_name: &'a str,
    cloud_password: &'a str,
    #[serde(rename = "terminalUUID")]
    terminal: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LoginParams<'a> {
    #[serde(flatten)]
    owner: OwnerParams<'a>,
    refresh_token_needed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SignedLoginParams<'a> {
    #[serde(flatten)]
    login: LoginParams<'a>,
    app_version: &'a str,
    platform: &'a str,
    support_bind_account: bool,
    terminal_name: &'a str,
    terminal_meta: &'a str,
}

fn to_json(body: &impl Serialize) -> Bytes {
    let mut json = SecretBuf::default();
    // A struct of strings always serializes, and a buffer always accepts it.
    serde_json::to_writer(&mut json, body).ok();
    json.into_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use hs100d_core::model::RelayState;

    const ID: &str = "8006000000000000000000000000000000000007";
    const TERMINAL: &str = "00000000-0000-0000-0000-000000000007";

    fn encoded(request: &ApiRequest) -> Value {
        serde_json::from_slice(&request.body).unwrap()
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn api(app_type: &str, version: Option<&str>, keys: Option<AppKeys>) -> CloudApi {
        let app = AppIdentity { app_type: app_type.to_owned(), version: version.map(str::to_owned) };
        CloudApi::new(app, TERMINAL, keys)
    }

    fn usual() -> CloudApi {
        api(AppIdentity::APP_TYPE, None, None)
    }

    fn signed() -> CloudApi {
        let keys = AppKeys { access_key: secret("a"), secret_key: secret("s") };
        api(AppIdentity::SIGNED_APP_TYPE, None, Some(keys))
    }

    #[test]
    fn a_login_says_all_that_is_mandatory_and_asks_for_a_refresh_token() {
        assert_eq!(
            encoded(&usual().login("me@example.com", &secret("\"'\\/{}$ü "))),
            json!({"method": "login", "params": {"appType": "Kasa_Android", "cloudUserName": "me@example.com",
                "cloudPassword": "\"'\\/{}$ü ", "terminalUUID": TERMINAL, "refreshTokenNeeded": true}})
        );
    }

    #[test]
    fn a_refresh_names_the_terminal_of_the_login() {
        assert_eq!(
            encoded(&usual().refresh(&secret("r"))),
            json!({"method": "refreshToken",
                "params": {"appType": "Kasa_Android", "refreshToken": "r", "terminalUUID": TERMINAL}})
        );
    }

    #[test]
    fn the_plugs_words_travel_as_a_text_and_the_token_in_the_body() {
        let token = secret("t");
        let request = Request::SetRelay(RelayState::On);
        assert_eq!(
            encoded(&usual().passthrough(&token, &DeviceId::new(ID).unwrap(), &request)),
            json!({"method": "passthrough", "params": {"token": "t", "appType": "Kasa_Android", "deviceId": ID,
                "requestData": r#"{"system":{"set_relay_state":{"state":1}}}"#}})
        );
        assert_eq!(
            encoded(&usual().device_list(&token)),
            json!({"method": "getDeviceList", "params": {"token": "t", "appType": "Kasa_Android"}})
        );
    }

    #[test]
    fn each_request_names_the_app_of_the_config_and_its_version_if_there_is_one() {
        for (version, query) in [(None, ""), (Some("3.4 & 5"), "appName=Kasa_iOS&appVer=3.4+%26+5")] {
            let api = api("Kasa_iOS", version, None);
            let (token, id) = (secret("t"), DeviceId::new(ID).unwrap());
            for request in [
                api.login("me@example.com", &token),
                api.refresh(&token),
                api.device_list(&token),
                api.passthrough(&token, &id, &Request::SysInfo),
            ] {
                assert_eq!(encoded(&request)["params"]["appType"], "Kasa_iOS");
                assert_eq!((request.path, request.query.as_str()), ("/", query));
                assert!(request.keys.is_none());
            }
        }
    }

    #[test]
    fn the_second_version_has_a_path_for_each_call_of_the_account_and_flat_parameters() {
        let api = signed();
        let request = api.account_host("me@example.com").unwrap();
        assert_eq!(request.path, "/api/v2/account/getAccountStatusAndUrl");
        assert_eq!(
            encoded(&request),
            json!({"appType": "Kasa_Android_Mix", "cloudUserName": "me@example.com"}),
            "no password goes to a host that only the config names"
        );
        let request = api.login("me@example.com", &secret("p"));
        assert_eq!(request.path, "/api/v2/account/login");
        assert_eq!(
            encoded(&request),
            json!({"appType": "Kasa_Android_Mix", "cloudUserName": "me@example.com", "cloudPassword": "p",
                "terminalUUID": TERMINAL, "refreshTokenNeeded": true, "appVersion": "3.4.451",
                "platform": "Android", "supportBindAccount": false, "terminalName": "hs100d",
                "terminalMeta": "hs100d"})
        );
        let typed = TypedCode { process: secret("id"), by: CodeBy::Email, code: secret("123456") };
        let request = api.login_with_code("me@example.com", &typed);
        assert_eq!(request.path, "/api/v2/account/checkMFACodeAndLogin");
        assert_eq!(
            encoded(&request),
            json!({"appType": "Kasa_Android_Mix", "cloudUserName": "me@example.com", "code": "123456",
                "MFAProcessId": "id", "MFAType": 2, "terminalBindEnabled": true, "terminalUUID": TERMINAL,
                "refreshTokenNeeded": true})
        );
        for (by, path) in [
            (CodeBy::Push, "/api/v2/account/getPushVC4TerminalMFA"),
            (CodeBy::Email, "/api/v2/account/getEmailVC4TerminalMFA"),
        ] {
            let request = api.code(by, "me@example.com", &secret("p")).unwrap();
            assert_eq!(request.path, path);
            assert_eq!(
                encoded(&request),
                json!({"appType": "Kasa_Android_Mix", "cloudUserName": "me@example.com", "cloudPassword": "p",
                    "terminalUUID": TERMINAL})
            );
        }
        let request = api.refresh(&secret("r"));
        assert_eq!(request.path, "/api/v2/account/refreshToken");
        assert_eq!(
            encoded(&request),
            json!({"appType": "Kasa_Android_Mix", "refreshToken": "r", "terminalUUID": TERMINAL})
        );
        assert!(request.keys.is_some() && !request.query.contains("token="));
        assert!(usual().account_host("me@example.com").is_none());
    }

    #[test]
    fn lists_and_passthroughs_of_the_second_version_have_their_token_in_the_query() {
        let (api, token) = (signed(), secret("t&k"));
        let request = api.device_list(&token);
        assert_eq!(encoded(&request), json!({"method": "getDeviceList", "params": {}}));
        let id = DeviceId::new(ID).unwrap();
        let passthrough = api.passthrough(&token, &id, &Request::SetRelay(RelayState::On));
        assert_eq!(
            encoded(&passthrough),
            json!({"method": "passthrough", "params": {"deviceId": ID,
                "requestData": r#"{"system":{"set_relay_state":{"state":1}}}"#}})
        );
        for request in [request, passthrough] {
            assert_eq!(request.path, "/");
            assert!(
                request.query.starts_with("appName=Kasa_Android_Mix&appVer=3.4.451&netType=wifi&termID=")
            );
            assert!(request.query.ends_with("&token=t%26k") && request.keys.is_some());
            assert!(!format!("{request:?}").contains("t%26k"));
        }
    }
}
