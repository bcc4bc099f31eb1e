//! For tests of the MQTT connection: real brokers, a client that listens, the daemon's end of the connection, and a
//! broker with faults. Every wait has a bound and a condition.

#![allow(dead_code, reason = "each file of stories uses its own part of the kit")]

use std::future::Future;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hs100d::bridge::event::{
    CommandId, CommandResult, Ended, Event, IdAllocator, PlugInfo, PlugState, Update,
};
use hs100d::model::{Availability, DeviceId, PlugCommand, PlugName, RelayState, Route};
use hs100d::mqtt::broker::{self, EmbeddedBroker};
use hs100d::mqtt::homeassistant::{self, DocumentForm};
use hs100d::mqtt::{Inbound, Link, LoginSource, MqttSettings};
use hs100d::payload::Clock;
use hs100d::secret::RefusedLogins;
use hs100d::smarthome::message::DeviceInfo;
use rumqttc::{AsyncClient, MqttOptions, Packet, PublishOptions, PublishProperties, QoS};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// The bound of every wait; longer than the longest delay between two connections in these tests, which is 24 s.
pub(crate) const BOUND: Duration = Duration::from_secs(40);

/// Waits for something that must happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

/// The brokers with which each test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brand {
    Embedded,
    Mosquitto,
}

/// All brokers that are installed. In CI all of them must be.
pub(crate) fn brands() -> Vec<Brand> {
    if has_mosquitto() { vec![Brand::Embedded, Brand::Mosquitto] } else { vec![Brand::Embedded] }
}

/// Whether mosquitto is installed. If not, the test says so, and fails in CI.
pub(crate) fn has_mosquitto() -> bool {
    has("mosquitto", "mosquitto")
}

/// Whether mosquitto's own clients are installed, likewise.
pub(crate) fn has_mosquitto_clients() -> bool {
    has("mosquitto_pub", "mosquitto-clients") && has("mosquitto_sub", "mosquitto-clients")
}

/// Whether Prometheus' `promtool` is installed, likewise.
pub(crate) fn has_promtool() -> bool {
    has("promtool", "prometheus")
}

/// Whether a program is installed. If not, the test says so, and fails in CI.
pub(crate) fn has(program: &str, package: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain([PathBuf::from("/usr/sbin")])
        .any(|folder| folder.join(program).is_file());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed: apt-get install {package}");
        println!("skipped: {program} is not installed");
    }
    found
}

/// A broker on a free port of loopback.
pub(crate) struct TestBroker {
    pub(crate) port: u16,
    extra: String,
    folder: TempDir,
    running: Running,
}

enum Running {
    Embedded(Option<EmbeddedBroker>),
    Mosquitto(Process),
}

/// A process that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl TestBroker {
    pub(crate) async fn start(brand: Brand) -> Self {
        match brand {
            Brand::Embedded => Self::embedded_at(0).await,
            Brand::Mosquitto => Self::mosquitto("allow_anonymous true\n", &[]).await,
        }
    }

    /// The embedded broker at this port; 0 takes a free one.
    pub(crate) async fn embedded_at(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = embedded(port, folder.path()).await;
        let port = broker.addr().port();
        Self { port, extra: String::new(), folder, running: Running::Embedded(Some(broker)) }
    }

    /// Mosquitto with additional lines in its config, and files beside it. `FOLDER` in a line stands for their folder.
    pub(crate) async fn mosquitto(lines: &str, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let port = free_port();
        let extra = lines.replace("FOLDER", &folder.path().display().to_string());
        let process = mosquitto(port, &extra, folder.path()).await;
        Self { port, extra, folder, running: Running::Mosquitto(process) }
    }

    /// Mosquitto with these users, all with the same password, written by its own tool.
    pub(crate) async fn with_users(users: &[&str], password: &str, acl: &str) -> Self {
        Self::with_users_and(users, password, acl, "").await
    }

    /// The same with additional lines in the config.
    pub(crate) async fn with_users_and(users: &[&str], password: &str, acl: &str, lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passwords");
        std::fs::write(&file, "").unwrap();
        for user in users {
            let done = Command::new("mosquitto_passwd")
                .args(["-b".as_ref(), file.as_os_str(), user.as_ref(), password.as_ref()])
                .output()
                .unwrap();
            assert!(done.status.success(), "{done:?}");
        }
        let passwords = std::fs::read_to_string(&file).unwrap();
        let lines =
            format!("allow_anonymous false\npassword_file FOLDER/passwords\nacl_file FOLDER/acl\n{lines}");
        Self::mosquitto(&lines, &[("passwords", &passwords), ("acl", acl)]).await
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The broker stops, and a new one without retained messages starts at the same port.
    pub(crate) async fn restart_without_store(&mut self) {
        let port = self.port;
        match &mut self.running {
            Running::Embedded(broker) => {
                broker.take().unwrap().stop().await;
                self.folder = tempfile::tempdir().unwrap();
                *broker = Some(embedded(port, self.folder.path()).await);
            }
            Running::Mosquitto(process) => {
                let _ = process.0.kill();
                let _ = process.0.wait();
                *process = mosquitto(port, &self.extra, self.folder.path()).await;
            }
        }
    }

    /// The embedded broker restarts with its retained messages.
    pub(crate) async fn restart_with_store(&mut self) {
        let Running::Embedded(broker) = &mut self.running else {
            panic!("only the embedded broker keeps its store")
        };
        broker.take().unwrap().stop().await;
        *broker = Some(embedded(self.port, self.folder.path()).await);
    }
}

async fn embedded(port: u16, state_dir: &Path) -> EmbeddedBroker {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let options = broker::BrokerOptions { listen, users: Vec::new(), state_dir: state_dir.to_owned() };
    within("the embedded broker", EmbeddedBroker::start(options)).await.unwrap()
}

pub(crate) async fn mosquitto(port: u16, extra: &str, folder: &Path) -> Process {
    let config = folder.join("mosquitto.conf");
    // Without `user`, a mosquitto that root starts could not read the folder.
    let text = format!("listener {port} 127.0.0.1\nuser root\npersistence false\n{extra}");
    std::fs::File::create(&config).unwrap().write_all(text.as_bytes()).unwrap();
    let path = std::env::join_paths(
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .chain([PathBuf::from("/usr/sbin")]),
    );
    let child = Command::new("mosquitto")
        .env("PATH", path.unwrap())
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(child);
    within("mosquitto", async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    process
}

/// A port that is and stays free: below the range of outgoing connections, and never returned twice.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u32 = 20_000;
    /// The distance between the first ports of test programs that run at the same time.
    const APART: u32 = 97;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number =
            std::process::id().wrapping_mul(APART).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from(number % COUNT).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Settings for a daemon with its own base topic and client id.
pub(crate) fn options(port: u16) -> MqttSettings {
    MqttSettings {
        host: "127.0.0.1".to_owned(),
        port,
        others: Vec::new(),
        return_after: MqttSettings::RETURN_AFTER,
        will_delay: MqttSettings::WILL_DELAY,
        tls: None,
        username: None,
        password: None,
        client_id: "hs100d-test".to_owned(),
        base_topic: "home/hs100d".to_owned(),
        instance: "test".to_owned(),
        drawn_instance: "test".to_owned(),
        homeassistant: homeassistant::HomeAssistantOptions {
            discovery: DocumentForm::Device,
            discovery_prefix: "homeassistant".to_owned(),
            status_topic: "homeassistant/status".to_owned(),
        },
    }
}

/// The daemon's end of an MQTT connection.
pub(crate) struct Daemon {
    pub(crate) link: Link,
    pub(crate) inbound: mpsc::UnboundedReceiver<Inbound>,
}

impl Daemon {
    pub(crate) fn start(options: MqttSettings) -> Self {
        Self::start_after(RefusedLogins::default(), options)
    }

    /// In a process in which brokers have refused these logins.
    pub(crate) fn start_after(refused: RefusedLogins, options: MqttSettings) -> Self {
        Self::start_with(LoginSource::default(), refused, options)
    }

    /// The same; `source` is asked for another login.
    pub(crate) fn start_with(source: LoginSource, refused: RefusedLogins, options: MqttSettings) -> Self {
        let (sender, inbound) = mpsc::unbounded_channel();
        Self { link: Link::start(options, IdAllocator::default(), refused, source, sender), inbound }
    }

    pub(crate) async fn connected(port: u16) -> Self {
        let mut daemon = Self::start(options(port));
        daemon.connects().await;
        daemon
    }

    /// Waits until it is connected and subscribed to commands.
    pub(crate) async fn connects(&mut self) {
        within("a connection", async {
            loop {
                if let Some(Inbound::Link(Ok(_))) = self.inbound.recv().await {
                    return;
                }
            }
        })
        .await;
    }

    /// Waits until the connection reports a failure.
    pub(crate) async fn complains(&mut self) -> String {
        within("a complaint", async {
            loop {
                if let Some(Inbound::Link(Err(text))) = self.inbound.recv().await {
                    return text;
                }
            }
        })
        .await
    }

    pub(crate) async fn hears(&mut self) -> Inbound {
        within("something from the broker", self.inbound.recv()).await.expect("the link has ended")
    }

    /// Waits for an event for the bridge, whatever happens to the connection meanwhile.
    pub(crate) async fn hears_event(&mut self) -> Event {
        loop {
            if let Inbound::Event(event) = self.hears().await {
                return event;
            }
        }
    }

    pub(crate) async fn hears_command(&mut self) -> (CommandId, PlugName, PlugCommand) {
        match self.hears().await {
            Inbound::Event(Event::Command { id, plug, order }) => (id, plug, order),
            other => panic!("not a command: {other:?}"),
        }
    }

    pub(crate) fn publish(&self, update: Update) {
        self.link.publish(update, Clock::now());
    }

    /// Publishes a plug as the bridge does after a read.
    pub(crate) fn show_plug(&self, plug: &str) {
        self.publish(Update::Info(name(plug), info(plug).into()));
        self.publish(Update::State(name(plug), state(RelayState::On)));
        self.publish(Update::Availability(name(plug), Availability::Online));
    }

    pub(crate) fn answer(&self, id: CommandId, plug: &PlugName) {
        self.publish(Update::Result(CommandResult {
            id,
            plug: plug.clone(),
            ended: Ended::Ok,
            state: Some(RelayState::On),
            route: Some(Route::Local),
            took: Duration::from_millis(12),
        }));
    }
}

pub(crate) fn name(text: &str) -> PlugName {
    PlugName::new(text).unwrap()
}

pub(crate) fn state(relay: RelayState) -> PlugState {
    PlugState {
        relay,
        route: Some(Route::Local),
        led: Some(RelayState::On),
        on_since: None,
        brightness: None,
        until: None,
    }
}

/// The info of a plug; its device id is made from its name.
pub(crate) fn info(plug: &str) -> PlugInfo {
    PlugInfo {
        device: Arc::new(DeviceInfo {
            device_id: DeviceId::new(&device_id(plug)),
            mac: None,
            alias: plug.into(),
            model: "HS100(EU)".into(),
            hw_version: "1.0".into(),
            sw_version: "1.2.6".into(),
            kind: "IOT.SMARTPLUGSWITCH".into(),
            feature: "TIM".into(),
            dev_name: "Wi-Fi Smart Plug".into(),
            dims: false,
            outlets: Box::default(),
        }),
        address: hs100d::model::Address::new("127.0.0.1", 9999),
        protocol: None,
        rssi: Some(-50),
        cloud_connected: None,
        outlet: None,
        outlets: Arc::default(),
        schedule: None,
    }
}

pub(crate) fn device_id(plug: &str) -> String {
    let digits: String = plug.bytes().map(|byte| format!("{byte:02X}")).collect();
    format!("{digits:0<40.40}")
}

pub(crate) fn document_topic(plug: &str) -> String {
    format!("homeassistant/device/hs100d_{}/config", device_id(plug))
}

/// A message as another client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) retained: bool,
    pub(crate) correlation: Option<Bytes>,
}

/// Another client at the broker. It receives everything and can publish.
pub(crate) struct Subscriber {
    client: AsyncClient,
    log: Arc<Log>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Message>>,
    news: Notify,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscriber {
    pub(crate) async fn connect(port: u16) -> Self {
        Self::subscribe_to(port, "#", None).await
    }

    pub(crate) async fn subscribe_to(port: u16, filter: &str, login: Option<(&str, &str)>) -> Self {
        let mut options = MqttOptions::new(format!("ear-{}", free_port()), ("127.0.0.1", port));
        options.set_max_packet_size(Some(4 << 20));
        if let Some((name, password)) = login {
            options.set_credentials(name.to_owned(), password.to_owned());
        }
        let (client, mut events) = AsyncClient::builder(options).capacity(100).build();
        client.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
        let log = Arc::new(Log::default());
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let task = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                let mut ready = Some(ready);
                loop {
                    match events.poll().await {
                        Ok(rumqttc::Event::Incoming(Packet::Publish(message))) => log.add(&message),
                        Ok(rumqttc::Event::Incoming(Packet::SubAck(_))) => {
                            if let Some(ready) = ready.take() {
                                let _ = ready.send(());
                            }
                        }
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
            }
        });
        within("the listener", is_ready).await.unwrap();
        Self { client, log, task }
    }

    pub(crate) fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client.try_publish(topic, payload.into(), PublishOptions::at_least_once()).unwrap();
    }

    pub(crate) fn publish_retained(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client.try_publish(topic, payload.into(), PublishOptions::at_least_once().retained()).unwrap();
    }

    /// The same for many messages in a row: waits for room.
    pub(crate) async fn publish_retained_when_possible(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        let options = PublishOptions::at_least_once().retained();
        within("room", self.client.publish(topic, payload.into(), options)).await.unwrap();
    }

    /// A command with this response topic.
    pub(crate) fn request(&self, topic: &str, payload: &str, answer_to: &str, correlation: &'static [u8]) {
        let properties = PublishProperties {
            response_topic: Some(answer_to.to_owned()),
            correlation_data: Some(Bytes::from_static(correlation)),
            ..PublishProperties::default()
        };
        let options = PublishOptions::at_least_once().properties(properties);
        self.client.try_publish(topic, payload.to_owned(), options).unwrap();
    }

    pub(crate) fn messages(&self) -> Vec<Message> {
        self.log.seen.lock().unwrap().clone()
    }

    pub(crate) fn clear(&self) {
        self.log.seen.lock().unwrap().clear();
    }

    /// Waits until the messages so far satisfy a condition, and returns its value.
    pub(crate) async fn until<T>(&self, what: &str, mut condition: impl FnMut(&[Message]) -> Option<T>) -> T {
        let wait = async {
            loop {
                let news = self.log.news.notified();
                if let Some(found) = condition(&self.log.seen.lock().unwrap()) {
                    return found;
                }
                news.await;
            }
        };
        match tokio::time::timeout(BOUND, wait).await {
            Ok(found) => found,
            Err(_) => panic!("never heard: {what}; heard: {:#?}", self.messages()),
        }
    }

    /// Waits for a message on a topic that contains a text.
    pub(crate) async fn receives(&self, topic: &str, part: &str) -> Message {
        let matches = |seen: &&Message| seen.topic == topic && seen.payload.contains(part);
        self.until(&format!("{topic} with {part:?}"), |all| all.iter().find(matches).cloned()).await
    }
}

impl Log {
    fn add(&self, message: &rumqttc::Publish) {
        let seen = Message {
            topic: String::from_utf8(message.topic.to_vec()).unwrap(),
            payload: String::from_utf8_lossy(&message.payload).into_owned(),
            retained: message.retain,
            correlation: message.properties.as_ref().and_then(|p| p.correlation_data.clone()),
        };
        self.seen.lock().unwrap().push(seen);
        self.news.notify_waiters();
    }
}

/// The retained messages of the broker now, as a new client receives them.
pub(crate) async fn retained(port: u16) -> Vec<Message> {
    let subscriber = Subscriber::connect(port).await;
    // The client's own message comes after all retained ones.
    subscriber.publish("kit/mark", "here");
    subscriber.until("the mark", |all| all.iter().any(|seen| seen.topic == "kit/mark").then_some(())).await;
    subscriber.messages().into_iter().filter(|seen| seen.retained).collect()
}

/// Waits until the retained messages satisfy a condition.
pub(crate) async fn until_retained(
    port: u16,
    what: &str,
    condition: impl Fn(&[Message]) -> bool,
) -> Vec<Message> {
    let deadline = tokio::time::Instant::now() + BOUND;
    loop {
        let all = retained(port).await;
        if condition(&all) {
            return all;
        }
        assert!(tokio::time::Instant::now() < deadline, "never kept: {what}; kept: {all:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A fault of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Accepts the connection and sends nothing.
    Silent,
    /// Responds like a broker that has only MQTT 3.
    OnlyMqtt3,
    /// Closes the connection right after the CONNACK.
    HangsUp,
    /// Disconnects us because another client has our id.
    TakesOver,
    /// Announces this maximum packet size.
    Small(u32),
    /// Refuses every subscription.
    Deaf,
    /// Never answers a subscription.
    NoSubAck,
    /// Never acknowledges a publish.
    NoPubAck,
    /// Refuses every login.
    RefusesLogins,
    /// Refuses each connection with a last will as not authorised, as EMQX does if the user may not publish there.
    RefusesWills,
    /// Refuses, with this reason code, each publish to a topic that contains this.
    Refuses(u8, &'static str),
    /// Closes the connection at a publish to a topic that contains this.
    HangsUpOver(&'static str),
    /// Disconnects with this reason code at a publish to a topic that contains this.
    DisconnectsOver(u8, &'static str),
    /// Acknowledges everything twice, and messages that it never received.
    AcknowledgesTooMuch,
    /// No fault: acknowledges everything, and keeps a log.
    None,
}

/// A broker with one fault. It records what it receives.
pub(crate) struct FaultBroker {
    pub(crate) port: u16,
    log: Arc<Mutex<Vec<Packet>>>,
    task: JoinHandle<()>,
}

impl Drop for FaultBroker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultBroker {
    pub(crate) async fn start(fault: Fault) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, fault, Arc::clone(&log)));
                }
            }
        });
        Self { port, log, task }
    }

    pub(crate) fn log(&self) -> Vec<Packet> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a DISCONNECT, and returns all packets up to it.
    pub(crate) async fn hears_goodbye(&self) -> Vec<Packet> {
        self.hears("a DISCONNECT", |packet| matches!(packet, Packet::Disconnect(_))).await;
        self.log()
    }

    /// Waits for such a packet.
    pub(crate) async fn hears(&self, what: &str, is_it: fn(&Packet) -> bool) {
        self.until(what, || self.log().iter().any(is_it)).await;
    }

    /// Waits for a publish to a topic that contains this, on the connection with this number.
    pub(crate) async fn hears_publish(&self, connection: usize, part: &str) {
        let what = format!("{part:?} on connection {connection}");
        self.until(&what, || self.has_heard(connection, part)).await;
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        within(what, async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Whether such a publish arrived on the connection with this number, the first being 1.
    pub(crate) fn has_heard(&self, connection: usize, part: &str) -> bool {
        let mut connects = 0;
        self.log().iter().any(|packet| {
            connects += usize::from(matches!(packet, Packet::Connect(..)));
            let is_it = |message: &rumqttc::Publish| String::from_utf8_lossy(&message.topic).contains(part);
            connects == connection && matches!(packet, Packet::Publish(message) if is_it(message))
        })
    }

    pub(crate) fn connects(&self) -> usize {
        self.log().iter().filter(|packet| matches!(packet, Packet::Connect(..))).count()
    }
}

async fn serve(mut stream: TcpStream, fault: Fault, log: Arc<Mutex<Vec<Packet>>>) {
    let mut buffer = BytesMut::new();
    loop {
        let packet = match Packet::read(&mut buffer, None) {
            Ok(packet) => packet,
            Err(_) => match stream.read_buf(&mut buffer).await {
                Ok(count) if count > 0 => continue,
                _ => return,
            },
        };
        log.lock().unwrap().push(packet.clone());
        let (answers, hangs_up) = answer(&packet, fault);
        if stream.write_all(&answers).await.is_err() || hangs_up {
            return;
        }
    }
}

fn answer(packet: &Packet, fault: Fault) -> (Vec<u8>, bool) {
    match (packet, fault) {
        (Packet::Connect(..), Fault::Silent) => (Vec::new(), false),
        (Packet::Connect(..), Fault::OnlyMqtt3) => (vec![0x20, 2, 0, 1], true),
        (Packet::Connect(..), Fault::HangsUp) => (vec![0x20, 3, 0, 0, 0], true),
        (Packet::Connect(..), Fault::TakesOver) => (vec![0x20, 3, 0, 0, 0, 0xE0, 2, 0x8E, 0], true),
        (Packet::Connect(..), Fault::Small(size)) => {
            let mut welcome = vec![0x20, 8, 0, 0, 5, 0x27];
            welcome.extend(size.to_be_bytes());
            (welcome, false)
        }
        (Packet::Connect(..), Fault::RefusesLogins) => (vec![0x20, 3, 0, 0x86, 0], true),
        (Packet::Connect(_, Some(_), _), Fault::RefusesWills) => (vec![0x20, 3, 0, 0x87, 0], true),
        (Packet::Connect(..), _) => (vec![0x20, 3, 0, 0, 0], false),
        (Packet::Publish(message), Fault::Refuses(reason, part)) if holds(message, part) => {
            let [high, low] = message.pkid.to_be_bytes();
            (vec![0x40, 4, high, low, reason, 0], false)
        }
        (Packet::Publish(message), Fault::HangsUpOver(part)) if holds(message, part) => (Vec::new(), true),
        (Packet::Publish(message), Fault::DisconnectsOver(reason, part)) if holds(message, part) => {
            (vec![0xE0, 1, reason], true)
        }
        (Packet::Publish(message), Fault::AcknowledgesTooMuch) if message.qos == QoS::AtLeastOnce => {
            let once = acknowledge(0x40, message.pkid);
            (
                [&once[..], &once, &acknowledge(0x40, 9999), &acknowledge(0x50, 1), &acknowledge(0x70, 1)]
                    .concat(),
                false,
            )
        }
        (Packet::Subscribe(subscribe), Fault::AcknowledgesTooMuch) => {
            (answer_each(0x90, subscribe.pkid, 1, subscribe.filters.len()).repeat(2), false)
        }
        (Packet::Publish(message), fault) if message.qos == QoS::AtLeastOnce && fault != Fault::NoPubAck => {
            (acknowledge(0x40, message.pkid), false)
        }
        (Packet::Subscribe(subscribe), Fault::Deaf) => {
            (answer_each(0x90, subscribe.pkid, 0x87, subscribe.filters.len()), false)
        }
        (Packet::Subscribe(_), Fault::NoSubAck) => (Vec::new(), false),
        (Packet::Subscribe(subscribe), _) => {
            (answer_each(0x90, subscribe.pkid, 1, subscribe.filters.len()), false)
        }
        (Packet::Unsubscribe(subscribe), _) => {
            (answer_each(0xB0, subscribe.pkid, 0, subscribe.filters.len()), false)
        }
        (Packet::PingReq, _) => (vec![0xD0, 0], false),
        (Packet::Disconnect(_), _) => (Vec::new(), true),
        _ => (Vec::new(), false),
    }
}

/// Whether the message is acknowledged and its topic contains this.
fn holds(message: &rumqttc::Publish, part: &str) -> bool {
    message.qos == QoS::AtLeastOnce && String::from_utf8_lossy(&message.topic).contains(part)
}

fn answer_each(kind: u8, id: u16, code: u8, count: usize) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut packet = vec![kind, 3 + u8::try_from(count).unwrap(), high, low, 0];
    packet.extend(std::iter::repeat_n(code, count));
    packet
}

fn acknowledge(kind: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    vec![kind, 2, high, low]
}
