//! The plain values that all modules share: names, addresses, states, commands and failures.
//!
//! Nothing here knows a socket, a clock or a topic. A device id prints shortened, so that no log line holds a whole one by
//! accident.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

/// The name of a plug in topics and Home Assistant entity ids: `a-z 0-9 - _`, 1 to 64 characters.
///
/// Cheap to clone. `bridge` is reserved, because `<base>/bridge/…` are the daemon's topics.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlugName(Arc<str>);

/// Why a text cannot be a [`PlugName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// No characters.
    #[error("is empty")]
    Empty,
    /// Longer than [`PlugName::MAX_LEN`].
    #[error("is longer than 64 characters")]
    TooLong,
    /// Holds something other than `a-z 0-9 - _`.
    #[error("may hold a-z, 0-9, - and _ only")]
    BadCharacter,
    /// [`PlugName::RESERVED`].
    #[error("is taken by the daemon itself")]
    Reserved,
}

impl PlugName {
    /// The longest name, in (ASCII) characters.
    pub(crate) const MAX_LEN: usize = 64;
    /// The name of the daemon's own topics.
    pub const RESERVED: &'static str = "bridge";

    /// Accepts a valid name only; changes nothing.
    pub fn new(text: &str) -> Result<Self, BadName> {
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')) {
            return Err(BadName::BadCharacter);
        }
        if text.len() > Self::MAX_LEN {
            return Err(BadName::TooLong);
        }
        if text == Self::RESERVED {
            return Err(BadName::Reserved);
        }
        Ok(Self(text.into()))
    }

    /// `plug`, for a plug without a name.
    pub fn placeholder() -> Self {
        Self("plug".into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As text that is shared, not copied.
    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for PlugName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PlugName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl std::borrow::Borrow<str> for PlugName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The identity of a plug: the `deviceId` of `get_sysinfo`, 40 hexadecimal digits (39 were seen once).
///
/// The same at every address, on the LAN and in the account's list. Stored in upper case. The cloud's passthrough is
/// addressed by it, so it prints shortened; [`DeviceId::as_str`] has it whole.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    /// Accepts 8 to 64 hexadecimal digits in either case.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (8..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| Self(text.to_ascii_uppercase().into()))
    }

    /// The whole id, for requests, MQTT payloads and the store. Not for logs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…{}", &self.0[..4], &self.0[self.0.len() - 4..])
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Parses `50:C7:BF:01:02:03`, `50-c7-bf-01-02-03` or `50C7BF010203`.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut digits = text.chars().filter(|c| !matches!(c, ':' | '-'));
        for byte in &mut bytes {
            let (high, low) = (digits.next()?.to_digit(16)?, digits.next()?.to_digit(16)?);
            *byte = u8::try_from((high << 4) | low).ok()?;
        }
        digits.next().is_none().then_some(Self(bytes))
    }

    /// The last four hexadecimal digits, in lower case, to tell two plugs with the same alias apart.
    pub(crate) fn tail(self) -> String {
        format!("{:02x}{:02x}", self.0[4], self.0[5])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{g:02X}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a plug listens on the LAN. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address(HostAndPort);

/// Each plug has several, and nearly all are IPv4: that variant keeps the enum small.
#[derive(Clone, PartialEq, Eq, Hash)]
enum HostAndPort {
    V4(SocketAddrV4),
    V6(Arc<SocketAddrV6>),
    Name(Arc<(Box<str>, u16)>),
}

/// What to connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// A numeric address.
    Socket(SocketAddr),
    /// A host name, resolved for each connection, and a port.
    Name(&'a str, u16),
}

impl From<SocketAddr> for Address {
    fn from(socket: SocketAddr) -> Self {
        Self(match socket {
            SocketAddr::V4(socket) => HostAndPort::V4(socket),
            SocketAddr::V6(socket) => HostAndPort::V6(socket.into()),
        })
    }
}

impl Address {
    /// Parses `host` or `host:port`; host is an IPv4 address, an IPv6 address with or without brackets, or a name.
    pub fn new(text: &str, default_port: u16) -> Option<Self> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(SocketAddr::new(ip, default_port).into());
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return (socket.port() != 0).then(|| socket.into());
        }
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(ip) = bracketed.and_then(|inside| inside.parse::<Ipv6Addr>().ok()) {
            return Some(SocketAddr::new(ip.into(), default_port).into());
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|&port| port != 0)?),
            None => (text, default_port),
        };
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        // A last label of digits only is a mistyped IPv4 address.
        let mistyped_ip = host.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
        (host.len() <= 253 && !mistyped_ip && host.split('.').all(is_label))
            .then(|| Self(HostAndPort::Name(Arc::new((host.into(), port)))))
    }

    /// What to connect to. A name is not resolved here.
    pub fn destination(&self) -> Destination<'_> {
        match &self.0 {
            HostAndPort::V4(socket) => Destination::Socket((*socket).into()),
            HostAndPort::V6(socket) => Destination::Socket((**socket).into()),
            HostAndPort::Name(named) => Destination::Name(&named.0, named.1),
        }
    }

    /// `None` for a host name.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self.destination() {
            Destination::Socket(socket) => Some(socket),
            Destination::Name(..) => None,
        }
    }

    /// The same host at this port.
    pub(crate) fn with_port(&self, port: u16) -> Self {
        match self.destination() {
            Destination::Socket(socket) => SocketAddr::new(socket.ip(), port).into(),
            Destination::Name(name, _) => Self(HostAndPort::Name(Arc::new((name.into(), port)))),
        }
    }

    /// The TCP port, which is never 0 in an address that [`Address::new`] read.
    pub fn port(&self) -> u16 {
        match self.destination() {
            Destination::Socket(socket) => socket.port(),
            Destination::Name(_, port) => port,
        }
    }

    /// The host without the port; an IPv6 address without brackets.
    pub fn host(&self) -> String {
        match self.destination() {
            Destination::Socket(socket) => socket.ip().to_string(),
            Destination::Name(name, _) => name.to_owned(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination() {
            Destination::Socket(socket) => write!(f, "{socket}"),
            Destination::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The state of a relay, and of the plug's LED.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelayState {
    /// No current flows.
    Off,
    /// Current flows.
    On,
}

impl RelayState {
    /// True is `On`.
    pub const fn from_bool(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }

    /// `On` is true.
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On)
    }
}

impl std::ops::Not for RelayState {
    type Output = Self;

    fn not(self) -> Self {
        Self::from_bool(!self.is_on())
    }
}

impl fmt::Display for RelayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "ON" } else { "OFF" })
    }
}

/// How a plug is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// The LAN.
    Local,
    /// Through TP-Link's cloud.
    Cloud,
}

impl Route {
    /// All routes, ordered by [`Route::index`].
    pub const ALL: [Self; 2] = [Self::Local, Self::Cloud];

    /// The index of this route in a table.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The word for it in payloads.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cloud => "cloud",
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The TCP port on which plugs listen for KLAP, unless their reply to discovery names another one.
pub const KLAP_PORT: u16 = 80;

/// A protocol that plugs of this family speak on the LAN. The messages inside are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LanProtocol {
    /// The XOR cipher on TCP 9999.
    Xor,
    /// Encrypted HTTP on port 80, of newer firmwares.
    Klap,
}

impl LanProtocol {
    const ALL: [Self; 2] = [Self::Xor, Self::Klap];

    /// The word for it in payloads and in the store.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Xor => "xor",
            Self::Klap => "klap",
        }
    }

    /// The one that this is not.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Xor => Self::Klap,
            Self::Klap => Self::Xor,
        }
    }

    /// Reads [`LanProtocol::word`] back.
    pub fn new(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.word() == word)
    }
}

/// Whether a plug can be reached by at least one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Availability {
    /// It has answered.
    Online,
    /// It missed several polls on every route.
    Offline,
}

impl Availability {
    /// As published over MQTT.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a client wants of a plug. The bridge turns it into requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlugCommand {
    /// Set its state.
    Set(SetCommand),
    /// Restart its firmware; the relay keeps its state.
    Reboot,
    /// Poll it now and publish the result.
    Read,
}

/// The parts of a plug's state that one command sets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetCommand {
    /// On, off or toggled.
    pub relay: Option<Switch>,
    /// The light on the plug.
    pub led: Option<RelayState>,
    /// A dimmer's brightness, 0..=100 %. 0 switches off, more switches on.
    pub brightness: Option<u8>,
    /// The time to that brightness.
    pub transition: Option<Duration>,
    /// After this time the plug itself switches back. Zero ends a count-down that is running.
    pub lasting: Option<Duration>,
    /// The new name in the app.
    pub alias: Option<Arc<str>>,
}

/// A command to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Switch to this state.
    To(RelayState),
    /// Switch to the opposite of the state that is read.
    Toggle,
}

/// Why a request to a plug failed, sorted by what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The plug's address on the LAN is not known yet.
    #[error("its address on the LAN is not known")]
    NoAddress,
    /// Nothing listens on that port.
    #[error("connection refused")]
    Refused,
    /// The network reports the host as unreachable, or its name does not resolve.
    #[error("no route to the host")]
    NoRoute,
    /// Nothing was sent: this process has too many connections open.
    #[error("too many files are open")]
    OutOfFiles,
    /// No reply within the time limit.
    #[error("no answer in time")]
    Silent,
    /// The connection ended before the whole reply was there.
    #[error("connection closed before the answer")]
    Closed,
    /// The reply cannot be parsed. The text says why, and does not quote it.
    #[error("unusable answer ({0})")]
    Garbage(Box<str>),
    /// Another plug is at the address; it got no command.
    #[error("another plug answers at the address ({found})")]
    WrongPlug {
        /// Its device id, shortened.
        found: Box<str>,
    },
    /// The plug does not let us begin a KLAP session.
    #[error("the plug refuses the KLAP handshake")]
    KlapBlocked,
    /// The plug proved that it holds none of the accounts that we know.
    #[error("the plug holds another account or another spelling of it")]
    OtherAccount,
    /// The plug proved that it holds an account, and the user has given us none.
    #[error("the plug asks for its account, and hs100d has none")]
    NoLanAccount,
    /// A plug has one KLAP session, and another client began one soon after ours.
    #[error("another client took the plug's KLAP session")]
    SessionTaken,
    /// The plug refuses the request.
    #[error("the plug answered error {code} ({message})")]
    Device {
        /// The plug's `err_code`.
        code: i64,
        /// The plug's `err_msg`, or the meaning of the code.
        message: Box<str>,
    },
    /// The cloud cannot be reached or is out of order.
    #[error("the cloud is out of reach ({0})")]
    CloudDown(Box<str>),
    /// Calls about this plug fail in the cloud, while calls about other plugs are answered.
    #[error("the cloud fails for this plug only ({0})")]
    CloudFailsHere(Box<str>),
    /// The plug is not connected to the cloud.
    #[error("the cloud says that the plug is offline")]
    CloudOffline,
    /// The account does not own the plug.
    #[error("the account does not list the plug")]
    NotInAccount,
    /// The cloud refuses the request; that says nothing about the plug.
    #[error("{0}")]
    CloudRefused(Box<str>),
    /// This route does not support the plug.
    #[error("not supported over this route ({0})")]
    Unsupported(Box<str>),
    /// TP-Link or our own rate limit holds calls back.
    #[error("calls to the cloud are being held back")]
    Throttled,
    /// The cloud is not used until the user acts (wrong password, lock, two-step verification, …).
    #[error("the cloud is stopped ({0})")]
    CloudStopped(Box<str>),
    /// We cancelled the request for a newer one.
    #[error("given up for a newer command")]
    Abandoned,
}

/// What a [`Failure`] means for its route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The route does not work: pause it, and try the next one at once.
    RouteDown,
    /// It may work again at once: try the next one now, and this one again soon.
    RouteDoubtful,
    /// The plug itself refuses, and would do so on the other route as well: try none.
    PlugRefuses,
}

impl Failure {
    /// What to do about the route. The match has no `_`, so that a new failure must be sorted.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::NoAddress => Verdict::RouteDown,
            Self::Refused => Verdict::RouteDown,
            Self::NoRoute => Verdict::RouteDown,
            Self::OutOfFiles => Verdict::RouteDoubtful,
            Self::Silent => Verdict::RouteDoubtful,
            Self::Closed => Verdict::RouteDoubtful,
            Self::Garbage(_) => Verdict::RouteDoubtful,
            Self::WrongPlug { .. } => Verdict::RouteDown,
            Self::KlapBlocked => Verdict::RouteDown,
            Self::OtherAccount => Verdict::RouteDown,
            Self::NoLanAccount => Verdict::RouteDown,
            Self::SessionTaken => Verdict::RouteDown,
            Self::Device { .. } => Verdict::PlugRefuses,
            Self::CloudDown(_) => Verdict::RouteDown,
            Self::CloudFailsHere(_) => Verdict::RouteDown,
            Self::CloudOffline => Verdict::RouteDown,
            Self::NotInAccount => Verdict::RouteDown,
            Self::CloudRefused(_) => Verdict::RouteDown,
            Self::Unsupported(_) => Verdict::RouteDown,
            Self::Throttled => Verdict::RouteDown,
            Self::CloudStopped(_) => Verdict::RouteDown,
            Self::Abandoned => Verdict::RouteDoubtful,
        }
    }

    /// Whether the plug refuses KLAP for a reason that the user can change.
    pub fn is_klap_refusal(&self) -> bool {
        matches!(self, Self::KlapBlocked | Self::OtherAccount | Self::NoLanAccount)
    }

    /// Whether the request may have reached the plug, which may then still act.
    pub(crate) fn may_act_later(&self) -> bool {
        matches!(
            self,
            Self::Silent
                | Self::Closed
                | Self::Garbage(_)
                | Self::Abandoned
                | Self::CloudDown(_)
                | Self::CloudFailsHere(_)
        )
    }
}

/// Foreign text for one of our lines: at most `most` characters, escaped, so that it can neither begin a new line nor
/// control the terminal.
pub fn shown(text: &str, most: usize) -> String {
    let mut escaped = text.escape_debug();
    let mut shown: String = escaped.by_ref().take(most).collect();
    if escaped.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plug_name_is_taken_as_written_or_refused_with_the_reason() {
        assert_eq!(PlugName::new("kitchen-kettle_2").unwrap().as_str(), "kitchen-kettle_2");
        assert_eq!(PlugName::new(&"a".repeat(64)).unwrap().as_str().len(), 64);
        assert_eq!(PlugName::new(""), Err(BadName::Empty));
        assert_eq!(PlugName::new("Kettle"), Err(BadName::BadCharacter));
        assert_eq!(PlugName::new("küche"), Err(BadName::BadCharacter));
        assert_eq!(PlugName::new("a/b"), Err(BadName::BadCharacter));
        assert_eq!(PlugName::new(&"a".repeat(65)), Err(BadName::TooLong));
        assert_eq!(PlugName::new("bridge"), Err(BadName::Reserved));
    }

    #[test]
    fn a_device_id_compares_without_case_and_prints_shortened() {
        let id = DeviceId::new("8006aabbccddeeff00112233445566778899AABB").unwrap();
        assert_eq!(id, DeviceId::new("8006AABBCCDDEEFF00112233445566778899aabb").unwrap());
        assert_eq!(format!("{id} {id:?}"), "8006…AABB 8006…AABB");
        assert_eq!(DeviceId::new("not hex at all"), None);
        assert_eq!(DeviceId::new(""), None);
    }

    #[test]
    fn foreign_text_stays_on_our_line_and_within_bounds() {
        assert_eq!(shown("module not support", 80), "module not support");
        assert_eq!(shown("Küche ☕", 7), "Küche ☕");
        assert_eq!(shown("no\r\nforged\u{1b}[2J", 80), "no\\r\\nforged\\u{1b}[2J");
        assert_eq!(shown("日本語", 2), "日本…");
        assert_eq!(shown("\n\n", 3), "\\n\\…");
    }

    #[test]
    fn a_mac_is_read_in_all_its_forms() {
        let mac = Mac::new("50:C7:BF:01:02:af").unwrap();
        assert_eq!(Mac::new("50-c7-bf-01-02-AF"), Some(mac));
        assert_eq!(Mac::new("50C7BF0102AF"), Some(mac));
        assert_eq!((mac.to_string().as_str(), mac.tail().as_str()), ("50:C7:BF:01:02:AF", "02af"));
        for bad in ["", "50:C7:BF:01:02", "50:C7:BF:01:02:AF:00", "50:C7:BF:01:02:GG"] {
            assert_eq!(Mac::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_address_is_numeric_or_a_name_with_or_without_a_port() {
        let text = |text| Address::new(text, 9999).map(|address| address.to_string());
        assert_eq!(text("192.168.1.20").as_deref(), Some("192.168.1.20:9999"));
        assert_eq!(text("192.168.1.20:19999").as_deref(), Some("192.168.1.20:19999"));
        assert_eq!(text("plug.lan").as_deref(), Some("plug.lan:9999"));
        assert_eq!(text("plug.lan:99").as_deref(), Some("plug.lan:99"));
        assert_eq!(text("fe80::1").as_deref(), Some("[fe80::1]:9999"));
        assert_eq!(text("[fe80::1]:99").as_deref(), Some("[fe80::1]:99"));
        assert_eq!(text("[::1]").as_deref(), Some("[::1]:9999"));
        for bad in [
            "",
            "192.168.1",
            "192.168.1.300",
            "plug lan",
            "plug.lan:0",
            "plug.lan:99999",
            "http://plug",
            "[::1",
            "::1]",
            "[127.0.0.1]",
            "[plug]",
            "[::1]:0",
        ] {
            assert_eq!(text(bad), None, "{bad}");
        }
    }
}
