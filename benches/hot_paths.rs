//! Microbenchmarks of the parts of a poll and of a command.
//!
//! ```text
//! cargo bench                         all of them
//! cargo bench -- cipher               those with this in their name
//! cargo bench -- --max-time 0.05      short: only shows that they work
//! ```

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use divan::counter::BytesCount;
use divan::{AllocProfiler, Bencher, black_box};
use hs100d::bridge::event::PlugState;
use hs100d::config::Config;
use hs100d::config::paths::{ConfigPath, Environment};
use hs100d::model::{RelayState, Route};
use hs100d::payload::{self, Clock};
use hs100d::smarthome::cipher;
use hs100d::smarthome::frame;
use hs100d::smarthome::message::{DeviceInfo, OutletIds, Reply, Request};
use steady_kit::{Steady, framed, plug_entries, sysinfo};

#[path = "../tests/support/steady.rs"]
mod steady_kit;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

/// A request, a reply, a strip with its statistics, the longest that is accepted.
const SIZES: [usize; 4] = [30, 600, 16 * 1024, 64 * 1024];

fn main() {
    divan::main();
}

#[divan::bench(args = SIZES)]
fn cipher_encrypt(bencher: Bencher<'_, '_>, size: usize) {
    let mut bytes = vec![b'x'; size];
    bencher.counter(BytesCount::new(size)).bench_local(|| cipher::encrypt(black_box(&mut bytes)));
}

#[divan::bench(args = SIZES)]
fn cipher_decrypt(bencher: Bencher<'_, '_>, size: usize) {
    let mut bytes = vec![b'x'; size];
    bencher.counter(BytesCount::new(size)).bench_local(|| cipher::decrypt(black_box(&mut bytes)));
}

/// A config with so many entries, as a start and a reload read it.
#[divan::bench(args = [100, 10_000])]
fn config_read(bencher: Bencher<'_, '_>, plugs: u32) {
    let text = plug_entries(plugs);
    let environment = Environment::default();
    bencher
        .counter(BytesCount::of_str(&text))
        .bench_local(|| Config::read(black_box(&text), &ConfigPath::Nowhere, &environment));
}

#[divan::bench]
fn frame_build(bencher: Bencher<'_, '_>) {
    let mut buffer = Vec::new();
    bencher.bench_local(|| {
        frame::build(black_box(&mut buffer), |out| Request::SysInfo.write_json(OutletIds::None, out));
    });
}

#[divan::bench]
fn frame_parse(bencher: Bencher<'_, '_>) {
    let bytes = framed(&sysinfo(1, 0));
    bencher.bench_local(|| frame::parse(black_box(&bytes)));
}

#[divan::bench]
fn sysinfo_first(bencher: Bencher<'_, '_>) {
    let json = sysinfo(1, 0);
    let bytes = BytesCount::of_str(&json);
    bencher.counter(bytes).bench_local(|| Request::SysInfo.read_reply(black_box(json.as_bytes()), None));
}

#[divan::bench]
fn sysinfo_again(bencher: Bencher<'_, '_>) {
    let json = sysinfo(1, 0);
    let device = device(&json);
    let bytes = BytesCount::of_str(&json);
    bencher
        .counter(bytes)
        .bench_local(|| Request::SysInfo.read_reply(black_box(json.as_bytes()), Some(&device)));
}

#[divan::bench]
fn answer_done(bencher: Bencher<'_, '_>) {
    let request = Request::SetRelay(RelayState::On);
    let json = br#"{"system":{"set_relay_state":{"err_code":0}}}"#;
    bencher.bench_local(|| request.read_reply(black_box(json), None));
}

#[divan::bench]
fn payload_state(bencher: Bencher<'_, '_>) {
    let state = PlugState {
        relay: RelayState::On,
        route: Some(Route::Local),
        led: Some(RelayState::On),
        on_since: Some(Instant::now()),
        brightness: None,
        until: None,
    };
    let clock = Clock { instant: Instant::now(), system: SystemTime::UNIX_EPOCH };
    bencher.bench_local(|| payload::state(black_box(&state), clock));
}

/// Polls from their timer to the reading, up to sixteen in one wake-up: decisions and codec, no sockets.
#[divan::bench(args = [1, 100, 10_000])]
fn step_polls(bencher: Bencher<'_, '_>, plugs: usize) {
    let mut steady = Steady::of(plugs);
    bencher.bench_local(|| steady.poll());
}

/// A command from its message to its result: MQTT, decisions and codec, no sockets.
#[divan::bench(args = [1, 100, 10_000])]
fn step_command(bencher: Bencher<'_, '_>, plugs: usize) {
    let mut steady = Steady::of(plugs);
    bencher.bench_local(|| steady.command());
}

/// The state of all plugs as a value, in one turn of the loop.
#[divan::bench(args = [100, 10_000])]
fn snapshot(bencher: Bencher<'_, '_>, plugs: usize) {
    let steady = Steady::of(plugs);
    bencher.bench_local(|| steady.bridge.snapshot());
}

/// What the loop does in one turn for a scrape of the metrics.
#[divan::bench(args = [100, 10_000])]
fn snapshot_portion(bencher: Bencher<'_, '_>, plugs: usize) {
    let steady = Steady::of(plugs);
    bencher.bench_local(|| steady.bridge.snapshot_portion(0));
}

fn device(json: &str) -> Arc<DeviceInfo> {
    match Request::SysInfo.read_reply(json.as_bytes(), None) {
        Ok(Reply::SysInfo(reading)) => reading.device,
        other => panic!("{other:?}"),
    }
}
