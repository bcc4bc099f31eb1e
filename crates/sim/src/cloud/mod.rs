//! The simulated cloud: an HTTP server on loopback that behaves as TP-Link's interface, in its first version and, if
//! the account has keys, in its second.
//!
//! Owns what a test can change while the cloud runs. [`account`] builds the responses, [`rule`] has the faults,
//! [`signed`] checks signatures, `server` has the sockets, `wire` the HTTP. The cloud serves the same plugs as the LAN,
//! through the same handles.
//!
//! Host 0 is the global entry, where clients log in and list devices. Hosts 1, 2, … are the regions; each has a port,
//! and each plug belongs to one of them. A passthrough at the wrong host gets -20571, as at the real cloud.

pub mod account;
pub mod rule;
mod server;
pub mod signed;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::account::{AccountServer, SimAccount};
use self::rule::{CloudFault, FaultRule, FaultRules, Method, Times};
use self::server::{HostTask, Ledger, Locked, State};
use crate::handle::PlugHandle;
use crate::listener::{BACKLOG, Listener};
use crate::notify::{ChangeNotifier, NotInTime};

pub(crate) use self::server::CallRecord;

/// The longest that [`SimCloud::set_reachable`] waits for sockets to close or open; it takes microseconds.
const SETTLING: Duration = Duration::from_secs(5);

/// A cloud of simulated plugs. It ends when it is dropped.
pub struct SimCloud {
    state: Arc<State>,
    reachable: watch::Sender<bool>,
    hosts: Vec<SimHost>,
}

impl SimCloud {
    /// Listens at these loopback addresses: the global entry first, then one for each region. Port 0 takes a free one.
    ///
    /// # Errors
    /// When an address is not a loopback one, or is taken.
    pub async fn start(
        account: SimAccount,
        addresses: &[SocketAddr],
        notifier: ChangeNotifier,
    ) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for address in addresses {
            if !address.ip().is_loopback() {
                let why = format!("{address}: a simulated cloud has loopback addresses only");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            listeners.push(Listener::bind(*address, BACKLOG)?);
        }
        let addresses: Vec<_> =
            listeners.iter().map(|listener| listener.local_addr()).collect::<Result<_, _>>()?;
        let urls = addresses.iter().map(|address| format!("http://{address}")).collect();
        let (reachable, _) = watch::channel(true);
        let inner = Locked {
            server: AccountServer::new(account, urls),
            rules: FaultRules::default(),
            ledger: Ledger::default(),
        };
        let state = Arc::new(State { inner: Mutex::new(inner), notifier });
        let open = |(number, listener): (usize, Listener)| {
            let (is_open, open) = watch::channel(true);
            let host = HostTask { state: Arc::clone(&state), number, is_open };
            let task = tokio::spawn(host.run(listener, addresses[number], reachable.subscribe()));
            SimHost { address: addresses[number], open, task: task.abort_handle() }
        };
        let hosts = listeners.into_iter().enumerate().map(open).collect();
        Ok(Self { state, reachable, hosts })
    }

    /// The URL of the global entry, where clients log in: `http://127.…:port`, without a slash at the end.
    pub fn url(&self) -> String {
        self.host_url(0)
    }

    /// The URL of one host; empty if there is no such host.
    pub fn host_url(&self, host: usize) -> String {
        self.hosts.get(host).map_or_else(String::new, |host| format!("http://{}", host.address))
    }

    /// The number of regional hosts.
    pub(crate) fn regions(&self) -> usize {
        self.hosts.len().saturating_sub(1)
    }

    /// Adds a plug under its present device id.
    pub fn add(&self, plug: &PlugHandle) {
        self.state.lock().server.add(plug.clone());
    }

    /// Changes the account: password, lock, two-step verification, …
    pub fn account(&self, change: impl FnOnce(&mut SimAccount)) {
        change(&mut self.state.lock().server.account);
    }

    /// Voids every token. The real cloud answers an expired one with -20651.
    pub fn void_tokens(&self, code: i64) {
        self.state.lock().server.void_tokens(code);
    }

    /// Voids every refresh token: -20655 expired, -20656 incorrect.
    pub fn void_refresh_tokens(&self, code: i64) {
        self.state.lock().server.void_refresh_tokens(code);
    }

    /// Adds a fault on this method (`None`: on all), after the rules that exist.
    pub fn fail(&self, on: Option<Method>, times: Times, fault: CloudFault) {
        self.state.lock().rules.add(FaultRule { on, times, fault });
    }

    /// Removes all faults. A request that waits already keeps waiting.
    pub fn mend(&self) {
        self.state.lock().rules.clear();
    }

    /// Closes or opens all hosts and returns once that is done. While closed, connections are refused, and open ones
    /// are cut.
    ///
    /// # Errors
    /// When the sockets were not closed or opened in time.
    pub async fn set_reachable(&self, reachable: bool) -> Result<(), NotInTime> {
        self.reachable.send_replace(reachable);
        let agree = || self.hosts.iter().all(|host| *host.open.borrow() == reachable);
        self.state.notifier.wait_until(SETTLING, agree).await
    }

    /// The number of requests with this method.
    pub fn calls(&self, method: Method) -> u64 {
        self.state.lock().ledger.counts[method.index()]
    }

    /// The highest number of requests with this method that were under way at once.
    pub fn most_at_once(&self, method: Method) -> u64 {
        self.state.lock().ledger.most_under_way[method.index()]
    }

    /// By logins and refreshes.
    #[cfg(test)]
    fn tokens_issued(&self) -> u64 {
        self.state.lock().server.tokens_issued
    }

    /// The last thousand requests, oldest first.
    pub fn records(&self) -> Vec<CallRecord> {
        self.state.lock().ledger.records.iter().cloned().collect()
    }
}

impl Drop for SimCloud {
    fn drop(&mut self) {
        for host in &self.hosts {
            host.task.abort();
        }
    }
}

struct SimHost {
    address: SocketAddr,
    /// Set by the host's task.
    open: watch::Receiver<bool>,
    task: AbortHandle,
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use std::net::Ipv4Addr;

    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::account::failure;
    use super::*;
    use crate::fault::CloudLink;
    use crate::model::Model;
    use crate::plug::{SimPlug, SwitchedBy};

    const BOUND: Duration = Duration::from_secs(5);
    /// Long enough to show that nothing comes.
    const NOTHING_COMES: Duration = Duration::from_millis(200);
    const PASSWORD: &str = "\"'\\/{}$\u{fc} ";
    const ON: &str = r#"{"system":{"set_relay_state":{"state":1}}}"#;

    struct CloudScene {
        cloud: SimCloud,
        plug: PlugHandle,
        notifier: ChangeNotifier,
    }

    impl CloudScene {
        async fn new() -> Self {
            let notifier = ChangeNotifier::new();
            let account = SimAccount::new("user@example.com", PASSWORD);
            let addresses = [SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0)); 3];
            let cloud = SimCloud::start(account, &addresses, notifier.clone()).await.unwrap();
            let plug = SimPlug::new(Model::HS100_HW1, 7, "Lamp", Instant::now());
            let plug = PlugHandle::new(plug, notifier.clone());
            cloud.add(&plug);
            Self { cloud, plug, notifier }
        }

        async fn call(&self, host: usize, query: &str, call: &Value) -> io::Result<(u16, String)> {
            post(self.cloud.hosts[host].address, query, "application/json", &call.to_string()).await
        }

        async fn log_in(&self) -> io::Result<String> {
            let (_, body) = self.call(0, "", &login()).await?;
            let answer: Value = serde_json::from_str(&body)?;
            Ok(answer["result"]["token"].as_str().unwrap_or_else(|| panic!("{body}")).to_owned())
        }

        async fn switch_on(&self, host: usize, token: &str) -> io::Result<Value> {
            let params = json!({"deviceId": self.plug.device_id(), "requestData": ON});
            let call = json!({"method": "passthrough", "params": params});
            let (status, body) = self.call(host, &format!("?token={token}"), &call).await?;
            assert_eq!(status, 200);
            Ok(serde_json::from_str(&body)?)
        }
    }

    fn login() -> Value {
        json!({"method": "login", "url": "https://wap.tplinkcloud.com", "params": {
            "appType": "Kasa_Android", "cloudUserName": "user@example.com", "cloudPassword": PASSWORD,
            "terminalUUID": "b6085622-86e0-4940-8fd3-4b60862de994", "refreshTokenNeeded": true}})
    }

    async fn post(address: SocketAddr, query: &str, kind: &str, body: &str) -> io::Result<(u16, String)> {
        let head = format!("POST /{query} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\n");
        send(address, &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).await
    }

    /// Status and body; an error where the connection ends before the announced length.
    async fn send(address: SocketAddr, request: &str) -> io::Result<(u16, String)> {
        send_on(&mut TcpStream::connect(address).await?, request).await
    }

    async fn send_on(stream: &mut TcpStream, request: &str) -> io::Result<(u16, String)> {
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        stream.read_exact(&mut body).await?;
        Ok((head[9..12].parse().unwrap(), String::from_utf8(body).unwrap()))
    }

    fn code(body: &str) -> i64 {
        serde_json::from_str::<Value>(body).unwrap()["error_code"].as_i64().unwrap()
    }

    #[tokio::test]
    async fn a_plug_is_switched_at_its_own_host_by_a_client_that_logged_in() {
        let scene = CloudScene::new().await;
        let token = scene.log_in().await.unwrap();
        let answer = scene.switch_on(1, &token).await.unwrap();
        let reply = r#"{"system":{"set_relay_state":{"err_code":0}}}"#;
        assert_eq!(answer, json!({"error_code": 0, "result": {"responseData": reply}}));
        assert!(scene.plug.is_on());
        assert_eq!(scene.plug.switchings()[0].by, SwitchedBy::Cloud);
        for wrong_host in [0, 2] {
            assert_eq!(scene.switch_on(wrong_host, &token).await.unwrap()["error_code"], -20571);
        }
        assert_eq!(scene.switch_on(1, "made-up").await.unwrap()["error_code"], -20651);
        assert_eq!(scene.plug.traffic().cloud_requests, 1);
    }

    #[tokio::test]
    async fn what_is_no_call_is_answered_by_code() {
        let scene = CloudScene::new().await;
        let address = scene.cloud.hosts[0].address;
        let json = "application/json";
        let login = login().to_string();
        let table = [
            (post(address, "", json, &login).await, 200, 0),
            (post(address, "", "application/json;charset=UTF-8", &login).await, 200, 0),
            (post(address, "", "application/x-www-form-urlencoded", &login).await, 200, -10100),
            (post(address, "", json, "{\"method\":\"login\"").await, 200, -10100),
            (post(address, "", json, "[]").await, 200, -10100),
            (post(address, "", json, "null").await, 200, -10101),
            (post(address, "", json, "").await, 400, -10000),
            (post(address, "api", json, &login).await, 404, -20103),
            (post(address, "", json, "{\"method\":\"logout\"}").await, 200, -20103),
            (send(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await, 405, -10000),
        ];
        for (row, (answer, status, error_code)) in table.into_iter().enumerate() {
            let (seen_status, body) = answer.unwrap();
            assert_eq!((seen_status, code(&body)), (status, error_code), "row {row}");
        }
    }

    /// What a client sees of a passthrough under a fault.
    #[derive(Debug, PartialEq)]
    enum CloudSeen {
        Code(i64),
        Nested(String),
        Status(u16),
        NoJson,
        Nothing,
        Ended,
    }

    #[tokio::test]
    async fn each_fault_shows_as_it_should_and_acts_only_where_it_says_so() {
        let scene = CloudScene::new().await;
        let token = scene.log_in().await.unwrap();
        let tick = Duration::from_millis(1);
        let table = [
            (CloudFault::Code(-20004), CloudSeen::Code(-20004), false),
            (CloudFault::NestedCode(-20651), CloudSeen::Nested("-20651".into()), false),
            (CloudFault::Status(503), CloudSeen::Status(503), false),
            (CloudFault::Html, CloudSeen::NoJson, false),
            (CloudFault::Redirect("http://127.0.0.1:9/".into()), CloudSeen::Status(307), false),
            (CloudFault::Silent, CloudSeen::Nothing, false),
            (CloudFault::Close, CloudSeen::Ended, false),
            (CloudFault::Latency(tick), CloudSeen::Code(0), true),
            (CloudFault::CutOff, CloudSeen::Ended, true),
            (CloudFault::SlowBytes(tick), CloudSeen::Code(0), true),
            (CloudFault::EmptyList, CloudSeen::Code(0), true),
        ];
        for (fault, expected, acts) in table {
            let before = scene.plug.traffic().relay_orders;
            scene.cloud.fail(Some(Method::Passthrough), Times::Next(1), fault.clone());
            let params = json!({"deviceId": scene.plug.device_id(), "requestData": ON});
            let call = json!({"method": "passthrough", "params": params});
            let query = format!("?token={token}");
            let bound = if expected == CloudSeen::Nothing { NOTHING_COMES } else { BOUND };
            let seen = match timeout(bound, scene.call(1, &query, &call)).await {
                Err(_) => CloudSeen::Nothing,
                Ok(Err(_)) => CloudSeen::Ended,
                Ok(Ok((200, body))) => match serde_json::from_str::<Value>(&body) {
                    Err(_) => CloudSeen::NoJson,
                    Ok(answer) => match answer["result"]["errorCode"].as_str() {
                        Some(nested) => CloudSeen::Nested(nested.to_owned()),
                        None => CloudSeen::Code(answer["error_code"].as_i64().unwrap()),
                    },
                },
                Ok(Ok((status, _))) => CloudSeen::Status(status),
            };
            assert_eq!(seen, expected, "{fault:?}");
            assert_eq!(scene.plug.traffic().relay_orders - before, u64::from(acts), "{fault:?}");
        }
        assert_eq!(scene.switch_on(1, &token).await.unwrap()["error_code"], 0, "each fell once");
    }

    #[tokio::test]
    async fn a_cut_off_answer_ends_after_its_first_half() {
        let scene = CloudScene::new().await;
        scene.cloud.fail(None, Times::Next(1), CloudFault::CutOff);
        let mut stream = TcpStream::connect(scene.cloud.hosts[0].address).await.unwrap();
        let request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        timeout(BOUND, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
        let (head, body) = std::str::from_utf8(&bytes).unwrap().split_once("\r\n\r\n").unwrap();
        let whole = failure(account::JSON_FORMAT_ERROR).to_string();
        assert!(head.contains(&format!("content-length: {}", whole.len())), "{head}");
        assert_eq!(body, &whole[..whole.len() / 2]);
    }

    #[tokio::test]
    async fn each_link_to_a_plug_shows_as_it_should_and_acts_only_where_it_says_so() {
        let scene = CloudScene::new().await;
        let token = scene.log_in().await.unwrap();
        let tick = Duration::from_millis(1);
        let done = json!({"system": {"set_relay_state": {"err_code": 0}}});
        let refused = r#"{"system":{"set_relay_state":{"err_code":-3,"err_msg":"invalid argument"}}}"#;
        let success = |data: Value| json!({"error_code": 0, "result": {"responseData": data}});
        let offline = json!({"error_code": -20571, "msg": "Device is offline"});
        let timed_out = json!({"error_code": -20002, "msg": "Request timeout"});
        let table = [
            (CloudLink::Works, success(done.to_string().into()), true),
            (CloudLink::Offline, offline, false),
            (CloudLink::TimesOut(tick), timed_out.clone(), false),
            (CloudLink::TimesOutButActs(tick), timed_out, true),
            (CloudLink::Latency(tick), success(done.to_string().into()), true),
            (CloudLink::ObjectReply, success(done.clone()), true),
            (CloudLink::NoReply, json!({"error_code": 0, "result": {}}), true),
            (CloudLink::Garbage, success("<html>not a plug</html>".into()), true),
            (CloudLink::DeviceError(-3), success(refused.into()), false),
        ];
        for (link, expected, acts) in table {
            let before = scene.plug.traffic().relay_orders;
            scene.plug.set_cloud(link);
            assert_eq!(scene.switch_on(1, &token).await.unwrap(), expected, "{link:?}");
            assert_eq!(scene.plug.traffic().relay_orders - before, u64::from(acts), "{link:?}");
        }
    }

    #[tokio::test]
    async fn what_is_on_its_way_to_a_plug_gets_there_though_the_client_has_hung_up() {
        let scene = CloudScene::new().await;
        let token = scene.log_in().await.unwrap();
        scene.plug.set_cloud(CloudLink::TimesOutButActs(Duration::from_millis(200)));
        let has_arrived = || scene.cloud.calls(Method::Passthrough) == 1;
        tokio::select! {
            answer = scene.switch_on(1, &token) => panic!("answered before the client could hang up: {answer:?}"),
            arrived = scene.notifier.wait_until(BOUND, has_arrived) => arrived.unwrap(),
        }
        assert!(!scene.plug.is_on());
        scene.notifier.wait_until(BOUND, || scene.plug.is_on()).await.unwrap();
    }

    #[tokio::test]
    async fn a_cloud_that_is_down_refuses_and_comes_back_where_it_was() {
        let scene = CloudScene::new().await;
        let token = scene.log_in().await.unwrap();
        let mut kept = TcpStream::connect(scene.cloud.hosts[0].address).await.unwrap();
        let (status, _) = send_on(&mut kept, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(status, 405);
        scene.cloud.set_reachable(false).await.unwrap();
        let ended = timeout(BOUND, kept.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "a kept connection is gone");
        for host in 0..3 {
            let error = scene.call(host, "", &login()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
        scene.cloud.set_reachable(true).await.unwrap();
        assert_eq!(scene.switch_on(1, &token).await.unwrap()["error_code"], 0);
    }

    #[tokio::test]
    async fn calls_are_counted_kept_and_seen_side_by_side() {
        let scene = CloudScene::new().await;
        let first = scene.log_in().await.unwrap();
        assert_ne!(scene.log_in().await.unwrap(), first);
        assert_eq!((scene.cloud.calls(Method::Login), scene.cloud.most_at_once(Method::Login)), (2, 1));
        assert_eq!((scene.cloud.calls(Method::DeviceList), scene.cloud.tokens_issued()), (0, 2));
        scene.cloud.fail(Some(Method::Login), Times::Next(2), CloudFault::Silent);
        let two_hang = || scene.cloud.most_at_once(Method::Login) == 2;
        tokio::select! {
            _ = async { tokio::join!(scene.log_in(), scene.log_in()) } => panic!("answered by a silent cloud"),
            both = scene.notifier.wait_until(BOUND, two_hang) => both.unwrap(),
        }
        let record = scene.cloud.records().pop().unwrap();
        assert_eq!((record.method, record.host, record.uri.as_str()), (Method::Login, 0, "/"));
        assert_eq!(record.body, login().to_string());
        scene.cloud.fail(None, Times::Always, CloudFault::Close);
        scene.cloud.mend();
        scene.log_in().await.unwrap();
    }

    #[tokio::test]
    async fn a_list_may_be_empty_for_once() {
        let scene = CloudScene::new().await;
        let token = scene.log_in().await.unwrap();
        scene.cloud.fail(None, Times::Next(1), CloudFault::EmptyList);
        let list = json!({"method": "getDeviceList"});
        let query = format!("?appName=Kasa_Android&token={token}");
        let (_, body) = scene.call(0, &query, &list).await.unwrap();
        assert_eq!(body, r#"{"error_code":0,"result":{"deviceList":[]}}"#);
        let (_, body) = scene.call(0, &query, &list).await.unwrap();
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["result"]["deviceList"][0]["appServerUrl"], scene.cloud.host_url(1));
    }

    #[tokio::test]
    async fn only_loopback_addresses_are_listened_at() {
        let outside = [SocketAddr::from(([192, 0, 2, 1], 0))];
        let error =
            SimCloud::start(SimAccount::new("", ""), &outside, ChangeNotifier::new()).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
