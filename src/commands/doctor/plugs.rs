//! Examines the plugs: by broadcast, by datagrams to each, over TCP and over the cloud, many at once, each with a time
//! limit.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::diagnosis::{self, AddressNetwork, Broadcast, CloudView, Datagrams, Evidence, LanView};
use super::heard::{DatagramReplies, identity_of, ip_of};
use super::networks::Networks;
use super::report::{Finding, FindingSubject, Try};
use super::targets::{DoctorTarget, NAME_SHOWN, blank, is_of_the_family, with_heard};
use crate::bridge::event::{DiscoveryReply, Exchange, Identity, PlugKey, Sighting, Target, TdpReply};
use crate::bridge::route::RoutePreference;
use crate::commands::klap::{self, KlapLogin, KlapOwner};
use crate::commands::known::{identity_on, is_same, shares_id};
use crate::config::Config;
use crate::model::{Address, Destination, Failure, LanProtocol, Route, shown};
use crate::smarthome::message::{Reading, Reply, is_plug_kind};
use crate::transport::cloud::Cloud;
use crate::transport::cloud::api::Row;
use crate::transport::discovery::{Discovery, DiscoveryOptions, SearchObstacle};
use crate::transport::lan::Lan;

/// How long plugs may take to answer datagrams.
const SEARCH: Duration = Duration::from_secs(2);
/// How long a name may take to be looked up.
const LOOK_UP: Duration = Duration::from_secs(2);
/// How many plugs are examined at once. A process may usually open 1024 files.
const AT_ONCE: usize = 128;
/// How many plugs are asked over the cloud, to spare the account; those that the LAN does not reach come first. For the
/// others the account's list is enough.
const OVER_THE_CLOUD: usize = 20;

/// What is known about a plug before the cloud is asked.
#[derive(Debug)]
pub(super) struct OnLan {
    pub(super) target: DoctorTarget,
    view: LanView,
    place: AddressNetwork,
    datagrams: Datagrams,
    broadcast: Broadcast,
    owner: KlapOwner,
    /// What came back, in a few words.
    found: String,
    tries: Vec<Try>,
}

/// The LAN, with the account for plugs that speak KLAP.
struct DoctorLan {
    lan: Lan,
    klap_login: KlapLogin,
}

/// Examines the targets, and the plugs that answer a broadcast, by every means of the LAN. Also finds why no plug
/// answers a broadcast, if this machine can tell.
pub(super) async fn examine_lan(
    targets: Vec<DoctorTarget>,
    config: &Config,
    klap_login: KlapLogin,
) -> (Option<Finding>, Vec<OnLan>) {
    if !config.local.enabled {
        return (None, targets.into_iter().map(OnLan::not_used).collect());
    }
    let sockets = sockets_of(&targets).await;
    let (searched, directly) =
        tokio::join!(heard_by_broadcast(config), heard_directly(config, sockets.iter().flatten()));
    let (broadcast, obstacle) = searched.map_or((None, None), |(heard, obstacle)| (Some(heard), obstacle));
    let known = targets.len();
    let targets = with_heard(targets, broadcast.as_deref().unwrap_or_default(), config);
    let added = targets[known..].iter().map(|target| target.address.as_ref().and_then(Address::socket));
    let sockets: Vec<_> = sockets.into_iter().chain(added.collect::<Vec<_>>()).collect();
    let heard = Arc::new(DatagramReplies::new(broadcast, directly));
    let networks = Networks::of_this_machine();
    let lan = Arc::new(DoctorLan { lan: klap_login.lan(), klap_login });
    let jobs = targets.into_iter().zip(sockets).map(|(target, socket)| {
        let (lan, heard, networks) = (Arc::clone(&lan), Arc::clone(&heard), networks.clone());
        async move { examine_on_lan(target, socket, &lan, &heard, &networks).await }
    });
    let on_the_lan = side_by_side(jobs).await;
    let is_any_reached = on_the_lan.iter().any(|one| one.view == LanView::Answers);
    (obstacle.map(|obstacle| of_the_search(&obstacle, is_any_reached)), on_the_lan)
}

/// Only a note if plugs are reached without a search.
fn of_the_search(obstacle: &SearchObstacle, is_any_reached: bool) -> Finding {
    let made = if is_any_reached { Finding::note } else { Finding::bad };
    made(FindingSubject::Lan, obstacle.to_string(), obstacle.cause())
}

/// Adds the plugs that only the account lists, if the config adopts them.
pub(super) fn with_account(mut on_the_lan: Vec<OnLan>, rows: Option<&[Row]>, config: &Config) -> Vec<OnLan> {
    let mut rows: Vec<_> = rows.unwrap_or_default().iter().filter(|row| is_plug_kind(&row.kind)).collect();
    rows.sort_by(|a, b| a.device_id.cmp(&b.device_id));
    let any_answered = on_the_lan.iter().any(OnLan::saw_an_answer);
    for row in rows.into_iter().filter(|_| config.bridge.adopt) {
        let identity = Identity { device_id: Some(row.device_id.clone()), mac: row.mac };
        if !on_the_lan.iter().any(|known| known.target.is(&identity, None)) {
            let name = shown(&row.alias, NAME_SHOWN);
            let target = DoctorTarget { name, identity, ..blank(config.bridge.policy) };
            on_the_lan.push(OnLan::without_address(target, any_answered, config));
        }
    }
    on_the_lan
}

/// Asks the cloud about them, and concludes.
pub(super) async fn examine_cloud(
    on_the_lan: Vec<OnLan>,
    rows: Option<&[Row]>,
    cloud: Option<&Cloud>,
    config: &Config,
) -> Vec<Finding> {
    let has_account = config.cloud.is_some();
    let row_of = |on_lan: &OnLan| rows.and_then(|rows| row_of(rows, &on_lan.target.identity));
    let mut left = OVER_THE_CLOUD;
    let mut may_ask = vec![false; on_the_lan.len()];
    for wants in [true, false] {
        for (number, on_lan) in on_the_lan.iter().enumerate() {
            let is_askable =
                on_lan.target.policy != RoutePreference::Local && row_of(on_lan).is_some_and(is_worth_a_call);
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

/// Runs all jobs, [`AT_ONCE`] at a time, and returns their results in the order of the jobs.
async fn side_by_side<T: Send + 'static>(
    jobs: impl Iterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut waiting = jobs.enumerate();
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    loop {
        while running.len() < AT_ONCE {
            let Some((number, job)) = waiting.next() else { break };
            running.spawn(async move { (number, job.await) });
        }
        match running.join_next().await {
            Some(Ok(one)) => done.push(one),
            Some(Err(_)) => {}
            None => break,
        }
    }
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, one)| one).collect()
}

/// The address of each, if it is known.
async fn sockets_of(targets: &[DoctorTarget]) -> Vec<Option<SocketAddr>> {
    let addresses: Vec<_> = targets.iter().map(|target| target.address.clone()).collect();
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

async fn heard_by_broadcast(config: &Config) -> Option<(Vec<Sighting>, Option<SearchObstacle>)> {
    let mut discovery = Discovery::start(config.discovery.clone()?);
    let heard = listen(&mut discovery).await;
    Some((heard, discovery.obstacle()))
}

async fn heard_directly(config: &Config, sockets: impl Iterator<Item = &SocketAddr>) -> Vec<Sighting> {
    let addresses: Vec<_> = sockets.copied().map(Address::from).collect();
    if addresses.is_empty() {
        return Vec::new();
    }
    let options = DiscoveryOptions::usual(config.local.port);
    listen(&mut Discovery::start_without_broadcast(options, addresses)).await
}

/// Collects the answers, each once.
async fn listen(discovery: &mut Discovery) -> Vec<Sighting> {
    let mut heard: Vec<Sighting> = Vec::new();
    let mut known = HashSet::new();
    let search = async {
        loop {
            let sighting = discovery.next().await;
            let kind = std::mem::discriminant(&sighting.reply);
            if known.insert((sighting.address.clone(), kind)) {
                heard.push(sighting);
            }
        }
    };
    // The search always ends with its time-out.
    let _ = timeout(SEARCH, search).await;
    heard
}

async fn examine_on_lan(
    mut target: DoctorTarget,
    socket: Option<SocketAddr>,
    DoctorLan { lan, klap_login }: &DoctorLan,
    heard: &DatagramReplies,
    networks: &Networks,
) -> OnLan {
    let mut tries = Vec::new();
    let seen_at = by_broadcast(heard, &target, &mut tries);
    let is_elsewhere = target.address.is_some() && seen_at.is_some() && seen_at != socket;
    // The daemon follows a plug that moved. If the user wrote the address, the report says so instead.
    let moved = is_elsewhere && target.is_written;
    let socket = if moved { socket } else { seen_at.or(socket) };
    if !moved && let Some(seen) = seen_at {
        target.address = Some(seen.into());
    }
    let broadcast = match heard.answers_to_broadcasts() {
        None => Broadcast::NotSent,
        Some(_) if moved => Broadcast::AnsweredElsewhere,
        Some(0) => Broadcast::NoAnswer,
        Some(_) => Broadcast::Answered,
    };
    let (datagrams, tdp) = datagrams_of(heard, &target, socket, &mut tries);
    let place = socket.map_or(AddressNetwork::Unknown, |socket| networks.place_of(socket.ip()));
    if place == AddressNetwork::Elsewhere {
        tries.push(Try::new("compare its address with this machine's networks", "on none of them"));
    }
    let (mut view, mut found) = if target.policy == RoutePreference::Cloud {
        (LanView::NotUsed, "not used".to_owned())
    } else {
        ask(&mut target, socket, lan, &mut tries).await
    };
    let klap = tdp.filter(|device| device.is_klap_plug() && is_unreached(&view));
    let mut is_reached = view == LanView::Answers;
    if let (Some(device), Some(socket)) = (klap, socket) {
        let socket = klap::socket_of(device, socket.ip());
        if let Some(answer) = ask_klap(&mut target, socket, lan, klap_login, &mut tries).await {
            (view, found) = answer;
            is_reached = true;
        }
    }
    let owner = klap_login.owner(tdp.and_then(|device| device.owner.as_ref()));
    if moved && let Some(seen) = seen_at {
        found += &format!(", but it answered a broadcast from {seen}");
    } else if !is_reached {
        found += match datagrams {
            Datagrams::Nothing => "",
            Datagrams::Xor => ", though it answers datagrams",
            Datagrams::Tdp => ", though it answers discovery on UDP port 20002",
            Datagrams::OtherFamily => {
                ", where a device of another family answers discovery on UDP port 20002"
            }
        };
    }
    let view = if target.is_second { LanView::SecondOfItsId } else { view };
    OnLan { target, view, place, datagrams, broadcast, owner, found, tries }
}

/// The address from which the plug itself answered a broadcast.
fn by_broadcast(heard: &DatagramReplies, target: &DoctorTarget, tries: &mut Vec<Try>) -> Option<SocketAddr> {
    let count = heard.answers_to_broadcasts()?;
    let is_it = |(sighting, to_broadcast): &(&Sighting, bool)| {
        let who = identity_of(&sighting.reply);
        *to_broadcast && is_same(&target.identity, &who) && !shares_id(&target.identity, &who)
    };
    let candidates = heard.candidates(&target.identity, None);
    let seen = candidates.into_iter().find(is_it).and_then(|(sighting, _)| sighting.address.socket());
    let came_back = match seen {
        Some(seen) => format!("an answer from {}", seen.ip()),
        None if count == 0 => "no answer from any plug".to_owned(),
        None => format!("no answer from it, {count} from others"),
    };
    tries.push(Try::new("broadcast", came_back));
    seen
}

/// What the plug, or another device at its address, answers to datagrams, and its reply to TDP.
fn datagrams_of<'a>(
    heard: &'a DatagramReplies,
    target: &DoctorTarget,
    socket: Option<SocketAddr>,
    tries: &mut Vec<Try>,
) -> (Datagrams, Option<&'a TdpReply>) {
    let ip = socket.map(|socket| socket.ip());
    let is_from = |sighting: &Sighting| ip.is_some() && ip_of(sighting) == ip;
    let is_of_it = |sighting: &&Sighting| {
        let who = identity_of(&sighting.reply);
        if target.identity.contradicts(&who) || shares_id(&target.identity, &who) {
            return false;
        }
        is_same(&target.identity, &who) || is_from(sighting)
    };
    let candidates = heard.candidates(&target.identity, ip);
    let of_it = || candidates.iter().map(|(sighting, _)| *sighting).filter(is_of_it);
    let xor =
        of_it().any(|sighting| matches!(sighting.reply, DiscoveryReply::SysInfo(_)) && is_from(sighting));
    let other = of_it().find_map(|sighting| match &sighting.reply {
        DiscoveryReply::Tdp(reply) => Some(reply),
        DiscoveryReply::SysInfo(_) => None,
    });
    if let Some(socket) = socket {
        let came_back = if xor { "an answer" } else { "nothing" };
        tries.push(Try::new(format!("get_sysinfo by UDP at {socket}"), came_back));
        let came_back = other.map_or_else(
            || "nothing".to_owned(),
            |reply| {
                let [kind, encryption] = [&reply.kind, &reply.encryption].map(|text| shown(text, NAME_SHOWN));
                format!("{kind}, which speaks {encryption}")
            },
        );
        tries.push(Try::new(format!("discovery on UDP port 20002 at {}", socket.ip()), came_back));
    }
    let datagrams = match other {
        _ if xor => Datagrams::Xor,
        Some(reply) if is_of_the_family(reply) => Datagrams::Tdp,
        Some(_) => Datagrams::OtherFamily,
        None => Datagrams::Nothing,
    };
    (datagrams, other)
}

/// Asks over TCP: once; again after a failure that a healthy plug may show once; and if no answer came, whether the port
/// accepts connections.
async fn ask(
    target: &mut DoctorTarget,
    socket: Option<SocketAddr>,
    lan: &Lan,
    tries: &mut Vec<Try>,
) -> (LanView, String) {
    let Some(socket) = socket else {
        return match &target.address {
            Some(name) => {
                tries.push(Try::new(format!("resolve {}", name.host()), "the name does not resolve"));
                (LanView::NameUnresolved, format!("{} does not resolve", name.host()))
            }
            None => (LanView::Failed(Failure::NoAddress), Failure::NoAddress.to_string()),
        };
    };
    let what = format!("get_sysinfo by TCP at {socket}");
    let mut failure = Failure::NoAddress;
    for _ in 0..2 {
        let begun = Instant::now();
        let address = Address::from(socket);
        let to = Target::Local {
            address: address.clone(),
            protocol: LanProtocol::Xor,
            expect: target.identity.clone(),
        };
        let exchange = exchange(target, to, Route::Local);
        let outcome = lan.perform(&exchange, &address, LanProtocol::Xor, &target.identity).await;
        match outcome.result.and_then(Reply::into_sysinfo) {
            Ok(reading) => {
                let answer = describe(&reading);
                tries.push(Try::since(begun, what, answer.clone()));
                target.identity = identity_on(&reading.device);
                return (LanView::Answers, answer);
            }
            Err(why) => failure = why,
        }
        tries.push(Try::since(begun, what.clone(), failure.to_string()));
        if !matches!(failure, Failure::Closed | Failure::Garbage(_)) {
            break;
        }
    }
    if failure == Failure::Silent {
        let begun = Instant::now();
        let limit = target.timeouts[Route::Local.index()];
        let is_accepted = matches!(timeout(limit, TcpStream::connect(socket)).await, Ok(Ok(_)));
        let came_back = if is_accepted { "accepted" } else { "not accepted" };
        tries.push(Try::since(begun, format!("connect to {socket}"), came_back));
        if is_accepted {
            return (LanView::Mute, format!("{socket}: accepts the connection, and does not answer"));
        }
    }
    let found = format!("{socket}: {failure}");
    (LanView::Failed(failure), found)
}

/// Whether no plug was reached over TCP 9999.
fn is_unreached(view: &LanView) -> bool {
    match view {
        LanView::Mute => true,
        LanView::Failed(failure) => {
            matches!(failure, Failure::Refused | Failure::NoRoute | Failure::Silent | Failure::Closed)
        }
        LanView::NotUsed | LanView::Answers | LanView::SecondOfItsId | LanView::NameUnresolved => false,
    }
}

/// Asks over KLAP. `None` if the plug is not reached in this way either.
async fn ask_klap(
    target: &mut DoctorTarget,
    socket: SocketAddr,
    lan: &Lan,
    login: &KlapLogin,
    tries: &mut Vec<Try>,
) -> Option<(LanView, String)> {
    let what = format!("get_sysinfo over KLAP at {socket}, {}", login.words());
    let begun = Instant::now();
    let limit = target.timeouts[Route::Local.index()];
    let failure =
        match klap::read(lan, PlugKey(0), &Address::from(socket), target.identity.clone(), limit).await {
            Ok(reading) => {
                let answer = describe(&reading);
                tries.push(Try::since(begun, what, answer.clone()));
                target.identity = identity_on(&reading.device);
                return Some((LanView::Answers, answer));
            }
            Err(failure) => failure,
        };
    tries.push(Try::since(begun, what, failure.to_string()));
    let view = LanView::Failed(failure.clone());
    (!is_unreached(&view)).then(|| (view, format!("{socket}: {failure}")))
}

fn describe(reading: &Reading) -> String {
    let state = reading.relay.map_or("no relay".to_owned(), |relay| relay.to_string());
    let signal = reading.rssi.map_or_else(String::new, |dbm| format!(", signal {dbm} dBm"));
    format!("{} answers: {state}{signal}", shown(&reading.device.model, NAME_SHOWN))
}

fn exchange(target: &DoctorTarget, to: Target, route: Route) -> Exchange {
    let deadline = Instant::now() + target.timeouts[route.index()];
    Exchange::look(PlugKey(0), target.name.as_str().into(), to, deadline)
}

impl OnLan {
    /// A plug for which the LAN is not used.
    fn not_used(target: DoctorTarget) -> Self {
        Self {
            target,
            view: LanView::NotUsed,
            place: AddressNetwork::Unknown,
            datagrams: Datagrams::Nothing,
            broadcast: Broadcast::NotSent,
            owner: KlapOwner::Unknown,
            found: "not used".to_owned(),
            tries: Vec::new(),
        }
    }

    /// A plug that only the account lists.
    fn without_address(target: DoctorTarget, any_answered: bool, config: &Config) -> Self {
        let mut unknown = Self::not_used(target);
        if config.local.enabled && unknown.target.policy != RoutePreference::Cloud {
            unknown.view = LanView::Failed(Failure::NoAddress);
            unknown.found = Failure::NoAddress.to_string();
        }
        if config.discovery.is_some() {
            unknown.broadcast = if any_answered { Broadcast::Answered } else { Broadcast::NoAnswer };
        }
        unknown
    }

    /// Whether any plug answered the broadcast.
    fn saw_an_answer(&self) -> bool {
        matches!(self.broadcast, Broadcast::Answered | Broadcast::AnsweredElsewhere)
    }
}

/// What the cloud is asked about one plug.
struct AskCloud {
    /// The config names an account.
    has_account: bool,
    row: Option<Row>,
    /// The account lists at least one device.
    is_listing: bool,
    /// `None` if there is no account, or it does not answer.
    cloud: Option<Cloud>,
    may_ask: bool,
}

impl AskCloud {
    async fn conclude(self, on_lan: OnLan) -> Finding {
        let OnLan { target, view, place, datagrams, broadcast, owner, found, mut tries } = on_lan;
        let (cloud, words) = match target.policy {
            RoutePreference::LocalThenCloud | RoutePreference::Cloud if self.has_account => {
                self.look(&target, &mut tries).await
            }
            _ => (CloudView::NotUsed, None),
        };
        let evidence = Evidence { lan: view, place, datagrams, broadcast, cloud, owner };
        let on_the_lan = Some(format!("LAN: {found}")).filter(|_| evidence.lan != LanView::NotUsed);
        let over_the_cloud = words.map(|words| format!("cloud: {words}"));
        let found: Vec<_> = on_the_lan.into_iter().chain(over_the_cloud).collect();
        let cause = diagnosis::of_plug(&evidence);
        let found = if found.is_empty() { "no route to it is in use".to_owned() } else { found.join("; ") };
        let finding = match cause {
            Some(cause) if diagnosis::is_a_note(&evidence) => {
                Finding::note(FindingSubject::Plug, found, cause)
            }
            cause => Finding::of(FindingSubject::Plug, found, cause),
        };
        finding.named(target.name).after(tries)
    }

    /// How the cloud sees the plug, as a value and in words.
    async fn look(&self, target: &DoctorTarget, tries: &mut Vec<Try>) -> (CloudView, Option<String>) {
        let look_up = "find it in the account's list";
        if self.cloud.is_none() {
            let words = "not asked, because the account does not answer".to_owned();
            tries.push(Try::new(look_up, words.clone()));
            return (CloudView::Unknown, Some(words));
        }
        let Some(row) = &self.row else {
            let is_known = target.identity != Identity::default();
            let (view, words) = if is_known && self.is_listing {
                (CloudView::NotListed, "not listed in the account")
            } else if is_known {
                (CloudView::Unknown, "the account lists nothing")
            } else {
                (CloudView::Unknown, "not searched for: neither its device id nor its MAC is known")
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
                let (view, words) = self.ask(row, target).await;
                tries.push(Try::since(
                    begun,
                    format!("get_sysinfo over the cloud, server {server}"),
                    words.clone(),
                ));
                (view, words)
            }
            Ok(_) => {
                let enough = format!("not asked: at most {OVER_THE_CLOUD} plugs are");
                tries.push(Try::new("get_sysinfo over the cloud", enough));
                (CloudView::Connected, listed.to_owned())
            }
        };
        (view, Some(words))
    }

    async fn ask(&self, row: &Row, target: &DoctorTarget) -> (CloudView, String) {
        let Some(cloud) = &self.cloud else {
            return (CloudView::Connected, "listed as connected".to_owned());
        };
        let to = Target::Cloud { device_id: row.device_id.clone() };
        let exchange = exchange(target, to, Route::Cloud);
        match cloud.perform(&exchange).await.result.and_then(Reply::into_sysinfo) {
            Ok(reading) => match reading.other_kind() {
                None => (CloudView::Answers, describe(&reading)),
                Some(kind) => (CloudView::OtherKind, kind),
            },
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

/// Whether the cloud can be asked about a plug that the account lists like this.
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
