//! How a line looks to a person: the time, how bad it is, and the message; of the fields only what the message has
//! not said already.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FormatFields, Layer};
use tracing_subscriber::registry::Registry;

use super::LogOptions;

/// Fields that repeat a part of the message, for programs.
const SAID: [&str; 4] = ["event", "plug", "route", "reason"];

pub(super) type PlainLayer = Layer<Registry, PlainFields, Format, fn() -> io::Stderr>;

pub(super) fn layer(options: LogOptions<'_>) -> PlainLayer {
    Layer::default()
        .with_writer(io::stderr as fn() -> io::Stderr)
        .with_ansi(io::stderr().is_terminal() && !options.no_color)
        .with_target(options.verbosity > 0)
        .fmt_fields(PlainFields)
}

/// The time of a line to the second, in UTC: more would only be in the way of reading.
pub(super) struct Seconds;

impl FormatTime for Seconds {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", humantime::format_rfc3339_seconds(SystemTime::now()))
    }
}

/// Writes the message, and behind it what else there is.
pub(super) struct PlainFields;

impl<'w> FormatFields<'w> for PlainFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = LogLine::default();
        fields.record(&mut line);
        write_printable(&mut writer, &line.message)?;
        for (name, value) in line.fields {
            if !(SAID.contains(&name) && line.message.contains(value.trim_matches('"'))) {
                write_printable(&mut writer, &format!(" {name}={value}"))?;
            }
        }
        Ok(())
    }
}

/// A line in parts.
#[derive(Default)]
struct LogLine {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for LogLine {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => self.fields.push((name, text)),
        }
    }
}

/// What strangers send ends up in lines as well, and may neither begin a new one nor colour the terminal.
fn write_printable(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    for character in text.chars() {
        if character.is_control() {
            write!(writer, "{}", character.escape_default())?;
        } else {
            writer.write_char(character)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Paper {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written when this happens.
    fn written(what: impl FnOnce()) -> String {
        let paper = Paper::default();
        let pen = paper.clone();
        let layer = Layer::default().with_writer(move || pen.clone()).with_ansi(false).with_target(false);
        let layer = layer.without_time().fmt_fields(PlainFields);
        tracing::subscriber::with_default(Registry::default().with(layer), what);
        let text = paper.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_the_message_has_said_is_not_said_again() {
        let reason = "no answer";
        let line = written(|| tracing::warn!(plug = "lamp", reason, "lamp: plug_offline: {reason}"));
        assert_eq!(line, " WARN lamp: plug_offline: no answer\n");
        let line = written(|| tracing::info!(plug = "lamp", took = 3, "answered"));
        assert_eq!(line, " INFO answered plug=\"lamp\" took=3\n");
    }

    #[test]
    fn what_strangers_send_stays_on_its_line_and_without_colour() {
        let line =
            written(|| tracing::warn!(error = %"a\nb", "the broker says \u{1b}[31mred\n WARN all is lost"));
        assert_eq!(line, " WARN the broker says \\u{1b}[31mred\\n WARN all is lost error=a\\nb\n");
    }
}
