//! Parses server-sent events: bytes in, events out. Pure.

use serde_json::Value;

/// The longest event, in bytes: a snapshot of 10,000 plugs has a tenth of it.
const MAX_EVENT: usize = 64 << 20;

/// What the daemon reports: a snapshot, or a change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ReportedEvent {
    /// `snapshot`, `state`, `energy`, …
    pub(super) kind: String,
    pub(super) data: Value,
}

/// Takes a stream apart, as it comes.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    /// What is not taken apart yet.
    buffer: Vec<u8>,
    /// The bytes of it that hold no end of an event.
    searched: usize,
}

/// The stream is not one of hs100d.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotEvents;

impl EventParser {
    /// The next bytes of the stream.
    ///
    /// # Errors
    /// An event is too long.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), NotEvents> {
        if self.buffer.len() + bytes.len() > MAX_EVENT {
            return Err(NotEvents);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next event that is complete. Comments and fields without a meaning here are skipped.
    ///
    /// # Errors
    /// An event is not JSON.
    pub(super) fn next(&mut self) -> Result<Option<ReportedEvent>, NotEvents> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(found) = rest.windows(2).position(|pair| pair == b"\n\n") else {
                self.searched = self.buffer.len().saturating_sub(1);
                return Ok(None);
            };
            let end = self.searched + found;
            let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
            self.searched = 0;
            if let Some(event) = parse(&block)? {
                return Ok(Some(event));
            }
        }
    }
}

/// The event of a block of lines; `None` if it has no data.
fn parse(block: &[u8]) -> Result<Option<ReportedEvent>, NotEvents> {
    let block = std::str::from_utf8(block).map_err(|_| NotEvents)?;
    let (mut kind, mut data) = (None, String::new());
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => kind = Some(value),
            "data" => data.push_str(value),
            _ => {}
        }
    }
    if data.is_empty() {
        return Ok(None);
    }
    let data = serde_json::from_str(&data).map_err(|_| NotEvents)?;
    Ok(Some(ReportedEvent { kind: kind.unwrap_or("message").to_owned(), data }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const STREAM: &str = "retry: 3000\n\nevent: snapshot\nid: 1\ndata: {\"plugs\":[]}\n\n: alive\n\n\
                          event:state\ndata:{\"plug\":\"lamp\",\ndata: \"state\":\"ON\"}\n\n";

    #[test]
    fn events_are_taken_apart_however_the_bytes_come() {
        let expected =
            [("snapshot", json!({"plugs": []})), ("state", json!({"plug": "lamp", "state": "ON"}))];
        for size in 1..STREAM.len() {
            let mut parser = EventParser::default();
            let mut events = Vec::new();
            for bytes in STREAM.as_bytes().chunks(size) {
                parser.feed(bytes).unwrap();
                while let Some(event) = parser.next().unwrap() {
                    events.push((event.kind, event.data));
                }
            }
            assert_eq!(events, expected.clone().map(|(kind, data)| (kind.to_owned(), data)), "{size}");
        }
    }

    #[test]
    fn what_is_no_json_or_has_no_end_is_refused() {
        for bytes in [&b"data: <html>\n\n"[..], b"data: \xff\n\n"] {
            let mut parser = EventParser::default();
            parser.feed(bytes).unwrap();
            assert_eq!(parser.next(), Err(NotEvents));
        }
        let mut parser = EventParser::default();
        let half = vec![b'x'; MAX_EVENT / 2];
        parser.feed(&half).unwrap();
        parser.feed(&half).unwrap();
        assert_eq!((parser.next(), parser.feed(b"x")), (Ok(None), Err(NotEvents)));
    }
}
