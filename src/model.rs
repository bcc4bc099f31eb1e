//! The plain values that every room speaks in: names, addresses, states, orders and failures.
//!
//! Nothing here knows a socket, a clock or a topic. Values that identify a person's plug print
//! shortened, so that no log line holds a whole device id by accident.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

/// What a plug is called in topics and Home Assistant entity ids: `a-z 0-9 - _`, 1 to 64 characters.
///
/// Cheap to clone. `bridge` is never a plug's name, because `<base>/bridge/…` is the daemon's own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlugName(Arc<str>);

/// Why a text cannot be a [`PlugName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// Longer than [`PlugName::MAX_LEN`].
    #[error("is longer than 64 characters")]
    TooLong,
    /// Holds something other than `a-z 0-9 - _`.
    #[error("may hold a-z, 0-9, - and _ only")]
    BadCharacter,
    /// `bridge`, which names the daemon itself.
    #[error("is taken by the daemon itself")]
    Reserved,
}

impl PlugName {
    /// The longest name that the interface allows, in characters (all of them ASCII).
    pub const MAX_LEN: usize = 64;
    /// The one name that plugs may not have.
    pub const RESERVED: &'static str = "bridge";

    /// Takes a name as the user wrote it; nothing is folded or repaired.
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

    /// What a plug is called while nobody has named it: `plug`.
    pub fn placeholder() -> Self {
        Self("plug".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as text, without a copy of its own.
    pub fn shared(&self) -> Arc<str> {
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

/// A plug's own identity: the `deviceId` of `get_sysinfo`, 40 hexadecimal digits (39 were seen once).
///
/// Stable across addresses, transports and the account, which lists the same text. Kept in upper case.
/// It is also the address for the cloud's passthrough, so it prints shortened; [`DeviceId::as_str`] has it whole.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    /// Takes 8 to 64 hexadecimal digits in either case; `None` for anything else.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (8..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| Self(text.to_ascii_uppercase().into()))
    }

    /// The whole identity, for the wire, MQTT payloads and the store. Not for logs.
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

/// A MAC address, in whichever of its written forms it came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Reads `50:C7:BF:01:02:03`, `50-c7-bf-01-02-03` or `50C7BF010203`.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut digits = text.chars().filter(|c| !matches!(c, ':' | '-'));
        for byte in &mut bytes {
            let (high, low) = (digits.next()?.to_digit(16)?, digits.next()?.to_digit(16)?);
            *byte = u8::try_from((high << 4) | low).ok()?;
        }
        digits.next().is_none().then_some(Self(bytes))
    }

    /// The last four hexadecimal digits, in lower case: what tells two plugs of one alias apart.
    pub fn tail(self) -> String {
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

/// Each plug has several, so it is small for those that nearly all have.
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
    /// A host name, resolved anew at each connection, and a port.
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
    /// Reads `host` or `host:port`, where host is an IPv4 address, a bracketed or bare IPv6 address, or a name.
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
        // A last label of digits only is a mistyped IPv4 address, not a name.
        let mistyped_ip = host.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
        (host.len() <= 253 && !mistyped_ip && host.split('.').all(is_label))
            .then(|| Self(HostAndPort::Name(Arc::new((host.into(), port)))))
    }

    /// What to connect to.
    pub fn destination(&self) -> Destination<'_> {
        match &self.0 {
            HostAndPort::V4(socket) => Destination::Socket((*socket).into()),
            HostAndPort::V6(socket) => Destination::Socket((**socket).into()),
            HostAndPort::Name(named) => Destination::Name(&named.0, named.1),
        }
    }

    /// The numeric address, if it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self.destination() {
            Destination::Socket(socket) => Some(socket),
            Destination::Name(..) => None,
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self.destination() {
            Destination::Socket(socket) => socket.port(),
            Destination::Name(_, port) => port,
        }
    }

    /// The host without the port, as `info` shows it.
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

/// Whether a relay (or the plug's little light) is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RelayState {
    /// No current flows.
    Off,
    /// Current flows.
    On,
}

impl RelayState {
    /// `On` for true.
    pub const fn from_bool(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }

    /// Whether this is `On`.
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

/// A way to reach a plug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// The LAN.
    Local,
    /// TP-Link's cloud, by the account.
    Cloud,
}

impl Route {
    /// Both, in the order in which tables indexed by route hold them.
    pub const ALL: [Self; 2] = [Self::Local, Self::Cloud];

    /// The place of this route in a table of two.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Cloud => "cloud",
        })
    }
}

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

    /// Reads [`LanProtocol::word`] back.
    pub fn new(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.word() == word)
    }
}

/// Whether a plug can be reached by at least one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Availability {
    /// It answered lately.
    Online,
    /// It missed several polls on every route.
    Offline,
}

impl Availability {
    /// The word for it on MQTT.
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

/// What someone wants of a plug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlugCommand {
    /// Bring it into this state.
    Set(SetCommand),
    /// Restart its firmware; the relay keeps its state.
    Reboot,
    /// Read it now and publish what it says.
    Read,
}

/// The parts of a plug's state that one order may set together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetCommand {
    /// The relay.
    pub relay: Option<Switch>,
    /// The plug's own little light.
    pub led: Option<RelayState>,
    /// How bright a dimmer is to be, 0..=100 %. More than 0 switches on, 0 switches off.
    pub brightness: Option<u8>,
    /// How long the way to that brightness may take.
    pub transition: Option<Duration>,
    /// After this long the plug itself switches to the other state; zero ends a count-down that is running.
    pub lasting: Option<Duration>,
    /// What it is to be called.
    pub alias: Option<Arc<str>>,
}

/// What a relay is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Be in this state.
    To(RelayState),
    /// Be in the other state than the one it is read to be in.
    Toggle,
}

/// Why an exchange with a plug brought no answer, told apart by what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody has said yet where on the LAN the plug is.
    #[error("its address on the LAN is not known")]
    NoAddress,
    /// The host answered that nothing listens there.
    #[error("connection refused")]
    Refused,
    /// The network answered that the host cannot be reached, or its name does not resolve.
    #[error("no route to the host")]
    NoRoute,
    /// Nothing was asked: this process may not open as many connections at once.
    #[error("too many files are open")]
    OutOfFiles,
    /// No answer within the time limit.
    #[error("no answer in time")]
    Silent,
    /// The connection ended before a whole answer came.
    #[error("connection closed before the answer")]
    Closed,
    /// An answer came and is not one. The text says what is wrong with it, never what it holds.
    #[error("unusable answer ({0})")]
    Garbage(Box<str>),
    /// Another plug answers at the address; nothing was asked of it.
    #[error("another plug answers at the address ({found})")]
    WrongPlug {
        /// The plug that answered, shortened.
        found: Box<str>,
    },
    /// The plug understood and said no.
    #[error("the plug answered error {code} ({message})")]
    Device {
        /// The plug's `err_code`.
        code: i64,
        /// The plug's `err_msg`, or what the code is known to mean.
        message: Box<str>,
    },
    /// The cloud could not be reached, or answered that it is out of order.
    #[error("the cloud is out of reach ({0})")]
    CloudDown(Box<str>),
    /// Calls about this plug fail in the cloud, while calls about others are answered.
    #[error("the cloud fails for this plug only ({0})")]
    CloudFailsHere(Box<str>),
    /// The cloud answers, and says that the plug is not connected to it.
    #[error("the cloud says that the plug is offline")]
    CloudOffline,
    /// The account does not list the plug, or does not own it.
    #[error("the account does not list the plug")]
    NotInAccount,
    /// The cloud refuses the request, which says nothing of the plug.
    #[error("{0}")]
    CloudRefused(Box<str>),
    /// The plug is one that this route cannot speak to.
    #[error("not supported over this route ({0})")]
    Unsupported(Box<str>),
    /// Calls to the cloud are being held back, by TP-Link or by our own pacing.
    #[error("calls to the cloud are being held back")]
    Throttled,
    /// The cloud is not used until the user acts (wrong password, lock, two-step verification, …).
    #[error("the cloud is stopped ({0})")]
    CloudStopped(Box<str>),
    /// We ourselves gave the exchange up, for a newer one.
    #[error("given up for a newer command")]
    Abandoned,
}

/// What a [`Failure`] means for the route it happened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The route does not work now: rest it, and let the next route try at once.
    RouteDown,
    /// It may have been a hiccup: the next route may try at once, and this one again soon.
    RouteDoubtful,
    /// The plug itself refuses. Another route leads to the same plug, so none is tried.
    PlugRefuses,
}

impl Failure {
    /// What to do about the route. One exhaustive match: a new failure must say here where it belongs.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::NoAddress => Verdict::RouteDown,
            Self::Refused => Verdict::RouteDown,
            Self::NoRoute => Verdict::RouteDown,
            Self::OutOfFiles => Verdict::RouteDoubtful,
            Self::Silent => Verdict::RouteDoubtful,
            Self::Closed => Verdict::RouteDoubtful,
            Self::Garbage(_) => Verdict::RouteDoubtful,
            Self::WrongPlug { .. } => Verdict::RouteDown,
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

    /// Whether a request that failed so may have reached the plug, and may be carried out later.
    pub fn may_act_later(&self) -> bool {
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

/// A stranger's words for a line of ours: at most so many characters, and nothing in them that could forge another line
/// or move a cursor.
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
    fn a_strangers_words_stay_on_our_line_and_within_bounds() {
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
