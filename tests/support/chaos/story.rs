//! The log of a run: the last lines of each plug and of the home, printed when a promise is broken, or all lines for a
//! replay.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// The number of lines that are kept for one plug.
const LINES: usize = 80;

/// What is printed during the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Listener {
    /// Nothing, unless a promise is broken.
    #[default]
    Nobody,
    /// The lines about the home as a whole.
    Home,
    /// The lines about the home and about this plug, including each poll.
    Plug(usize),
    /// Everything except polls.
    All,
    /// Nothing is printed; everything, including polls and messages to the broker, is kept for later.
    Written,
}

/// The last lines, by plug; those of the home come last.
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

    /// Everything that was kept.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Whether messages to the broker get a line.
    pub fn wants_messages(&self) -> bool {
        self.listener == Listener::Written
    }

    /// Whether polls of this plug get a line.
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

    /// The last lines about a plug and about the home, in order.
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

/// A time since the start, as day and time of day.
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
