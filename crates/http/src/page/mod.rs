//! The status page: what every plug does, and a switch for each.
//!
//! Rendered here; works without JavaScript, by a form and a reload every ten seconds. `page.js` keeps it up to date from the
//! stream of events. It has no asset of another host, no inline script and no inline style; all its addresses are relative,
//! so that a proxy may serve it under a prefix.

mod card;
mod drawing;
mod signs;

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use maud::{DOCTYPE, Markup, html};
use tokio::task::spawn_blocking;

use super::calls::{Caller, Stopping};
use super::overview::{Overview, Selection};
use super::problem::Problem;
use card::{Card, PlugShown, RouteShown};
use hs100d_core::bridge::event::CloudStatus;
use hs100d_core::bridge::unserved::UnservedDevice;
use hs100d_core::model::{PlugCommand, PlugName, RelayState, Route, SetCommand, Switch};
use signs::{ICON, icon, prose, signs};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Part of the addresses of both, so that a browser may keep them for ever.
const KEY: u64 = hash(hash(0xcbf2_9ce4_8422_2325, STYLE.as_bytes()), SCRIPT.as_bytes());

/// From this many plugs on there is a search.
const SEARCH_FROM: usize = 20;
/// Up to this many plugs the lines of their power are part of the page; else the script fetches those in view.
const DRAWN_UP_TO: usize = 60;

/// The other headers are those of every response. `same-origin`, because with `no-referrer` a browser sends `Origin: null`
/// with the form, and the guard refuses that.
const HEADERS: [(HeaderName, &str); 3] = [
    (CONTENT_TYPE, "text/html; charset=utf-8"),
    (REFERRER_POLICY, "same-origin"),
    (X_FRAME_OPTIONS, "SAMEORIGIN"),
];

/// FNV-1a, continued from `start`.
const fn hash(start: u64, bytes: &[u8]) -> u64 {
    let (mut hash, mut n) = (start, 0);
    while n < bytes.len() {
        hash = (hash ^ bytes[n] as u64).wrapping_mul(0x0100_0000_01b3);
        n += 1;
    }
    hash
}

/// What the page shows.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Words that the names of a plug must have.
    q: String,
    show: Show,
    /// This plug and no other; `bridge` for none.
    only: Option<String>,
}

impl Wanted {
    /// What the address says. Unknown parameters are ignored, because others may add theirs to a link.
    fn of(uri: &Uri) -> Self {
        let mut wanted = Self::default();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            match &*name {
                "q" => wanted.q = value.into_owned(),
                "show" => wanted.show = Show::named(&value),
                "only" => wanted.only = Some(value.into_owned()),
                _ => {}
            }
        }
        wanted
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Show {
    On,
    Unreachable,
    Cloud,
    /// Also for words that are not known.
    #[default]
    All,
}

impl Show {
    const ALL: [Self; 4] = [Self::All, Self::On, Self::Unreachable, Self::Cloud];

    fn named(word: &str) -> Self {
        Self::ALL.into_iter().find(|show| show.words().0 == word).unwrap_or_default()
    }

    /// As in the address, and for people.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::All => ("all", "All"),
            Self::On => ("on", "On"),
            Self::Unreachable => ("unreachable", "Not reachable"),
            Self::Cloud => ("cloud", "Cloud"),
        }
    }

    fn fits(self, card: &Card<'_>) -> bool {
        match self {
            Self::All => true,
            Self::On => card.plug.is_lit(),
            Self::Unreachable => card.plug.route_shown() == RouteShown::Not,
            Self::Cloud => card.plug.route_shown() == RouteShown::Over(Route::Cloud),
        }
    }
}

// --- Handlers -----------------------------------------------------------------------------------------------------------

/// `GET /`
pub(super) async fn page(State(caller): State<Caller>, uri: Uri) -> Result<Response, Problem> {
    let wanted = Wanted::of(&uri);
    let selection = match wanted.only.as_deref().map(PlugName::new) {
        None => Selection::Plugs,
        Some(Ok(name)) => Selection::Plug(name),
        Some(Err(_)) => Selection::Bridge,
    };
    let overview = caller.overview(selection).await?;
    let text = if overview.snapshot.plugs.len() > DRAWN_UP_TO {
        // On a thread of its own: the loop must not wait for so many cards.
        let rendered = spawn_blocking(move || document(&overview, &wanted).into_string());
        rendered.await.map_err(|_| Problem::from(Stopping))?
    } else {
        document(&overview, &wanted).into_string()
    };
    Ok((HEADERS, text).into_response())
}

/// `POST /`: the button of a plug without JavaScript, as `on=NAME` or `off=NAME`. Shows the page again when the plug has
/// switched, or cannot be.
pub(super) async fn press(State(caller): State<Caller>, body: Bytes) -> Result<Response, Problem> {
    let unknown = || Problem::new(StatusCode::BAD_REQUEST, "the form must hold on=NAME or off=NAME");
    let (word, name) =
        std::str::from_utf8(&body).ok().and_then(|body| body.split_once('=')).ok_or_else(unknown)?;
    let relay = match word {
        "on" => RelayState::On,
        "off" => RelayState::Off,
        _ => return Err(unknown()),
    };
    let name = PlugName::new(name).map_err(|_| unknown())?;
    let place = HeaderValue::from_str(&format!("./#plug-{name}")).map_err(|_| unknown())?;
    let command = SetCommand { relay: Some(Switch::To(relay)), ..SetCommand::default() };
    // What failed is on the card.
    drop(caller.command(name, PlugCommand::Set(command)).await?.await);
    Ok((StatusCode::SEE_OTHER, [(LOCATION, place)]).into_response())
}

/// `GET /page.css`
pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", STYLE)
}

/// `GET /page.js`
pub(super) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT)
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "private, max-age=31536000, immutable")];
    (headers, text).into_response()
}

// --- The document -------------------------------------------------------------------------------------------------------

fn document(overview: &Overview, wanted: &Wanted) -> Markup {
    let cards = cards(overview);
    html! {
        (DOCTYPE)
        html lang="en" data-key=(KEY) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Plugs · hs100d" }
                link rel="icon" href=(ICON);
                link rel="stylesheet" href={ "page.css?v=" (KEY) };
                script type="module" src={ "page.js?v=" (KEY) } {}
                noscript { meta http-equiv="refresh" content="10"; }
            }
            body {
                (signs())
                header {
                    p.brand { (icon("plug")) "hs100d" }
                    p.live #live role="status" hidden {}
                }
                main {
                    (above(overview, &cards))
                    p.unseen #changes aria-live="polite" {}
                    @if cards.len() >= SEARCH_FROM { (find(&cards, wanted)) }
                    (list(overview, &cards, wanted))
                }
                footer {
                    span { "hs100d " (env!("CARGO_PKG_VERSION")) }
                    a href="api/v1/plugs" { "API" }
                    a href="openapi.json" { "OpenAPI" }
                    a href="metrics" { "Metrics" }
                }
            }
        }
    }
}

/// The plugs by alias, each strip with its outlets.
fn cards(overview: &Overview) -> Vec<Card<'_>> {
    let Overview { snapshot, histories, clock, .. } = overview;
    let of = |(plug, history)| PlugShown { plug, history, clock: *clock };
    let all = snapshot.plugs.iter().zip(histories.iter().map(|history| &**history)).map(of);
    let mut cards: Vec<Card<'_>> = Vec::new();
    let mut by_strip: HashMap<&str, Vec<PlugShown<'_>>> = HashMap::new();
    for plug in all {
        match plug.plug.info.as_deref().and_then(|info| info.outlet.as_ref()) {
            // A single outlet is shown alone: its strip is not selected.
            Some(outlet) if snapshot.plugs.len() > 1 => {
                by_strip.entry(outlet.strip.as_str()).or_default().push(plug)
            }
            _ => cards.push(Card { plug, outlets: Vec::new() }),
        }
    }
    for card in &mut cards {
        card.outlets = by_strip.remove(card.plug.name()).unwrap_or_default();
    }
    cards.sort_by_cached_key(|card| in_order(card.plug.alias()));
    cards
}

/// A key to sort names as people do: without case, and `Lamp 2` before `Lamp 10`.
fn in_order(name: &str) -> String {
    let mut key = String::new();
    for run in
        name.to_lowercase().as_bytes().chunk_by(|one, next| one.is_ascii_digit() == next.is_ascii_digit())
    {
        let run = String::from_utf8_lossy(run);
        let is_number = run.starts_with(|c: char| c.is_ascii_digit());
        if is_number { key.push_str(&format!("{run:0>20}")) } else { key.push_str(&run) }
    }
    key
}

/// What is above the cards: how many plugs do what, the broker, the cloud, and what needs attention.
fn above(overview: &Overview, cards: &[Card<'_>]) -> Markup {
    let Overview { snapshot, broker, .. } = overview;
    let (mut facts, mut notes) = (Vec::new(), Vec::new());
    match &broker.link {
        Ok(_) if broker.is_embedded => facts.push(("good", "Broker", "built in".to_owned())),
        Ok(_) => facts.push(("good", "Broker", "connected".to_owned())),
        Err(why) => {
            facts.push(("alert", "Broker", "not connected".to_owned()));
            notes.push(("No broker.", why.clone()));
        }
    }
    match &snapshot.info.cloud {
        CloudStatus::Off => facts.push(("idle", "Cloud", "not set up".to_owned())),
        CloudStatus::Ok => facts.push(("good", "Cloud", "works".to_owned())),
        CloudStatus::Down(why) => {
            facts.push(("alert", "Cloud", "does not work".to_owned()));
            notes.push(("The cloud does not work.", why.to_string()));
        }
        CloudStatus::Stopped(why) => {
            facts.push(("alert", "Cloud", "stopped".to_owned()));
            notes.push(("The cloud is not used any more.", why.to_string()));
        }
    }
    // By the counts of the bridge, because the script asks for this part without the cards.
    if snapshot.is_ready && snapshot.info.plugs > 1 && snapshot.info.online == 0 {
        let why = "If they stopped together, look at the Wi-Fi, the router and this machine's network first.";
        notes.push(("No plug answers.", why.to_owned()));
    }
    html! {
        section.overview aria-label="Overview" {
            h1 #headline { (headline(cards)) }
            dl.facts #facts {
                @for (sign, name, words) in &facts {
                    div.(sign) { dt { (name) } dd { (icon(sign)) (words) } }
                }
            }
            div.notes #notes {
                @for (what, why) in &notes {
                    p.note { (icon("alert")) span { b { (what) } " " (prose(why)) } }
                }
            }
            div #unserved { (unserved(&snapshot.unserved)) }
        }
    }
}

/// What was found and is not served, and why.
fn unserved(devices: &[UnservedDevice]) -> Markup {
    let plural = if devices.len() == 1 { "device was found and is" } else { "devices were found and are" };
    let mut devices: Vec<_> = devices.iter().collect();
    devices.sort_by_key(|device| (&device.host, &device.alias));
    html! {
        @if !devices.is_empty() {
            details.unserved {
                summary { (devices.len()) " " (plural) " not served" }
                ul {
                    @for UnservedDevice { alias, model, host, reason, .. } in devices {
                        li {
                            b { @for name in [alias, model] { @if !name.is_empty() { (name) " " } } }
                            @if let Some(host) = host { (host) }
                            p { (prose(reason)) }
                        }
                    }
                }
            }
        }
    }
}

/// The numbers of the cards in a sentence.
fn headline(cards: &[Card<'_>]) -> String {
    let [all, on, away] = [Show::All, Show::On, Show::Unreachable]
        .map(|show| cards.iter().filter(|card| show.fits(card)).count());
    let plugs = if all == 1 { "plug" } else { "plugs" };
    match (all, away) {
        (0, _) => "No plugs yet".to_owned(),
        (_, 0) => format!("{all} {plugs}, {on} on"),
        _ => format!("{all} {plugs}, {on} on, {away} not reachable"),
    }
}

/// The search and the filters: a form and links, so that they work without JavaScript.
fn find(cards: &[Card<'_>], wanted: &Wanted) -> Markup {
    html! {
        div.find {
            form role="search" action="./" {
                label.unseen for="search" { "Search by name or model" }
                input #search type="search" name="q" value=(wanted.q) placeholder="Search" autocomplete="off";
                @if wanted.show != Show::All { input type="hidden" name="show" value=(wanted.show.words().0); }
            }
            nav aria-label="Filter" {
                ul {
                    @for show in Show::ALL {
                        @let (word, name) = show.words();
                        li {
                            a href={ "./?show=" (word) } data-show=(word)
                                aria-current=[(show == wanted.show).then_some("true")] {
                                (name) " " b { (cards.iter().filter(|card| show.fits(card)).count()) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The cards that are wanted, in one form: each button sends its own plug.
fn list(overview: &Overview, cards: &[Card<'_>], wanted: &Wanted) -> Markup {
    let words: Vec<_> = wanted.q.split_whitespace().map(str::to_lowercase).collect();
    let fits = |card: &&Card<'_>| wanted.show.fits(card) && card.has(&words);
    let shown: Vec<_> = cards.iter().filter(fits).collect();
    html! {
        form.plugs #plugs method="post" action="./" {
            @for card in &shown { (card.render(shown.len() <= DRAWN_UP_TO)) }
        }
        p.empty #nothing hidden[cards.is_empty() || !shown.is_empty()] { "No plug fits the search and the filter." }
        div #none hidden[!cards.is_empty()] { @if cards.is_empty() { (no_plugs(overview)) } }
    }
}

/// What to do if there is no plug.
fn no_plugs(overview: &Overview) -> Markup {
    html! {
        section.empty {
            @if overview.snapshot.is_ready {
                p { "hs100d has found no plug. It searches on, and shows one as soon as it answers. If that takes long:" }
                ul {
                    li { "Set the plug up in the Kasa app, so that it is in the same network as this machine." }
                    li { "Run " code { "hs100d discover" } " here: it shows what answers." }
                    li { "For a plug behind another router, give its address as " code { "host" } " in a " code { "[[plug]]" } " entry." }
                    li { "A Kasa account in " code { "[cloud]" } " finds the plugs that the LAN does not reach." }
                }
            } @else {
                p { "hs100d has just started, and is looking for plugs." }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant, SystemTime};

    use super::*;
    use crate::history::{DAY, History};
    use crate::overview::BrokerStatus;
    use hs100d_core::bridge::counters::{CommandCounts, CommandDurations};
    use hs100d_core::bridge::event::{BridgeInfo, Energy, Identity, OutletInfo, PlugInfo, PlugState};
    use hs100d_core::bridge::failures::{Failures, LastError, PlugError};
    use hs100d_core::bridge::snapshot::{PlugSnapshot, Snapshot};
    use hs100d_core::model::{Availability, Failure};
    use hs100d_core::payload::Clock;
    use hs100d_core::smarthome::message::{DeviceInfo, Meter, OutletDescription};

    const HOUR: Duration = Duration::from_secs(3600);

    /// A home at one moment, with a day behind it.
    struct Home {
        begin: Instant,
        overview: Overview,
    }

    impl Home {
        fn new() -> Self {
            let begin = Instant::now();
            let system = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_800_000);
            let info = BridgeInfo { cloud: CloudStatus::Ok, ..BridgeInfo::default() };
            let durations = CommandDurations::default();
            let snapshot =
                Snapshot { info, is_ready: true, unserved: Vec::new(), durations, plugs: Vec::new() };
            let broker = BrokerStatus { is_embedded: true, link: Ok("127.0.0.1:1883".to_owned()) };
            let clock = Clock { instant: begin + DAY, system };
            Self { begin, overview: Overview { snapshot, histories: Vec::new(), broker, clock } }
        }

        /// Adds a plug: its state, and the hour from which on it was reached like this.
        fn plug(
            &mut self,
            alias: &str,
            model: &str,
            relay: RelayState,
            days: &[(f32, Option<Route>)],
        ) -> &mut PlugSnapshot {
            let mut history = History::default();
            for (hour, route) in days {
                history.note(*route, Some(relay), self.begin + HOUR.mul_f32(*hour));
            }
            let name = hs100d_core::bridge::slug::slug(alias);
            let route = days.last().and_then(|(_, route)| *route);
            let device = DeviceInfo {
                device_id: None,
                mac: None,
                alias: alias.into(),
                model: model.into(),
                hw_version: "1.0".into(),
                sw_version: "1.2.6".into(),
                kind: "IOT.SMARTPLUGSWITCH".into(),
                feature: "TIM".into(),
                dev_name: "".into(),
                dims: false,
                outlets: [].into(),
            };
            let info = PlugInfo {
                device: Arc::new(device),
                address: None,
                protocol: None,
                rssi: Some(-58),
                cloud_connected: None,
                outlet: None,
                outlets: Arc::default(),
                schedule: None,
            };
            let on_since = (relay == RelayState::On).then(|| self.overview.clock.instant - 3 * HOUR);
            let state = PlugState { relay, route, led: None, on_since, brightness: None, until: None };
            self.overview.histories.push(Arc::new(history));
            self.overview.snapshot.plugs.push(PlugSnapshot {
                name: PlugName::new(&name).unwrap(),
                state: Some(state),
                info: Some(Arc::new(info)),
                energy: None,
                availability: Some(if route.is_some() {
                    Availability::Online
                } else {
                    Availability::Offline
                }),
                route,
                failures: Failures::default(),
                last_error: None,
                protocol: None,
                last_answers: [None; 2],
                counters: None,
                commands: CommandCounts::default(),
            });
            self.overview.snapshot.plugs.last_mut().unwrap()
        }

        /// The last plug has a meter, which showed this in each minute of the day.
        fn meter(&mut self, watts: impl Fn(u32) -> f32) {
            let history = Arc::get_mut(self.overview.histories.last_mut().unwrap()).unwrap();
            for minute in 0..1440 {
                history.note_power(watts(minute), self.begin + Duration::from_secs(60 * u64::from(minute)));
            }
            let meter = Meter { power: Some(f64::from(watts(1439))), ..Meter::default() };
            let plug = self.overview.snapshot.plugs.last_mut().unwrap();
            plug.energy = Some(Energy { meter, today: Some(0.41), month: None });
        }

        /// The last plug is a strip with these outlets.
        fn outlets(&mut self, outlets: &[(&str, RelayState)]) {
            let strip = self.overview.snapshot.plugs.len() - 1;
            let name = self.overview.snapshot.plugs[strip].name.clone();
            let described = outlets
                .iter()
                .map(|(alias, _)| OutletDescription { id: "00".into(), alias: (*alias).into() });
            let described: Vec<_> = described.collect();
            for (number, (alias, relay)) in (0..).zip(outlets) {
                let outlet = self.plug(alias, "HS300(US)", *relay, &[(0.0, Some(Route::Local))]);
                let info = Arc::get_mut(outlet.info.as_mut().unwrap()).unwrap();
                info.outlet = Some(OutletInfo { number, strip: name.clone() });
                Arc::get_mut(&mut info.device).unwrap().outlets = described.clone().into();
            }
        }

        fn shown(&self, wanted: &Wanted) -> String {
            document(&self.overview, wanted).into_string()
        }
    }

    use RelayState::{Off, On};

    const LAN: &[(f32, Option<Route>)] = &[(0.0, Some(Route::Local))];
    const CUT: &[(f32, Option<Route>)] = &[(0.0, Some(Route::Local)), (15.0, Some(Route::Cloud))];
    const LOST: &[(f32, Option<Route>)] = &[(0.0, Some(Route::Local)), (18.5, None)];

    fn family() -> Home {
        let mut home = Home::new();
        home.plug(
            "Kitchen Kettle",
            "HS110(EU)",
            On,
            &[
                (0.0, Some(Route::Local)),
                (20.0, Some(Route::Cloud)),
                (20.5, None),
                (20.6, Some(Route::Local)),
            ],
        );
        home.meter(
            |minute| if minute % 360 < 50 || minute > 1400 { 1850.0 + (minute % 7) as f32 } else { 1.2 },
        );
        home.plug("Hall Lamp", "HS100(EU)", Off, CUT);
        home.plug("Christmas Tree", "HS100(EU)", On, LOST);
        home.plug("Desk", "HS300(US)", On, LAN);
        home.meter(|minute| 60.0 + 25.0 * (minute as f32 / 90.0).sin());
        home.outlets(&[("Monitor", On), ("Desk lamp", Off), ("Printer", Off), ("NAS", On)]);
        home.plug("Aquarium", "HS103(UK)", On, LAN);
        home
    }

    /// The same home, with the errors that belong to it.
    fn family_with_errors() -> Home {
        let mut home = family();
        let now = home.overview.clock.instant;
        let error = |route, failure, minutes: u64| {
            let at = now.checked_sub(Duration::from_secs(60 * minutes)).unwrap();
            Some(LastError { route: Some(route), at, what: PlugError::Route(failure) })
        };
        let plugs = &mut home.overview.snapshot.plugs;
        plugs[0].last_error = error(Route::Local, Failure::Silent, 204);
        plugs[1].last_error = error(Route::Local, Failure::Silent, 2);
        plugs[2].last_error = error(Route::Cloud, Failure::CloudOffline, 4);
        home.overview.snapshot.unserved.push(bulb());
        home
    }

    /// The part of the page from the card of this plug on.
    fn card_of<'a>(page: &'a str, name: &str) -> &'a str {
        let (_, from) = page.split_once(&format!("id=\"plug-{name}\"")).expect("the card of the plug");
        from.split("<article").next().unwrap()
    }

    #[test]
    fn a_card_says_its_state_its_route_and_its_day_in_words() {
        let page = family().shown(&Wanted::default());
        assert!(page.contains("<h1 id=\"headline\">5 plugs, 3 on, 1 not reachable</h1>"), "{page}");
        let kettle = card_of(&page, "kitchen-kettle");
        let parts = [
            "Kitchen Kettle",
            "HS110(EU)",
            ">On<",
            "for 3 h",
            ">LAN<",
            "−58 dBm",
            "peak 1856 W",
            "% cloud",
            "% neither",
        ];
        for part in parts {
            assert!(kettle.contains(part), "{part} in {kettle}");
        }
        assert!(kettle.contains(r#"name="off" value="kitchen-kettle" aria-pressed="true""#), "{kettle}");
        let lamp = card_of(&page, "hall-lamp");
        assert!(lamp.contains(r#"name="on" value="hall-lamp" aria-pressed="false""#), "{lamp}");
        assert!(lamp.contains("62.5 % LAN") && lamp.contains("37.5 % cloud"), "{lamp}");
    }

    #[test]
    fn the_address_says_what_is_shown_and_what_it_says_beside_that_is_ignored() {
        let wanted = |uri: &str| {
            let Wanted { q, show, only } = Wanted::of(&uri.parse().unwrap());
            (q, show, only)
        };
        let nothing = (String::new(), Show::All, None);
        for uri in ["/", "/?", "/?show=all", "/?show=bulbs", "/?utm_source=x&q="] {
            assert_eq!(wanted(uri), nothing, "{uri}");
        }
        let lamp = Some("lamp".to_owned());
        assert_eq!(
            wanted("/?q=tall+l%C3%A1mp&show=cloud&only=lamp"),
            ("tall lámp".to_owned(), Show::Cloud, lamp)
        );
    }

    #[test]
    fn a_plug_that_is_not_reachable_shows_that_first_and_its_state_as_past() {
        let page = family().shown(&Wanted::default());
        let tree = card_of(&page, "christmas-tree");
        assert!(
            tree.contains("Not reachable") && tree.contains("was on") && tree.contains("for 5 h"),
            "{tree}"
        );
        assert!(tree.contains(r#"data-state="ON" data-route="none""#), "{tree}");
    }

    #[test]
    fn a_strip_shows_its_outlets_each_with_a_switch() {
        let page = family().shown(&Wanted::default());
        let desk = card_of(&page, "desk");
        for outlet in ["monitor", "desk-lamp", "printer", "nas"] {
            assert!(desk.contains(&format!("value=\"{outlet}\"")), "{outlet} in {desk}");
        }
    }

    #[test]
    fn text_of_devices_is_text() {
        let mut home = Home::new();
        let evil = r#""><script>alert(1)</script>'&amp;<img src=x onerror=y>"#;
        home.plug(evil, r#"</style><b"#, On, LAN);
        let page = home.shown(&Wanted { q: evil.to_owned(), ..Wanted::default() });
        assert_eq!(page.matches("<script").count(), 1, "the page's own: {page}");
        assert!(!page.contains("<img") && !page.contains("<b\"") && !page.contains("</style>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
    }

    #[test]
    fn the_page_has_nothing_inline_and_no_address_of_another_host() {
        for page in [family(), Home::new()].map(|home| home.shown(&Wanted::default())) {
            for part in
                [" style=", "<style", " onclick", "javascript:", "//", "src=\"/", "href=\"/", "action=\"/"]
            {
                let allowed = page.replace("http://www.w3.org/2000/svg", "");
                assert!(!allowed.contains(part), "{part} in {page}");
            }
        }
    }

    #[test]
    fn from_twenty_plugs_on_there_is_a_search_that_needs_no_script() {
        let mut home = Home::new();
        for number in 1..SEARCH_FROM {
            home.plug(&format!("Lamp {number}"), "HS100(EU)", Off, LAN);
        }
        assert!(!home.shown(&Wanted::default()).contains("type=\"search\""));
        home.plug("Élan vital", "HS110(EU)", On, CUT);
        let all = home.shown(&Wanted::default());
        assert!(all.contains("type=\"search\"") && all.matches("<article").count() == 20, "{all}");
        let found = home.shown(&Wanted { q: " hs110 ÉLAN ".to_owned(), ..Wanted::default() });
        assert_eq!(found.matches("<article").count(), 1);
        let cloud = home.shown(&Wanted { show: Show::Cloud, ..Wanted::default() });
        assert_eq!(cloud.matches("<article").count(), 1);
        let none = home.shown(&Wanted { show: Show::Unreachable, ..Wanted::default() });
        assert!(none.contains("id=\"nothing\">No plug fits"), "{none}");
    }

    #[test]
    fn a_page_with_many_plugs_leaves_the_lines_of_the_power_to_the_script() {
        let mut home = Home::new();
        for number in 0..=DRAWN_UP_TO {
            home.plug(&format!("Lamp {number}"), "HS110(EU)", Off, LAN);
            home.meter(|_| 1.0);
        }
        let page = home.shown(&Wanted::default());
        assert_eq!(
            (page.matches("data-undrawn").count(), page.matches("class=\"line\" d=\"M").count()),
            (61, 0)
        );
        home.overview.snapshot.plugs.truncate(1);
        let one = home.shown(&Wanted::default());
        assert_eq!(
            (one.matches("data-undrawn").count(), one.matches("class=\"line\" d=\"M").count()),
            (0, 1)
        );
    }

    #[test]
    fn the_last_error_has_its_age_and_its_remedy_and_is_folded_when_it_is_over() {
        let mut home = family();
        let now = home.overview.clock.instant;
        let error = |route, failure, age| LastError {
            route: Some(route),
            at: now.checked_sub(age).unwrap(),
            what: PlugError::Route(failure),
        };
        home.overview.snapshot.plugs[1].last_error = Some(error(Route::Local, Failure::Refused, 3 * HOUR));
        let page = home.shown(&Wanted::default());
        let lamp = card_of(&page, "hall-lamp");
        let parts = ["local: ", "refused", "3 h ago", "Third-Party"];
        assert!(parts.iter().all(|part| lamp.contains(part)), "{lamp}");
        assert!(lamp.contains("class=\"fault\""), "the cloud serves it: {lamp}");
        home.overview.snapshot.plugs[0].last_error = Some(error(Route::Local, Failure::Silent, 3 * HOUR));
        let page = home.shown(&Wanted::default());
        assert!(card_of(&page, "kitchen-kettle").contains("<summary>Last error "), "{page}");
    }

    #[test]
    fn what_is_not_served_is_listed_with_its_reason() {
        let mut home = Home::new();
        home.overview.snapshot.unserved.push(bulb());
        let page = home.shown(&Wanted::default());
        let parts =
            ["1 device was found and is not served", "Bedroom", "L530(EU)", "192.168.1.30", "SMART.TAPOBULB"];
        assert!(parts.iter().all(|part| page.contains(part)), "{page}");
    }

    fn bulb() -> UnservedDevice {
        UnservedDevice {
            alias: "Bedroom".into(),
            model: "L530(EU)".into(),
            identity: Identity::default(),
            host: Some("192.168.1.30".into()),
            reason: "it is a SMART.TAPOBULB, which hs100d does not support".into(),
            seen: None,
        }
    }

    #[test]
    fn names_are_in_the_order_of_people() {
        let mut names = ["Lamp 10", "lamp 2", "Élan", "Lamp 1", "2nd lamp", "10th lamp"];
        names.sort_by_key(|name| in_order(name));
        assert_eq!(names, ["2nd lamp", "10th lamp", "Lamp 1", "lamp 2", "Lamp 10", "Élan"]);
    }

    #[test]
    fn without_a_plug_the_page_says_what_to_do() {
        let mut home = Home::new();
        let page = home.shown(&Wanted::default());
        assert!(page.contains("No plugs yet") && page.contains("hs100d discover"), "{page}");
        home.overview.snapshot.is_ready = false;
        let page = home.shown(&Wanted::default());
        assert!(page.contains("has just started"), "{page}");
    }

    #[test]
    fn a_broker_and_a_cloud_that_do_not_work_are_shown_with_their_reason() {
        let mut home = family();
        home.overview.broker =
            BrokerStatus { is_embedded: false, link: Err("broker.lan: connection refused".to_owned()) };
        home.overview.snapshot.info.cloud = CloudStatus::Stopped("the password was refused".into());
        let page = home.shown(&Wanted::default());
        assert!(
            page.contains("broker.lan: connection refused") && page.contains("the password was refused"),
            "{page}"
        );
    }

    #[test]
    fn a_home_in_which_nothing_answers_says_where_to_look_first() {
        let mut home = family();
        home.overview.snapshot.info = BridgeInfo { plugs: 5, online: 1, ..BridgeInfo::default() };
        assert!(!home.shown(&Wanted::default()).contains("No plug answers"));
        home.overview.snapshot.info.online = 0;
        let only = Some("bridge".to_owned());
        assert!(home.shown(&Wanted { only, ..Wanted::default() }).contains("No plug answers"));
    }

    #[test]
    fn a_plug_that_was_never_read_has_a_card() {
        let mut home = Home::new();
        let plug = home.plug("Lamp", "HS100(EU)", Off, LAN);
        (plug.state, plug.info, plug.availability, plug.route) = (None, None, None, None);
        home.overview.histories = vec![Arc::default()];
        let page = home.shown(&Wanted::default());
        assert!(card_of(&page, "lamp").contains("Not read yet"), "{page}");
        home.overview.snapshot.plugs[0].availability = Some(Availability::Offline);
        let page = home.shown(&Wanted::default());
        assert!(card_of(&page, "lamp").contains("Not reachable"), "{page}");
    }

    /// `HS100D_WRITE_PAGE=FOLDER cargo test --package hs100d-http page` writes pages to look at.
    #[test]
    fn pages_can_be_written_to_look_at() {
        let Ok(folder) = std::env::var("HS100D_WRITE_PAGE") else { return };
        let write = |name: &str, text: String| std::fs::write(Path::new(&folder).join(name), text).unwrap();
        write("family.html", family_with_errors().shown(&Wanted::default()));
        let mut many = Home::new();
        for number in 0..1000 {
            let (relay, day) = match number % 17 {
                0 => (On, CUT),
                3 => (Off, LOST),
                n if n % 3 == 0 => (On, LAN),
                _ => (Off, LAN),
            };
            many.plug(&format!("Room {} lamp {}", number / 8 + 1, number % 8 + 1), "HS110(EU)", relay, day);
            many.meter(|minute| 40.0 + ((minute / (9 + number % 40)) % 3) as f32 * 20.0);
        }
        write("many.html", many.shown(&Wanted::default()));
        write("empty.html", Home::new().shown(&Wanted::default()));
        let mut broken = family_with_errors();
        for plug in &mut broken.overview.snapshot.plugs {
            plug.availability = Some(Availability::Offline);
            plug.state.as_mut().unwrap().route = None;
        }
        broken.overview.snapshot.info.plugs = 5;
        broken.overview.broker = BrokerStatus {
            is_embedded: false,
            link: Err("broker.lan:1883: connection refused: start the broker, or correct mqtt.url".to_owned()),
        };
        broken.overview.snapshot.info.cloud = CloudStatus::Stopped("the cloud refuses the password of me@example.com: check cloud.password_file; then run `hs100d cloud login`".into());
        write("broken.html", broken.shown(&Wanted::default()));
        write("page.css", STYLE.to_owned());
        write("page.js", SCRIPT.to_owned());
    }
}
