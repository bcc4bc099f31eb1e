//! The plugs: asked by broadcast, by datagrams to each, over TCP and over the cloud, all side by side and each within
//! its time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::diagnosis::{self, AddressNetwork, Broadcast, CloudView, Datagrams, Evidence, LanView};
use super::networks::Networks;
use super::report::{Finding, FindingSubject, Try};
use super::targets::{DoctorTarget, NAME_SHOWN, is_of_the_family, with_heard};
use crate::bridge::event::{DiscoveryReply, Exchange, ExchangeId, Identity, PlugKey, Sighting, Target};
use crate::bridge::route::RoutePreference;
use crate::commands::known::{identity_on, is_same, shares_id};
use crate::config::Config;
use crate::model::{Address, Destination, Failure, LanProtocol, Route, shown};
use crate::smarthome::message::{Reading, Reply, Request};
use crate::transport::cloud::Cloud;
use crate::transport::cloud::api::Row;
use crate::transport::discovery::{Discovery, DiscoveryOptions};
use crate::transport::lan::Lan;

/// How long plugs may take to answer datagrams.
const SEARCH: Duration = Duration::from_secs(2);
/// How long a name may take to be looked up.
const LOOK_UP: Duration = Duration::from_secs(2);
/// So many plugs are asked at once, which leaves room below the 1024 files that a process may usually open.
const AT_ONCE: usize = 128;
/// So many are asked over the cloud, which is to be used sparingly; first those that the LAN does not reach. Of the
/// others the account's list tells enough.
const OVER_THE_CLOUD: usize = 20;

/// What is known of a plug before the cloud is asked.
#[derive(Debug)]
pub(super) struct OnLan {
    pub(super) patient: DoctorTarget,
    view: LanView,
    place: AddressNetwork,
    datagrams: Datagrams,
    broadcast: Broadcast,
    /// What came back, in few words.
    found: String,
    tries: Vec<Try>,
}

/// Who answered datagrams.
struct DatagramReplies {
    /// Broadcasts; none were sent if there is no list.
    broadcast: Option<Vec<Sighting>>,
    /// Those to one plug each.
    directly: Vec<Sighting>,
}

/// Asks all of them, and those that make themselves heard, by every way that the LAN has.
pub(super) async fn examine_lan(targets: Vec<DoctorTarget>, config: &Config) -> Vec<OnLan> {
    if !config.local.enabled {
        return targets.into_iter().map(OnLan::not_used).collect();
    }
    let sockets = sockets_of(&targets).await;
    let (broadcast, directly) =
        tokio::join!(heard_by_broadcast(config), heard_directly(config, sockets.iter().flatten()));
    let known = targets.len();
    let targets = with_heard(targets, broadcast.as_deref().unwrap_or_default(), config);
    let strangers = targets[known..].iter().map(|patient| patient.address.as_ref().and_then(Address::socket));
    let sockets: Vec<_> = sockets.into_iter().chain(strangers.collect::<Vec<_>>()).collect();
    let heard = Arc::new(DatagramReplies { broadcast, directly });
    let networks = Networks::of_this_machine();
    let lan = Arc::new(Lan::default());
    let jobs = targets.into_iter().zip(sockets).map(|(patient, socket)| {
        let (lan, heard, networks) = (Arc::clone(&lan), Arc::clone(&heard), networks.clone());
        async move { examine_on_lan(patient, socket, &lan, &heard, &networks).await }
    });
    side_by_side(jobs).await
}

/// Asks the cloud about them, and says what all of it means.
pub(super) async fn examine_cloud(
    on_the_lan: Vec<OnLan>,
    rows: Option<&[Row]>,
    cloud: Option<&Cloud>,
    config: &Config,
) -> Vec<Finding> {
    let has_account = config.cloud.is_some();
    let row_of = |on_lan: &OnLan| rows.and_then(|rows| row_of(rows, &on_lan.patient.identity));
    let mut left = OVER_THE_CLOUD;
    let mut may_ask = vec![false; on_the_lan.len()];
    for wants in [true, false] {
        for (number, on_lan) in on_the_lan.iter().enumerate() {
            let is_askable = on_lan.patient.policy != RoutePreference::Local
                && row_of(on_lan).is_some_and(is_worth_a_call);
            if is_askable && (on_lan.view != LanView::Answers) == wants {
                may_ask[number] = left > 0;
                left = left.saturating_sub(1);
            }
        }
    }
    let jobs = on_the_lan.into_iter().zip(may_ask).map(|(on_lan, may_ask)| {
        let is_listing = rows.is_some_and(|rows| !rows.is_empty());
        let (row, cloud) = (row_of(&on_lan).cloned(), cloud.cloned());
        async move {
            let asked = AskCloud { has_account, row, is_listing, cloud, may_ask };
            asked.conclude(on_lan).await
        }
    });
    side_by_side(jobs).await
}

/// Runs all jobs, some at a time; what they bring, in their own order.
async fn side_by_side<T: Send + 'static>(
    jobs: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut waiting = jobs.enumerate();
    let mut under_way = JoinSet::new();
    let mut done = Vec::new();
    loop {
        while under_way.len() < AT_ONCE {
            let Some((number, job)) = waiting.next() else { break };
            under_way.spawn(async move { (number, job.await) });
        }
        match under_way.join_next().await {
            Some(Ok(one)) => done.push(one),
            Some(Err(_)) => {}
            None => break,
        }
    }
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, one)| one).collect()
}

/// Where each is, as far as that is known.
async fn sockets_of(targets: &[DoctorTarget]) -> Vec<Option<SocketAddr>> {
    let addresses: Vec<_> = targets.iter().map(|patient| patient.address.clone()).collect();
    side_by_side(addresses.into_iter().map(|address| async move {
        match address?.destination() {
            Destination::Socket(socket) => Some(socket),
            Destination::Name(name, port) => {
                let found = timeout(LOOK_UP, lookup_host((name, port))).await;
                found.ok()?.ok()?.next()
            }
        }
    }))
    .await
}

async fn heard_by_broadcast(config: &Config) -> Option<Vec<Sighting>> {
    let discovery = Discovery::start(config.discovery.clone()?);
    Some(listen(discovery).await)
}

async fn heard_directly(config: &Config, sockets: impl Iterator<Item = &SocketAddr>) -> Vec<Sighting> {
    let addresses: Vec<_> = sockets.copied().map(Address::from).collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let options = DiscoveryOptions::usual(config.local.port);
    listen(Discovery::start_without_broadcast(options, addresses)).await
}

/// Each answer once.
async fn listen(mut discovery: Discovery) -> Vec<Sighting> {
    let mut heard: Vec<Sighting> = Vec::new();
    let search = async {
        loop {
            let sighting = discovery.next().await;
            let is_same_kind = |other: &Sighting| {
                other.address == sighting.address
                    && std::mem::discriminant(&other.said) == std::mem::discriminant(&sighting.said)
            };
            if !heard.iter().any(is_same_kind) {
                heard.push(sighting);
            }
        }
    };
    // The search ends with its time; that is how it is meant to end.
    let _ = timeout(SEARCH, search).await;
    heard
}

async fn examine_on_lan(
    mut patient: DoctorTarget,
    socket: Option<SocketAddr>,
    lan: &Lan,
    heard: &DatagramReplies,
    networks: &Networks,
) -> OnLan {
    let mut tries = Vec::new();
    let seen_at = heard.by_broadcast(&patient, &mut tries);
    let is_elsewhere = patient.address.is_some() && seen_at.is_some() && seen_at != socket;
    // The daemon follows a plug that moved, unless the user wrote where it is.
    let moved = is_elsewhere && patient.is_written;
    let socket = if moved { socket } else { seen_at.or(socket) };
    if !moved && let Some(seen) = seen_at {
        patient.address = Some(seen.into());
    }
    let broadcast = match &heard.broadcast {
        None => Broadcast::NotSent,
        Some(_) if moved => Broadcast::ElsewhereThanKnown,
        Some(all) if all.is_empty() => Broadcast::Nobody,
        Some(_) => Broadcast::Somebody,
    };
    let datagrams = heard.datagrams(&patient, socket, &mut tries);
    let place = socket.map_or(AddressNetwork::Unknown, |socket| networks.place_of(socket.ip()));
    if place == AddressNetwork::Elsewhere {
        tries.push(Try::new("compare its address with this machine's networks", "on none of them"));
    }
    let (view, mut found) = if patient.policy == RoutePreference::Cloud {
        (LanView::NotUsed, "not used".to_owned())
    } else {
        ask(&mut patient, socket, lan, &mut tries).await
    };
    if moved && let Some(seen) = seen_at {
        found += &format!(", and it was heard at {seen}");
    } else if view != LanView::Answers {
        found += match datagrams {
            Datagrams::Nothing => "",
            Datagrams::Xor => ", though it answers datagrams",
            Datagrams::Newer => ", though the newer discovery answers",
            Datagrams::OtherFamily => ", where the newer discovery answers for another family",
        };
    }
    let view = if patient.is_second { LanView::SecondOfItsId } else { view };
    OnLan { patient, view, place, datagrams, broadcast, found, tries }
}

impl DatagramReplies {
    /// Where the plug itself answered a broadcast.
    fn by_broadcast(&self, patient: &DoctorTarget, tries: &mut Vec<Try>) -> Option<SocketAddr> {
        let all = self.broadcast.as_ref()?;
        let is_it = |sighting: &&Sighting| {
            let who = identity_of(&sighting.said);
            is_same(&patient.identity, &who) && !shares_id(&patient.identity, &who)
        };
        let seen = all.iter().find(is_it).and_then(|sighting| sighting.address.socket());
        let came_back = match seen {
            Some(seen) => format!("an answer from {}", seen.ip()),
            None if all.is_empty() => "nothing, from no plug at all".to_owned(),
            None => format!("no answer that names it, and {} of others", all.len()),
        };
        tries.push(Try::new("broadcast", came_back));
        seen
    }

    /// What the plug, or whoever has its address, answers to datagrams.
    fn datagrams(
        &self,
        patient: &DoctorTarget,
        socket: Option<SocketAddr>,
        tries: &mut Vec<Try>,
    ) -> Datagrams {
        let all = || self.broadcast.iter().flatten().chain(&self.directly);
        let is_from = |sighting: &Sighting| {
            Some(sighting.address.host()) == socket.map(|socket| socket.ip().to_string())
        };
        let is_of_it = |sighting: &&Sighting| {
            let who = identity_of(&sighting.said);
            if patient.identity.contradicts(&who) || shares_id(&patient.identity, &who) {
                return false;
            }
            is_same(&patient.identity, &who) || is_from(sighting)
        };
        let xor = all()
            .filter(is_of_it)
            .any(|sighting| matches!(sighting.said, DiscoveryReply::SysInfo(_)) && is_from(sighting));
        let other = all().filter(is_of_it).find_map(|sighting| match &sighting.said {
            DiscoveryReply::Other(device) => Some(device),
            DiscoveryReply::SysInfo(_) => None,
        });
        if let Some(socket) = socket {
            let came_back = if xor { "an answer" } else { "nothing" };
            tries.push(Try::new(format!("get_sysinfo by UDP at {socket}"), came_back));
            let came_back = other.map_or_else(
                || "nothing".to_owned(),
                |device| {
                    let [kind, encryption] =
                        [&device.kind, &device.encryption].map(|text| shown(text, NAME_SHOWN));
                    format!("{kind}, which speaks {encryption}")
                },
            );
            tries.push(Try::new(format!("the newer discovery at {}", socket.ip()), came_back));
        }
        match other {
            _ if xor => Datagrams::Xor,
            Some(device) if is_of_the_family(device) => Datagrams::Newer,
            Some(_) => Datagrams::OtherFamily,
            None => Datagrams::Nothing,
        }
    }
}

fn identity_of(said: &DiscoveryReply) -> Identity {
    match said {
        DiscoveryReply::SysInfo(reading) => identity_on(&reading.device),
        DiscoveryReply::Other(device) => Identity { device_id: None, mac: device.mac },
    }
}

/// Asks over TCP: once, again where a healthy plug may fail once, and where nothing came whether it takes connections.
async fn ask(
    patient: &mut DoctorTarget,
    socket: Option<SocketAddr>,
    lan: &Lan,
    tries: &mut Vec<Try>,
) -> (LanView, String) {
    let Some(socket) = socket else {
        return match &patient.address {
            Some(name) => {
                tries.push(Try::new(format!("look {} up", name.host()), "the name leads nowhere"));
                (LanView::NameUnresolved, format!("{} leads nowhere", name.host()))
            }
            None => (LanView::Failed(Failure::NoAddress), Failure::NoAddress.to_string()),
        };
    };
    let what = format!("get_sysinfo by TCP at {socket}");
    let mut failure = Failure::NoAddress;
    for _ in 0..2 {
        let begun = Instant::now();
        let address = Address::from(socket);
        let target = Target::Local {
            address: address.clone(),
            protocol: LanProtocol::Xor,
            expect: patient.identity.clone(),
        };
        let exchange = exchange(patient, target, Route::Local);
        match lan.perform(&exchange, &address, LanProtocol::Xor, &patient.identity).await.result {
            Ok(Reply::SysInfo(reading)) => {
                let answer = describe(&reading);
                tries.push(Try::since(begun, what, answer.clone()));
                patient.identity = identity_on(&reading.device);
                return (LanView::Answers, answer);
            }
            Ok(_) => failure = Failure::Garbage("no sysinfo".into()),
            Err(why) => failure = why,
        }
        tries.push(Try::since(begun, what.clone(), failure.to_string()));
        if !matches!(failure, Failure::Closed | Failure::Garbage(_)) {
            break;
        }
    }
    if failure == Failure::Silent {
        let begun = Instant::now();
        let patience = patient.patience[Route::Local.index()];
        let is_taken = matches!(timeout(patience, TcpStream::connect(socket)).await, Ok(Ok(_)));
        let came_back = if is_taken { "taken" } else { "not taken" };
        tries.push(Try::since(begun, format!("connect to {socket}"), came_back));
        if is_taken {
            return (LanView::Mute, format!("{socket}: takes the connection, and does not answer"));
        }
    }
    let found = format!("{socket}: {failure}");
    (LanView::Failed(failure), found)
}

fn describe(reading: &Reading) -> String {
    let state = reading.relay.map_or("no relay".to_owned(), |relay| relay.to_string());
    let signal = reading.rssi.map_or_else(String::new, |dbm| format!(", signal {dbm} dBm"));
    format!("{} answers: {state}{signal}", shown(&reading.device.model, NAME_SHOWN))
}

fn exchange(patient: &DoctorTarget, target: Target, route: Route) -> Exchange {
    Exchange {
        id: ExchangeId::new(PlugKey(0), 0),
        plug: PlugKey(0),
        label: patient.name.as_str().into(),
        target,
        request: Request::SysInfo,
        deadline: Instant::now() + patient.patience[route.index()],
        urgent: true,
        known_info: None,
    }
}

impl OnLan {
    /// One that the LAN is not asked for.
    fn not_used(patient: DoctorTarget) -> Self {
        Self {
            patient,
            view: LanView::NotUsed,
            place: AddressNetwork::Unknown,
            datagrams: Datagrams::Nothing,
            broadcast: Broadcast::NotSent,
            found: "not used".to_owned(),
            tries: Vec::new(),
        }
    }

    /// One that the LAN knows nothing of.
    pub(super) fn without_address(patient: DoctorTarget, is_anybody_heard: bool, config: &Config) -> Self {
        let mut unknown = Self::not_used(patient);
        if config.local.enabled && unknown.patient.policy != RoutePreference::Cloud {
            unknown.view = LanView::Failed(Failure::NoAddress);
            unknown.found = Failure::NoAddress.to_string();
        }
        if config.discovery.is_some() {
            unknown.broadcast = if is_anybody_heard { Broadcast::Somebody } else { Broadcast::Nobody };
        }
        unknown
    }

    /// Whether the broadcast brought an answer, of whichever plug.
    pub(super) fn heard_somebody(&self) -> bool {
        matches!(self.broadcast, Broadcast::Somebody | Broadcast::ElsewhereThanKnown)
    }
}

/// What is to be asked of the cloud about one plug.
struct AskCloud {
    /// The config names one.
    has_account: bool,
    row: Option<Row>,
    /// The account lists anything at all.
    is_listing: bool,
    /// Absent where the account does not answer, or there is none.
    cloud: Option<Cloud>,
    may_ask: bool,
}

impl AskCloud {
    async fn conclude(self, on_lan: OnLan) -> Finding {
        let OnLan { patient, view, place, datagrams, broadcast, found, mut tries } = on_lan;
        let (cloud, words) = match patient.policy {
            RoutePreference::LocalThenCloud | RoutePreference::Cloud if self.has_account => {
                self.look(&patient, &mut tries).await
            }
            _ => (CloudView::NotUsed, None),
        };
        let evidence = Evidence { lan: view, place, datagrams, broadcast, cloud };
        let on_the_lan = Some(format!("LAN: {found}")).filter(|_| evidence.lan != LanView::NotUsed);
        let over_the_cloud = words.map(|words| format!("cloud: {words}"));
        let found: Vec<_> = on_the_lan.into_iter().chain(over_the_cloud).collect();
        let cause = diagnosis::of_plug(&evidence);
        let found = if found.is_empty() { "no way to it is in use".to_owned() } else { found.join("; ") };
        let finding = match cause {
            Some(cause) if diagnosis::is_a_note(&evidence) => {
                Finding::note(FindingSubject::Plug, found, cause)
            }
            cause => Finding::of(FindingSubject::Plug, found, cause),
        };
        finding.named(patient.name).after(tries)
    }

    /// How the cloud sees the plug, and in words.
    async fn look(&self, patient: &DoctorTarget, tries: &mut Vec<Try>) -> (CloudView, Option<String>) {
        let look_up = "look it up in the account's list";
        if self.cloud.is_none() {
            let words = "not asked, for the account does not answer".to_owned();
            tries.push(Try::new(look_up, words.clone()));
            return (CloudView::Unknown, Some(words));
        }
        let Some(row) = &self.row else {
            let is_known = patient.identity != Identity::default();
            let (view, words) = if is_known && self.is_listing {
                (CloudView::NotListed, "not listed in the account")
            } else if is_known {
                (CloudView::Unknown, "the account lists nothing")
            } else {
                (CloudView::Unknown, "neither device id nor MAC is known to look it up by")
            };
            tries.push(Try::new(look_up, words));
            return (view, Some(words.to_owned()));
        };
        let listed = if row.connected { "listed as connected" } else { "listed as not connected" };
        tries.push(Try::new(look_up, listed));
        let (view, words) = match &row.server {
            _ if !row.is_supported() => {
                let kind = shown(&row.kind, NAME_SHOWN);
                (CloudView::OtherFamily, format!("listed as {kind}"))
            }
            Err(refused) => (CloudView::ServerRefused, format!("its server {refused}")),
            Ok(_) if !row.connected => (CloudView::Offline, listed.to_owned()),
            Ok(server) if self.may_ask => {
                let begun = Instant::now();
                let (view, words) = self.ask(row, patient).await;
                tries.push(Try::since(
                    begun,
                    format!("get_sysinfo over the cloud by {server}"),
                    words.clone(),
                ));
                (view, words)
            }
            Ok(_) => {
                let enough = format!("not asked: {OVER_THE_CLOUD} plugs are, at most");
                tries.push(Try::new("get_sysinfo over the cloud", enough));
                (CloudView::Connected, listed.to_owned())
            }
        };
        (view, Some(words))
    }

    async fn ask(&self, row: &Row, patient: &DoctorTarget) -> (CloudView, String) {
        let Some(cloud) = &self.cloud else {
            return (CloudView::Connected, "listed as connected".to_owned());
        };
        let target = Target::Cloud { device_id: row.device_id.clone() };
        let exchange = exchange(patient, target, Route::Cloud);
        match cloud.perform(&exchange).await.result {
            Ok(Reply::SysInfo(reading)) => match reading.other_kind() {
                None => (CloudView::Answers, describe(&reading)),
                Some(kind) => (CloudView::OtherKind, kind),
            },
            Ok(_) => (CloudView::Failed(Failure::Garbage("no sysinfo".into())), "no sysinfo".to_owned()),
            Err(failure) => {
                let words = failure.to_string();
                let view = match failure {
                    Failure::CloudOffline => CloudView::Misplaced,
                    Failure::NotInAccount => CloudView::NotListed,
                    failure => CloudView::Failed(failure),
                };
                (view, words)
            }
        }
    }
}

/// Whether there is anything to ask about a plug that the account lists so.
fn is_worth_a_call(row: &Row) -> bool {
    row.is_supported() && row.connected && row.server.is_ok()
}

/// The account's row of a plug.
fn row_of<'a>(rows: &'a [Row], who: &Identity) -> Option<&'a Row> {
    rows.iter().find(|row| {
        let listed = Identity { device_id: Some(row.device_id.clone()), mac: row.mac };
        is_same(who, &listed)
    })
}
