//! The promises and the judge, which checks that they hold. The judge sees what happens in the world and what the
//! daemon sends; it does not know how the daemon decides.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use hs100d::bridge::event::{CommandId, Ended, Exchange, ExchangeId, Target};
use hs100d::model::{LanProtocol, RelayState, Route};
use hs100d::smarthome::message::Request;

use super::klap::word;
use super::story::Stamp;

/// A result this much after the command's deadline is late.
const GRACE: Duration = Duration::from_secs(1);
/// Within this time the effect of an older command is corrected, or it is kept for good.
const SEEN_WITHIN: Duration = Duration::from_secs(15);
/// After a fault ends, the daemon reaches the plug within this time if it is trying.
const SOON: Duration = Duration::from_secs(6);
/// The limit for cloud calls: the burst, and the rate after it.
const BURST: f64 = 60.0;
const CALLS_A_SECOND: f64 = 1.0;
/// Limits for logins that the user did not cause: this many in this time, and in a day.
const LOGIN_GAP: Duration = Duration::from_secs(600);
const LOGINS_IN_GAP: usize = 2;
const LOGINS_A_DAY: usize = 6;
const DAY: Duration = Duration::from_secs(86_400);
/// A command to a plug without faults is done within this time, including the longest hiccup of a healthy LAN.
const PROMPT: Duration = Duration::from_secs(8);
/// The same request is not repeated over the same route within this time, unless a command arrived or was confirmed
/// since.
const REPEAT_AFTER: Duration = Duration::from_millis(250);
/// The daemon's memory may grow by this factor over its size at the first rest.
const GROWTH: (usize, usize) = (3, 2);
const SLACK: usize = 32 * 1024;

/// What must hold at every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Promise {
    /// After all faults, a plug is in the state of the newest command or button press.
    Settles,
    /// After all faults, every plug is online, on its first route, and shown as it is.
    ComesHome,
    /// Nothing is switched without a command, or by a command that has expired.
    NothingUnasked,
    /// An older command is corrected only if it can have been carried out late.
    CorrectsWithCause,
    /// One request in flight per plug and route.
    OneOnAWire,
    /// The same request is not repeated over the same route, and on the LAN in the same protocol, within a quarter of a
    /// second, unless a command arrived or was confirmed since.
    RepeatsSlowly,
    /// At most one login or refresh at a time.
    OneLogin,
    /// No login after a refusal that only the user can resolve, and never one with a refused password.
    NoLoginAfterRefusal,
    /// At most two logins in ten minutes and six in a day.
    FewLogins,
    /// At most a burst of sixty calls, and one a second on average, in any window.
    Budget,
    /// The broker shows what was read last.
    ShowsWhatWasRead,
    /// A plug that cannot be reached is shown as offline.
    SaysOffline,
    /// `protocol_changed` comes when a plug answers in the other protocol, and never otherwise.
    ReportsProtocol,
    /// Only the plug that is meant is switched.
    RightPlug,
    /// Every command has exactly one result, in time.
    OneResult,
    /// A command to a plug without faults is done, whatever else fails.
    ServesTheHealthy,
    /// No table grows without bound.
    Bounded,
    /// Time advances: the loop does not run turn after turn without end.
    GoesOn,
}

impl Promise {
    pub const ALL: [Self; 18] = [
        Self::Settles,
        Self::ComesHome,
        Self::NothingUnasked,
        Self::CorrectsWithCause,
        Self::OneOnAWire,
        Self::RepeatsSlowly,
        Self::OneLogin,
        Self::NoLoginAfterRefusal,
        Self::FewLogins,
        Self::Budget,
        Self::ShowsWhatWasRead,
        Self::SaysOffline,
        Self::ReportsProtocol,
        Self::RightPlug,
        Self::OneResult,
        Self::ServesTheHealthy,
        Self::Bounded,
        Self::GoesOn,
    ];
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Broken {
    pub promise: Promise,
    pub plug: Option<usize>,
    pub at: Duration,
    pub words: String,
    /// The events that led to it.
    pub story: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} is broken", Stamp(self.at), self.promise)?;
        if let Some(plug) = self.plug {
            write!(f, " by plug-{plug}")?;
        }
        write!(f, ": {}\n{}", self.words, self.story)
    }
}

/// The judge's notes.
#[derive(Debug)]
pub struct Judge {
    pub at: Duration,
    /// The number of commands so far.
    issued: u64,
    /// Commands without a result, by the daemon's id.
    under_way: BTreeMap<CommandId, Number>,
    books: Vec<Book>,
    commands: BTreeMap<Number, Command>,
    broken: Option<Broken>,
    calls: f64,
    called: Duration,
    auth_in_flight: bool,
    /// The user has acted since the last token request.
    acted_since: bool,
    refused: bool,
    logins: Vec<Duration>,
    /// The passwords that the account has refused since the daemon's start.
    refused_passwords: HashSet<u32>,
    first_weight: Option<usize>,
    /// When all faults last ended.
    mended: Duration,
}

/// Notes about one plug.
#[derive(Debug)]
struct Book {
    relays: Vec<Page>,
    in_flight: [Option<ExchangeId>; 2],
    /// The requests on each route within [`REPEAT_AFTER`], with their times.
    asked_lately: [Vec<(Request, Option<LanProtocol>, Duration)>; 2],
    /// When a command last arrived or was confirmed.
    stirred: Option<Duration>,
    /// The time of the request that was answered last.
    asked: Option<Duration>,
    /// When the plug last confirmed that it acted.
    acted: Option<Duration>,
    protocol: ProtocolNotes,
}

/// Notes about the protocol of a plug's answers on the LAN.
#[derive(Debug, Default)]
struct ProtocolNotes {
    /// The one of its last answer; that to an earlier daemon counts, for the store keeps it.
    answered: Option<LanProtocol>,
    /// A change that the daemon may report in this turn: from, to, and whether it must.
    change: Option<(LanProtocol, LanProtocol, bool)>,
}

/// Notes about one relay.
#[derive(Debug, Clone)]
struct Page {
    newest: Option<Number>,
    /// Whether the newest command has its result, and whether that was a success.
    ended: Option<bool>,
    standing: RelayState,
    by: By,
    /// A correction in progress: its deadline, and its target once that is known.
    correction: Option<(Duration, Option<RelayState>)>,
    /// Until when an unanswered request may still switch it off, on.
    strays: [Option<Duration>; 2],
    read: Option<RelayState>,
    /// An older command has undone the newest. It may be corrected until then: the daemon has not seen it yet.
    undone: Option<Duration>,
}

/// What brought the relay into its expected state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Start,
    Hand,
    Command(Number),
    /// A correction, with the command that was newest then.
    Correction(Option<Number>),
    /// Something that may or may not be corrected.
    Unclear,
}

/// A command by its number in the run. The daemon's ids continue from life to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(u64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug)]
struct Command {
    plug: usize,
    /// Its relays with their requested states; `None` for a toggle that is not resolved yet.
    wants: Vec<(usize, Option<RelayState>)>,
    /// The number of its parts, the relays included.
    parts: usize,
    arrived: Duration,
    deadline: Duration,
    ended: bool,
    /// Of a toggle of a whole strip: whether the strip was read as off, as on, while the toggle was undecided. `None` if
    /// an older command was under way, which decides as well.
    strip_read: Option<[bool; 2]>,
}

impl Command {
    /// The request that is sent first decides a toggle, for all relays that it is about: a strip is toggled as one.
    fn decide(&mut self, relay: usize, state: RelayState) -> bool {
        let is_whole_strip = self.wants.len() > 1;
        let Some(&(_, want)) = self.wants.iter().find(|(place, _)| *place == relay) else { return false };
        if want.is_none() {
            let wants_it = |(place, want): &&mut (usize, Option<RelayState>)| {
                want.is_none() && (is_whole_strip || *place == relay)
            };
            self.wants.iter_mut().filter(wants_it).for_each(|(_, want)| *want = Some(state));
            let is_inverse = |read: [bool; 2]| read[usize::from(!state.is_on())];
            return !is_whole_strip || self.strip_read.is_none_or(is_inverse);
        }
        want == Some(state)
    }

    /// The requested state of this relay, if there is one and it is resolved.
    fn wants_of(&self, relay: usize) -> Option<RelayState> {
        self.wants.iter().find(|(place, _)| *place == relay)?.1
    }
}

/// Why a request switches a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Command(Number),
    /// A correction by the bridge, with the command that was newest then.
    Correction(Option<Number>),
}

impl Judge {
    pub fn new(relays: impl Iterator<Item = Vec<RelayState>>) -> Self {
        let page = |standing: RelayState| Page {
            newest: None,
            ended: None,
            standing,
            by: By::Start,
            correction: None,
            strays: [None; 2],
            read: None,
            undone: None,
        };
        let book = |relays: Vec<RelayState>| Book {
            relays: relays.into_iter().map(page).collect(),
            in_flight: [None; 2],
            asked_lately: Default::default(),
            stirred: None,
            asked: None,
            acted: None,
            protocol: ProtocolNotes::default(),
        };
        Self {
            at: Duration::ZERO,
            issued: 0,
            under_way: BTreeMap::new(),
            books: relays.map(book).collect(),
            commands: BTreeMap::new(),
            broken: None,
            calls: 0.0,
            called: Duration::ZERO,
            auth_in_flight: false,
            acted_since: false,
            refused: false,
            logins: vec![],
            refused_passwords: HashSet::new(),
            first_weight: None,
            mended: Duration::ZERO,
        }
    }

    /// The first broken promise.
    pub fn verdict(&mut self) -> Option<Broken> {
        self.broken.take()
    }

    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    pub fn complain(&mut self, promise: Promise, plug: Option<usize>, words: impl Into<String>) {
        let (at, words) = (self.at, words.into());
        self.broken.get_or_insert(Broken { promise, plug, at, words, story: String::new() });
    }

    /// The daemon was restarted: its commands and exchanges are gone.
    pub fn daemon_is_new(&mut self) {
        for book in &mut self.books {
            book.in_flight = [None; 2];
            book.asked_lately = Default::default();
            book.asked = None;
            book.acted = None;
            book.protocol.change = None;
            for page in &mut book.relays {
                page.read = None;
                page.correction = None;
                // No daemon remains to defend the newest command.
                if page.ended.is_none() && page.newest.is_some() {
                    page.by = By::Unclear;
                    page.ended = Some(false);
                }
                if page.strays.iter().flatten().any(|&until| until >= self.at) {
                    page.by = By::Unclear;
                }
            }
        }
        self.commands.clear();
        self.under_way.clear();
        self.auth_in_flight = false;
        self.refused_passwords.clear();
        self.user_acted();
        self.calls = 0.0;
    }

    // --- commands -------------------------------------------------------------------------------------------------

    pub fn command(
        &mut self,
        id: CommandId,
        plug: usize,
        wants: Vec<(usize, Option<RelayState>)>,
        other_parts: usize,
        patience: Duration,
    ) -> Number {
        self.issued += 1;
        let number = Number(self.issued);
        self.under_way.insert(id, number);
        let before: Vec<_> =
            wants.iter().filter_map(|&(relay, _)| self.books[plug].relays[relay].newest).collect();
        let strip_read = (!self.is_under_way(plug)).then(|| {
            let read = self.last_read(plug, None);
            [RelayState::Off, RelayState::On].map(|state| read == Some(state))
        });
        for &(relay, _) in &wants {
            let page = &mut self.books[plug].relays[relay];
            (page.newest, page.ended, page.correction) = (Some(number), None, None);
        }
        for before in before {
            self.forget_if_over(plug, before);
        }
        self.books[plug].stirred = Some(self.at);
        let parts = wants.len() + other_parts;
        let (arrived, deadline) = (self.at, self.at + patience);
        self.commands
            .insert(number, Command { plug, wants, parts, arrived, deadline, ended: false, strip_read });
        number
    }

    /// Whether a command or a correction may still switch a relay of this plug.
    fn is_under_way(&self, plug: usize) -> bool {
        self.books[plug].relays.iter().any(|page| {
            let command = page.newest.and_then(|id| self.commands.get(&id));
            let is_open = command.is_some_and(|it| page.ended != Some(true) && it.deadline >= self.at);
            is_open || page.correction.is_some_and(|(until, _)| until >= self.at)
        })
    }

    /// Forgets a command that has its result and that no relay depends on.
    fn forget_if_over(&mut self, plug: usize, id: Number) {
        let is_newest = self.books[plug].relays.iter().any(|page| page.newest == Some(id));
        if !is_newest && self.commands.get(&id).is_some_and(|command| command.ended) {
            self.commands.remove(&id);
        }
    }

    /// A command has its result. `was_well`: no fault was in its way, from well before it arrived.
    pub fn result(
        &mut self,
        id: CommandId,
        ended: &Ended,
        was_well: bool,
        was_frozen: Duration,
    ) -> Option<Number> {
        let id = self.under_way.remove(&id);
        let Some((id, command)) = id.and_then(|id| Some((id, self.commands.get_mut(&id)?))) else {
            self.complain(Promise::OneResult, None, "a command is answered again, or was never sent");
            return None;
        };
        command.ended = true;
        let (plug, took, late) =
            (command.plug, self.at - command.arrived, self.at > command.deadline + was_frozen + GRACE);
        let wants = command.wants.clone();
        let is_of_relays_only = !wants.is_empty() && command.parts == wants.len();
        for (relay, _) in &wants {
            let page = &mut self.books[plug].relays[*relay];
            if page.newest == Some(id) {
                page.ended = Some(*ended == Ended::Ok);
            }
        }
        self.forget_if_over(plug, id);
        let has_newer =
            |(relay, _): &(usize, Option<RelayState>)| self.books[plug].relays[*relay].newest != Some(id);
        if *ended == Ended::Superseded && is_of_relays_only && !wants.iter().any(has_newer) {
            let words = format!("command {id} is superseded, and there is no newer one");
            self.complain(Promise::OneResult, Some(plug), words);
        }
        if late {
            self.complain(Promise::OneResult, Some(plug), format!("command {id} is answered after {took:?}"));
        }
        if let (Some(why), true) = (ended.error(), was_well) {
            let words = format!("command {id} failed although nothing was wrong: {why}");
            self.complain(Promise::ServesTheHealthy, Some(plug), words);
        }
        if was_well && took > PROMPT {
            let words = format!("command {id} took {took:?} although nothing was wrong");
            self.complain(Promise::ServesTheHealthy, Some(plug), words);
        }
        Some(id)
    }

    /// Checks for commands that still have no result.
    pub fn hold_to_account(&mut self) {
        let overdue = |command: &&Command| !command.ended && command.deadline + GRACE * 5 < self.at;
        let overdue =
            self.commands.iter().find(|(_, command)| overdue(command)).map(|(id, it)| (*id, it.plug));
        if let Some((id, plug)) = overdue {
            self.complain(Promise::OneResult, Some(plug), format!("command {id} has no result"));
        }
    }

    // --- requests -------------------------------------------------------------------------------------------------

    pub fn asks(&mut self, plug: usize, route: Route, id: ExchangeId) {
        if self.books[plug].in_flight[route.index()].replace(id).is_some() {
            self.complain(
                Promise::OneOnAWire,
                Some(plug),
                format!("two requests in flight on the {route} route"),
            );
        }
    }

    /// Whether this request repeats an earlier one too soon.
    pub fn repeats(&mut self, plug: usize, exchange: &Exchange) {
        let (at, route, request) = (self.at, exchange.route(), &exchange.request);
        let protocol = match exchange.target {
            Target::Local { protocol, .. } => Some(protocol),
            Target::Cloud { .. } => None,
        };
        let Book { asked_lately, stirred, .. } = &mut self.books[plug];
        let lately = &mut asked_lately[route.index()];
        lately.retain(|&(.., asked)| at < asked + REPEAT_AFTER);
        let is_same =
            |known: &&(Request, Option<LanProtocol>, Duration)| known.0 == *request && known.1 == protocol;
        let before = lately.iter().rev().find(is_same).map(|&(.., asked)| asked);
        lately.push((request.clone(), protocol, at));
        if let Some(before) = before.filter(|&before| stirred.is_none_or(|stirred| stirred <= before)) {
            let words = format!("{request:?} again over the {route} route after {:?}", at - before);
            self.complain(Promise::RepeatsSlowly, Some(plug), words);
        }
    }

    /// An exchange ended or was aborted.
    pub fn ends(&mut self, plug: usize, route: Route, id: ExchangeId) {
        self.books[plug].in_flight[route.index()].take_if(|flying| *flying == id);
    }

    /// A request that switches this relay is in flight until its deadline. Returns its cause.
    pub fn switches(
        &mut self,
        plug: usize,
        relay: usize,
        state: RelayState,
        deadline: Duration,
    ) -> Option<Cause> {
        let at = self.at;
        let page = &mut self.books[plug].relays[relay];
        let until = &mut page.strays[usize::from(state.is_on())];
        *until = (*until).max(Some(deadline));
        if let Some(id) = page.newest
            && let Some(command) = self.commands.get_mut(&id)
            // A command may have its result and still continue with other parts.
            && (!command.ended || command.parts > 1)
            && command.decide(relay, state)
            && deadline <= command.deadline
        {
            return Some(Cause::Command(id));
        }
        if let Some((until, wanted)) = &mut page.correction
            && *wanted.get_or_insert(state) == state
            && deadline <= *until
        {
            return Some(Cause::Correction(page.newest));
        }
        let newest = page.newest.map_or_else(|| "none".to_owned(), |id| id.to_string());
        let known = page.newest.and_then(|id| self.commands.get(&id));
        let words = format!(
            "{state} is said at {}, to be over by {}, and the newest command is {newest}: {known:?}",
            Stamp(at),
            Stamp(deadline)
        );
        self.complain(Promise::NothingUnasked, Some(plug), words);
        None
    }

    /// The bridge reports a correction.
    pub fn corrects(&mut self, plug: usize, relay: usize, patience: Duration) {
        let at = self.at;
        let page = &mut self.books[plug].relays[relay];
        page.correction = Some((at + patience.max(SEEN_WITHIN), None));
        let drift = page.read;
        let cause = drift.and_then(|drift| page.strays[usize::from(drift.is_on())]);
        if cause.is_none_or(|until| until + SEEN_WITHIN + GRACE < at) {
            let words =
                format!("it was switched back from {drift:?} although no older command can have done that");
            self.complain(Promise::CorrectsWithCause, Some(plug), words);
        }
    }

    // --- the world ------------------------------------------------------------------------------------------------

    /// A button press, or a loss of power.
    pub fn hand(&mut self, plug: usize, relay: usize, state: RelayState) {
        let page = &mut self.books[plug].relays[relay];
        (page.standing, page.by) = (state, By::Hand);
    }

    /// A relay carried out a request.
    pub fn carried_out(&mut self, plug: usize, relay: usize, state: RelayState, cause: Option<Cause>) {
        let newest = self.books[plug].relays[relay].newest;
        let wanted = newest.and_then(|id| self.commands.get(&id)?.wants_of(relay));
        let page = &mut self.books[plug].relays[relay];
        page.undone = None;
        let is_defended = match page.by {
            By::Command(id) => newest == Some(id),
            By::Correction(of) => newest == of,
            By::Start | By::Hand | By::Unclear => false,
        };
        match (cause, newest) {
            (Some(Cause::Correction(of)), _) if newest == of => {
                (page.standing, page.by) = (state, By::Correction(of));
            }
            (Some(Cause::Command(id)), Some(newest)) if id == newest => {
                (page.standing, page.by) = (state, By::Command(newest));
            }
            // The request of an older command counts for the newest as well if both want the same: it need not be
            // repeated.
            (Some(_), Some(newest)) if wanted == Some(state) && page.by != By::Hand => {
                (page.standing, page.by) = (state, By::Command(newest));
            }
            // An older command: a newest one that was confirmed, or may yet be, is defended against it.
            _ if is_defended => {
                page.undone = page.strays[usize::from(state.is_on())].map(|until| until + SEEN_WITHIN);
            }
            _ => page.by = By::Unclear,
        }
    }

    /// Checks whether another plug than the one that was meant was switched.
    pub fn switched_in_place_of(&mut self, meant: usize, found: usize) {
        if meant != found {
            let words = format!("plug-{found} was switched in the place of plug-{meant}");
            self.complain(Promise::RightPlug, Some(meant), words);
        }
    }

    /// Checks whether a request was carried out before its deadline.
    pub fn switched_in_time(&mut self, plug: usize, deadline: Duration) {
        if self.at > deadline {
            let words = format!("a request is carried out that was to be over by {}", Stamp(deadline));
            self.complain(Promise::NothingUnasked, Some(plug), words);
        }
    }

    /// All faults have ended.
    pub fn all_is_mended(&mut self) {
        self.mended = self.at;
    }

    /// A relay without faults for long enough.
    pub fn at_rest(&mut self, plug: usize, relay: usize, state: RelayState) {
        let page = &self.books[plug].relays[relay];
        let is_clear = match page.by {
            By::Start => page.newest.is_none(),
            By::Hand => true,
            By::Correction(of) => page.newest == of,
            By::Command(id) => page.newest == Some(id) && page.ended == Some(true),
            By::Unclear => false,
        };
        // If it is seen too late, it is kept. A correction whose deadline passed before the plug could be reached is
        // over.
        let by_correction = matches!(page.by, By::Correction(_));
        let in_vain = page.correction.is_some_and(|(until, _)| !by_correction && until < self.mended + SOON);
        let is_clear = is_clear && page.undone.is_none() && !in_vain;
        if is_clear && state != page.standing {
            let words = format!("relay {relay} is {state} and should be {} by {:?}", page.standing, page.by);
            self.complain(Promise::Settles, Some(plug), words);
        }
    }

    // --- what is shown --------------------------------------------------------------------------------------------

    /// The daemon read the relays in the reply to a request that was sent at this time.
    pub fn read(&mut self, plug: usize, asked: Duration, relays: impl Iterator<Item = RelayState>) {
        let book = &mut self.books[plug];
        if book.asked.is_some_and(|known| asked < known) || book.acted.is_some_and(|acted| asked < acted) {
            return;
        }
        book.asked = Some(asked);
        let at = self.at;
        for (page, state) in book.relays.iter_mut().zip(relays) {
            page.read = Some(state);
            let is_seen = state != page.standing;
            page.undone.take_if(|until| is_seen && at <= *until);
        }
        let Some(strip) = self.last_read(plug, None) else { return };
        for command in self.commands.values_mut().filter(|command| command.plug == plug) {
            if let Some(read) = &mut command.strip_read {
                read[usize::from(strip.is_on())] = true;
            }
        }
    }

    /// The plug confirmed that it acted, possibly with its relay states in the same reply.
    pub fn switched_and_read(
        &mut self,
        plug: usize,
        asked: Duration,
        relays: Option<impl Iterator<Item = RelayState>>,
    ) {
        if let Some(relays) = relays {
            self.read(plug, asked, relays);
        }
        self.acted(plug);
    }

    /// The plug confirmed that it acted.
    pub fn acted(&mut self, plug: usize) {
        self.books[plug].acted = Some(self.at);
        self.books[plug].stirred = Some(self.at);
    }

    /// The last read state of this relay, or of a strip as a whole.
    pub fn last_read(&self, plug: usize, relay: Option<usize>) -> Option<RelayState> {
        let relays = &self.books[plug].relays;
        match relay {
            Some(relay) => relays[relay].read,
            None => {
                let all: Option<Vec<_>> = relays.iter().map(|page| page.read).collect();
                all.map(|all| RelayState::from_bool(all.into_iter().any(RelayState::is_on)))
            }
        }
    }

    // --- the protocol on the LAN ----------------------------------------------------------------------------------

    /// The plug answered over the LAN in this protocol.
    pub fn answered_in(&mut self, plug: usize, protocol: LanProtocol) {
        let notes = &mut self.books[plug].protocol;
        let before = notes.answered.replace(protocol).filter(|&before| before != protocol);
        notes.change = before.map(|before| (before, protocol, true));
    }

    /// The plug refused a request in this protocol. Not every refusal counts as an answer.
    pub fn refused_in(&mut self, plug: usize, protocol: LanProtocol) {
        let notes = &mut self.books[plug].protocol;
        let before = notes.answered.filter(|&before| before != protocol);
        notes.change = before.map(|before| (before, protocol, false));
    }

    /// The daemon reports that the plug answers in another protocol.
    pub fn reports_protocol(&mut self, plug: usize, detail: &str) {
        let notes = &mut self.books[plug].protocol;
        let is_it = |(before, after, _): &(LanProtocol, LanProtocol, bool)| {
            detail == format!("{} -> {}", word(*before), word(*after))
        };
        match notes.change.take().filter(is_it) {
            Some((_, after, _)) => notes.answered = Some(after),
            None => {
                let words = format!("{detail} is reported, and its last answer was in {:?}", notes.answered);
                self.complain(Promise::ReportsProtocol, Some(plug), words);
            }
        }
    }

    /// The turn ends in which the plug answered.
    pub fn protocol_is_reported(&mut self, plug: usize) {
        if let Some((before, after, true)) = self.books[plug].protocol.change.take() {
            let words = format!("it answered in {after:?} after {before:?}, which is not reported");
            self.complain(Promise::ReportsProtocol, Some(plug), words);
        }
    }

    // --- the account ----------------------------------------------------------------------------------------------

    pub fn calls_cloud(&mut self) {
        let passed = (self.at - self.called).as_secs_f64();
        self.called = self.at;
        self.calls = (self.calls - passed * CALLS_A_SECOND).max(0.0) + 1.0;
        if self.calls > BURST + 1e-6 {
            self.complain(
                Promise::Budget,
                None,
                format!("{:.1} calls over the second-long average", self.calls),
            );
        }
    }

    pub fn asks_for_token(&mut self) {
        if self.auth_in_flight {
            self.complain(Promise::OneLogin, None, "a second login while one is under way");
        }
        if self.refused {
            self.complain(
                Promise::NoLoginAfterRefusal,
                None,
                "a login although the account said no for good",
            );
        }
        self.auth_in_flight = true;
        self.acted_since = false;
    }

    /// A login with the password of this number is sent.
    pub fn sends_login(&mut self, password: u32) {
        if self.refused_passwords.contains(&password) {
            self.complain(Promise::NoLoginAfterRefusal, None, "a password that was refused goes out again");
        }
    }

    /// The account refuses the password of this number.
    pub fn refuses_login(&mut self, password: u32) {
        self.refused_passwords.insert(password);
    }

    /// The response to a login or refresh arrived.
    pub fn token_settled(&mut self) {
        self.auth_in_flight = false;
    }

    /// The account received a login.
    pub fn login_is_seen(&mut self) {
        // The user cleared the record while the login was in flight.
        if self.acted_since {
            return;
        }
        let at = self.at;
        let lately = self.logins.iter().filter(|&&login| at < login + LOGIN_GAP - Duration::from_secs(30));
        if lately.count() >= LOGINS_IN_GAP {
            self.complain(Promise::FewLogins, None, "a third login within ten minutes");
        }
        self.logins.retain(|&login| at < login + DAY - Duration::from_secs(30));
        self.logins.push(at);
        if self.logins.len() > LOGINS_A_DAY {
            self.complain(Promise::FewLogins, None, format!("{} logins in a day", self.logins.len()));
        }
    }

    /// The account returned an error that only its owner can resolve.
    pub fn account_refuses(&mut self) {
        self.refused = true;
    }

    pub fn user_acted(&mut self) {
        self.acted_since = true;
        self.refused = false;
        self.logins.clear();
    }

    // --- growth ---------------------------------------------------------------------------------------------------

    /// The daemon's memory at a moment of rest.
    pub fn weigh(&mut self, weight: usize) {
        let first = *self.first_weight.get_or_insert(weight);
        if weight > first * GROWTH.0 / GROWTH.1 + SLACK {
            self.complain(
                Promise::Bounded,
                None,
                format!("it holds {weight} bytes of text, and {first} at first"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use hs100d::bridge::event::Origin;

    use super::*;

    const ON: RelayState = RelayState::On;
    const OFF: RelayState = RelayState::Off;

    /// A judge with one plug, which is off.
    struct Court(Judge);

    impl Court {
        fn new() -> Self {
            Self(Judge::new(std::iter::once(vec![OFF])))
        }

        fn at(&mut self, seconds: u64) -> &mut Judge {
            self.0.at = Duration::from_secs(seconds);
            &mut self.0
        }

        /// A command to the relay, sent to the plug at once.
        fn says(&mut self, id: u64, state: RelayState) -> Option<Cause> {
            let judge = &mut self.0;
            let patience = Duration::from_secs(10);
            judge.command(CommandId::new(Origin::Mqtt, id), 0, vec![(0, Some(state))], 0, patience);
            judge.switches(0, 0, state, judge.at + Duration::from_secs(3))
        }

        /// The late effect of an older command is corrected.
        fn puts_right(&mut self, state: RelayState) {
            let judge = &mut self.0;
            judge.corrects(0, 0, Duration::from_secs(10));
            let cause = judge.switches(0, 0, state, judge.at + Duration::from_secs(3));
            judge.carried_out(0, 0, state, cause);
        }

        fn rests_at(&mut self, state: RelayState) -> Option<Broken> {
            self.0.all_is_mended();
            self.0.at_rest(0, 0, state);
            self.0.verdict()
        }
    }

    /// A relay that was corrected once, and is off.
    fn put_right() -> Court {
        let mut court = Court::new();
        court.at(0);
        let on = court.says(1, ON);
        court.at(1);
        let off = court.says(2, OFF);
        court.0.carried_out(0, 0, OFF, off);
        court.0.result(CommandId::new(Origin::Mqtt, 1), &Ended::Superseded, false, Duration::ZERO);
        court.0.result(CommandId::new(Origin::Mqtt, 2), &Ended::Ok, false, Duration::ZERO);
        court.at(2).carried_out(0, 0, ON, on);
        court.0.read(0, Duration::from_secs(2), std::iter::once(ON));
        court.puts_right(OFF);
        assert!(court.0.verdict().is_none());
        court
    }

    #[test]
    fn what_was_put_right_stands_until_the_next_command_is_carried_out() {
        assert!(put_right().rests_at(OFF).is_none());
        assert_eq!(put_right().rests_at(ON).map(|broken| broken.promise), Some(Promise::Settles));
    }

    #[test]
    fn a_request_of_an_older_command_that_wants_the_same_as_the_newest_is_the_newests() {
        for (state, is_right) in [(ON, true), (OFF, false)] {
            let mut court = put_right();
            court.at(100);
            let said = court.says(3, ON);
            // The request is in flight; the same command again needs no request of its own.
            court.0.command(
                CommandId::new(Origin::Mqtt, 4),
                0,
                vec![(0, Some(ON))],
                0,
                Duration::from_secs(10),
            );
            court.0.result(CommandId::new(Origin::Mqtt, 3), &Ended::Superseded, false, Duration::ZERO);
            court.at(101).carried_out(0, 0, ON, said);
            court.0.read(0, Duration::from_secs(101), std::iter::once(ON));
            court.0.result(CommandId::new(Origin::Mqtt, 4), &Ended::Ok, false, Duration::ZERO);
            assert_eq!(court.rests_at(state).is_none(), is_right, "{state} in the end");
        }
    }

    #[test]
    fn a_strip_is_toggled_as_one_and_against_what_was_read() {
        let (patience, second) = (Duration::from_secs(10), Duration::from_secs(1));
        for (read, said, is_right) in [
            ([ON, OFF], [OFF, OFF], true),
            ([OFF, OFF], [ON, ON], true),
            ([ON, OFF], [OFF, ON], false),
            ([ON, OFF], [ON, ON], false),
        ] {
            let mut judge = Judge::new(std::iter::once(read.to_vec()));
            judge.read(0, Duration::ZERO, read.into_iter());
            judge.at = second;
            judge.command(CommandId::new(Origin::Mqtt, 1), 0, vec![(0, None), (1, None)], 0, patience);
            for (relay, state) in said.into_iter().enumerate() {
                judge.switches(0, relay, state, second * 2);
            }
            let promise = judge.verdict().map(|broken| broken.promise);
            assert_eq!(promise, (!is_right).then_some(Promise::NothingUnasked), "{read:?}: {said:?}");
        }
    }

    #[test]
    fn a_change_of_protocol_is_reported_with_the_first_answer_and_only_then() {
        use LanProtocol::{Klap, Xor};
        let reported = |answers: &[LanProtocol], report: Option<&str>| {
            let mut judge = Court::new().0;
            for &protocol in answers {
                judge.protocol_is_reported(0);
                judge.answered_in(0, protocol);
            }
            if let Some(detail) = report {
                judge.reports_protocol(0, detail);
            }
            judge.protocol_is_reported(0);
            judge.verdict().map(|broken| broken.promise)
        };
        let broken = Some(Promise::ReportsProtocol);
        assert_eq!(reported(&[Xor, Xor], None), None);
        assert_eq!(reported(&[Xor, Klap], Some("xor -> klap")), None);
        assert_eq!(reported(&[Xor, Klap], None), broken);
        assert_eq!(reported(&[Xor, Klap], Some("klap -> xor")), broken);
        assert_eq!(reported(&[Klap], Some("xor -> klap")), broken, "the first answer is no change");
        assert_eq!(reported(&[Xor, Xor], Some("xor -> klap")), broken);
    }

    #[test]
    fn a_change_since_the_last_daemon_is_reported_by_the_next_one() {
        let mut judge = Court::new().0;
        judge.answered_in(0, LanProtocol::Xor);
        judge.daemon_is_new();
        judge.answered_in(0, LanProtocol::Klap);
        judge.protocol_is_reported(0);
        assert_eq!(judge.verdict().map(|broken| broken.promise), Some(Promise::ReportsProtocol));
    }

    #[test]
    fn each_command_has_its_own_number_whatever_the_daemon_calls_it() {
        let mut court = Court::new();
        let cause = court.says(7, ON);
        court.0.daemon_is_new();
        assert_ne!(court.says(7, OFF), cause);
    }
}
