//! Received topics, and response topics of other clients.

use hs100d::model::PlugName;
use hs100d::mqtt::topics::{self, MAX_TOPIC, ParsedTopic, StateTopic, Topics};
use hs100d::payload::command::CommandPart;

use super::texts::fits_a_line;

/// The first byte selects the base topic; the rest is the topic.
pub fn hold(input: &[u8]) {
    let Some((&choice, topic)) = input.split_first() else { return };
    let topic = String::from_utf8_lossy(topic);
    let topics = Topics::new(["hs100d", "home/hs100d", "a"][usize::from(choice) % 3]);
    what_is_heard_is_what_was_said(&topics, &topic);
    what_is_heard_is_what_was_said(&topics, &topics.command(&topic, CommandPart::All));
    what_is_heard_is_what_was_said(&topics, &topics.request(&topic));
    a_checked_topic_may_be_published_on(&topic);
    a_checked_base_makes_checked_topics(&topic);
    a_name_is_one_level_of_plain_letters(&topic);
}

/// Building a topic from its parsed form gives the same topic.
fn what_is_heard_is_what_was_said(topics: &Topics, topic: &str) {
    match topics.parse(topic) {
        Some(ParsedTopic::Command { plug, part }) => {
            assert_eq!(topics.command(plug, part), topic);
            assert!(!plug.contains('/') && plug != PlugName::RESERVED);
            if let CommandPart::Unknown(name) = part {
                assert!(!name.contains('/') && !["led", "brightness", "reboot"].contains(&name));
            }
        }
        Some(ParsedTopic::Request(name)) => {
            assert_eq!(topics.request(name), topic);
            assert!(topics::check_topic(&topics.response(name)).is_ok(), "{name} cannot be answered");
        }
        None => {}
    }
    if let Some(plug) = topics.parse_state(topic, StateTopic::Availability) {
        assert_eq!(topics.plug(plug.as_str(), StateTopic::Availability), topic);
        assert_eq!(topics.parse(topic), None);
    }
}

fn a_checked_topic_may_be_published_on(topic: &str) {
    match topics::check_topic(topic) {
        Ok(()) => {
            fits_a_line(topic, MAX_TOPIC);
            assert!(!topic.contains(['+', '#']) && !topic.starts_with('$'));
        }
        Err(why) => fits_a_line(&why.to_string(), 64),
    }
}

fn a_checked_base_makes_checked_topics(base: &str) {
    if topics::check_base(base).is_err() {
        return;
    }
    let topics = Topics::new(base);
    assert!(topics::check_topic(base).is_ok());
    for part in [
        CommandPart::All,
        CommandPart::Led,
        CommandPart::Brightness,
        CommandPart::Reboot,
        CommandPart::Read,
        CommandPart::Unknown("x"),
    ] {
        let topic = topics.command("kettle", part);
        assert_eq!(topics.parse(&topic), Some(ParsedTopic::Command { plug: "kettle", part }));
    }
    assert_eq!(topics.parse(&topics.request("discover")), Some(ParsedTopic::Request("discover")));
    assert_eq!(topics.parse(&topics.bridge_state()), None, "our own words are none of ours to hear");
}

fn a_name_is_one_level_of_plain_letters(text: &str) {
    match PlugName::new(text) {
        Ok(name) => {
            let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
            assert!((1..=64).contains(&text.len()) && text.bytes().all(is_plain) && text != "bridge");
            assert_eq!(name.as_str(), text);
        }
        Err(why) => fits_a_line(&why.to_string(), 64),
    }
}
