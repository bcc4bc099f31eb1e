//! Every cause that the doctor can name: a word that stays, the pattern that it is concluded from, and the remedy.
//!
//! `docs/TROUBLESHOOTING.md` shows the same rows; a test holds it to them. What stands between us and a broker is in
//! [`FailureReason`].

use crate::mqtt::failure::reason::FailureReason;

/// Why something does not work, most likely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cause {
    /// For programs; it stays the same.
    pub(super) word: &'static str,
    /// What it is concluded from.
    pub(super) sign: &'static str,
    /// What helps.
    pub(super) remedy: &'static str,
}

impl From<FailureReason> for Cause {
    fn from(reason: FailureReason) -> Self {
        Self { word: reason.word(), sign: reason.sign(), remedy: reason.remedy() }
    }
}

/// Declares causes, and the list of them in their order.
macro_rules! causes {
    ($(#[$doc:meta])* $list:ident: $($name:ident = $word:literal, $sign:literal, $remedy:literal;)*) => {
        $(pub(super) const $name: Cause = Cause { word: $word, sign: $sign, remedy: $remedy };)*
        $(#[$doc])*
        #[cfg(test)]
        pub(super) const $list: &[Cause] = &[$($name),*];
    };
}

causes! {
    /// Those of the embedded broker.
    EMBEDDED:
    PORT_TAKEN = "port-taken",
        "something else listens where the embedded broker should",
        "set mqtt.url to use the broker that listens there, or another port in broker.listen; if it is the daemon that \
         is just starting, try again";
    PORT_UNUSABLE = "port-unusable",
        "the system does not let the embedded broker listen there",
        "choose another broker.listen";
}

causes! {
    /// Those of a plug.
    PLUG:
    PORT_CLOSED_BY_FIRMWARE = "port-closed-by-firmware",
        "its TCP port is closed, but it answers the newer discovery, or the cloud has it connected",
        "in the Kasa app, Me > Settings > Third-Party Compatibility opens the port again (a power cut or an update may \
         close it once more); the cloud serves the plug meanwhile, if its account is in [cloud]";
    OTHER_FAMILY = "other-family",
        "it is of the SMART family (Tapo, newer Kasa), by its own word or the account's",
        "hs100d does not speak its language; leave it to the Tapo integration";
    OTHER_KIND = "not-supported",
        "it is a bulb, a camera or another device that is no plug, by its own word",
        "remove its [[plug]] entry: hs100d serves plugs, strips and wall switches only";
    PORT_DEAD = "port-dead",
        "its TCP port refuses, while it answers datagrams at the same address",
        "cut its power for a moment: a port that has died after weeks comes back so";
    ADDRESS_CHANGED = "address-changed",
        "it does not answer at its known address, and was heard at another",
        "correct `host` in its [[plug]] entry or leave it out, and reserve an address for the plug in the router";
    ANOTHER_PLUG = "another-plug",
        "another plug answers at its address",
        "correct `host` or `device_id`, or run `hs100d forget` for a plug that was replaced";
    SAME_DEVICE_ID = "same-device-id",
        "it has the device id of another device, though its own MAC",
        "one of the two is served; run a second hs100d for the other, with its `host` in [[plug]], adopt = false, and a \
         base_topic and STATE_DIRECTORY of its own";
    ANOTHER_DEVICE = "another-device",
        "something without a plug's port has its address, while the cloud says that the plug is offline",
        "the plug is off or has lost the Wi-Fi: bring it back, and reserve an address for it in the router";
    PORT_CLOSED = "port-closed",
        "its address refuses, and nothing else is known",
        "check that the address is the plug's; if it is, cut its power for a moment, or switch on Third-Party \
         Compatibility in the Kasa app (Me > Settings)";
    NOT_A_PLUG = "not-a-plug",
        "what answers at its address speaks another language",
        "check the address: what listens there may be no plug";
    HANGS = "hangs",
        "its TCP port takes the connection, and no answer comes",
        "cut its power for a moment; if it comes again, move it nearer to the access point";
    FILTERED = "filtered",
        "it answers datagrams, but TCP does not get through",
        "let TCP pass to it in the firewall between, or cut its power for a moment";
    CLOSES_CONNECTION = "closes-connection",
        "it takes the request and hangs up, twice",
        "let no other program poll it at the same time, and cut its power for a moment";
    PLUG_REFUSES = "plug-refuses",
        "it understands, and says no",
        "update its firmware in the Kasa app, or cut its power for a moment";
    BEHIND_ROUTER = "behind-router",
        "its address is on none of this machine's networks, and nothing comes back",
        "let the router route and its firewall pass TCP to the plug's port; broadcasts do not cross a router, so `host` \
         in its [[plug]] entry is needed";
    ISOLATED = "isolated",
        "the cloud has it connected, but on this network it is not heard",
        "switch off AP (client) isolation, take the plug or this machine off the guest network, put both into one VLAN, \
         or give its address as `host` if a router leads there";
    UNPLUGGED = "unplugged",
        "neither the LAN nor the cloud hears of it",
        "it has no power or has lost the Wi-Fi: look at its light, and set the Wi-Fi up again in the Kasa app";
    NOT_FOUND = "not-found",
        "it does not answer, while other plugs do",
        "it has no power, has lost the Wi-Fi, or is on another network: look at its light, or give its address as `host`";
    NOBODY_HEARD = "nobody-heard",
        "no plug at all was heard on the LAN",
        "run on the plugs' network (a container needs the host's), open this machine's firewall for UDP answers, switch \
         off AP isolation, or give `host` in each [[plug]] entry";
    NO_ADDRESS = "no-address",
        "its address is not known, and the LAN is not searched",
        "give `host` in its [[plug]] entry, or set discovery.lan = true";
    NAME_UNRESOLVED = "name-unresolved",
        "its `host` is a name that leads nowhere",
        "correct `host` in its [[plug]] entry, or give the address instead";
    TOO_MANY_FILES = "too-many-files",
        "this process may not open more connections",
        "close what else is running in this session, or raise its limit (ulimit -n)";
    NOT_IN_ACCOUNT = "not-in-account",
        "the account does not list it; only a note where the LAN reaches it",
        "add it to this account in the Kasa app, use the account that it belongs to, or set route = \"local\"";
    CLOUD_OFFLINE = "cloud-offline",
        "the cloud says that it is not connected",
        "let it through to the internet, and check that remote control is on for it in the Kasa app";
    WRONG_SERVER = "wrong-server",
        "the account's list has it connected, but its server says that it is offline",
        "it may be served in another region: set [cloud] url to https://wap.tplinkcloud.com, and if that does not help \
         remove it from the Kasa app and add it again";
    SERVER_REFUSED = "server-refused",
        "the account names a server for it that no token may be sent to",
        "add the plug to the account again in the Kasa app; if the server stays, please report it";
    CLOUD_SILENT = "cloud-silent",
        "the cloud has it connected, but its answer does not come through",
        "try again; if it stays so, cut its power for a moment";
    ACCOUNT_FIRST = "account-first",
        "it is to be reached over the cloud only, and the account does not answer or lists nothing",
        "see the line of the cloud";
    NO_WAY = "no-way",
        "neither the LAN nor the cloud may be used for it",
        "set local.enabled = true, give [cloud] an account, or change its route";
    CLOUD_REFUSED = "cloud-refused",
        "the cloud does not carry the question to it",
        "try again in some minutes; do not log in again in the meantime";
}

causes! {
    /// Those of the account.
    ACCOUNT:
    LOGIN_MISSING = "login-missing",
        "there is neither a token nor a password",
        "run `hs100d cloud login`, or set [cloud] password_file";
    LOGIN_EXPIRED = "login-expired",
        "the stored login is not good any more, and there is no password to log in again",
        "run `hs100d cloud login`";
    TOKEN_REFUSED = "token-refused",
        "the cloud refuses the token that it has just given",
        "wait some minutes and try again";
    PASSWORD_REFUSED = "password-refused",
        "the cloud refuses the password",
        "log in with the Kasa app to be sure of it, then run `hs100d cloud login`; each wrong try brings the lock nearer";
    ACCOUNT_UNKNOWN = "account-unknown",
        "the cloud does not know the e-mail address",
        "write [cloud] username as the Kasa app shows it under Me > Account, and leave [cloud] url at \
         https://wap.tplinkcloud.com, which knows all regions";
    USERNAME_MALFORMED = "username-malformed",
        "the cloud does not take it for an e-mail address or a password",
        "write [cloud] username as the Kasa app shows it under Me > Account, without spaces";
    TWO_STEP = "two-step-verification",
        "the account uses two-step verification, which closes this interface",
        "turn it off in the Kasa app (Me > Account), or use a second account without it";
    ACCOUNT_LOCKED = "account-locked",
        "the account is locked after wrong passwords or codes",
        "wait an hour, log in with the Kasa app, then run `hs100d cloud login`";
    ACCOUNT_NEEDS_CARE = "account-needs-care",
        "the account is not active, or something else stands against it",
        "sort it out in the Kasa app, then run `hs100d cloud login`";
    ELSEWHERE = "logged-in-elsewhere",
        "another login pushed ours out, or the account is locked",
        "log in with the Kasa app, then run `hs100d cloud login`; a second account for hs100d avoids it";
    WRONG_REGION = "wrong-region",
        "the server is not the one for this account",
        "set [cloud] url to https://wap.tplinkcloud.com";
    THROTTLED = "throttled",
        "TP-Link holds our calls back",
        "wait some minutes; do not log in or restart in the meantime";
    BLACKLISTED = "blacklisted",
        "TP-Link has put this client on its black list",
        "wait an hour or more; then poll less, and stop other programs that use the account";
    STOPPED_BY_DAEMON = "stopped-by-daemon",
        "the running daemon has stopped using the account, so nothing was tried here",
        "do what it says, or run `hs100d cloud login`";
    NO_INTERNET = "no-internet",
        "the cloud's name does not resolve",
        "check the internet connection and the DNS server of this machine, and that no filter blocks tplinkcloud.com; \
         the LAN works without it";
    CLOUD_UNREACHABLE = "cloud-unreachable",
        "no connection to the cloud comes about",
        "check the internet connection and the firewall (TCP 443 to tplinkcloud.com); the LAN works without it";
    CLOCK_WRONG = "clock-wrong",
        "the cloud's certificate is not valid at this machine's hour",
        "set the clock of this machine (timedatectl)";
    TLS_INTERCEPTED = "tls-intercepted",
        "the cloud's certificate is not accepted, or something else answers in its place",
        "check the clock of this machine, and let no proxy or filter stand in for tplinkcloud.com";
    CAPTIVE_PORTAL = "captive-portal",
        "a page comes back instead of the cloud's answer",
        "log in to the network (a hotel or guest portal), or take the proxy out of the way";
    CLOUD_OUT_OF_ORDER = "cloud-out-of-order",
        "the cloud answers with a fault of its own, or not at all",
        "nothing is wrong here: wait; the LAN works without it";
    TOKEN_NOT_SAVED = "token-not-saved",
        "logged in, but the token cannot be written down",
        "make the state directory writable, or each start has to log in again";
    NO_CLOUD_AUTHORITIES = "no-cloud-authorities",
        "there is nothing to check the cloud's certificate with",
        "install the package ca-certificates";
    ACCOUNT_EMPTY = "account-empty",
        "the account lists no device at all",
        "use the account that the plugs belong to; if the Kasa app shows them under this one, TP-Link holds us back: wait \
         some minutes";
    UNEXPECTED = "unexpected",
        "the cloud finds fault with the request",
        "please report it";
}
