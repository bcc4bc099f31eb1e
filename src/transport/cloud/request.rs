//! The requests of the API. Pure.
//!
//! A request is a POST of `{"method":…,"params":{…}}` to the path `/`. Each names an app: the cloud expects one of TP-Link's
//! own, and refuses some at times.

use serde::Serialize;

use crate::model::DeviceId;
use crate::secret::{Secret, SecretBuf};
use crate::smarthome::message::{OutletIds, Request};

/// The app that requests name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppIdentity {
    /// `appType`, such as `Kasa_Android`.
    pub app_type: String,
    /// `appVer`; `None`: the requests name no version.
    pub version: Option<String>,
}

impl Default for AppIdentity {
    fn default() -> Self {
        Self { app_type: Self::APP_TYPE.to_owned(), version: None }
    }
}

/// A request, ready to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ApiRequest {
    /// What follows the `?` of the URL. Empty: no `?`.
    pub query: String,
    /// JSON; may hold secrets.
    pub body: SecretBuf,
}

impl AppIdentity {
    /// The app of the config's default.
    pub const APP_TYPE: &'static str = "Kasa_Android";

    /// `login`. All four parameters are mandatory; `refreshTokenNeeded` requests a refresh token.
    pub fn login(&self, username: &str, password: &Secret, terminal: &str) -> ApiRequest {
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
            app_type: &self.app_type,
            cloud_user_name: username,
            cloud_password: password.expose(),
            terminal,
            refresh_token_needed: true,
        };
        self.request("login", params)
    }

    /// `refreshToken`, with the app and terminal of the login.
    pub fn refresh(&self, refresh_token: &Secret, terminal: &str) -> ApiRequest {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Refresh<'a> {
            app_type: &'a str,
            refresh_token: &'a str,
            #[serde(rename = "terminalUUID")]
            terminal: &'a str,
        }
        let params = Refresh { app_type: &self.app_type, refresh_token: refresh_token.expose(), terminal };
        self.request("refreshToken", params)
    }

    /// `getDeviceList`.
    pub fn device_list(&self, token: &Secret) -> ApiRequest {
        self.request("getDeviceList", self.with_token(token))
    }

    /// `passthrough`. `requestData` is a string with the plug's own JSON in it, not an object.
    pub fn passthrough(&self, token: &Secret, device_id: &DeviceId, request: &Request) -> ApiRequest {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Passthrough<'a> {
            #[serde(flatten)]
            pass: WithToken<'a>,
            device_id: &'a str,
            request_data: &'a str,
        }
        let mut json = Vec::new();
        request.write_json(OutletIds::Long(device_id), &mut json);
        let json = String::from_utf8_lossy(&json);
        let params =
            Passthrough { pass: self.with_token(token), device_id: device_id.as_str(), request_data: &json };
        self.request("passthrough", params)
    }

    fn with_token<'a>(&'a self, token: &'a Secret) -> WithToken<'a> {
        WithToken { token: token.expose(), app_type: &self.app_type }
    }

    fn request(&self, method: &'static str, params: impl Serialize) -> ApiRequest {
        ApiRequest { query: self.query(), body: to_json(&ApiCall { method, params }) }
    }

    /// Names the app and its version, as TP-Link's own apps do, if there is a version to name.
    fn query(&self) -> String {
        let Some(version) = &self.version else { return String::new() };
        form_urlencoded::Serializer::new(String::new())
            .append_pair("appName", &self.app_type)
            .append_pair("appVer", version)
            .finish()
    }
}

/// The body of a request.
#[derive(Serialize)]
struct ApiCall<P> {
    method: &'static str,
    params: P,
}

/// The first parameters of each request that needs a token.
///
/// Most clients put the token into the query. We put it into the body, because URLs appear in proxy logs and error
/// texts. Home Assistant's integration on pykasacloud has done the same for years.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WithToken<'a> {
    token: &'a str,
    app_type: &'a str,
}

fn to_json(body: &impl Serialize) -> SecretBuf {
    let mut json = SecretBuf::default();
    // A struct of strings always serializes, and a buffer always accepts it.
    serde_json::to_writer(&mut json, body).ok();
    json
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::RelayState;

    const ID: &str = "8006000000000000000000000000000000000007";

    fn encoded(request: &ApiRequest) -> Value {
        serde_json::from_slice(&request.body).unwrap()
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_login_says_all_that_is_mandatory_and_asks_for_a_refresh_token() {
        let request = AppIdentity::default().login("me@example.com", &secret("\"'\\/{}$ü "), "uuid");
        assert_eq!(
            encoded(&request),
            json!({"method": "login", "params": {"appType": "Kasa_Android", "cloudUserName": "me@example.com",
                "cloudPassword": "\"'\\/{}$ü ", "terminalUUID": "uuid", "refreshTokenNeeded": true}})
        );
    }

    #[test]
    fn a_refresh_names_the_terminal_of_the_login() {
        assert_eq!(
            encoded(&AppIdentity::default().refresh(&secret("r"), "uuid")),
            json!({"method": "refreshToken",
                "params": {"appType": "Kasa_Android", "refreshToken": "r", "terminalUUID": "uuid"}})
        );
    }

    #[test]
    fn the_plugs_words_travel_as_a_text_and_the_token_in_the_body() {
        let (app, token) = (AppIdentity::default(), secret("t"));
        let request = Request::SetRelay(RelayState::On);
        assert_eq!(
            encoded(&app.passthrough(&token, &DeviceId::new(ID).unwrap(), &request)),
            json!({"method": "passthrough", "params": {"token": "t", "appType": "Kasa_Android", "deviceId": ID,
                "requestData": r#"{"system":{"set_relay_state":{"state":1}}}"#}})
        );
        assert_eq!(
            encoded(&app.device_list(&token)),
            json!({"method": "getDeviceList", "params": {"token": "t", "appType": "Kasa_Android"}})
        );
    }

    #[test]
    fn each_request_names_the_app_of_the_config_and_its_version_if_there_is_one() {
        for (version, query) in [(None, ""), (Some("3.4 & 5"), "appName=Kasa_iOS&appVer=3.4+%26+5")] {
            let app = AppIdentity { app_type: "Kasa_iOS".to_owned(), version: version.map(str::to_owned) };
            let (token, id) = (secret("t"), DeviceId::new(ID).unwrap());
            for request in [
                app.login("me@example.com", &token, "uuid"),
                app.refresh(&token, "uuid"),
                app.device_list(&token),
                app.passthrough(&token, &id, &Request::SysInfo),
            ] {
                assert_eq!(encoded(&request)["params"]["appType"], "Kasa_iOS");
                assert_eq!(request.query, query);
            }
        }
    }
}
