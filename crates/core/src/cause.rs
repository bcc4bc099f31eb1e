//! Why something fails, and what to do: the one table of causes and remedies.
//!
//! The doctor, the one-shot commands, the daemon's stop of the cloud and the tables in `docs/TROUBLESHOOTING.md` are
//! printed from it. The causes of a broker are in `mqtt::failure::reason`, in the same form.

/// A likely cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// For programs; it does not change.
    pub word: &'static str,
    /// What it means: the observation behind it.
    pub meaning: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// The account is not used until the user tries it again: by a reload, or by `hs100d cloud login`.
    pub needs_login: bool,
}

impl Cause {
    /// The remedy, with the command that tries the account again if one is needed.
    pub fn advice(&self) -> String {
        let login = if self.needs_login { "; then run `hs100d cloud login`" } else { "" };
        format!("{}{login}", self.remedy)
    }
}

/// Declares causes, and the list of them in their order, from which a test prints the tables of the page.
macro_rules! causes {
    ($(#[$doc:meta])* $list:ident, needs_login: $login:literal:
     $($name:ident = $word:literal, $meaning:literal, $remedy:literal;)*) => {
        $(#[doc = $meaning]
        pub const $name: Cause =
            Cause { word: $word, meaning: $meaning, remedy: $remedy, needs_login: $login };)*
        $(#[$doc])*
        pub const $list: &[Cause] = &[$($name),*];
    };
}

causes! {
    /// Causes of the embedded broker.
    EMBEDDED_BROKER, needs_login: false:
    PORT_TAKEN = "port-taken",
        "another program listens at the address of the embedded broker",
        "set mqtt.url to use the broker that listens there, or another port in broker.listen; if the daemon is just \
         starting, try again";
    PORT_UNUSABLE = "port-unusable",
        "the system does not let the embedded broker listen there",
        "choose another broker.listen";
}

causes! {
    /// Causes of a search that reaches no plug.
    SEARCH, needs_login: false:
    CONTAINER_NETWORK = "container-network",
        "no plug answers, and hs100d is in a container with a network of its own, which broadcasts do not leave",
        "start the container with the host's network (`--network host`), or give `host` in each [[plug]] entry and set \
         discovery.lan = false";
    NO_INTERFACE = "no-interface",
        "no network interface of this machine can broadcast",
        "connect this machine to the plugs' network, or give `host` in each [[plug]] entry and set discovery.lan = false";
    NOT_SENT = "not-sent",
        "the system does not let hs100d send a broadcast",
        "let UDP to the ports 9999, 20002 and 20004 out through this machine's firewall, correct discovery.broadcast if \
         it is set, or give `host` in each [[plug]] entry and set discovery.lan = false";
}

causes! {
    /// Causes of a plug.
    PLUG, needs_login: false:
    PORT_CLOSED_BY_FIRMWARE = "port-closed-by-firmware",
        "its TCP port is closed, but it answers discovery on UDP port 20002, or the cloud has it connected",
        "in the Kasa app, Me > Settings > Third-Party Compatibility opens the port again (a power cut or an update may \
         close it once more); the cloud serves the plug meanwhile, if its account is in [cloud]";
    OTHER_FAMILY = "other-family",
        "the device or the account says that it is of the SMART family (Tapo, newer Kasa)",
        "hs100d does not speak its protocol; use a Tapo integration";
    OTHER_KIND = "not-supported",
        "the device says that it is a bulb, a camera or something else that is no plug",
        "remove its [[plug]] entry: hs100d serves only plugs, strips and wall switches";
    PORT_DEAD = "port-dead",
        "its TCP port refuses, but it answers datagrams at the same address",
        "cut its power for a moment: that revives a port that died after weeks";
    ADDRESS_CHANGED = "address-changed",
        "it does not answer at its known address, but answered a broadcast from another",
        "correct `host` in its [[plug]] entry or leave it out, and reserve an address for the plug in the router";
    ANOTHER_PLUG = "another-plug",
        "another plug answers at its address",
        "correct `host` or `device_id`, or run `hs100d forget` for a plug that was replaced";
    SAME_DEVICE_ID = "same-device-id",
        "another device has the same device id, with another MAC",
        "one of the two is served; run a second hs100d for the other, with its `host` in [[plug]], adopt = false, and \
         its own base_topic and STATE_DIRECTORY";
    ANOTHER_DEVICE = "another-device",
        "a device without the plug's port has its address, and the cloud says that the plug is offline",
        "the plug is off or has lost the Wi-Fi: bring it back, and reserve an address for it in the router";
    PORT_CLOSED = "port-closed",
        "its address refuses the connection, and nothing else is known",
        "check that the address is the plug's; if it is, cut its power for a moment, or switch on Third-Party \
         Compatibility in the Kasa app (Me > Settings)";
    NOT_A_PLUG = "not-a-plug",
        "the answer at its address is not in the plugs' protocol",
        "check the address: the device there may be no plug";
    HANGS = "hangs",
        "its TCP port accepts the connection, and no answer comes",
        "cut its power for a moment; if it happens again, move it nearer to the access point";
    FILTERED = "filtered",
        "it answers datagrams, but TCP does not get through",
        "let TCP to it pass the firewall in between, or cut its power for a moment";
    CLOSES_CONNECTION = "closes-connection",
        "it accepts the request and closes the connection, twice",
        "stop other programs that poll it, and cut its power for a moment";
    PLUG_REFUSES = "plug-refuses",
        "it understands the request and refuses it",
        "update its firmware in the Kasa app, or cut its power for a moment";
    KLAP_BLOCKED = "klap-blocked",
        "it refuses the handshake of its own protocol, KLAP, before any account is compared",
        "in the Kasa app, switch Third-Party Compatibility (Me > Settings) off and on again, and cut the plug's power for \
         a moment";
    OTHER_ACCOUNT = "other-account",
        "it speaks KLAP, and the account that it was set up with is not the one that hs100d has: another account, \
         another spelling of the e-mail, or an old one that it kept after an update",
        "write the e-mail as the Kasa app shows it under Me > Account (upper and lower case count) and check the \
         password; if both are right, remove the plug from the app and add it again";
    OTHER_OWNER = "other-owner",
        "it speaks KLAP, and says that it belongs to another account than the one that hs100d has, or to another spelling \
         of its e-mail",
        "write [local] username as the Kasa app shows it under Me > Account (upper and lower case count), with its \
         password; or move the plug to your account in the app";
    OLD_PASSWORD = "old-password",
        "it speaks KLAP and says that it belongs to the account that hs100d has, but takes another password: yours is \
         wrong, or it kept an old one over an update",
        "check the password, or run `hs100d cloud login` again; if it is right, remove the plug from the app and add it \
         again";
    NO_LAN_ACCOUNT = "no-lan-account",
        "it speaks KLAP and asks for its account, and hs100d has none",
        "set [cloud] username and run `hs100d cloud login`; without a cloud run `hs100d cloud login --lan-only`, or set \
         [local] username and password_file";
    SESSION_TAKEN = "session-taken",
        "it speaks KLAP with one client at a time, and another client takes turns with hs100d",
        "stop other programs that use the plug over the LAN: another home automation, a script, a hub, an open app";
    BEHIND_ROUTER = "behind-router",
        "its address is on none of this machine's networks, and no answer comes",
        "let the router route to it and its firewall pass TCP to the plug's port; broadcasts do not cross a router, so \
         its [[plug]] entry needs `host`";
    ISOLATED = "isolated",
        "the cloud has it connected, but it does not answer on this network",
        "switch off AP (client) isolation, take the plug or this machine off the guest network, put both into one VLAN, \
         or give its address as `host` if a router leads there";
    UNPLUGGED = "unplugged",
        "neither the LAN nor the cloud reaches it",
        "it has no power or has lost the Wi-Fi: look at its LED, and set up the Wi-Fi again in the Kasa app";
    NOT_FOUND = "not-found",
        "it does not answer, but other plugs do",
        "it has no power, has lost the Wi-Fi, or is on another network: look at its LED, or give its address as `host`";
    NO_PLUG_FOUND = "nobody-heard",
        "no plug at all answered on the LAN",
        "run hs100d on the plugs' network (a container needs the host's), open this machine's firewall for UDP answers, \
         switch off AP isolation, or give `host` in each [[plug]] entry";
    NO_ANSWER = "no-answer",
        "no answer comes, and nothing else is known",
        "check its address, its power and its Wi-Fi; `hs100d check --online` finds the likely cause";
    NO_ADDRESS = "no-address",
        "its address is not known, and the LAN is not searched",
        "give `host` in its [[plug]] entry, or set discovery.lan = true";
    NAME_UNRESOLVED = "name-unresolved",
        "the name in its `host` does not resolve",
        "correct `host` in its [[plug]] entry, or give the address instead";
    TOO_MANY_FILES = "too-many-files",
        "this process may not open more connections",
        "close other programs in this session, or raise its limit (ulimit -n)";
    NOT_IN_ACCOUNT = "not-in-account",
        "the account does not list it (only a note if the LAN reaches it)",
        "add it to this account in the Kasa app, use the account that it belongs to, or set route = \"local\"";
    CLOUD_OFFLINE = "cloud-offline",
        "the cloud says that it is not connected",
        "let it reach the internet, and check that remote control is on for it in the Kasa app";
    WRONG_SERVER = "wrong-server",
        "the account lists it as connected, but its server says that it is offline",
        "another region may serve it: set [cloud] url to https://wap.tplinkcloud.com, and if that does not help remove \
         it from the Kasa app and add it again";
    SERVER_REFUSED = "server-refused",
        "the account names a server for it that may not get a token",
        "add the plug to the account again in the Kasa app; if the server stays the same, please report it";
    CLOUD_SILENT = "cloud-silent",
        "the cloud has it connected, but its answer does not arrive",
        "try again; if it stays so, cut its power for a moment";
    ACCOUNT_FIRST = "account-first",
        "only the cloud may be used for it, and the account does not answer or lists nothing",
        "see the line of the cloud";
    NO_WAY = "no-way",
        "neither the LAN nor the cloud may be used for it",
        "set local.enabled = true, give [cloud] an account, or change its route";
    CLOUD_REFUSED = "cloud-refused",
        "the cloud does not forward the request to it",
        "try again in some minutes; do not log in again in the meantime";
}

causes! {
    /// Causes for which the account is not used until the user acts.
    ACCOUNT_STOPPED, needs_login: true:
    PASSWORD_REFUSED = "password-refused",
        "the cloud refuses the password",
        "correct [cloud] username and password (the Kasa app shows whether they are right; each wrong try brings the \
         lock nearer)";
    ACCOUNT_UNKNOWN = "account-unknown",
        "the cloud does not know the e-mail address, or not for the app that hs100d names",
        "write [cloud] username as the Kasa app shows it under Me > Account, and leave [cloud] url at \
         https://wap.tplinkcloud.com, which knows all regions; if both are right, name another app in [cloud] app_type, \
         such as \"Kasa_iOS\"";
    KEYS_REFUSED = "keys-refused",
        "the cloud does not accept the signature of the app's keys",
        "correct the two keys of [cloud.v2], which belong together and to [cloud] app_type, or remove both to use the first \
         interface";
    APP_UNKNOWN = "app-unknown",
        "the cloud does not know the app that hs100d names",
        "correct [cloud] app_type, or leave it out: \"Kasa_Android\" and \"Kasa_iOS\" are names that the cloud knew";
    LOGIN_MALFORMED = "username-malformed",
        "the cloud does not accept it as an e-mail address or a password",
        "write [cloud] username as the Kasa app shows it under Me > Account, without spaces, and check the password";
    TWO_STEP = "two-step-verification",
        "the account uses two-step verification, which closes this interface; or, rarely, the cloud does not accept the app \
         that hs100d names",
        "turn two-step verification off in the Kasa app (Me > Account), use a second account without it, or use the second \
         interface if you have keys for [cloud.v2]; if it is off, name another app in [cloud] app_type, such as \"Kasa_iOS\", or a version in [cloud] app_version";
    CODE_NEEDED = "code-needed",
        "the account uses two-step verification, and this installation was not yet confirmed with a code",
        "have the phone or the mailbox of the account at hand, and a terminal; without keys in [cloud.v2], turn two-step \
         verification off in the Kasa app (Me > Account) instead";
    CODE_REFUSED = "code-refused",
        "the verification code was wrong, or too old",
        "ask for a new code, and type it within a few minutes";
    ACCOUNT_LOCKED = "account-locked",
        "the account is locked after wrong passwords or codes",
        "wait an hour, and log in with the Kasa app";
    ACCOUNT_NEEDS_CARE = "account-needs-care",
        "the account is not active, or something else is wrong with it",
        "resolve it in the Kasa app";
    LOGGED_IN_ELSEWHERE = "logged-in-elsewhere",
        "another login ended ours, or the account is locked",
        "log in with the Kasa app (a second account for hs100d avoids this)";
    WRONG_REGION = "wrong-region",
        "the server is not the one for this account",
        "set [cloud] url to https://wap.tplinkcloud.com";
}

causes! {
    /// The other causes of the account.
    ACCOUNT, needs_login: false:
    LOGIN_MISSING = "login-missing",
        "there is neither a token nor a password",
        "run `hs100d cloud login`, or set [cloud] password_file";
    LOGIN_EXPIRED = "login-expired",
        "the stored login has expired, and there is no password to log in again",
        "run `hs100d cloud login`";
    TOKEN_REFUSED = "token-refused",
        "the cloud refuses the token that it has just issued",
        "wait some minutes and try again";
    THROTTLED = "throttled",
        "TP-Link limits our calls",
        "wait some minutes; do not log in or restart in the meantime";
    BLACKLISTED = "blacklisted",
        "TP-Link has put this client on its block list",
        "wait an hour or more; then poll less, and stop other programs that use the account";
    STOPPED_BY_DAEMON = "stopped-by-daemon",
        "the running daemon has stopped using the account, so nothing was tried here",
        "do what it says, or run `hs100d cloud login`";
    NO_INTERNET = "no-internet",
        "the cloud's name does not resolve",
        "check the internet connection and the DNS server of this machine, and that no filter blocks tplinkcloud.com; \
         the LAN works without it";
    CLOUD_UNREACHABLE = "cloud-unreachable",
        "no connection to the cloud can be opened",
        "check the internet connection and the firewall (TCP 443 to tplinkcloud.com); the LAN works without it";
    CLOCK_WRONG = "clock-wrong",
        "the cloud's certificate is not valid at the time of this machine's clock",
        "set the clock of this machine (timedatectl)";
    TLS_INTERCEPTED = "tls-intercepted",
        "the cloud's certificate is not valid, or another server answers in its place",
        "check the clock of this machine, and exclude tplinkcloud.com from TLS inspection by a proxy or filter";
    AUTHORITY_MISSING = "authority-missing",
        "the account's host has a certificate of TP-Link's own authority, and that authority is not trusted",
        "set ca_file in [cloud.v2] to a file with TP-Link's authorities; if it is set, they are not the ones of this host, or \
         another server answers in its place";
    CAPTIVE_PORTAL = "captive-portal",
        "a web page comes back instead of the cloud's answer",
        "log in to the network (a hotel or guest portal), or remove the proxy in between";
    CLOUD_OUT_OF_ORDER = "cloud-out-of-order",
        "the cloud answers with an error of its own, or not at all",
        "nothing is wrong here: wait; the LAN works without it";
    TOKEN_NOT_SAVED = "token-not-saved",
        "logged in, but the token cannot be stored",
        "make the state directory writable, or each start has to log in again";
    NO_CLOUD_AUTHORITIES = "no-cloud-authorities",
        "there are no certificate authorities to check the cloud's certificate with",
        "install the package ca-certificates";
    ACCOUNT_EMPTY = "account-empty",
        "the account lists no device at all",
        "use the account that the plugs belong to; if the Kasa app shows them under this one, TP-Link limits us: wait \
         some minutes";
    UNEXPECTED = "unexpected",
        "the cloud says that the request is wrong",
        "please report it";
}
