//! The description of the interface, for programs. Tests compare it with the table of paths and with the documents.

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;

const OPENAPI: &str = include_str!("openapi.json");

/// `GET /openapi.json`
pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;
    use std::time::{Duration, Instant, SystemTime};

    use http::StatusCode;
    use serde::Serialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::document::{
        AcceptedDocument, BridgeWithBroker, HistoryDocument, PlugDocument, SnapshotDocument,
    };
    use crate::history::History;
    use crate::overview::{BrokerStatus, DaemonInfo, Overview};
    use crate::problem::Problem;
    use crate::routes::ENDPOINTS;
    use hs100d_core::bridge::counters::{CloudRequests, CommandCounts, CommandDurations};
    use hs100d_core::bridge::event::{
        BridgeInfo, CloudStatus, CommandId, CommandResult, Ended, Energy, Identity, Origin, OutletInfo,
        PlugInfo, PlugState,
    };
    use hs100d_core::bridge::failures::{Failures, LastError, PlugError};
    use hs100d_core::bridge::snapshot::{PlugSnapshot, Snapshot};
    use hs100d_core::bridge::unserved::UnservedDevice;
    use hs100d_core::model::{
        Address, Availability, DeviceId, Failure, LanProtocol, Mac, PlugName, RelayState, Route,
    };
    use hs100d_core::payload::command::{self, CommandPart};
    use hs100d_core::payload::document::{ResponseDocument, ResultDocument};
    use hs100d_core::payload::{self, Clock};
    use hs100d_core::smarthome::message::{DeviceInfo, Meter, OutletDescription, ScheduleRule};

    const PAGE: &str = include_str!("../../../docs/HTTP.md");

    fn described() -> Value {
        serde_json::from_str(OPENAPI).unwrap()
    }

    fn resolved<'a>(all: &'a Value, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(path) => all.pointer(path.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{path}")),
            None => value,
        }
    }

    #[test]
    fn every_path_method_and_parameter_is_described_and_no_other_is() {
        let all = described();
        let mut described = BTreeMap::new();
        for (path, methods) in all["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let mut parameters = BTreeSet::new();
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let parameter = resolved(&all, parameter);
                    let [place, name] = ["in", "name"].map(|key| parameter[key].as_str().unwrap());
                    assert!(parameter["schema"].is_object(), "{path} {name}");
                    parameters.insert(format!("{place} {name}"));
                }
                described.insert((path.clone(), method.to_uppercase()), parameters);
            }
        }
        let mut served = BTreeMap::new();
        for endpoint in ENDPOINTS {
            let in_path = endpoint.path.contains("{name}").then(|| "path name".to_owned());
            let is_simple_get = endpoint.method == "GET" && endpoint.scope == crate::guard::Scope::Change;
            let token = is_simple_get.then(|| "query token".to_owned());
            let in_query = endpoint.query.iter().map(|name| format!("query {name}"));
            let parameters: BTreeSet<_> = in_path.into_iter().chain(token).chain(in_query).collect();
            let method = endpoint.method.to_owned();
            assert!(
                served.insert((endpoint.path.to_owned(), method), parameters).is_none(),
                "{}",
                endpoint.path
            );
        }
        assert_eq!(described, served);
    }

    /// Documents by schema: whether they fit, and which of its fields occurred.
    struct Samples {
        all: Value,
        seen: BTreeMap<String, BTreeSet<String>>,
    }

    impl Samples {
        fn add(&mut self, schema: &str, document: &impl Serialize) {
            self.check(
                &json!({ "$ref": format!("#/components/schemas/{schema}") }),
                &payload::value(document),
                schema,
            );
        }

        fn check(&mut self, schema: &Value, value: &Value, at: &str) {
            if let Some(name) = schema["$ref"].as_str() {
                let name = name.rsplit('/').next().unwrap().to_owned();
                let schema = self.all["components"]["schemas"][&name].clone();
                assert!(schema.is_object(), "{at}: no schema {name}");
                if let (Some(found), Some(_)) = (value.as_object(), schema["properties"].as_object()) {
                    self.seen.entry(name.clone()).or_default().extend(found.keys().cloned());
                }
                return self.check(&schema, value, &name);
            }
            if let Some(choices) = schema["anyOf"].as_array() {
                let is_null = |schema: &&Value| schema["type"] == "null";
                let choice = choices.iter().find(|schema| is_null(schema) == value.is_null()).unwrap();
                return self.check(&choice.clone(), value, at);
            }
            self.check_type(schema, value, at);
            if let Some(words) = schema["enum"].as_array() {
                assert!(words.contains(value), "{at}: {value}");
            }
            if let (Some(properties), Some(found)) = (schema["properties"].as_object(), value.as_object()) {
                for required in schema["required"].as_array().into_iter().flatten() {
                    assert!(found.contains_key(required.as_str().unwrap()), "{at}: {required} is missing");
                }
                for (key, value) in found {
                    let property =
                        properties.get(key).unwrap_or_else(|| panic!("{at}: {key} is not described"));
                    self.check(&property.clone(), value, &format!("{at}.{key}"));
                }
            }
            for value in value.as_array().into_iter().flatten() {
                self.check(&schema["items"].clone(), value, at);
            }
        }

        fn check_type(&self, schema: &Value, value: &Value, at: &str) {
            let types = match &schema["type"] {
                Value::Null => return,
                Value::Array(types) => types.clone(),
                one => vec![one.clone()],
            };
            let fits = |kind: &Value| match kind.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "number" => value.is_number(),
                "integer" => value.is_i64() || value.is_u64(),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                other => panic!("{at}: {other}"),
            };
            assert!(types.iter().any(fits), "{at}: {value} is none of {types:?}");
        }
    }

    fn device() -> DeviceInfo {
        let outlet = OutletDescription { id: "00".into(), alias: "Lamp".into() };
        DeviceInfo {
            device_id: DeviceId::new("8006AABBCCDD"),
            mac: Mac::new("50C7BF000001"),
            alias: "Desk".into(),
            model: "HS300(US)".into(),
            hw_version: "1.0".into(),
            sw_version: "1.0.6".into(),
            kind: "IOT.SMARTPLUGSWITCH".into(),
            feature: "TIM:ENE".into(),
            dev_name: "Wi-Fi Smart Power Strip".into(),
            dims: false,
            outlets: [outlet].into(),
        }
    }

    /// A plug of which everything is known; and one of which nothing is.
    fn plugs(now: Instant) -> [PlugSnapshot; 2] {
        let name = PlugName::new("desk").unwrap();
        let rule = ScheduleRule {
            name: "evening".into(),
            enabled: true,
            then: Some(RelayState::On),
            at: "18:00".into(),
            days: [true; 7],
        };
        let info = PlugInfo {
            device: Arc::new(device()),
            address: Address::new("192.168.7.9", 9999),
            protocol: Some(LanProtocol::Klap),
            rssi: Some(-40),
            cloud_connected: Some(true),
            outlet: Some(OutletInfo { number: 0, strip: name.clone() }),
            outlets: [name.clone()].into(),
            schedule: Some([rule].into()),
        };
        let state = PlugState {
            relay: RelayState::On,
            route: None,
            led: Some(RelayState::Off),
            on_since: Some(now),
            brightness: Some(40),
            until: Some(now),
        };
        let meter = Meter { power: Some(1.0), voltage: Some(230.0), current: Some(0.1), total: Some(2.0) };
        let full = PlugSnapshot {
            name: name.clone(),
            state: Some(state),
            info: Some(Arc::new(info)),
            energy: Some(Energy { meter, today: Some(1.0), month: Some(2.0) }),
            availability: Some(Availability::Online),
            route: Some(Route::Local),
            failures: Failures::default(),
            last_error: Some(LastError {
                route: Some(Route::Local),
                at: now,
                what: PlugError::Route(Failure::Refused),
            }),
            protocol: None,
            last_answers: [None; 2],
            counters: None,
            commands: CommandCounts::default(),
        };
        let empty = PlugSnapshot {
            state: None,
            info: None,
            energy: None,
            availability: None,
            route: None,
            last_error: None,
            ..full.clone()
        };
        [full, empty]
    }

    fn overview(clock: Clock, link: Result<String, String>) -> Overview {
        let identity = Identity { device_id: None, mac: Mac::new("50C7BF000002") };
        let bulb = UnservedDevice {
            alias: "Hall".into(),
            model: "KL110".into(),
            identity,
            host: Some("192.168.7.8".into()),
            reason: "it is a bulb".into(),
            seen: Some(clock.instant),
        };
        let entry = UnservedDevice {
            alias: "".into(),
            model: "".into(),
            identity: Identity::default(),
            host: None,
            seen: None,
            ..bulb.clone()
        };
        let info = BridgeInfo { cloud: CloudStatus::Down("no route".into()), ..BridgeInfo::default() };
        let plugs = plugs(clock.instant).to_vec();
        Overview {
            snapshot: Snapshot {
                info,
                is_ready: true,
                unserved: vec![bulb, entry],
                durations: CommandDurations::default(),
                plugs,
            },
            histories: vec![Arc::new(history(clock.instant)), Arc::default()],
            broker: BrokerStatus { is_embedded: true, link },
            clock,
        }
    }

    fn history(now: Instant) -> History {
        let mut history = History::default();
        history.note(Some(Route::Local), None, now - Duration::from_secs(300));
        history.note(None, Some(RelayState::On), now - Duration::from_secs(200));
        history.note_power(4.0, now - Duration::from_secs(200));
        history.note_power(4.0, now);
        history
    }

    #[tokio::test]
    async fn every_field_of_every_document_is_described_and_no_other_is() {
        let instant = Instant::now() + Duration::from_secs(3600);
        let clock = Clock { instant, system: SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30) };
        let mut samples = Samples { all: described(), seen: BTreeMap::new() };
        let daemon_info =
            DaemonInfo { instance: "abc".into(), started: instant, cloud_requests: CloudRequests::default() };
        for link in [Ok("127.0.0.1:1883".to_owned()), Err("connection refused".to_owned())] {
            let overview = overview(clock, link);
            samples.add("Bridge", &BridgeWithBroker::of(&overview, &daemon_info));
            samples.add("Snapshot", &SnapshotDocument::of(&overview, &daemon_info));
            for (plug, history) in overview.snapshot.plugs.iter().zip(&overview.histories) {
                samples.add("Plug", &PlugDocument::of(plug, history, clock));
                samples.add("History", &HistoryDocument::of(plug, history, Duration::from_secs(3600), clock));
            }
        }
        let transaction = json!(7);
        samples.add("Accepted", &AcceptedDocument::new(Some(&transaction)));
        samples.add("Accepted", &AcceptedDocument::new(None));
        samples.add("Response", &ResponseDocument::of(Ok(()), None));
        samples.add("Response", &ResponseDocument::of(Err("no"), Some(&transaction)));
        samples.add("Result", &ResultDocument::refusal("no", Some(&transaction)));
        for ended in [Ended::Ok, Ended::Superseded, Ended::Error("no".to_owned())] {
            let result = CommandResult {
                id: CommandId::new(Origin::Http, 1),
                plug: PlugName::new("desk").unwrap(),
                ended,
                state: Some(RelayState::On),
                route: Some(Route::Cloud),
                took: Duration::ZERO,
            };
            samples.add("Result", &ResultDocument::of(&result, None));
        }
        let result = payload::value(&ResultDocument::refusal("no", None));
        for problem in [
            Problem::new(StatusCode::CONFLICT, "no"),
            Problem::new(StatusCode::CONFLICT, "no").with_result(result),
        ] {
            let body = axum::body::to_bytes(problem.into_response().into_body(), usize::MAX).await.unwrap();
            samples.add("Problem", &serde_json::from_slice::<Value>(&body).unwrap());
        }
        // What clients send is compared with its parser below.
        const RECEIVED: [&str; 2] = ["Command", "Request"];
        for (name, schema) in samples.all["components"]["schemas"].as_object().unwrap() {
            let described: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
            if !RECEIVED.contains(&name.as_str()) {
                assert_eq!(samples.seen.get(name), Some(&described), "{name}");
            }
        }
    }

    #[test]
    fn every_field_of_a_command_is_taken_and_no_other_is() {
        let all = described();
        let properties = all["components"]["schemas"]["Command"]["properties"].as_object().unwrap();
        let values = json!({
            "state": "ON", "led": "OFF", "brightness": 40, "transition": 1.5, "for": "30m", "alias": "Lamp",
            "transaction": 7,
        });
        assert_eq!(
            properties.keys().collect::<Vec<_>>(),
            values.as_object().unwrap().keys().collect::<Vec<_>>()
        );
        assert!(command::command(CommandPart::All, values.to_string().as_bytes()).result.is_ok());
        let fault = command::command(CommandPart::All, br#"{"colour": 1}"#).result.unwrap_err();
        for key in properties.keys() {
            assert!(fault.contains(key.as_str()), "{fault}");
        }
    }

    /// A request of a line for curl in the page: the method, the path as in the table, and the parameters of its query.
    fn request_of(line: &str) -> (String, String, Vec<String>) {
        let address = line.split("$HS100D").nth(1).unwrap().split(['"', ' ']).next().unwrap();
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        let is_post = line.contains("-X POST") || line.contains(" -d ");
        let parameters = query.split('&').filter_map(|part| Some(part.split_once('=')?.0.to_owned()));
        let method = if is_post { "POST" } else { "GET" };
        (method.to_owned(), path.replace("/kettle", "/{name}"), parameters.collect())
    }

    fn keys_of<'a>(value: &'a Value, keys: &mut BTreeSet<&'a str>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            keys.insert(key);
            keys_of(value, keys);
        }
        value.as_array().into_iter().flatten().for_each(|value| keys_of(value, keys));
    }

    #[test]
    fn the_page_for_newcomers_has_every_path_of_the_api_and_names_none_that_does_not_exist() {
        let lines = PAGE.lines().filter(|line| line.starts_with("curl "));
        let mut shown = BTreeSet::new();
        for (method, path, parameters) in lines.map(request_of) {
            let mut rows = ENDPOINTS.iter();
            let row = rows.find(|row| (row.method, row.path) == (method.as_str(), path.as_str()));
            let row = row.unwrap_or_else(|| panic!("{method} {path} does not exist"));
            for parameter in &parameters {
                assert!(
                    parameter == "token" || row.query.contains(&parameter.as_str()),
                    "{path} {parameter}"
                );
            }
            shown.insert(path);
        }
        // The page has `on` and `toggle`; `off` is like them.
        let of_api = ENDPOINTS.iter().map(|row| row.path).filter(|path| path.starts_with("/api/"));
        let missing: Vec<_> =
            of_api.filter(|path| !shown.contains(*path) && !path.ends_with("/off")).collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn every_field_in_the_page_for_newcomers_is_described() {
        let all = described();
        let schemas = all["components"]["schemas"].as_object().unwrap().values();
        let known: BTreeSet<_> = schemas
            .flat_map(|schema| schema["properties"].as_object().unwrap().keys())
            .map(String::as_str)
            .collect();
        let blocks: Vec<&str> =
            PAGE.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert_eq!(blocks.len(), 3);
        for block in blocks {
            let block: Value = serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"));
            let mut keys = BTreeSet::new();
            keys_of(&block, &mut keys);
            assert!(keys.is_subset(&known), "{:?}", keys.difference(&known).collect::<Vec<_>>());
        }
        for line in PAGE.lines().filter(|line| line.starts_with("curl -d '{")) {
            let body = line.split('\'').nth(1).unwrap();
            let command = command::command(CommandPart::All, body.as_bytes());
            assert!(command.result.is_ok(), "{line}: {command:?}");
        }
    }
}
