//! The doctor's report: one line per subject for people, with each try below it if they ask for more, and JSON with
//! stable keys for programs.

use std::fmt::Write as _;
use std::time::Instant;

use serde::Serialize;

use crate::cause::Cause;
use crate::commands::{Exit, Failed};

/// All findings.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Report {
    /// Whether nothing is wrong.
    ok: bool,
    subjects: Vec<Finding>,
}

/// What was found of one subject.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    subject: FindingSubject,
    /// The name of a plug, or which of several brokers or addresses it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    ok: bool,
    /// What came back, in one line.
    found: String,
    /// The likely cause of a failure or a note: a word that does not change.
    cause: Option<&'static str>,
    /// What to do.
    remedy: Option<String>,
    tries: Vec<Try>,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FindingSubject {
    Broker,
    Cloud,
    Lan,
    Plug,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Try {
    what: String,
    came_back: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<u64>,
}

impl Report {
    pub(super) fn of(findings: impl IntoIterator<Item = Finding>) -> Self {
        let subjects: Vec<_> = findings.into_iter().collect();
        Self { ok: subjects.iter().all(|finding| finding.ok), subjects }
    }

    /// One line per subject, with the tries below it if wanted.
    pub(in crate::commands) fn in_words(&self, with_tries: bool) -> String {
        let mut text = String::new();
        for finding in &self.subjects {
            _ = writeln!(text, "{}", finding.line());
            for Try { what, came_back, took_ms } in finding.tries.iter().filter(|_| with_tries) {
                let took = took_ms.map_or_else(String::new, |took| format!(" ({took} ms)"));
                _ = writeln!(text, "        {what}: {came_back}{took}");
            }
        }
        text
    }

    /// What to exit with.
    pub(in crate::commands) fn verdict(&self) -> Result<(), Failed> {
        if self.ok {
            return Ok(());
        }
        let failed = self.subjects.iter().filter(|finding| !finding.ok).count();
        let line = format!(
            "check: {failed} of {} do not work: see the lines above, `-v` for each try, and docs/TROUBLESHOOTING.md",
            self.subjects.len()
        );
        Err(Failed::new(Exit::Unavailable, line))
    }
}

impl Finding {
    /// Nothing is wrong.
    pub(super) fn good(subject: FindingSubject, found: impl Into<String>) -> Self {
        let found = found.into();
        Self { subject, name: None, ok: true, found, cause: None, remedy: None, tries: Vec::new() }
    }

    /// Something is wrong, most likely for this cause.
    pub(super) fn bad(subject: FindingSubject, found: impl Into<String>, cause: Cause) -> Self {
        let (cause, remedy) = (Some(cause.word), Some(cause.advice()));
        Self { ok: false, cause, remedy, ..Self::good(subject, found) }
    }

    /// Nothing is wrong, but something is worth knowing.
    pub(super) fn note(subject: FindingSubject, found: impl Into<String>, cause: Cause) -> Self {
        Self { ok: true, ..Self::bad(subject, found, cause) }
    }

    /// Good without a cause, else bad.
    pub(super) fn of(subject: FindingSubject, found: impl Into<String>, cause: Option<Cause>) -> Self {
        let found = found.into();
        match cause {
            None => Self::good(subject, found),
            Some(cause) => Self::bad(subject, found, cause),
        }
    }

    pub(super) fn named(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    pub(super) fn after(self, tries: Vec<Try>) -> Self {
        Self { tries, ..self }
    }

    fn line(&self) -> String {
        let verdict = match (self.ok, self.cause) {
            (true, None) => "ok  ",
            (true, Some(_)) => "note",
            (false, _) => "FAIL",
        };
        let subject = match (self.subject, &self.name) {
            (FindingSubject::Broker, Some(name)) => &format!("broker {name}"),
            (FindingSubject::Broker, None) => "broker",
            (FindingSubject::Cloud, _) => "cloud",
            (FindingSubject::Lan, _) => "LAN",
            (FindingSubject::Plug, Some(name)) => &format!("plug {name}"),
            (FindingSubject::Plug, None) => "plug",
        };
        let mut line = format!("{verdict}  {subject}: {}", self.found);
        if let (Some(cause), Some(remedy)) = (self.cause, &self.remedy) {
            _ = write!(line, ": {remedy} [{cause}]");
        }
        line
    }
}

impl Try {
    pub(super) fn new(what: impl Into<String>, came_back: impl Into<String>) -> Self {
        Self { what: what.into(), came_back: came_back.into(), took_ms: None }
    }

    /// A try that began then and has just ended.
    pub(super) fn since(begun: Instant, what: impl Into<String>, came_back: impl Into<String>) -> Self {
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self { took_ms: Some(took), ..Self::new(what, came_back) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause;

    fn report() -> Report {
        let tries = vec![Try::new("get_sysinfo over TCP at 192.0.2.7:9999", "connection refused")];
        let plug = Finding::bad(FindingSubject::Plug, "LAN: connection refused", cause::PORT_DEAD);
        Report::of([Finding::good(FindingSubject::Broker, "connected"), plug.named("lamp").after(tries)])
    }

    #[test]
    fn people_get_one_line_per_subject_and_more_only_if_they_ask() {
        let remedy = cause::PORT_DEAD.remedy;
        let line = format!("FAIL  plug lamp: LAN: connection refused: {remedy} [port-dead]\n");
        assert_eq!(report().in_words(false), format!("ok    broker: connected\n{line}"));
        let tried = "        get_sysinfo over TCP at 192.0.2.7:9999: connection refused\n";
        assert_eq!(report().in_words(true), format!("ok    broker: connected\n{line}{tried}"));
        assert_eq!(report().verdict().unwrap_err().exit, Exit::Unavailable);
    }

    #[test]
    fn a_note_has_its_cause_and_fails_nothing() {
        let cause = cause::NOT_IN_ACCOUNT;
        let report = Report::of([Finding::note(FindingSubject::Plug, "LAN: answers", cause).named("lamp")]);
        let line = format!("note  plug lamp: LAN: answers: {} [not-in-account]\n", cause.remedy);
        assert_eq!((report.in_words(false), report.verdict()), (line, Ok(())));
        let json = serde_json::to_value(report).unwrap();
        assert_eq!((&json["ok"], &json["subjects"][0]["ok"]), (&true.into(), &true.into()));
        assert_eq!(json["subjects"][0]["cause"], "not-in-account");
    }

    #[test]
    fn programs_get_json_with_stable_keys() {
        let json = serde_json::to_value(report()).unwrap();
        let expected = serde_json::json!({"ok": false, "subjects": [
            {"subject": "broker", "ok": true, "found": "connected", "cause": null, "remedy": null, "tries": []},
            {"subject": "plug", "name": "lamp", "ok": false, "found": "LAN: connection refused", "cause": "port-dead",
             "remedy": cause::PORT_DEAD.remedy,
             "tries": [{"what": "get_sysinfo over TCP at 192.0.2.7:9999", "came_back": "connection refused"}]},
        ]});
        assert_eq!(json, expected);
    }
}
