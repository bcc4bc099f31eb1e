//! Commands and requests that came over MQTT.

use std::time::Duration;

use hs100d::bridge::event::BridgeCommand;
use hs100d::duration;
use hs100d::model::{PlugCommand, RelayState, SetCommand, Switch};
use hs100d::payload;
use hs100d::payload::command::CommandPart;
use hs100d::payload::command::{self, BridgeRequest, MAX_COMMAND, Parsed};
use serde_json::{Map, Value, json};

use super::texts::fits_a_line;

/// The longest error text for an invalid command, in bytes.
const LONGEST_COMPLAINT: usize = 256;
const LONGEST_TRANSITION: Duration = Duration::from_secs(60);
const LONGEST_COUNT_DOWN: Duration = Duration::from_secs(24 * 3600);
const LONGEST_ALIAS: usize = 31;

/// The first byte chooses the topic; the rest is the payload. Requests follow the commands.
pub fn hold(input: &[u8]) {
    let Some((&choice, payload)) = input.split_first() else { return };
    const PARTS: [CommandPart<'_>; 6] = [
        CommandPart::All,
        CommandPart::Led,
        CommandPart::Brightness,
        CommandPart::Reboot,
        CommandPart::Read,
        CommandPart::Unknown("colour"),
    ];
    const REQUESTS: [&str; 5] = ["discover", "refresh", "forget", "reload", "explode"];
    let choice = usize::from(choice) % (PARTS.len() + REQUESTS.len());
    match PARTS.get(choice) {
        Some(&part) => a_command_holds(part, payload),
        None => a_request_holds(REQUESTS[choice - PARTS.len()], payload),
    }
    a_name_that_there_is_not_is_repeated_in_part_only(payload);
}

fn a_command_holds(part: CommandPart<'_>, payload: &[u8]) {
    let wanted = command::command(part, payload);
    assert_eq!(wanted, command::command(part, payload), "read twice");
    the_mark_is_echoed(&wanted);
    match &wanted.result {
        Ok(order) => {
            assert!(payload.len() <= MAX_COMMAND);
            order_holds(order);
            assert!(
                matches!(
                    (part, order),
                    (CommandPart::All | CommandPart::Led | CommandPart::Brightness, PlugCommand::Set(_))
                        | (CommandPart::Reboot, PlugCommand::Reboot)
                        | (CommandPart::Read, PlugCommand::Read)
                ),
                "{part}: {order:?}"
            );
            is_read_back(part, order);
            means_the_same_however_it_is_typed(part, payload, &wanted);
        }
        Err(why) => {
            fits_a_line(why, LONGEST_COMPLAINT);
            let refusal: Value =
                serde_json::from_slice(&payload::refusal(why, wanted.transaction.as_ref())).unwrap();
            assert_eq!((&refusal["status"], &refusal["error"]), (&json!("error"), &json!(why)));
        }
    }
}

fn order_holds(order: &PlugCommand) {
    let PlugCommand::Set(command) = order else { return };
    let SetCommand { brightness, transition, lasting, alias, .. } = command;
    assert_ne!(*command, SetCommand::default(), "asks for nothing");
    assert!(brightness.is_none_or(|percent| percent <= 100));
    assert!(transition.is_none_or(|over| over <= LONGEST_TRANSITION && brightness.is_some()));
    assert!(lasting.is_none_or(|lasting| lasting <= LONGEST_COUNT_DOWN));
    if let Some(alias) = alias {
        fits_a_line(alias, 4 * LONGEST_ALIAS);
        assert!(alias.chars().count() <= LONGEST_ALIAS && alias.trim() == &**alias, "{alias:?}");
    }
}

/// A command that is written in its simplest form is parsed as the same command.
fn is_read_back(part: CommandPart<'_>, order: &PlugCommand) {
    let payload = match order {
        PlugCommand::Set(command) => json_of(command).to_string(),
        PlugCommand::Reboot => "PRESS".to_owned(),
        PlugCommand::Read => String::new(),
    };
    let part = if matches!(order, PlugCommand::Set(_)) { CommandPart::All } else { part };
    assert_eq!(command::command(part, payload.as_bytes()).result.as_ref(), Ok(order), "{payload}");
}

fn json_of(command: &SetCommand) -> Value {
    let mut json = Map::new();
    let mut put = |key: &str, value: Option<Value>| json.extend(value.map(|value| (key.to_owned(), value)));
    put(
        "state",
        command.relay.map(|switch| match switch {
            Switch::To(state) => json!(state.to_string()),
            Switch::Toggle => json!("TOGGLE"),
        }),
    );
    put("led", command.led.map(|state| json!(state == RelayState::On)));
    put("brightness", command.brightness.map(|percent| json!(percent)));
    put("transition", command.transition.map(|over| json!(over.as_secs_f64())));
    put("for", command.lasting.map(|lasting| json!(duration::show(lasting))));
    put("alias", command.alias.as_deref().map(|alias| json!(alias)));
    json.into()
}

/// Spaces around a word and the case of its letters do not matter.
fn means_the_same_however_it_is_typed(part: CommandPart<'_>, payload: &[u8], wanted: &Parsed<PlugCommand>) {
    let is_word = payload.trim_ascii_start().first() != Some(&b'{') && payload.len() < MAX_COMMAND - 2;
    if !is_word || part == CommandPart::Read {
        return;
    }
    let spaced = [b" ", payload, b"\n"].concat();
    for typed in [spaced, payload.to_ascii_uppercase(), payload.to_ascii_lowercase()] {
        assert_eq!(&command::command(part, &typed), wanted, "{typed:?}");
    }
}

/// The `transaction` is repeated, whatever the outcome of the command.
fn the_mark_is_echoed<T>(wanted: &Parsed<T>) {
    let Some(mark) = &wanted.transaction else { return };
    for answer in [payload::response(Ok(()), Some(mark)), payload::refusal("so", Some(mark))] {
        let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        assert_eq!(answer["transaction"].to_string(), mark.to_string());
    }
}

fn a_request_holds(name: &str, payload: &[u8]) {
    let wanted = command::request(name, payload);
    the_mark_is_echoed(&wanted);
    let (plug, word) = match &wanted.result {
        Ok(BridgeRequest::Ask(BridgeCommand::Discover)) => (None, "discover"),
        Ok(BridgeRequest::Ask(BridgeCommand::Refresh(plug))) => (plug.clone(), "refresh"),
        Ok(BridgeRequest::Ask(BridgeCommand::Forget(plug))) => (Some(plug.clone()), "forget"),
        Ok(BridgeRequest::Reload) => (None, "reload"),
        Err(why) => return fits_a_line(why, LONGEST_COMPLAINT),
    };
    assert_eq!(name, word);
    assert!(payload.len() <= MAX_COMMAND);
    let plain = plug.as_ref().map_or("", |plug| plug.as_str());
    assert_eq!(command::request(name, plain.as_bytes()).result, wanted.result);
    let json = json!({"plug": plug.as_ref().map(|plug| plug.as_str()), "transaction": 7}).to_string();
    assert_eq!(command::request(name, json.as_bytes()).result, wanted.result);
}

/// Topic levels and keys are untrusted too.
fn a_name_that_there_is_not_is_repeated_in_part_only(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    for wanted in [
        command::command(CommandPart::Unknown(&text), b"ON"),
        command::command(CommandPart::All, json!({ &*text: 1 }).to_string().as_bytes()),
        command::command(CommandPart::All, json!({ "state": text }).to_string().as_bytes()),
        command::command(CommandPart::All, json!({ "state": "ON", "for": text }).to_string().as_bytes()),
        command::command(CommandPart::All, json!({ "alias": text }).to_string().as_bytes()),
    ] {
        wanted.result.err().iter().for_each(|why| fits_a_line(why, LONGEST_COMPLAINT));
    }
}
