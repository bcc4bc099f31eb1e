//! What happened, in words: the last of it for each plug and for the house, kept for the moment in which a promise
//! is broken, or all of it for whoever replays a run.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// So many lines of one plug are kept.
const LINES: usize = 80;

/// Who hears the story while it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listener {
    /// Nobody: it is told only if a promise breaks.
    #[default]
    Nobody,
    /// Somebody who wants to hear of the house as a whole.
    Home,
    /// Somebody who wants to hear of the house and of this plug, each poll included.
    Plug(usize),
    /// Somebody who wants to hear everything but polls.
    All,
    /// Somebody who has all of it written down, polls and messages to the broker included, to read it afterwards.
    Written,
}

/// The last that happened, by plug; the house comes last.
#[derive(Debug)]
pub struct Story {
    lines: Vec<VecDeque<(Duration, Box<str>)>>,
    listener: Listener,
    written: String,
}

impl Story {
    pub fn new(plugs: usize, listener: Listener) -> Self {
        Self { lines: vec![VecDeque::new(); plugs + 1], listener, written: String::new() }
    }

    /// All that was written down.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Whether each message to the broker is worth a line.
    pub fn wants_messages(&self) -> bool {
        self.listener == Listener::Written
    }

    /// Whether polls of this plug are worth a line.
    pub fn wants_polls(&self, plug: usize) -> bool {
        matches!(self.listener, Listener::Plug(_) | Listener::Written) && self.hears(Some(plug))
    }

    pub fn tell(&mut self, at: Duration, plug: Option<usize>, line: impl Into<Box<str>>) {
        let line = line.into();
        if self.hears(plug) {
            let text = format!("{}  {}{line}\n", Stamp(at), Who(plug));
            match self.listener {
                Listener::Written => self.written.push_str(&text),
                _ => print!("{text}"),
            }
        }
        let home = self.lines.len() - 1;
        let lines = &mut self.lines[plug.unwrap_or(home)];
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back((at, line));
    }

    fn hears(&self, plug: Option<usize>) -> bool {
        match (self.listener, plug) {
            (Listener::All | Listener::Written, _) | (Listener::Home | Listener::Plug(_), None) => true,
            (Listener::Plug(wanted), Some(plug)) => wanted == plug,
            (Listener::Nobody, _) | (Listener::Home, Some(_)) => false,
        }
    }

    /// The last lines about a plug and about the house, in their order.
    pub fn last_of(&self, plug: Option<usize>) -> String {
        let home = self.lines.len() - 1;
        let of = |place: usize| self.lines[place].iter().map(move |(at, line)| (*at, place, &**line));
        let mut lines: Vec<_> = plug.into_iter().flat_map(of).chain(of(home)).collect();
        lines.sort_by_key(|&(at, ..)| at);
        let text = |(at, place, line): (Duration, usize, &str)| {
            format!("  {}  {}{line}\n", Stamp(at), Who((place < home).then_some(place)))
        };
        lines.into_iter().map(text).collect()
    }
}

/// A moment since the start, as a day and a time of day.
pub struct Stamp(pub Duration);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (day, hour, minute) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        write!(f, "day {day} {hour:02}:{minute:02}:{:02}.{:03}", seconds % 60, self.0.subsec_millis())
    }
}

struct Who(Option<usize>);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(plug) => write!(f, "plug-{plug}: "),
            None => Ok(()),
        }
    }
}
