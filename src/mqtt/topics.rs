//! Every topic there is: built for publishing, parsed when something comes in.
//!
//! Names only. What a payload means is in [`super::payload`]; who may listen to what is the broker's affair.
//! Subscriptions are narrow on purpose, so that a large message which somebody keeps under our base topic can
//! never reach us.

use std::fmt;
use std::sync::Arc;

use crate::model::PlugName;

/// The longest request name that is answered; the topic of the answer repeats it.
const MAX_REQUEST_NAME: usize = 64;

/// All topics under one base. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    base: Arc<str>,
}

impl Topics {
    /// Topics below `base`, which may have several levels. [`check_base`] says whether it can be one.
    pub fn new(base: &str) -> Self {
        Self { base: base.into() }
    }

    /// Whether a topic is one of these, or could be.
    pub fn is_below_base(&self, topic: &str) -> bool {
        is_below(&self.base, topic)
    }

    /// Whether the daemon is there, and its last will.
    pub fn bridge_state(&self) -> String {
        format!("{}/{}/state", self.base, PlugName::RESERVED)
    }

    /// What the daemon says of itself.
    pub fn bridge_info(&self) -> String {
        format!("{}/{}/info", self.base, PlugName::RESERVED)
    }

    /// Where things that happened are told.
    pub fn bridge_event(&self) -> String {
        format!("{}/{}/event", self.base, PlugName::RESERVED)
    }

    /// Where a request to the daemon is sent.
    pub fn request(&self, name: &str) -> String {
        format!("{}/{}/request/{name}", self.base, PlugName::RESERVED)
    }

    /// Where a request to the daemon is answered.
    pub fn response(&self, name: &str) -> String {
        format!("{}/{}/response/{name}", self.base, PlugName::RESERVED)
    }

    /// The first levels of all topics of a plug.
    pub(super) fn of_plug(&self, plug: &str) -> String {
        format!("{}/{plug}", self.base)
    }

    /// What a plug says. The name is text, because a command to a plug that cannot exist is answered too.
    pub fn plug(&self, plug: &str, leaf: StateTopic) -> String {
        format!("{}/{plug}/{leaf}", self.base)
    }

    /// Where a plug is commanded.
    pub fn command(&self, plug: &str, part: CommandTopic<'_>) -> String {
        format!("{}/{plug}/{part}", self.base)
    }

    /// All that must be listened to for commands and requests.
    pub fn command_filters(&self) -> [String; 4] {
        [
            format!("{}/+/set", self.base),
            format!("{}/+/set/+", self.base),
            format!("{}/+/get", self.base),
            format!("{}/{}/request/+", self.base, PlugName::RESERVED),
        ]
    }

    /// What has to be listened to for a moment in order to find plugs that an earlier run left behind.
    pub fn leftover_filter(&self) -> String {
        format!("{}/+/{}", self.base, StateTopic::Availability)
    }

    /// What has to be listened to for a moment in order to find what earlier runs said of plugs.
    pub fn kept_state_filter(&self) -> String {
        format!("{}/+/{}", self.base, StateTopic::State)
    }

    /// What a message on this topic is about; `None` for a topic that is not one of ours to hear.
    pub fn parse<'a>(&self, topic: &'a str) -> Option<ParsedTopic<'a>> {
        let rest = topic.strip_prefix(&*self.base)?.strip_prefix('/')?;
        let (plug, rest) = rest.split_once('/')?;
        if plug == PlugName::RESERVED {
            let name = rest.strip_prefix("request/")?;
            return is_request_name(name).then_some(ParsedTopic::Request(name));
        }
        let part = match rest {
            "set" => CommandTopic::All,
            "get" => CommandTopic::Read,
            _ => CommandTopic::named(rest.strip_prefix("set/")?)?,
        };
        Some(ParsedTopic::Command { plug, part })
    }

    /// The plug whose availability this topic tells, for the search after leftovers.
    pub fn parse_availability(&self, topic: &str) -> Option<PlugName> {
        self.parse_told(topic, StateTopic::Availability)
    }

    /// The plug that tells this on the topic.
    pub(super) fn parse_told(&self, topic: &str, told: StateTopic) -> Option<PlugName> {
        let rest = topic.strip_prefix(&*self.base)?.strip_prefix('/')?;
        let (plug, leaf) = rest.split_once('/')?;
        (leaf == told.as_str()).then(|| PlugName::new(plug).ok())?
    }
}

/// What comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParsedTopic<'a> {
    /// Something is wanted of a plug, or of what somebody takes for one.
    Command {
        /// One topic level, as it came.
        plug: &'a str,
        /// Which of its command topics.
        part: CommandTopic<'a>,
    },
    /// Something is wanted of the daemon.
    Request(&'a str),
}

/// The topics on which a plug speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateTopic {
    /// Its state, kept.
    State,
    /// Who and where it is, kept.
    Info,
    /// Whether it can be reached, kept.
    Availability,
    /// Its meter, kept.
    Energy,
    /// How a command ended.
    Result,
}

impl StateTopic {
    /// The topics of a plug that the broker keeps, all of which are cleared with the plug.
    pub const KEPT: [Self; 4] = [Self::State, Self::Info, Self::Availability, Self::Energy];

    fn as_str(self) -> &'static str {
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

/// The topics on which a plug is commanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandTopic<'a> {
    /// `set`: words or JSON.
    All,
    /// `set/led`.
    Led,
    /// `set/brightness`.
    Brightness,
    /// `set/reboot`.
    Reboot,
    /// `get`.
    Read,
    /// `set/` and something that there is not; it is answered with an error.
    Unknown(&'a str),
}

impl<'a> CommandTopic<'a> {
    /// The part that the level after `set/` names; `None` where there are further levels.
    fn named(name: &'a str) -> Option<Self> {
        match name {
            "led" => Some(Self::Led),
            "brightness" => Some(Self::Brightness),
            "reboot" => Some(Self::Reboot),
            _ => (!name.contains('/')).then_some(Self::Unknown(name)),
        }
    }
}

impl fmt::Display for CommandTopic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("set"),
            Self::Led => f.write_str("set/led"),
            Self::Brightness => f.write_str("set/brightness"),
            Self::Reboot => f.write_str("set/reboot"),
            Self::Read => f.write_str("get"),
            Self::Unknown(name) => write!(f, "set/{name}"),
        }
    }
}

/// Why a text cannot be published under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTopic {
    /// The text is empty, or begins or ends with a slash, or has two in a row.
    #[error("has an empty level")]
    EmptyLevel,
    /// `+` and `#` stand for other topics.
    #[error("may not hold + or #")]
    Wildcard,
    /// `$` at the beginning belongs to the broker.
    #[error("may not begin with $")]
    Reserved,
    /// A control character, which brokers close the connection for.
    #[error("holds a control character")]
    Control,
    /// More than [`MAX_TOPIC`] bytes.
    #[error("is longer than 256 bytes")]
    TooLong,
}

/// The longest base topic, prefix or response topic that is taken, in bytes. The protocol allows 65,535, but
/// the embedded broker keeps each retained topic in a file of its name, which may have 255.
pub const MAX_TOPIC: usize = 256;

/// Whether a base topic or discovery prefix can be one.
pub fn check_base(text: &str) -> Result<(), BadTopic> {
    check_topic(text)?;
    if text.split('/').any(str::is_empty) { Err(BadTopic::EmptyLevel) } else { Ok(()) }
}

/// Whether a message may be published on a topic that somebody else named.
pub fn check_topic(text: &str) -> Result<(), BadTopic> {
    if text.is_empty() {
        return Err(BadTopic::EmptyLevel);
    }
    if text.starts_with('$') {
        return Err(BadTopic::Reserved);
    }
    if text.contains(['+', '#']) {
        return Err(BadTopic::Wildcard);
    }
    if text.chars().any(char::is_control) {
        return Err(BadTopic::Control);
    }
    if text.len() > MAX_TOPIC { Err(BadTopic::TooLong) } else { Ok(()) }
}

/// Whether a topic is on a level below these first levels.
pub fn is_below(first: &str, topic: &str) -> bool {
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
        assert_eq!(topics.bridge_info(), "hs100d/bridge/info");
        assert_eq!(topics.bridge_event(), "hs100d/bridge/event");
        assert_eq!(topics.response("discover"), "hs100d/bridge/response/discover");
        assert_eq!(topics.plug("kettle", StateTopic::State), "hs100d/kettle/state");
        assert_eq!(topics.plug("kettle", StateTopic::Result), "hs100d/kettle/result");
        assert_eq!(topics.command("kettle", CommandTopic::Led), "hs100d/kettle/set/led");
        assert_eq!(
            topics.command_filters(),
            ["hs100d/+/set", "hs100d/+/set/+", "hs100d/+/get", "hs100d/bridge/request/+"]
        );
    }

    #[test]
    fn a_topic_that_is_not_ours_is_not_heard() {
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
        assert_eq!(check_base("home/+"), Err(BadTopic::Wildcard));
        assert_eq!(check_base("home/#"), Err(BadTopic::Wildcard));
        assert_eq!(check_base("$SYS"), Err(BadTopic::Reserved));
        assert_eq!(check_base("a\u{0}b"), Err(BadTopic::Control));
        assert_eq!(check_base(&"a".repeat(257)), Err(BadTopic::TooLong));
    }

    fn part() -> impl Strategy<Value = CommandTopic<'static>> {
        prop_oneof![
            Just(CommandTopic::All),
            Just(CommandTopic::Led),
            Just(CommandTopic::Brightness),
            Just(CommandTopic::Reboot),
            Just(CommandTopic::Read),
            Just(CommandTopic::Unknown("colour")),
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
            prop_assert_eq!(topics.parse_availability(&availability), PlugName::new(&plug).ok());
            prop_assert!(rumqttc::matches(&availability, &topics.leftover_filter()));
            prop_assert!(!topics.command_filters().iter().any(|filter| rumqttc::matches(&availability, filter)));
        }

        #[test]
        fn no_topic_makes_the_parser_stumble(topic in ".{0,80}") {
            Topics::new("hs100d").parse(&topic);
            Topics::new("hs100d").parse(&format!("hs100d/{topic}"));
        }
    }
}
