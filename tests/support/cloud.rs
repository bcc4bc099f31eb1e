//! A canned cloud for the tests of the cloud client: a few lines of HTTP on loopback, an account as plain fields, and a
//! way to return anything else instead. It shares no code with the client under test.

#![allow(dead_code)] // Each test program uses its own part of it.
#![allow(clippy::unwrap_used)] // As in any test.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hs100d::bridge::event::{CloudStatus, Event, Exchange, ExchangeId, PlugKey, Target};
use hs100d::model::{DeviceId, Failure, RelayState};
use hs100d::secret::Secret;
use hs100d::smarthome::message::{Reply, Request};
use hs100d::transport::cloud::request::AppIdentity;
use hs100d::transport::cloud::session::AccountMemory;
use hs100d::transport::cloud::{Cloud, CloudOptions, TokenStore, Tokens};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use uuid::Uuid;

pub(crate) const KETTLE: &str = "8006000000000000000000000000000000000007";
pub(crate) const LAMP: &str = "8006000000000000000000000000000000000008";
pub(crate) const USERNAME: &str = "me@example.com";
pub(crate) const PASSWORD: &str = "\"'\\/{}$ü ";
pub(crate) const TERMINAL: Uuid = Uuid::from_u128(0x1234_5678);

/// The state of the canned cloud. Tests change it while it runs.
pub(crate) struct Account {
    pub(crate) password: &'static str,
    pub(crate) token: String,
    pub(crate) refresh_token: String,
    /// Returns this error code instead, by method.
    pub(crate) errors: HashMap<&'static str, i64>,
    /// Returns these bytes instead, by method.
    pub(crate) instead: HashMap<&'static str, Raw>,
    /// The same for passthroughs to one plug, by device id.
    pub(crate) instead_for: HashMap<&'static str, Raw>,
    pub(crate) rows: Vec<Value>,
    pub(crate) relay_on: bool,
    /// This many connections are closed at the next request, without a response.
    pub(crate) drop_next: usize,
    /// Each request, in order: its head and its JSON.
    pub(crate) seen: Vec<(String, Value)>,
    given: u32,
}

/// The bytes of a response, and what follows them.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) bytes: Vec<u8>,
    pub(crate) then: Then,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Then {
    Close,
    Hang,
}

impl Raw {
    pub(crate) fn http(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let bytes =
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes();
        Self { bytes, then: Then::Close }
    }
}

pub(crate) struct CannedCloud {
    pub(crate) url: String,
    account: Arc<Mutex<Account>>,
}

impl CannedCloud {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let account = Arc::new(Mutex::new(Account {
            password: PASSWORD,
            token: "token-0".to_owned(),
            refresh_token: "refresh-0".to_owned(),
            errors: HashMap::new(),
            instead: HashMap::new(),
            instead_for: HashMap::new(),
            rows: vec![row(KETTLE, &url), row(LAMP, &url)],
            relay_on: false,
            drop_next: 0,
            seen: Vec::new(),
            given: 0,
        }));
        let shared = Arc::clone(&account);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { url, account }
    }

    /// Reads or changes the account.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Account) -> T) -> T {
        f(&mut self.account.lock().unwrap())
    }

    /// The number of requests with this method.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.with(|account| account.seen.iter().filter(|(_, json)| json["method"] == method).count())
    }

    pub(crate) fn fail(&self, method: &'static str, code: i64) {
        self.with(|account| account.errors.insert(method, code));
    }

    pub(crate) fn heal(&self, method: &'static str) {
        self.with(|account| {
            account.errors.remove(method);
            account.instead.remove(method);
        });
    }

    pub(crate) fn instead(&self, method: &'static str, raw: Raw) {
        self.with(|account| account.instead.insert(method, raw));
    }

    /// The present token is no longer valid.
    pub(crate) fn expire_token(&self) {
        self.with(|account| account.token = "another".to_owned());
    }
}

pub(crate) fn row(id: &str, server: &str) -> Value {
    json!({"deviceId": id, "alias": "Kettle", "deviceMac": "50C7BF000007", "deviceModel": "HS100(EU)",
        "deviceType": "IOT.SMARTPLUGSWITCH", "appServerUrl": server, "status": 1, "isSameRegion": true})
}

/// Handles requests on one connection until the client closes it.
async fn serve(mut stream: TcpStream, account: Arc<Mutex<Account>>) {
    let mut buffer = Vec::new();
    while let Some((head, json)) = read_request(&mut stream, &mut buffer).await {
        let raw = answer(&mut account.lock().unwrap(), head, json);
        if stream.write_all(&raw.bytes).await.is_err() {
            return;
        }
        match raw.then {
            Then::Close if raw.bytes.starts_with(b"HTTP/1.1 200 OK\r\nX-Keep") => {}
            Then::Close => return,
            // Reads on without a response, until the client closes the connection.
            Then::Hang => while stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {},
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Value)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let length: usize =
                head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
            if buffer.len() >= end + 4 + length {
                let json = serde_json::from_slice(&buffer[end + 4..end + 4 + length]).unwrap_or(Value::Null);
                buffer.drain(..end + 4 + length);
                return Some((head, json));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn answer(account: &mut Account, head: String, json: Value) -> Raw {
    account.seen.push((head, json.clone()));
    let method = json["method"].as_str().unwrap_or_default();
    if let Some(fewer) = account.drop_next.checked_sub(1) {
        account.drop_next = fewer;
        return Raw { bytes: vec![], then: Then::Close };
    }
    if let Some(raw) = account.instead.get(method) {
        return raw.clone();
    }
    if let Some(raw) = json["params"]["deviceId"].as_str().and_then(|id| account.instead_for.get(id)) {
        return raw.clone();
    }
    let result = match account.errors.get(method) {
        Some(&code) => Err(code),
        None => carry_out(account, method, &json["params"]),
    };
    let body = match result {
        Ok(result) => json!({"error_code": 0, "result": result}),
        Err(code) => json!({"error_code": code, "msg": "localised text"}),
    };
    Raw::http("200 OK", "X-Keep: yes\r\n", &body.to_string())
}

fn carry_out(account: &mut Account, method: &str, params: &Value) -> Result<Value, i64> {
    match method {
        "login" => {
            let all = ["appType", "cloudUserName", "cloudPassword", "terminalUUID"];
            if all.iter().any(|&name| params[name].is_null()) {
                return Err(-20104);
            }
            if params["cloudPassword"] != account.password || params["cloudUserName"] != USERNAME {
                return Err(-20601);
            }
            Ok(account.give(params["refreshTokenNeeded"] == true))
        }
        "refreshToken" if params["refreshToken"] == account.refresh_token => Ok(account.give(true)),
        "refreshToken" => Err(-20655),
        _ if params["token"] != account.token => Err(-20651),
        "getDeviceList" => Ok(json!({"deviceList": account.rows})),
        "passthrough" => {
            let words: Value = serde_json::from_str(params["requestData"].as_str().ok_or(-20573)?).unwrap();
            Ok(
                json!({"responseData": account.plug(params["deviceId"].as_str().unwrap(), &words).to_string()}),
            )
        }
        _ => Err(-20103),
    }
}

impl Account {
    fn give(&mut self, with_refresh_token: bool) -> Value {
        self.given += 1;
        self.token = format!("secret-token-{}", self.given);
        let mut result = json!({"accountId": "1", "token": self.token});
        if with_refresh_token {
            self.refresh_token = format!("secret-refresh-{}", self.given);
            result["refreshToken"] = json!(self.refresh_token);
        }
        result
    }

    fn plug(&mut self, id: &str, words: &Value) -> Value {
        if let Some(state) = words["system"]["set_relay_state"]["state"].as_i64() {
            self.relay_on = state == 1;
            return json!({"system": {"set_relay_state": {"err_code": 0}}});
        }
        json!({"system": {"get_sysinfo": {"err_code": 0, "deviceId": id, "alias": "Kettle",
            "model": "HS100(EU)", "relay_state": i32::from(self.relay_on)}}})
    }
}

/// Keeps tokens in memory, as the store does on disk.
#[derive(Default)]
pub(crate) struct MemoryTokenStore {
    pub(crate) saved: Mutex<Vec<Tokens>>,
    pub(crate) fails: bool,
}

impl TokenStore for MemoryTokenStore {
    fn save(&self, tokens: &Tokens) -> std::io::Result<()> {
        if self.fails {
            return Err(std::io::Error::other("disk full"));
        }
        self.saved.lock().unwrap().push(tokens.clone());
        Ok(())
    }
}

/// A client of a canned cloud, with its token store and its status updates.
pub(crate) struct TestClient {
    pub(crate) cloud: Cloud,
    pub(crate) store: Arc<MemoryTokenStore>,
    pub(crate) events: mpsc::UnboundedReceiver<Event>,
}

pub(crate) fn options(canned: &CannedCloud, password: Option<&str>) -> CloudOptions {
    CloudOptions {
        username: USERNAME.to_owned(),
        password: password.map(|password| Secret::new(password.to_owned())),
        url: canned.url.clone(),
        app: AppIdentity::default(),
        keys: None,
        ca_file: None,
    }
}

impl TestClient {
    pub(crate) fn new(canned: &CannedCloud, password: Option<&str>, tokens: Option<Tokens>) -> Self {
        Self::with_store(canned, password, tokens, MemoryTokenStore::default())
    }

    pub(crate) fn with_store(
        canned: &CannedCloud,
        password: Option<&str>,
        tokens: Option<Tokens>,
        store: MemoryTokenStore,
    ) -> Self {
        let store = Arc::new(store);
        let (sender, events) = mpsc::unbounded_channel();
        let shared: Arc<dyn TokenStore> = store.clone();
        let memory = AccountMemory::default();
        let cloud =
            Cloud::start(options(canned, password), TERMINAL, tokens, shared, sender, memory).unwrap();
        Self { cloud, store, events }
    }

    pub(crate) async fn ask(&self, id: &str, request: Request) -> Result<Reply, Failure> {
        self.cloud.perform(&exchange(id, request, Duration::from_secs(10))).await.result
    }

    pub(crate) async fn read(&self, id: &str) -> Result<RelayState, Failure> {
        match self.ask(id, Request::SysInfo).await? {
            Reply::SysInfo(reading) => Ok(reading.relay.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// Every status so far.
    pub(crate) fn statuses(&mut self) -> Vec<CloudStatus> {
        let mut statuses = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            if let Event::Cloud(status) = event {
                statuses.push(status);
            }
        }
        statuses
    }
}

pub(crate) fn exchange(id: &str, request: Request, time: Duration) -> Exchange {
    Exchange {
        id: ExchangeId::new(PlugKey(1), 1),
        plug: PlugKey(1),
        label: "kettle".into(),
        target: Target::Cloud { device_id: DeviceId::new(id).unwrap() },
        request,
        deadline: Instant::now() + time,
        urgent: true,
        known_info: None,
    }
}

pub(crate) fn tokens(token: &str, refresh_token: Option<&str>) -> Tokens {
    Tokens {
        username: USERNAME.to_owned(),
        registered: None,
        token: Secret::new(token.to_owned()),
        refresh_token: refresh_token.map(|token| Secret::new(token.to_owned())),
    }
}

/// Waits until a condition holds, with a bound.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain until {what}");
}

/// A client of this account. Nobody hears its events, and its tokens are kept in memory.
pub(crate) fn client_of(options: CloudOptions, tokens: Option<Tokens>) -> Cloud {
    let (events, _) = mpsc::unbounded_channel();
    let (store, memory) = (Arc::new(MemoryTokenStore::default()), AccountMemory::default());
    Cloud::start(options, TERMINAL, tokens, store, events, memory).unwrap()
}

/// One exchange with a plug of this home, over the cloud.
#[cfg(feature = "sim")]
pub(crate) async fn ask_at_home(
    home: &hs100d::sim::home::SimHome,
    cloud: &Cloud,
    plug: usize,
    request: Request,
) -> Result<Reply, Failure> {
    let id = home.plug(plug).device_id();
    cloud.perform(&exchange(&id, request, Duration::from_secs(10))).await.result
}
