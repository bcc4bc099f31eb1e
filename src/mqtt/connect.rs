//! How we connect and subscribe, and what the broker's acknowledgements say. Values only: `connection` and `client` use them.

use std::time::Duration;

use rumqttc::{
    Broker, ConnAck, ConnectProperties, DisconnectReasonCode, LastWill, LastWillProperties, MqttOptions,
    PubAck, PubAckReason, QoS, RetainForwardRule, SubAck, SubscribeFilterInput, SubscribeReasonCode,
};

use super::dial::DialOrder;
use super::settings::MqttSettings;
use super::socket::{self, ConnectProgress};
use super::topics::Topics;

/// A broker that went away without closing the connection is noticed after two to three times this time.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// From the start of a connection to the CONNACK.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds for which the broker keeps the session: only as long as needed for the longest delay of the will to count. Without a
/// delay the session ends with the connection, which spares a cluster to move it.
const SESSION_EXPIRY: u32 = 10;
/// The largest packet that we accept, in bytes: a command of 64 kB is answered with an error instead of being lost.
const MAX_PACKET_SIZE: u32 = 128 * 1024;
/// The most messages that may be unacknowledged; the broker may set a lower limit.
const MAX_IN_FLIGHT: u16 = 100;

// Reason codes of MQTT 5 for a message that is refused.
pub(super) const NOT_AUTHORIZED: u8 = 0x87;
pub(super) const TOPIC_NAME_INVALID: u8 = 0x90;
pub(super) const PACKET_TOO_LARGE: u8 = 0x95;
pub(super) const QUOTA_EXCEEDED: u8 = 0x97;
const PAYLOAD_FORMAT_INVALID: u8 = 0x99;

/// A connection with this payload as its last will.
pub(super) fn options_with_will(
    settings: &MqttSettings,
    progress: &ConnectProgress,
    order: DialOrder,
    will: &str,
) -> MqttOptions {
    let mut options = options(settings, progress, order);
    options.set_last_will(LastWill::new(
        Topics::new(&settings.base_topic).bridge_state(),
        will.to_owned(),
        QoS::AtLeastOnce,
        true,
        Some(LastWillProperties {
            delay_interval: will_delay(settings.will_delay),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        }),
    ));
    options
}

/// In whole seconds, rounded up; `None` for no delay.
fn will_delay(delay: Duration) -> Option<u32> {
    u32::try_from(delay.as_millis().div_ceil(1000)).ok().filter(|seconds| *seconds > 0)
}

fn session_expiry(delay: Duration) -> u32 {
    if delay.is_zero() { 0 } else { SESSION_EXPIRY }
}

/// A connection without a last will.
pub(super) fn options(settings: &MqttSettings, progress: &ConnectProgress, order: DialOrder) -> MqttOptions {
    let broker = Broker::tcp(settings.host.clone(), settings.port);
    let mut options = MqttOptions::new(settings.client_id.clone(), broker);
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(session_expiry(settings.will_delay));
    properties.max_packet_size = Some(MAX_PACKET_SIZE);
    options
        .set_connect_properties(properties)
        .set_clean_start(true)
        .set_keep_alive(u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX))
        .set_connect_timeout(CONNECT_TIMEOUT)
        .set_outgoing_inflight_upper_limit(MAX_IN_FLIGHT);
    match (&settings.username, &settings.password) {
        (Some(name), Some(password)) => {
            options.set_credentials(name.clone(), password.expose().to_owned());
        }
        (Some(name), None) => {
            options.set_username(name.clone());
        }
        (None, Some(password)) => {
            options.set_password(password.expose().to_owned());
        }
        (None, None) => {}
    }
    let (host, port, tls) = (settings.host.clone(), settings.port, settings.tls.clone());
    let progress = progress.clone();
    options.set_socket_connector(move |_, _| {
        let (host, tls, order, progress) = (host.clone(), tls.clone(), order.clone(), progress.clone());
        async move { Ok(socket::open(&host, port, tls.as_ref(), &order, progress).await?) }
    });
    options
}

/// Subscribes to commands: no retained messages, and live ones without their retain flag.
pub(super) fn command_filter(filter: String) -> SubscribeFilterInput {
    SubscribeFilterInput::new(filter, QoS::AtLeastOnce)
        .preserve_retain(false)
        .retain_forward_rule(RetainForwardRule::Never)
}

/// Subscribes to the retained messages of earlier runs.
pub(super) fn search_filter(filter: String) -> SubscribeFilterInput {
    SubscribeFilterInput::new(filter, QoS::AtMostOnce).no_local(true).preserve_retain(false)
}

/// What the broker supports, as its CONNACK says.
pub(super) struct BrokerLimits {
    /// The largest packet that it accepts, in bytes.
    pub(super) packet: usize,
    pub(super) qos: QoS,
    pub(super) retains: bool,
}

impl BrokerLimits {
    /// Before the CONNACK.
    pub(super) const NONE: Self = Self { packet: usize::MAX, qos: QoS::AtLeastOnce, retains: true };

    pub(super) fn of(connack: &ConnAck) -> Self {
        let Some(properties) = &connack.properties else { return Self::NONE };
        let packet = properties.max_packet_size.and_then(|size| usize::try_from(size).ok());
        Self {
            packet: packet.unwrap_or(usize::MAX),
            qos: if properties.max_qos == Some(0) { QoS::AtMostOnce } else { QoS::AtLeastOnce },
            retains: properties.retain_available != Some(0),
        }
    }
}

/// The reason codes of the filters that the broker refuses.
pub(super) fn refused_filters(suback: &SubAck) -> impl Iterator<Item = &SubscribeReasonCode> {
    suback.return_codes.iter().filter(|code| !matches!(code, SubscribeReasonCode::Success(_)))
}

/// The reason code with which the broker refuses a message; `None` if it accepts it.
pub(super) fn refused_publish(puback: &PubAck, progress: &ConnectProgress) -> Option<u8> {
    let is_accepted = matches!(puback.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
    progress.take_reason(puback.pkid).or((!is_accepted).then_some(puback.reason as u8))
}

/// Whether a message is refused for what it is, so that it will be refused again.
pub(super) fn is_of_message(code: u8) -> bool {
    matches!(
        code,
        NOT_AUTHORIZED | TOPIC_NAME_INVALID | PACKET_TOO_LARGE | QUOTA_EXCEEDED | PAYLOAD_FORMAT_INVALID
    )
}

/// What to do about a message that is refused with this reason code.
pub(super) fn refused_message_remedy(code: u8, settings: &MqttSettings) -> String {
    let MqttSettings { base_topic, homeassistant, .. } = settings;
    let remedy = match code {
        NOT_AUTHORIZED => {
            let prefix = &homeassistant.discovery_prefix;
            return format!("allow the user in mqtt.username to write to {base_topic}/# and {prefix}/#");
        }
        TOPIC_NAME_INVALID => "allow the topic there, or set another mqtt.base_topic",
        PACKET_TOO_LARGE => "raise its limit on the size of messages (in mosquitto message_size_limit)",
        QUOTA_EXCEEDED => "raise its limit on (retained) messages",
        _ => "see the broker's log",
    };
    remedy.to_owned()
}

/// The name of a reason code in MQTT 5, and its number.
pub(super) fn reason_text(code: u8) -> String {
    match DisconnectReasonCode::try_from(code) {
        Ok(reason) => format!("{reason:?}, {code:#04X}"),
        Err(_) => format!("reason {code:#04X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_of_the_will_is_in_whole_seconds_and_none_is_no_property() {
        for (delay, seconds) in [(0, None), (1, Some(1)), (1_001, Some(2)), (5_000, Some(5))] {
            let delay = Duration::from_millis(delay);
            assert_eq!(will_delay(delay), seconds, "{delay:?}");
            assert_eq!(
                session_expiry(delay),
                if seconds.is_some() { SESSION_EXPIRY } else { 0 },
                "{delay:?}"
            );
        }
    }
}
