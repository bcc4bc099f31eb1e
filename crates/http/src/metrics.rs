//! `/metrics`: what Prometheus reads, printed from the overview at each request.
//!
//! Nothing is kept for it: the bridge and the cloud count, and the rest is read off their state. What is not known is left out,
//! and so is the last value of a plug that does not answer.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::body::{Body as HttpBody, Frame};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
    prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::calls::Caller;
use super::overview::{DaemonInfo, Overview};
use super::problem::Problem;
use hs100d_core::bridge::counters::{CommandDurations, ROUTES};
use hs100d_core::bridge::event::CloudStatus;
use hs100d_core::bridge::snapshot::PlugSnapshot;
use hs100d_core::model::{Availability, Route};
use hs100d_core::payload::Clock;

/// Before each name.
const PREFIX: &str = "hs100d";
/// In a kilowatt hour. Prometheus asks for base units, so that any two metrics can be put together.
const JOULES: f64 = 3_600_000.0;
/// The text goes to the client in pieces of about this size, so that neither this process nor the daemon's loop has to deal
/// with all of it at once.
const PIECE: usize = 32 * 1024;
/// The pieces that wait for the client.
const PIECES: usize = 4;
/// After so many pieces other tasks have their turn.
const AT_ONCE: usize = 4;

/// The labels of a metric that has one row.
const NO_LABELS: [(&str, &str); 0] = [];

/// The form of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' own, 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The one that the client prefers: Prometheus' own, unless OpenMetrics has at least the same weight in `Accept`.
    pub(crate) fn preferred(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let accepted: Vec<_> = accepted.flat_map(|value| value.split(',')).collect();
        let weight_of = |kind: &str| {
            let ranges = accepted.iter().filter(|range| media_type(range).eq_ignore_ascii_case(kind));
            ranges.map(|range| weight(range)).fold(0.0, f64::max)
        };
        let open_metrics = weight_of("application/openmetrics-text");
        if open_metrics > 0.0 && open_metrics >= weight_of("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// For `Content-Type`.
    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }
}

/// `text/plain` of `text/plain;version=0.0.4;q=0.3`.
fn media_type(range: &str) -> &str {
    range.split(';').next().unwrap_or_default().trim()
}

/// 0.3 of `text/plain;version=0.0.4;q=0.3`; 1 without a `q`.
fn weight(range: &str) -> f64 {
    let parameters = range.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let mut weights = parameters.filter(|(key, _)| key.trim().eq_ignore_ascii_case("q"));
    weights.next().map_or(1.0, |(_, value)| value.trim().parse().unwrap_or(0.0))
}

/// `GET /metrics`.
pub(crate) async fn serve(
    State(caller): State<Caller>,
    State(daemon_info): State<DaemonInfo>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let overview = caller.overview_in_portions().await?;
    let format = Format::preferred(&headers);
    let pieces = print(Metrics { overview, daemon_info }, format);
    Ok(([(CONTENT_TYPE, format.content_type())], Body::new(Pieces::new(pieces))).into_response())
}

/// Prints the metrics in a thread of its own: ten thousand plugs would hold up the daemon's loop. The thread ends when the
/// pieces are dropped.
fn print(metrics: Metrics, format: Format) -> mpsc::Receiver<Bytes> {
    let (sender, pieces) = mpsc::channel(PIECES);
    spawn_blocking(move || {
        let mut writer = PieceWriter { piece: String::with_capacity(PIECE), sender };
        // An error means that the client has gone.
        let _ = write(&mut writer, metrics, format).and_then(|()| writer.send());
    });
    pieces
}

fn write(writer: &mut impl fmt::Write, metrics: Metrics, format: Format) -> fmt::Result {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(metrics));
    match format {
        Format::Prometheus => prometheus_text::encode(writer, &registry),
        Format::OpenMetrics => text::encode(writer, &registry),
    }
}

/// The body of the response.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    /// Since the last pause.
    handed_over: usize,
}

impl Pieces {
    fn new(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self { pieces, handed_over: 0 }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // A client that reads as fast as we write would have the connection hold the thread of the daemon's loop.
        if self.handed_over == AT_ONCE {
            self.handed_over = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = ready!(self.pieces.poll_recv(cx));
        self.handed_over += 1;
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// Sends a long text in pieces. Waits for the receiver, so it must run in a thread that may block.
struct PieceWriter {
    piece: String,
    sender: mpsc::Sender<Bytes>,
}

impl PieceWriter {
    fn send(&mut self) -> fmt::Result {
        let piece = std::mem::replace(&mut self.piece, String::with_capacity(PIECE));
        self.sender.blocking_send(piece.into()).map_err(|_| fmt::Error)
    }
}

impl fmt::Write for PieceWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.piece.push_str(text);
        if self.piece.len() < PIECE { Ok(()) } else { self.send() }
    }
}

/// All metrics, of one moment.
#[derive(Debug)]
struct Metrics {
    overview: Overview,
    daemon_info: DaemonInfo,
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.daemon(&mut page)?;
        self.plugs(&mut page)?;
        self.energy(&mut page)?;
        self.counters(&mut page)
    }
}

impl Metrics {
    fn daemon(&self, page: &mut Page<'_>) -> fmt::Result {
        let Self { overview, daemon_info } = self;
        page.infos("build", "The version of the daemon", [[("version", env!("CARGO_PKG_VERSION"))]])?;
        let started = seconds(overview.clock, daemon_info.started).map(|started| (NO_LABELS, started));
        page.gauges("start_time", Some(Unit::Seconds), "When the daemon started", started)?;
        let broker = if overview.broker.is_embedded { "embedded" } else { "external" };
        let connected = ([("broker", broker)], u32::from(overview.broker.link.is_ok()));
        page.gauges("mqtt_connected", None, "Whether the daemon is connected to the broker", [connected])?;
        let address = overview.broker.link.as_deref().ok().map(|address| [("address", address)]);
        page.infos("mqtt_broker", "The broker to which the daemon is connected", address)?;
        let status = overview.snapshot.info.cloud.word();
        let states = CloudStatus::WORDS.map(|word| ([("state", word)], u32::from(word == status)));
        page.gauges(
            "cloud_state",
            None,
            "The status of the account at TP-Link: 1 for the present one",
            states,
        )
    }

    fn plugs(&self, page: &mut Page<'_>) -> fmt::Result {
        let plugs = &self.overview.snapshot.plugs;
        page.infos("plug", "What the plug says about itself", plugs.iter().filter_map(description))?;
        let online = plugs
            .iter()
            .filter_map(|plug| Some((of(plug), u32::from(plug.availability? == Availability::Online))));
        page.gauges("plug_online", None, "Whether the plug is reached over some route", online)?;
        let on =
            known(plugs).filter_map(|plug| Some((of(plug), u32::from(plug.state.as_ref()?.relay.is_on()))));
        page.gauges("plug_on", None, "Whether the plug is switched on", on)?;
        let routes = plugs.iter().filter(|plug| plug.availability.is_some()).flat_map(|plug| {
            ROUTES.map(|route| (over(plug, "route", route), u32::from(plug.route == route)))
        });
        page.gauges("plug_route", None, "The route that serves the plug: 1 for the present one", routes)?;
        let signals = known(plugs).filter_map(|plug| Some((of(plug), plug.info.as_ref()?.rssi?)));
        let dbm = Some(Unit::Other("dbm".to_owned()));
        page.gauges("plug_signal", dbm, "The Wi-Fi signal at the plug", signals)?;
        let answers = plugs.iter().flat_map(|plug| {
            let dated = Route::ALL.into_iter().zip(plug.last_answers);
            dated.filter_map(|(route, at)| {
                Some((over(plug, "route", Some(route)), seconds(self.overview.clock, at?)?))
            })
        });
        let help = "When the plug last answered over this route";
        page.gauges("plug_last_answer_timestamp", Some(Unit::Seconds), help, answers)
    }

    fn energy(&self, page: &mut Page<'_>) -> fmt::Result {
        let meters = || {
            let plugs = known(&self.overview.snapshot.plugs);
            plugs.filter_map(|plug| Some((of(plug), plug.energy.as_ref()?.meter)))
        };
        let watts = Some(Unit::Other("watts".to_owned()));
        let powers = meters().filter_map(|(labels, meter)| Some((labels, meter.power?)));
        page.gauges("plug_power", watts, "The real power that the plug's meter shows", powers)?;
        let voltages = meters().filter_map(|(labels, meter)| Some((labels, meter.voltage?)));
        page.gauges("plug_voltage", Some(Unit::Volts), "The voltage at the plug", voltages)?;
        let currents = meters().filter_map(|(labels, meter)| Some((labels, meter.current?)));
        page.gauges("plug_current", Some(Unit::Amperes), "The current through the plug", currents)?;
        let energies = meters().filter_map(|(labels, meter)| Some((labels, (meter.total? * JOULES).round())));
        let help =
            "The energy that the plug's meter has counted; some firmwares begin again at 0 after a power cut";
        page.counters("plug_energy", Some(Unit::Joules), help, energies)
    }

    fn counters(&self, page: &mut Page<'_>) -> fmt::Result {
        let plugs = &self.overview.snapshot.plugs;
        let commands = plugs.iter().flat_map(|plug| {
            let counts = plug.commands.iter();
            counts.map(move |(status, route, count)| {
                let labels = [("plug", plug.name.as_str()), ("route", route_word(route)), ("status", status)];
                (labels, u64::from(count))
            })
        });
        page.counters("commands", None, "The commands to the plug, by how they ended", commands)?;
        page.durations(&self.overview.snapshot.durations)?;
        let counted = || plugs.iter().filter_map(|plug| Some((plug, plug.counters?)));
        let polls = counted().flat_map(|(plug, counters)| {
            let kinds = Route::ALL.into_iter().flat_map(|route| [(route, "ok"), (route, "error")]);
            kinds.map(move |(route, result)| {
                let labels =
                    [("plug", plug.name.as_str()), ("route", route_word(Some(route))), ("result", result)];
                (labels, u64::from(counters.polls(route, result == "ok")))
            })
        });
        page.counters("polls", None, "The reads of the plug, by how they ended", polls)?;
        let changes = counted().flat_map(|(plug, counters)| {
            ROUTES.map(|to| (over(plug, "to", to), u64::from(counters.route_changes(to))))
        });
        page.counters("route_changes", None, "The changes to another route", changes)?;
        let has_account = self.overview.snapshot.info.cloud != CloudStatus::Off;
        let requests =
            self.daemon_info.cloud_requests.iter().filter(|_| has_account).map(|(method, class, count)| {
                ([("method", method.word()), ("code_class", class.word())], count)
            });
        page.counters("cloud_requests", None, "The requests to TP-Link, by what came back", requests)
    }
}

/// The plugs whose last values still count.
fn known(plugs: &[PlugSnapshot]) -> impl Iterator<Item = &PlugSnapshot> {
    plugs.iter().filter(|plug| plug.availability == Some(Availability::Online))
}

fn of(plug: &PlugSnapshot) -> [(&'static str, &str); 1] {
    [("plug", plug.name.as_str())]
}

fn over<'a>(
    plug: &'a PlugSnapshot,
    label: &'static str,
    route: Option<Route>,
) -> [(&'static str, &'a str); 2] {
    [("plug", plug.name.as_str()), (label, route_word(route))]
}

fn route_word(route: Option<Route>) -> &'static str {
    route.map_or("none", Route::word)
}

/// The labels of `plug_info`; `None` before the first answer.
fn description(plug: &PlugSnapshot) -> Option<[(&'static str, Cow<'_, str>); 7]> {
    let info = plug.info.as_deref()?;
    let device = &info.device;
    Some([
        ("plug", plug.name.as_str().into()),
        ("device_id", device.device_id.as_ref().map_or("", |id| id.as_str()).into()),
        ("alias", info.alias().into()),
        ("model", (&*device.model).into()),
        ("hw", (&*device.hw_version).into()),
        ("sw", (&*device.sw_version).into()),
        ("mac", device.mac.map(|mac| mac.to_string()).unwrap_or_default().into()),
    ])
}

/// The date of this instant, in seconds since 1970; `None` if the system clock cannot represent it.
fn seconds(clock: Clock, at: Instant) -> Option<f64> {
    let since_epoch = clock.at(at)?.system.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    // Milliseconds are enough, and last as long as the dates that others print.
    Some(since_epoch.as_millis() as f64 / 1000.0)
}

/// Prints one metric after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn infos<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = L>,
    ) -> fmt::Result {
        let mut metric = self.metric(name, None, help, MetricType::Info)?;
        rows.into_iter().try_for_each(|labels| metric.encode_info(&labels))
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut metric = self.metric(name, unit.as_ref(), help, MetricType::Gauge)?;
        rows.into_iter().try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut metric = self.metric(name, unit.as_ref(), help, MetricType::Counter)?;
        rows.into_iter().try_for_each(|(labels, value)| {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, V, f64>(&value, None)
        })
    }

    fn durations(&mut self, durations: &CommandDurations) -> fmt::Result {
        let help = "How long commands took until they were read back";
        let unit = Unit::Seconds;
        let mut metric = self.metric("command_duration", Some(&unit), help, MetricType::Histogram)?;
        Route::ALL.into_iter().try_for_each(|route| {
            let (labels, histogram) = ([("route", route.word())], durations.over(route));
            let (sum, count, buckets) =
                (histogram.sum().as_secs_f64(), histogram.count(), histogram.buckets());
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }

    fn metric<'s>(
        &'s mut self,
        name: &'s str,
        unit: Option<&'s Unit>,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, kind)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Waker;
    use std::time::Duration;

    use super::*;
    use crate::overview::BrokerStatus;
    use hs100d_core::bridge::counters::{CloudMethod, CloudRequests, CodeClass, CommandCounts, PlugCounters};
    use hs100d_core::bridge::event::{BridgeInfo, Energy, OutletInfo, PlugInfo, PlugState};
    use hs100d_core::bridge::failures::Failures;
    use hs100d_core::bridge::snapshot::Snapshot;
    use hs100d_core::model::{DeviceId, Mac, PlugName, RelayState};
    use hs100d_core::smarthome::message::{DeviceInfo, Meter, OutletDescription};

    /// The moment of all tests: 2026-11-27T20:26:40Z.
    fn clock() -> Clock {
        Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_811_200) }
    }

    fn unread(name: &str) -> PlugSnapshot {
        PlugSnapshot {
            name: PlugName::new(name).unwrap(),
            state: None,
            info: None,
            energy: None,
            availability: None,
            route: None,
            failures: Failures::default(),
            last_error: None,
            protocol: None,
            last_answers: [None; 2],
            counters: Some(PlugCounters::default()),
            commands: CommandCounts::default(),
        }
    }

    #[tokio::test]
    async fn a_client_that_reads_quickly_leaves_the_loop_its_turns() {
        let (sender, pieces) = mpsc::channel(2 * AT_ONCE);
        for number in 0..2 * AT_ONCE {
            sender.try_send(Bytes::from(number.to_string())).unwrap();
        }
        drop(sender);
        let mut body = Pieces::new(pieces);
        let mut cx = Context::from_waker(Waker::noop());
        let mut turns = vec![0];
        loop {
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Ready(Some(_)) => *turns.last_mut().unwrap() += 1,
                Poll::Ready(None) => break,
                Poll::Pending => turns.push(0),
            }
        }
        assert_eq!(turns, [AT_ONCE, AT_ONCE, 0]);
    }

    /// A plug of which everything is known.
    fn read(name: &str, alias: &str, clock: Clock) -> PlugSnapshot {
        let device = DeviceInfo {
            device_id: DeviceId::new(&"8".repeat(40)),
            mac: Mac::new("50:C7:BF:00:00:07"),
            alias: alias.into(),
            model: "HS110(EU)".into(),
            hw_version: "1.0".into(),
            sw_version: "1.2.6".into(),
            kind: "IOT.SMARTPLUGSWITCH".into(),
            feature: "TIM:ENE".into(),
            dev_name: "Plug".into(),
            dims: false,
            outlets: Box::default(),
        };
        let info = PlugInfo {
            device: Arc::new(device),
            address: None,
            protocol: None,
            rssi: Some(-51),
            cloud_connected: None,
            outlet: None,
            outlets: Arc::default(),
            schedule: None,
        };
        let state = PlugState {
            relay: RelayState::On,
            route: Some(Route::Local),
            led: None,
            on_since: None,
            brightness: None,
            until: None,
        };
        let meter = Meter { power: Some(7.25), voltage: Some(230.1), current: Some(0.032), total: Some(1.5) };
        PlugSnapshot {
            state: Some(state),
            info: Some(Arc::new(info)),
            energy: Some(Energy { meter, today: None, month: None }),
            availability: Some(Availability::Online),
            route: Some(Route::Local),
            last_answers: [Some(clock.instant - Duration::from_millis(1500)), None],
            ..unread(name)
        }
    }

    fn metrics(plugs: Vec<PlugSnapshot>, clock: Clock, cloud: CloudStatus) -> Metrics {
        let info = BridgeInfo { cloud, ..BridgeInfo::default() };
        let durations = CommandDurations::default();
        let snapshot = Snapshot { info, is_ready: true, unserved: Vec::new(), durations, plugs };
        let broker = BrokerStatus { is_embedded: true, link: Ok("127.0.0.1:1883".to_owned()) };
        let daemon_info = DaemonInfo {
            instance: "test".into(),
            started: clock.instant - Duration::from_secs(60),
            cloud_requests: CloudRequests::default(),
        };
        Metrics { overview: Overview { snapshot, histories: Vec::new(), broker, clock }, daemon_info }
    }

    fn text(plugs: Vec<PlugSnapshot>, clock: Clock, format: Format) -> String {
        let mut text = String::new();
        write(&mut text, metrics(plugs, clock, CloudStatus::Ok), format).unwrap();
        text
    }

    /// The rows of the plug that is called so.
    fn rows(text: &str, plug: &str) -> Vec<String> {
        let label = format!("plug=\"{plug}\"");
        text.lines().filter(|line| line.contains(&label)).map(str::to_owned).collect()
    }

    #[test]
    fn a_plug_has_a_row_for_each_value_that_is_known() {
        let clock = clock();
        let text = text(vec![read("kettle", "Kettle", clock)], clock, Format::Prometheus);
        let id = "8".repeat(40);
        let info = format!(
            "hs100d_plug_info{{plug=\"kettle\",device_id=\"{id}\",alias=\"Kettle\",model=\"HS110(EU)\",hw=\"1.0\",\
             sw=\"1.2.6\",mac=\"50:C7:BF:00:00:07\"}} 1"
        );
        let expected = [
            info.as_str(),
            "hs100d_plug_online{plug=\"kettle\"} 1",
            "hs100d_plug_on{plug=\"kettle\"} 1",
            "hs100d_plug_route{plug=\"kettle\",route=\"local\"} 1",
            "hs100d_plug_route{plug=\"kettle\",route=\"cloud\"} 0",
            "hs100d_plug_route{plug=\"kettle\",route=\"none\"} 0",
            "hs100d_plug_signal_dbm{plug=\"kettle\"} -51",
            "hs100d_plug_last_answer_timestamp_seconds{plug=\"kettle\",route=\"local\"} 1795811198.5",
            "hs100d_plug_power_watts{plug=\"kettle\"} 7.25",
            "hs100d_plug_voltage_volts{plug=\"kettle\"} 230.1",
            "hs100d_plug_current_amperes{plug=\"kettle\"} 0.032",
            "hs100d_plug_energy_joules_total{plug=\"kettle\"} 5400000.0",
            "hs100d_commands_total{plug=\"kettle\",route=\"local\",status=\"ok\"} 0",
            "hs100d_commands_total{plug=\"kettle\",route=\"cloud\",status=\"ok\"} 0",
            "hs100d_commands_total{plug=\"kettle\",route=\"local\",status=\"error\"} 0",
            "hs100d_commands_total{plug=\"kettle\",route=\"cloud\",status=\"error\"} 0",
            "hs100d_commands_total{plug=\"kettle\",route=\"none\",status=\"error\"} 0",
            "hs100d_commands_total{plug=\"kettle\",route=\"none\",status=\"superseded\"} 0",
            "hs100d_polls_total{plug=\"kettle\",route=\"local\",result=\"ok\"} 0",
            "hs100d_polls_total{plug=\"kettle\",route=\"local\",result=\"error\"} 0",
            "hs100d_polls_total{plug=\"kettle\",route=\"cloud\",result=\"ok\"} 0",
            "hs100d_polls_total{plug=\"kettle\",route=\"cloud\",result=\"error\"} 0",
            "hs100d_route_changes_total{plug=\"kettle\",to=\"local\"} 0",
            "hs100d_route_changes_total{plug=\"kettle\",to=\"cloud\"} 0",
            "hs100d_route_changes_total{plug=\"kettle\",to=\"none\"} 0",
        ];
        assert_eq!(rows(&text, "kettle"), expected);
    }

    #[test]
    fn what_is_not_known_has_no_row() {
        let clock = clock();
        let mut offline = read("lamp", "Lamp", clock);
        offline.availability = Some(Availability::Offline);
        offline.route = None;
        let mut bare = read("fan", "Fan", clock);
        bare.energy = Some(Energy::default());
        let text = text(vec![unread("new"), offline, bare], clock, Format::Prometheus);
        let names = |plug: &str| {
            let name = |row: String| row.split('{').next().unwrap_or_default().to_owned();
            let mut names: Vec<_> = rows(&text, plug).into_iter().map(name).collect();
            names.dedup();
            names
        };
        let counters = ["hs100d_commands_total", "hs100d_polls_total", "hs100d_route_changes_total"];
        assert_eq!(names("new"), counters);
        let known = [
            "hs100d_plug_info",
            "hs100d_plug_online",
            "hs100d_plug_route",
            "hs100d_plug_last_answer_timestamp_seconds",
        ];
        assert_eq!(names("lamp"), [&known[..], &counters[..]].concat());
        assert!(rows(&text, "lamp").contains(&"hs100d_plug_online{plug=\"lamp\"} 0".to_owned()));
        assert!(
            rows(&text, "lamp").contains(&"hs100d_plug_route{plug=\"lamp\",route=\"none\"} 1".to_owned())
        );
        assert!(!names("fan").iter().any(|name| name.contains("_watts")), "its meter says nothing");
    }

    #[test]
    fn an_outlet_has_rows_of_its_own_and_the_alias_of_its_own_but_is_read_with_its_strip() {
        let clock = clock();
        let mut outlet = read("left", "Strip", clock);
        let info = outlet.info.as_deref().unwrap();
        let mut device = DeviceInfo::clone(&info.device);
        device.outlets = [OutletDescription { id: "00".into(), alias: "Left".into() }].into();
        let strip = PlugName::new("strip").unwrap();
        let outlet_info = OutletInfo { number: 0, strip };
        let info = PlugInfo { device: Arc::new(device), outlet: Some(outlet_info), ..info.clone() };
        outlet.info = Some(Arc::new(info));
        outlet.counters = None;
        let text = text(vec![outlet], clock, Format::Prometheus);
        assert!(text.contains("plug=\"left\",device_id=") && text.contains("alias=\"Left\""), "{text}");
        assert!(!text.contains("hs100d_polls_total{") && !text.contains("hs100d_route_changes_total{"));
        assert!(text.contains("hs100d_commands_total{plug=\"left\""));
    }

    #[test]
    fn any_alias_is_one_label() {
        let clock = clock();
        for format in [Format::Prometheus, Format::OpenMetrics] {
            let text = text(vec![read("lamp", "\"a\\b\nc\" 💡 } 1", clock)], clock, format);
            let info = text.lines().find(|line| line.starts_with("hs100d_plug_info{")).unwrap();
            assert!(info.contains(r#",alias="\"a\\b\nc\" 💡 } 1",model="#), "{info}");
            assert!(info.ends_with("} 1"), "{info}");
        }
    }

    #[test]
    fn each_form_names_counters_as_it_must() {
        let clock = clock();
        let text = |format| text(vec![read("lamp", "Lamp", clock)], clock, format);
        let prometheus = text(Format::Prometheus);
        assert!(prometheus.contains("# TYPE hs100d_plug_energy_joules_total counter\n"));
        assert!(prometheus.contains("# TYPE hs100d_plug_info gauge\n") && !prometheus.contains("# EOF"));
        let open_metrics = text(Format::OpenMetrics);
        assert!(open_metrics.contains("# TYPE hs100d_plug_energy_joules counter\n"));
        assert!(open_metrics.contains("# UNIT hs100d_plug_energy_joules joules\n"));
        assert!(open_metrics.contains("# TYPE hs100d_plug info\n") && open_metrics.ends_with("\n# EOF\n"));
        for text in [prometheus, open_metrics] {
            assert!(text.contains("\nhs100d_plug_energy_joules_total{plug=\"lamp\"} 5400000.0\n"), "{text}");
        }
    }

    #[test]
    fn the_cloud_has_rows_while_there_is_an_account() {
        let clock = clock();
        let page = |cloud: CloudStatus| {
            let metrics = metrics(Vec::new(), clock, cloud);
            metrics.daemon_info.cloud_requests.count(CloudMethod::Login, CodeClass::Ok);
            let mut text = String::new();
            write(&mut text, metrics, Format::Prometheus).unwrap();
            text
        };
        let without = page(CloudStatus::Off);
        assert!(without.contains("hs100d_cloud_state{state=\"off\"} 1\n") && !without.contains("login"));
        let with = page(CloudStatus::Down("no network".into()));
        assert!(with.contains("hs100d_cloud_state{state=\"down\"} 1\n"), "{with}");
        assert!(with.contains("hs100d_cloud_state{state=\"off\"} 0\n"), "{with}");
        assert!(
            with.contains("hs100d_cloud_requests_total{method=\"login\",code_class=\"ok\"} 1\n"),
            "{with}"
        );
        assert!(
            with.contains("hs100d_cloud_requests_total{method=\"passthrough\",code_class=\"timeout\"} 0\n")
        );
        assert!(with.contains("hs100d_mqtt_connected{broker=\"embedded\"} 1\n"));
        assert!(with.contains("hs100d_start_time_seconds 1795811140.0\n"), "{with}");
    }

    #[test]
    fn the_client_chooses_the_form() {
        let format = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            Format::preferred(&headers)
        };
        assert_eq!(Format::preferred(&HeaderMap::new()), Format::Prometheus);
        // What Prometheus 2 sends.
        let scrape = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(format(scrape), Format::OpenMetrics);
        for accept in ["*/*", "text/plain", "text/html", "", "application/openmetrics-text;q=0.1, text/plain"]
        {
            assert_eq!(format(accept), Format::Prometheus, "{accept}");
        }
        for refused in ["application/openmetrics-text;q=0", "application/openmetrics-text; q=nonsense"] {
            assert_eq!(format(refused), Format::Prometheus, "{refused}");
        }
        assert_eq!(format("Application/OpenMetrics-Text; version=1.0.0"), Format::OpenMetrics);
    }

    #[tokio::test]
    async fn a_long_text_comes_in_pieces_and_whole() {
        let clock = clock();
        let plugs = || (0..500).map(|number| read(&format!("plug-{number}"), "Lamp", clock)).collect();
        let whole = text(plugs(), clock, Format::Prometheus);
        let mut pieces = print(metrics(plugs(), clock, CloudStatus::Ok), Format::Prometheus);
        let (mut received, mut number) = (Vec::new(), 0);
        while let Some(piece) = pieces.recv().await {
            assert!(piece.len() < 2 * PIECE, "{} bytes", piece.len());
            received.extend_from_slice(&piece);
            number += 1;
        }
        assert_eq!(String::from_utf8(received).unwrap(), whole);
        assert!(number > 10, "{number} pieces");
    }
}
