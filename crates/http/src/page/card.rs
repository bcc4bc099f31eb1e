//! The card of a plug: its state and its switch, the last day, its last failure, and the outlets of a strip.

use std::time::{Duration, Instant};

use maud::{Markup, html};

use super::drawing;
use super::signs::{icon, prose};
use crate::history::{DAY, History, Interval};
use hs100d_core::bridge::event::PlugState;
use hs100d_core::bridge::failures::{LastError, PlugError};
use hs100d_core::bridge::snapshot::PlugSnapshot;
use hs100d_core::model::{Availability, RelayState, Route};
use hs100d_core::payload::Clock;

/// An error of this age, of a plug that works again, is over.
const RECENT: Duration = Duration::from_secs(600);

/// A plug or an outlet, with what the page says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlugShown<'a> {
    pub(super) plug: &'a PlugSnapshot,
    pub(super) history: &'a History,
    pub(super) clock: Clock,
}

/// A plug, and its outlets if it is a strip.
#[derive(Debug)]
pub(super) struct Card<'a> {
    pub(super) plug: PlugShown<'a>,
    pub(super) outlets: Vec<PlugShown<'a>>,
}

/// How a plug is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteShown {
    /// It has not been read yet.
    NotYet,
    Over(Route),
    Not,
}

impl Card<'_> {
    /// `is_drawn`: with the line of its power, which a page with many cards fetches when it is needed.
    pub(super) fn render(&self, is_drawn: bool) -> Markup {
        let Self { plug, outlets } = self;
        let name = plug.name();
        html! {
            article.card.strip[!outlets.is_empty()]
                id={ "plug-" (name) } aria-labelledby={ "alias-" (name) } data-plug=(name)
                data-state=[plug.state().map(|state| state.relay.to_string())] data-route=[plug.route_word()]
                data-undrawn[!is_drawn && plug.history.power().is_some()] {
                header {
                    div.who {
                        h2 id={ "alias-" (name) } data-part="alias" { (plug.alias()) }
                        p.model { span data-part="model" { (plug.model()) } " · " (name) }
                    }
                    (plug.switch())
                }
                (plug.state_line())
                (plug.note())
                figure.day data-part="day" { (plug.day(is_drawn)) }
                div data-part="fault" {
                    @if let Some(error) = self.last_error() { (self.fault(error)) }
                }
                @if !outlets.is_empty() {
                    ul.outlets {
                        @for outlet in outlets { (outlet.outlet()) }
                    }
                }
            }
        }
    }

    /// The last error of the plug or of one of its outlets.
    fn last_error(&self) -> Option<&LastError> {
        let parts = std::iter::once(&self.plug).chain(&self.outlets);
        parts.filter_map(|part| part.plug.last_error.as_ref()).max_by_key(|error| error.at)
    }

    /// What failed last, and what to do. What is over is folded.
    fn fault(&self, error: &LastError) -> Markup {
        let plug = &self.plug;
        let age = plug.clock.instant.saturating_duration_since(error.at);
        let is_over = plug.route_shown() == RouteShown::Over(Route::Local) && age > RECENT;
        let what = match (&error.what, error.route) {
            (PlugError::Route(failure), Some(route)) => format!("{route}: {failure}"),
            (what, _) => what.to_string(),
        };
        let remedy = error.remedy();
        html! {
            @if is_over {
                details.past {
                    summary { "Last error " (plug.time("age", Some(error.at))) }
                    p { (prose(&what)) }
                    @if let Some(remedy) = &remedy { p { (prose(remedy)) } }
                }
            } @else {
                div.fault {
                    (icon("alert"))
                    div {
                        p { b { (prose(&what)) } " " span.age { (plug.time("age", Some(error.at))) } }
                        @if let Some(remedy) = &remedy { p { (prose(remedy)) } }
                    }
                }
            }
        }
    }

    /// Whether the names of the plug or of its outlets have all these words, which are in lower case.
    pub(super) fn has(&self, words: &[String]) -> bool {
        let parts = std::iter::once(&self.plug).chain(&self.outlets);
        let text = |part: &PlugShown<'_>| format!("{} {} {} ", part.name(), part.alias(), part.model());
        let text = parts.map(text).collect::<String>().to_lowercase();
        words.iter().all(|word| text.contains(word))
    }
}

impl PlugShown<'_> {
    pub(super) fn name(&self) -> &str {
        self.plug.name.as_str()
    }

    /// What its user calls it.
    pub(super) fn alias(&self) -> &str {
        let info = self.plug.info.as_deref();
        let of_outlet = |outlet: usize| info?.device.outlets.get(outlet).map(|outlet| &*outlet.alias);
        let alias = info.and_then(|info| match &info.outlet {
            Some(outlet) => of_outlet(usize::from(outlet.number)),
            None => Some(&info.device.alias),
        });
        alias.filter(|alias| !alias.trim().is_empty()).unwrap_or_else(|| self.name())
    }

    fn model(&self) -> &str {
        self.plug.info.as_deref().map_or("", |info| &info.device.model)
    }

    fn state(&self) -> Option<&PlugState> {
        self.plug.state.as_ref()
    }

    pub(super) fn route_shown(&self) -> RouteShown {
        match (self.plug.availability, self.state().map(|state| state.route)) {
            (Some(Availability::Offline), _) | (_, Some(None)) => RouteShown::Not,
            (_, Some(Some(route))) => RouteShown::Over(route),
            (_, None) => RouteShown::NotYet,
        }
    }

    fn route_word(&self) -> Option<&'static str> {
        match self.route_shown() {
            RouteShown::NotYet => None,
            RouteShown::Over(Route::Local) => Some("local"),
            RouteShown::Over(Route::Cloud) => Some("cloud"),
            RouteShown::Not => Some("none"),
        }
    }

    fn is_on(&self) -> bool {
        self.state().is_some_and(|state| state.relay == RelayState::On)
    }

    /// Whether it is on as far as is known now.
    pub(super) fn is_lit(&self) -> bool {
        self.is_on() && matches!(self.route_shown(), RouteShown::Over(_))
    }

    // --- Its parts ----------------------------------------------------------------------------------------------

    /// The switch: sends the other state, and reads as pressed while the plug is on.
    fn switch(&self) -> Markup {
        let (name, is_on) = (self.name(), self.is_on());
        html! {
            button.switch name=(if is_on { "off" } else { "on" }) value=(name)
                aria-pressed=(if is_on { "true" } else { "false" }) aria-labelledby={ "alias-" (name) " word-" (name) }
                data-part="switch" {
                span id={ "word-" (name) } { (if is_on { "On" } else { "Off" }) }
            }
        }
    }

    /// On or off, since when, over which route, and the signal.
    fn state_line(&self) -> Markup {
        let until = self.state().and_then(|state| state.until);
        html! {
            p.state {
                span.word data-part="word" { (self.word()) }
                span.since data-part="since" hidden[self.since().is_none()] { (self.time("since", self.since())) }
                (self.route())
                span.since data-part="until" hidden[until.is_none()] {
                    @if let Some(until) = until {
                        time datetime=(self.clock.date(until)) data-is=(if self.is_on() { "off at" } else { "on at" }) {
                            (if self.is_on() { "off in " } else { "on in " })
                            (in_words(until.saturating_duration_since(self.clock.instant)))
                        }
                    }
                }
                (self.signal())
            }
        }
    }

    fn word(&self) -> String {
        let Some(state) = self.state() else {
            return if self.route_shown() == RouteShown::Not { "never read" } else { "Not read yet" }
                .to_owned();
        };
        match (self.route_shown(), state.brightness.filter(|percent| *percent > 0)) {
            (RouteShown::Not, _) if self.is_on() => "was on".to_owned(),
            (RouteShown::Not, _) => "was off".to_owned(),
            (_, Some(percent)) if self.is_on() => format!("On, {percent} %"),
            _ if self.is_on() => "On".to_owned(),
            _ => "Off".to_owned(),
        }
    }

    /// Since when it is as it is, if that is known: from the plug itself, or because the change was seen.
    fn since(&self) -> Option<Instant> {
        let now = self.clock.instant;
        let mut intervals: Vec<_> = self.history.intervals(DAY, now).collect();
        let newest = *intervals.pop()?;
        let is_away = self.route_shown() == RouteShown::Not;
        if let (false, true, Some(since)) = (is_away, self.is_on(), self.state()?.on_since) {
            return Some(since);
        }
        let is_same = |other: &Interval| {
            if is_away { other.route.is_none() } else { other.state == newest.state }
        };
        let mut since = newest.since;
        for earlier in intervals.into_iter().rev() {
            if !is_same(earlier) {
                return Some(since);
            }
            since = earlier.since;
        }
        // It was so when the history began.
        None
    }

    /// A moment of the past. JavaScript writes it in the browser's zone; the server, which does not know that, as its age.
    fn time(&self, kind: &str, moment: Option<Instant>) -> Markup {
        let age = moment.map(|moment| in_words(self.clock.instant.saturating_duration_since(moment)));
        html! {
            time datetime=[moment.map(|moment| self.clock.date(moment))] data-is=(kind) {
                @if let Some(age) = age {
                    @if kind == "age" { (age) " ago" } @else { "for " (age) }
                }
            }
        }
    }

    fn route(&self) -> Markup {
        let (class, sign, word) = match self.route_shown() {
            RouteShown::Over(Route::Local) => ("local", "lan", "LAN"),
            RouteShown::Over(Route::Cloud) => ("cloud", "cloud", "Cloud"),
            RouteShown::Not => ("none", "none", "Not reachable"),
            RouteShown::NotYet => ("none", "idle", ""),
        };
        html! {
            span.route.(class) data-part="route" hidden[self.route_shown() == RouteShown::NotYet] {
                (icon(sign)) span { (word) }
            }
        }
    }

    /// Bars and dBm. An outlet has those of its strip.
    fn signal(&self) -> Markup {
        let signal = self.plug.info.as_deref().and_then(|info| info.rssi);
        let full = signal.map_or(0, bars);
        html! {
            span.signal data-part="signal" hidden[signal.is_none()] {
                svg.icon.bars viewBox="0 0 20 20" aria-hidden="true" {
                    @for n in 0..4_u8 {
                        rect.full[n < full] x=(1 + 5 * n) y=(13 - 4 * n) width="3.5" height=(6 + 4 * n) rx="1" {}
                    }
                }
                span { @if let Some(dbm) = signal { (with_minus(dbm)) " dBm" } }
            }
        }
    }

    /// The place for what a press does, and why it failed.
    fn note(&self) -> Markup {
        html! { p.note-of-press data-part="note" hidden {} }
    }

    /// The power now, and the last day.
    fn day(&self, is_drawn: bool) -> Markup {
        let now = self.clock.instant;
        let shares = drawing::shares(self.history, now);
        html! {
            (self.meter(is_drawn))
            @if !shares.is_empty() {
                (drawing::band(self.history, now))
                figcaption.axis {
                    span.shares {
                        @for (n, (class, words)) in shares.iter().enumerate() {
                            span { span.key.(class) {} (words) @if n + 1 < shares.len() { span.unseen { "," } } }
                        }
                    }
                    span { span.unseen { "of the last " } (in_words(drawing::axis(self.history, now))) }
                }
            }
        }
    }

    fn meter(&self, is_drawn: bool) -> Markup {
        let energy = self.plug.energy.as_ref();
        let now = energy.and_then(|energy| energy.meter.power);
        let today = energy.and_then(|energy| energy.today);
        let slots = drawing::power(self.history, self.clock.instant).unwrap_or_default();
        let most = slots.iter().map(|(_, watts)| f64::from(*watts)).chain(now).fold(0.0, f64::max);
        let is_away = self.route_shown() == RouteShown::Not;
        html! {
            @if let Some(power) = now.filter(|_| !is_away) {
                p.meter {
                    b data-part="power" { (watts(power)) }
                    @if most > 0.0 { span { "peak " (watts(most)) } }
                    @if let Some(today) = today { span data-part="today" { (format!("{today:.2} kWh today")) } }
                }
            }
            @if !slots.is_empty() {
                // An empty one keeps the place.
                (drawing::spark(if is_drawn { &slots } else { &[] }))
            }
        }
    }

    /// A row in the card of its strip.
    fn outlet(&self) -> Markup {
        let name = self.name();
        let power = self.plug.energy.as_ref().and_then(|energy| energy.meter.power);
        html! {
            li id={ "plug-" (name) } data-plug=(name)
                data-state=[self.state().map(|state| state.relay.to_string())] data-route=[self.route_word()] {
                div.who {
                    h3 id={ "alias-" (name) } data-part="alias" { (self.alias()) }
                    p.state {
                        span.word data-part="word" { (self.word()) }
                        span.since data-part="since" hidden[self.since().is_none()] {
                            (self.time("since", self.since()))
                        }
                        @if let Some(power) = power { span data-part="power" { (watts(power)) } }
                    }
                    (self.note())
                }
                (self.switch())
            }
        }
    }
}

/// How many of four bars: each step is one at which Wi-Fi gets noticeably worse.
fn bars(dbm: i32) -> u8 {
    match dbm {
        -55.. => 4,
        -65.. => 3,
        -75.. => 2,
        _ => 1,
    }
}

fn with_minus(number: i32) -> String {
    let sign = if number < 0 { "\u{2212}" } else { "" };
    format!("{sign}{}", number.unsigned_abs())
}

fn watts(power: f64) -> String {
    if power >= 100.0 { format!("{power:.0} W") } else { format!("{power:.1} W") }
}

/// A time span in one unit.
pub(super) fn in_words(span: Duration) -> String {
    match span.as_secs() {
        0..60 => "less than a minute".to_owned(),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
