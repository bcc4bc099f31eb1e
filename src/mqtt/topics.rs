//! All topics, built and parsed, and the rules for topics that users name.
//!
//! Names only; payloads are in `payload`. Subscriptions are narrow, so that a large message that another client
//! retains below our base topic never reaches us.

use std::fmt;
use std::sync::Arc;

use crate::model::PlugName;
use crate::payload::command::CommandPart;

/// The longest request name, in bytes; the response topic contains it.
const MAX_REQUEST_NAME: usize = 64;

/// All topics below one base topic. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    base: Arc<str>,
}

impl Topics {
    /// Topics below `base`, which [`check_base`] has accepted.
    pub fn new(base: &str) -> Self {
        Self { base: base.into() }
    }

    pub(crate) fn is_below_base(&self, topic: &str) -> bool {
        is_below(&self.base, topic)
    }

    /// Whether the daemon is online; also the topic of the last will.
    pub fn bridge_state(&self) -> String {
        format!("{}/{}/state", self.base, PlugName::RESERVED)
    }

    /// Whether this is [`Topics::bridge_state`]. Takes no memory: each message is asked.
    pub(crate) fn is_bridge_state(&self, topic: &str) -> bool {
        let rest = topic.strip_prefix(&*self.base).and_then(|rest| rest.strip_prefix('/'));
        let rest = rest.and_then(|rest| rest.strip_prefix(PlugName::RESERVED));
        rest == Some("/state")
    }

    /// The daemon's version, counts and cloud status.
    pub(crate) fn bridge_info(&self) -> String {
        format!("{}/{}/info", self.base, PlugName::RESERVED)
    }

    pub(crate) fn bridge_event(&self) -> String {
        format!("{}/{}/event", self.base, PlugName::RESERVED)
    }

    /// A request to the daemon.
    pub fn request(&self, name: &str) -> String {
        format!("{}/{}/request/{name}", self.base, PlugName::RESERVED)
    }

    /// The response to a request.
    pub fn response(&self, name: &str) -> String {
        format!("{}/{}/response/{name}", self.base, PlugName::RESERVED)
    }

    /// The first levels of all topics of a plug.
    pub(super) fn of_plug(&self, plug: &str) -> String {
        format!("{}/{plug}", self.base)
    }

    /// A topic that a plug publishes. The name is any text: a command to a plug that cannot exist is answered too.
    pub fn plug(&self, plug: &str, topic: StateTopic) -> String {
        format!("{}/{plug}/{topic}", self.base)
    }

    /// A command topic of a plug.
    pub fn command(&self, plug: &str, part: CommandPart<'_>) -> String {
        format!("{}/{plug}/{part}", self.base)
    }

    /// The filters for commands and requests.
    pub(crate) fn command_filters(&self) -> [String; 4] {
        [
            format!("{}/+/set", self.base),
            format!("{}/+/set/+", self.base),
            format!("{}/+/get", self.base),
            format!("{}/{}/request/+", self.base, PlugName::RESERVED),
        ]
    }

    /// The filters that find what earlier runs published: availability and state of plugs, and `bridge/info`.
    pub(super) fn search_filters(&self) -> [String; 3] {
        [
            format!("{}/+/{}", self.base, StateTopic::Availability),
            format!("{}/+/{}", self.base, StateTopic::State),
            self.bridge_info(),
        ]
    }

    /// Parses the topic of a command or request; `None` for any other topic.
    pub fn parse<'a>(&self, topic: &'a str) -> Option<ParsedTopic<'a>> {
        let rest = topic.strip_prefix(&*self.base)?.strip_prefix('/')?;
        let (plug, rest) = rest.split_once('/')?;
        if plug == PlugName::RESERVED {
            let name = rest.strip_prefix("request/")?;
            return is_request_name(name).then_some(ParsedTopic::Request(name));
        }
        let part = match rest {
            "set" => CommandPart::All,
            "get" => CommandPart::Read,
            _ => CommandPart::named(rest.strip_prefix("set/")?)?,
        };
        Some(ParsedTopic::Command { plug, part })
    }

    /// The plug that publishes this kind of state on this topic.
    pub fn parse_state(&self, topic: &str, kind: StateTopic) -> Option<PlugName> {
        let rest = topic.strip_prefix(&*self.base)?.strip_prefix('/')?;
        let (plug, rest) = rest.split_once('/')?;
        (rest == kind.as_str()).then(|| PlugName::new(plug).ok())?
    }
}

/// A topic that we subscribe to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParsedTopic<'a> {
    /// A command to a plug, which may not exist.
    Command {
        /// One topic level, unchecked.
        plug: &'a str,
        /// Which of its command topics.
        part: CommandPart<'a>,
    },
    /// A request to the daemon.
    Request(&'a str),
}

/// The topics that a plug publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateTopic {
    /// Its state, retained.
    State,
    /// Model, ids and address, retained.
    Info,
    /// Whether it can be reached, retained.
    Availability,
    /// Its meter, retained.
    Energy,
    /// The result of a command.
    Result,
}

impl StateTopic {
    /// The retained topics, which are cleared when the plug is gone.
    pub(super) const RETAINED: [Self; 4] = [Self::State, Self::Info, Self::Availability, Self::Energy];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Info => "info",
            Self::Availability => "availability",
            Self::Energy => "energy",
            Self::Result => "result",
        }
    }
}

impl fmt::Display for StateTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text cannot be a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTopic {
    /// It is empty, begins or ends with a slash, or has two in a row.
    #[error("has an empty level")]
    EmptyLevel,
    /// It has a wildcard, or begins with `$`, which is reserved for the broker.
    #[error("may not hold + or #, nor begin with $")]
    Reserved,
    /// It has a control character, for which brokers close the connection.
    #[error("holds a control character")]
    Control,
    /// It has more than this many bytes.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
}

/// The longest topic of another client that we publish to, in bytes. The protocol allows 65,535, but the embedded broker
/// stores each retained topic in a file of that name, which may have 255.
pub const MAX_TOPIC: usize = 256;
/// The longest base topic, discovery prefix or status topic, in bytes; brokers differ in what they accept beyond.
const MAX_BASE: usize = 128;

/// Whether a text can be a base topic, discovery prefix or status topic.
pub fn check_base(text: &str) -> Result<(), BadTopic> {
    if text.len() > MAX_BASE {
        return Err(BadTopic::TooLong(MAX_BASE));
    }
    check_topic(text)?;
    if text.split('/').any(str::is_empty) { Err(BadTopic::EmptyLevel) } else { Ok(()) }
}

/// Whether we may publish to a topic that another client named.
pub fn check_topic(text: &str) -> Result<(), BadTopic> {
    if text.is_empty() {
        return Err(BadTopic::EmptyLevel);
    }
    if text.starts_with('$') || text.contains(['+', '#']) {
        return Err(BadTopic::Reserved);
    }
    if text.chars().any(char::is_control) {
        return Err(BadTopic::Control);
    }
    if text.len() > MAX_TOPIC { Err(BadTopic::TooLong(MAX_TOPIC)) } else { Ok(()) }
}

/// Whether a topic is on a level below these levels.
pub(crate) fn is_below(first: &str, topic: &str) -> bool {
    topic.strip_prefix(first).is_some_and(|rest| rest.starts_with('/'))
}

fn is_request_name(name: &str) -> bool {
    (1..=MAX_REQUEST_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_topics_are_those_of_the_interface() {
        let topics = Topics::new("hs100d");
        assert_eq!(topics.bridge_state(), "hs100d/bridge/state");
        assert!(topics.is_bridge_state("hs100d/bridge/state"));
        for other in [
            "hs100d/bridge/info",
            "hs100d/bridge",
            "hs100dbridge/state",
            "x/hs100d/bridge/state",
            "hs100d/bridge/state/x",
        ] {
            assert!(!topics.is_bridge_state(other), "{other}");
        }
        assert_eq!(topics.bridge_info(), "hs100d/bridge/info");
        assert_eq!(topics.bridge_event(), "hs100d/bridge/event");
        assert_eq!(topics.response("discover"), "hs100d/bridge/response/discover");
        assert_eq!(topics.plug("kettle", StateTopic::State), "hs100d/kettle/state");
        assert_eq!(topics.plug("kettle", StateTopic::Result), "hs100d/kettle/result");
        assert_eq!(topics.command("kettle", CommandPart::Led), "hs100d/kettle/set/led");
        assert_eq!(
            topics.command_filters(),
            ["hs100d/+/set", "hs100d/+/set/+", "hs100d/+/get", "hs100d/bridge/request/+"]
        );
    }

    #[test]
    fn other_topics_are_ignored() {
        let topics = Topics::new("home/hs100d");
        for topic in [
            "",
            "home/hs100d",
            "home/hs100dx/kettle/set",
            "hs100d/kettle/set",
            "home/hs100d/kettle",
            "home/hs100d/kettle/state",
            "home/hs100d/kettle/set/led/now",
            "home/hs100d/bridge/set",
            "home/hs100d/bridge/request/",
            "home/hs100d/bridge/request/a b",
            "home/hs100d/bridge/state",
        ] {
            assert_eq!(topics.parse(topic), None, "{topic}");
        }
    }

    #[test]
    fn a_base_topic_is_refused_with_the_reason() {
        assert_eq!(check_base("home/hs100d"), Ok(()));
        assert_eq!(check_base(""), Err(BadTopic::EmptyLevel));
        assert_eq!(check_base("/hs100d"), Err(BadTopic::EmptyLevel));
        assert_eq!(check_base("hs100d/"), Err(BadTopic::EmptyLevel));
        assert_eq!(check_base("home/+"), Err(BadTopic::Reserved));
        assert_eq!(check_base("home/#"), Err(BadTopic::Reserved));
        assert_eq!(check_base("$SYS"), Err(BadTopic::Reserved));
        assert_eq!(check_base("a\u{0}b"), Err(BadTopic::Control));
        assert_eq!(check_base(&"a".repeat(128)), Ok(()));
        assert_eq!(check_base(&"a".repeat(129)), Err(BadTopic::TooLong(128)));
        assert_eq!(check_topic(&"a".repeat(257)), Err(BadTopic::TooLong(256)));
    }

    fn part() -> impl Strategy<Value = CommandPart<'static>> {
        prop_oneof![
            Just(CommandPart::All),
            Just(CommandPart::Led),
            Just(CommandPart::Brightness),
            Just(CommandPart::Reboot),
            Just(CommandPart::Read),
            Just(CommandPart::Unknown("colour")),
        ]
    }

    proptest! {
        #[test]
        fn what_is_built_is_parsed_back(base in "[a-z]{1,8}(/[a-z0-9 ]{1,8}){0,3}", plug in "[a-z0-9_-]{1,64}", part in part()) {
            prop_assume!(plug != PlugName::RESERVED);
            let topics = Topics::new(&base);
            let command = topics.command(&plug, part);
            prop_assert_eq!(topics.parse(&command), Some(ParsedTopic::Command { plug: &plug, part }));
            prop_assert!(topics.command_filters().iter().any(|filter| rumqttc::matches(&command, filter)));
            let request = topics.request(&plug);
            prop_assert_eq!(topics.parse(&request), Some(ParsedTopic::Request(&plug)));
            let availability = topics.plug(&plug, StateTopic::Availability);
            prop_assert_eq!(topics.parse_state(&availability, StateTopic::Availability), PlugName::new(&plug).ok());
            prop_assert!(rumqttc::matches(&availability, &topics.search_filters()[0]));
            prop_assert!(!topics.command_filters().iter().any(|filter| rumqttc::matches(&availability, filter)));
        }

        #[test]
        fn no_topic_makes_the_parser_panic(topic in ".{0,80}") {
            Topics::new("hs100d").parse(&topic);
            Topics::new("hs100d").parse(&format!("hs100d/{topic}"));
        }
    }
}
