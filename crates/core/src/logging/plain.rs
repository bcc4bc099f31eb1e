//! The format of a line on a terminal: time, level, message, and the fields that are not in the message.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FormatFields, Layer};
use tracing_subscriber::registry::Registry;

use super::options::LogOptions;

/// The fields that may repeat a part of the message.
const FOR_PROGRAMS: [&str; 4] = ["event", "plug", "route", "reason"];

pub(super) type PlainLayer = Layer<Registry, PlainFields, Format, fn() -> io::Stderr>;

pub(super) fn layer(options: LogOptions<'_>) -> PlainLayer {
    Layer::default()
        .with_writer(io::stderr as fn() -> io::Stderr)
        .with_ansi(io::stderr().is_terminal() && !options.no_color)
        .with_target(options.verbosity > 0)
        .fmt_fields(PlainFields)
}

/// The time in UTC, to the second.
pub(super) struct Seconds;

impl FormatTime for Seconds {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{}", humantime::format_rfc3339_seconds(SystemTime::now()))
    }
}

/// Writes the message, then the other fields.
pub(super) struct PlainFields;

impl<'w> FormatFields<'w> for PlainFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = LogLine::default();
        fields.record(&mut line);
        write_printable(&mut writer, &line.message)?;
        for (name, value) in line.fields {
            if !(FOR_PROGRAMS.contains(&name) && line.message.contains(value.trim_matches('"'))) {
                write_printable(&mut writer, &format!(" {name}={value}"))?;
            }
        }
        Ok(())
    }
}

/// The message and the fields of a line.
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

/// Lines may quote foreign text, which must neither begin a new line nor control the terminal.
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
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that a closure logs.
    fn lines(log: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let layer = Layer::default().with_writer(move || writer.clone()).with_ansi(false).with_target(false);
        let layer = layer.without_time().fmt_fields(PlainFields);
        tracing::subscriber::with_default(Registry::default().with(layer), log);
        let text = written.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_field_that_is_in_the_message_is_not_repeated() {
        let reason = "no answer";
        let line = lines(|| tracing::warn!(plug = "lamp", reason, "lamp: plug_offline: {reason}"));
        assert_eq!(line, " WARN lamp: plug_offline: no answer\n");
        let line = lines(|| tracing::info!(plug = "lamp", took = 3, "answered"));
        assert_eq!(line, " INFO answered plug=\"lamp\" took=3\n");
    }

    #[test]
    fn foreign_text_stays_on_its_line_and_without_colour() {
        let line =
            lines(|| tracing::warn!(error = %"a\nb", "the broker says \u{1b}[31mred\n WARN all is lost"));
        assert_eq!(line, " WARN the broker says \\u{1b}[31mred\\n WARN all is lost error=a\\nb\n");
    }
}
