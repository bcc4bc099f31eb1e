//! What a request says besides its path: the query, the body, and the form that the answer should have.
//!
//! The input is untrusted: what is not understood is refused with the words that would be. `middleware` has bounded it.

use std::borrow::Cow;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRef, FromRequest, FromRequestParts, Path, Request};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use http::request::Parts;
use http::{StatusCode, Uri};
use serde_json::{Map, Value};

use super::calls::Caller;
use super::problem::Problem;
use hs100d_core::model::{PlugName, shown};

/// The most characters of an unknown word that an error repeats.
const MAX_SHOWN: usize = 32;
const FORM: &str = "application/x-www-form-urlencoded";

/// The plug that a path names.
#[derive(Debug)]
pub(crate) struct NamedPlug(pub(crate) PlugName);

impl<S: Send + Sync> FromRequestParts<S> for NamedPlug {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await.ok();
        let name = path.and_then(|Path(name)| PlugName::new(&name).ok());
        name.map(Self).ok_or_else(|| no_plug("there is no plug of this name"))
    }
}

/// A request to change something, as its handler gets it.
#[derive(Debug)]
pub(crate) struct ChangeRequest {
    pub(crate) caller: Caller,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for ChangeRequest
where
    Caller: FromRef<S>,
{
    type Rejection = BytesRejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, BytesRejection> {
        let (uri, headers) = (request.uri().clone(), request.headers().clone());
        let body = Bytes::from_request(request, state).await?;
        Ok(Self { caller: Caller::from_ref(state), uri, headers, body })
    }
}

pub(crate) fn no_plug(why: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("{why}: GET /api/v1/plugs lists the names"))
}

/// The form of the answer to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// The `result` document.
    Json,
    /// The state alone: `ON` or `OFF`.
    Text,
    /// A browser that sent a form: back to the page.
    Page,
}

impl Accepted {
    /// What the client prefers. One that does not say gets JSON.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
        let ranges = lines.flat_map(|line| line.split(','));
        let mut best = (Self::Json, 0.0);
        for range in ranges {
            let (kind, quality) = kind_and_quality(range);
            let form = match kind.trim().to_ascii_lowercase().as_str() {
                "text/html" => Self::Page,
                "text/plain" | "text/*" => Self::Text,
                "application/json" | "application/problem+json" | "application/*" | "*/*" => Self::Json,
                _ => continue,
            };
            if quality > best.1 {
                best = (form, quality);
            }
        }
        best.0
    }
}

/// `text/html;q=0.9` in its two parts.
fn kind_and_quality(range: &str) -> (&str, f32) {
    let mut parts = range.split(';');
    let kind = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.trim().strip_prefix("q=")?.trim().parse().ok());
    (kind, quality.unwrap_or(1.0))
}

/// The parameters of a query, each of them once.
#[derive(Debug)]
pub(crate) struct Parameters<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Parameters<'a> {
    /// Those of this query. Each must be one of `known`.
    pub(crate) fn of(uri: &'a Uri, known: &[&str]) -> Result<Self, Problem> {
        let mut found = Self(Vec::new());
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            // The guard has read it.
            if name == "token" {
                continue;
            }
            if !known.contains(&&*name) {
                let there_are = match known {
                    [] => "there are none".to_owned(),
                    known => format!("there are {}", known.join(", ")),
                };
                return Err(bad(format!("{}: no such parameter: {there_are}", shown(&name, MAX_SHOWN))));
            }
            if found.get(&name).is_some() {
                return Err(bad(format!("{name} is there twice: give it once")));
            }
            found.0.push((name, value));
        }
        Ok(found)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }
}

/// The body of a command. A form becomes the JSON of its fields; anything else stays as it is.
pub(crate) fn command_body(headers: &HeaderMap, body: &Bytes) -> Result<Bytes, Problem> {
    // `curl -d ON` sends a form that is none.
    if is_form(headers) && body.contains(&b'=') && !body.trim_ascii_start().starts_with(b"{") {
        return form(body).map(|fields| Value::Object(fields).to_string().into());
    }
    Ok(body.clone())
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(FORM))
}

fn form(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    let mut fields = Map::new();
    for (name, value) in form_urlencoded::parse(body) {
        // A field that was left empty says nothing.
        if value.is_empty() {
            continue;
        }
        let twice = format!("{} is there twice: give it once", shown(&name, MAX_SHOWN));
        if fields.insert(name.into_owned(), Value::String(value.into_owned())).is_some() {
            return Err(bad(twice));
        }
    }
    Ok(fields)
}

pub(crate) fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(line: &str) -> Accepted {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, line.parse().unwrap());
        Accepted::of(&headers)
    }

    #[test]
    fn the_answer_has_the_form_that_the_client_prefers() {
        assert_eq!(Accepted::of(&HeaderMap::new()), Accepted::Json);
        for (line, expected) in [
            ("*/*", Accepted::Json),
            ("text/plain", Accepted::Text),
            ("Text/Plain; charset=utf-8", Accepted::Text),
            ("application/json, text/plain, */*", Accepted::Json),
            ("text/plain;q=0.5, application/json", Accepted::Json),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Accepted::Page),
            ("text/html;q=0", Accepted::Json),
            ("image/png", Accepted::Json),
            ("text/html;q=x", Accepted::Page),
            ("", Accepted::Json),
        ] {
            assert_eq!(accepts(line), expected, "{line}");
        }
    }

    #[test]
    fn an_unknown_or_repeated_parameter_is_refused_with_those_that_exist() {
        let uri = |query: &str| format!("/x?{query}").parse::<Uri>().unwrap();
        let read = |uri: &Uri| Parameters::of(uri, &["for", "wait"]).map(|found| found.0.len());
        assert_eq!(read(&uri("for=30m&wait=0&token=secret")), Ok(2));
        let fault = |text: &str| Err(bad(text));
        assert_eq!(read(&uri("fro=30m")), fault("fro: no such parameter: there are for, wait"));
        assert_eq!(read(&uri("for=1m&for=2m")), fault("for is there twice: give it once"));
    }

    #[test]
    fn a_form_becomes_json_and_a_word_stays_a_word() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8".parse().unwrap());
        for (body, expected) in [
            ("state=on&for=30m", r#"{"for":"30m","state":"on"}"#),
            ("state=on&for=", r#"{"state":"on"}"#),
            ("alias=caf%C3%A9+bar", r#"{"alias":"café bar"}"#),
            ("ON", "ON"),
            ("", ""),
            (r#" {"state":"ON","alias":"a=b"}"#, r#" {"state":"ON","alias":"a=b"}"#),
        ] {
            assert_eq!(command_body(&headers, &body.into()), Ok(expected.into()), "{body}");
        }
        let twice = bad("state is there twice: give it once");
        assert_eq!(command_body(&headers, &"state=on&state=off".into()), Err(twice));
        let read = command_body(&HeaderMap::new(), &"state=on".into());
        assert_eq!(read, Ok("state=on".into()), "without the header it is no form");
    }
}
