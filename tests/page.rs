//! The status page in a real browser, with the real daemon and a simulated home.
//!
//! Each test runs in a network namespace that has loopback only, if such may be made. Without Chromium the tests say so and
//! pass; in CI they fail.

#![cfg(all(feature = "sim", feature = "broker", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use hs100d::sim::fault::{CloudLink, LanFault};
use hs100d::sim::home::SimHome;
use hs100d::sim::model::Model;
use serde_json::{Value, json};

use crate::support::browser::{Browser, NAME, Tab, View};
use crate::support::e2e::{Config, Daemon, Setup, home_of, home_options_of};
use crate::support::home_assistant::{HomeAssistant, INGRESS, PREFIX, USER};
use crate::support::mqtt::{BOUND, free_port};
use crate::support::namespace::is_apart;
use crate::support::peers::peers;
use crate::support::supervisor::{Reply, SimSupervisor, TOKEN};

/// One test takes a few seconds, most of them the start of the browser.
const LONGEST: Duration = Duration::from_secs(180);

/// Runs a story with a browser, in a process of its own.
fn run(test: &str, story: impl AsyncFnOnce(&Browser)) {
    if is_apart(test, LONGEST)
        && let Some(browser) = Browser::start()
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story(&browser));
    }
}

/// Makes a test of each story.
macro_rules! tests {
    ($($story:ident)*) => {
        $(#[test]
        fn $story() {
            run(stringify!($story), story::$story);
        })*
    };
}

tests! {
    the_page_loads_without_a_fault_and_without_another_host
    a_press_switches_the_plug
    the_button_of_the_plug_shows_without_a_reload
    a_cut_lan_shows_the_cloud
    a_press_that_fails_says_why_and_the_state_stays_true
    it_reads_and_switches_without_javascript
    it_fits_a_phone
    the_page_goes_on_after_a_restart_of_the_daemon
    a_new_plug_appears_without_a_reload
    text_of_devices_is_text
    search_and_filters_work_in_the_page
    it_works_in_a_panel_of_home_assistant
    it_works_in_a_panel_of_home_assistant_without_javascript
    only_home_assistant_shows_it_in_a_panel
}

#[test]
fn axe_finds_nothing() {
    // They are fetched here: the story has no network.
    if peers().is_some() {
        run("axe_finds_nothing", story::axe_finds_nothing);
    }
}

/// A daemon, and where its page is.
struct Served {
    setup: Setup,
    config: Config,
    daemon: Daemon,
    address: SocketAddr,
}

impl Served {
    async fn start(config: Config) -> Self {
        let setup = Setup::new(&config);
        let daemon = setup.daemon();
        let address = address_of(&daemon).await;
        daemon.is_connected().await;
        Self { setup, config, daemon, address }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens the page, and waits until it is up to date.
    async fn page<'a>(&self, browser: &'a Browser, view: View) -> Tab<'a> {
        let tab = browser.tab(view).await;
        tab.open(&format!("{}/", self.origin())).await;
        tab.until(LIVE).await;
        tab
    }
}

/// The daemon as Home Assistant's app.
struct App {
    daemon: Daemon,
    address: SocketAddr,
    _supervisor: SimSupervisor,
    _setup: Setup,
}

impl App {
    async fn start(home: &SimHome) -> Self {
        let config = Config::of(home).without("http").without_search().plug("lamp", home, 0);
        let (setup, supervisor) = (Setup::new(&config), SimSupervisor::start().await);
        fs::create_dir(setup.state_dir()).unwrap();
        fs::write(setup.state_dir().join("options.json"), "{}").unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let info = json!({"ip_address": address.ip(), "ingress_port": address.port()});
        supervisor.answer_info(Reply::Data(info));
        let mut command = Command::new(env!("CARGO_BIN_EXE_hs100d"));
        command.args(["app", "--ingress-from", &INGRESS.to_string()]).stdin(Stdio::null());
        command.env_clear().env("STATE_DIRECTORY", setup.state_dir()).env("HS100D_CONFIG", setup.config());
        command.env("SUPERVISOR_API", supervisor.url()).env("SUPERVISOR_TOKEN", TOKEN);
        let daemon = Setup::spawned(command, "hs100d=debug,warn");
        daemon.says("the status page is in Home Assistant").await;
        Self { daemon, address, _supervisor: supervisor, _setup: setup }
    }
}

/// The same about the page in the panel.
fn inside(expression: &str) -> String {
    format!("(document => {expression})(frames[0].document)")
}

async fn address_of(daemon: &Daemon) -> SocketAddr {
    let line = daemon.says("the status page is at http://").await;
    line.rsplit("http://").next().unwrap().trim_end_matches('/').parse().unwrap()
}

/// The stream of events works.
const LIVE: &str = "document.getElementById('live').dataset.is === 'live'";

/// The switch of a plug.
fn switch(plug: &str) -> String {
    format!("document.querySelector('#plug-{plug} .switch')")
}

/// Whether the switch of a plug reads as on.
fn is_on(plug: &str, on: bool) -> String {
    format!("{}?.getAttribute('aria-pressed') === '{on}'", switch(plug))
}

/// Whether the card of a plug shows this route.
fn has_route(plug: &str, route: &str) -> String {
    format!("document.getElementById('plug-{plug}')?.dataset.route === '{route}'")
}

/// A daemon that has read its plugs.
async fn served(home: &SimHome) -> Served {
    Served::start(Config::of(home)).await
}

mod story {
    use super::*;

    pub(super) async fn the_page_loads_without_a_fault_and_without_another_host(browser: &Browser) {
        let models = [(Model::HS110_HW1, "Kettle"), (Model::HS300, "Desk"), (Model::HS100_HW1, "Lamp")];
        let mut options = home_options_of(&[]);
        options.plugs = models.map(|(model, alias)| (model, alias.to_owned())).into();
        let home = SimHome::start(options).await.unwrap();
        let served = served(&home).await;
        for dark in [false, true] {
            let tab = served.page(browser, View { dark, ..View::DESK }).await;
            tab.until("document.querySelectorAll('.card').length === 3").await;
            tab.until(&is_on("kettle", false)).await;
            assert_eq!(tab.faults(&served.origin()), Vec::<String>::new());
        }
    }

    pub(super) async fn a_press_switches_the_plug(browser: &Browser) {
        let home = home_of(&["Lamp"]).await;
        let served = served(&home).await;
        let tab = served.page(browser, View::DESK).await;
        tab.until(&is_on("lamp", false)).await;
        tab.eval(&format!("{}.focus()", switch("lamp"))).await;
        tab.press_space().await;
        home.wait_until(BOUND, || home.plug(0).is_on()).await.unwrap();
        tab.until(&is_on("lamp", true)).await;
        tab.until(&format!("!{}.hasAttribute('aria-busy')", switch("lamp"))).await;
        assert_eq!(tab.eval(&format!("document.activeElement === {}", switch("lamp"))).await, true);
        tab.press_space().await;
        home.wait_until(BOUND, || !home.plug(0).is_on()).await.unwrap();
        tab.until(&is_on("lamp", false)).await;
        assert_eq!(tab.faults(&served.origin()), Vec::<String>::new());
    }

    pub(super) async fn the_button_of_the_plug_shows_without_a_reload(browser: &Browser) {
        let home = home_of(&["Lamp"]).await;
        let served = served(&home).await;
        let tab = served.page(browser, View::DESK).await;
        tab.until(&is_on("lamp", false)).await;
        tab.eval("globalThis.isSame = true").await;
        home.plug(0).press_button();
        tab.until(&is_on("lamp", true)).await;
        tab.until("document.getElementById('changes').textContent.includes('Lamp is on')").await;
        assert_eq!(tab.eval("globalThis.isSame").await, true, "the page was loaded again");
    }

    pub(super) async fn a_cut_lan_shows_the_cloud(browser: &Browser) {
        let home = home_of(&["Lamp"]).await;
        let served = served(&home).await;
        let tab = served.page(browser, View::DESK).await;
        tab.until(&has_route("lamp", "local")).await;
        home.lan().set_fault(home.plug(0), LanFault::Refused).await.unwrap();
        tab.until(&has_route("lamp", "cloud")).await;
        tab.until("document.querySelector('#plug-lamp .route').textContent === 'Cloud'").await;
        // The band and its words follow.
        tab.until("document.querySelector('#plug-lamp .shares').textContent.includes('cloud')").await;
        tab.until("document.querySelector('#plug-lamp .fault')?.textContent.includes('refused')").await;
    }

    pub(super) async fn a_press_that_fails_says_why_and_the_state_stays_true(browser: &Browser) {
        let home = home_of(&["Lamp"]).await;
        let served = Served::start(Config::of(&home).set("routing", "command_ttl", "1s")).await;
        let tab = served.page(browser, View::DESK).await;
        tab.until(&is_on("lamp", false)).await;
        home.lan().set_fault(home.plug(0), LanFault::Silent).await.unwrap();
        home.plug(0).set_cloud(CloudLink::Offline);
        tab.eval(&format!("{}.click()", switch("lamp"))).await;
        assert_eq!(tab.eval(&format!("{}.getAttribute('aria-busy')", switch("lamp"))).await, "true");
        let note = "document.querySelector('#plug-lamp [data-part=note]')";
        tab.until(&format!("{note}.textContent.startsWith('Not switched on: ')")).await;
        let words = tab.eval(&format!("{note}.textContent")).await;
        assert!(words.as_str().unwrap().contains("cloud: "), "{words}");
        assert_eq!(tab.eval(&is_on("lamp", false)).await, true);
        tab.until("document.querySelector('#plug-lamp .fault')").await;
    }

    pub(super) async fn it_reads_and_switches_without_javascript(browser: &Browser) {
        let home = home_of(&["Lamp"]).await;
        let served = Served::start(Config::of(&home).set("http", "allowed_hosts", json!([NAME]))).await;
        let tab = browser.tab(View { script: false, ..View::DESK }).await;
        // By a name: to an address of loopback the browser would add `Sec-Fetch-Site`.
        for host in [NAME.to_owned(), "127.0.0.1".to_owned()] {
            let origin = format!("http://{host}:{}", served.address.port());
            let was_on = home.plug(0).is_on();
            // A page of before the first read has no plug yet.
            loop {
                tab.open(&format!("{origin}/")).await;
                if tab.eval(&is_on("lamp", was_on)).await == true {
                    break;
                }
            }
            let loaded = tab.seen("Page.loadEventFired").len();
            tab.eval(&format!("{}.click()", switch("lamp"))).await;
            home.wait_until(BOUND, || home.plug(0).is_on() != was_on).await.unwrap();
            tab.until_seen("Page.loadEventFired", loaded + 1).await;
            assert_eq!(tab.eval("location.href").await, format!("{origin}/#plug-lamp"));
            assert_eq!(tab.eval(&is_on("lamp", !was_on)).await, true);
            assert_eq!(tab.eval("document.getElementById('live').hidden").await, true);
        }
    }

    pub(super) async fn it_fits_a_phone(browser: &Browser) {
        let aliases = [
            "A lamp with a name that is much longer than a phone is wide, in the hall",
            "Lamp",
            "Donaudampfschifffahrtselektrizitätenhauptbetriebswerk",
        ];
        let home = home_of(&aliases).await;
        let served = served(&home).await;
        for width in [390, 320] {
            let tab = served.page(browser, View { width, ..View::PHONE }).await;
            tab.until("document.querySelectorAll('.card[data-state]').length === 3").await;
            assert_eq!(tab.eval("document.documentElement.scrollWidth").await, width);
            let small = "[...document.querySelectorAll('button, input, a, summary')].map(e => [e.textContent, \
                         e.getBoundingClientRect()]).filter(([, r]) => r.height && r.height < 44).map(String)";
            assert_eq!(tab.eval(small).await, json!([]));
        }
    }

    pub(super) async fn the_page_goes_on_after_a_restart_of_the_daemon(browser: &Browser) {
        let home = home_of(&["Lamp", "Fan"]).await;
        let mut served = served(&home).await;
        let tab = served.page(browser, View::DESK).await;
        tab.until(&is_on("lamp", false)).await;
        tab.eval("globalThis.isSame = true").await;
        served.daemon.kill().await;
        tab.until("document.getElementById('live').dataset.is === 'lost'").await;
        home.plug(0).press_button();
        // At the address that it had.
        let config = served.config.clone().set("http", "listen", served.address.to_string());
        served.setup.write(&config.text());
        served.daemon = served.setup.daemon();
        tab.until(LIVE).await;
        tab.until(&is_on("lamp", true)).await;
        home.plug(0).press_button();
        tab.until(&is_on("lamp", false)).await;
        assert_eq!(tab.eval("globalThis.isSame").await, true, "the page was loaded again");
    }

    pub(super) async fn a_new_plug_appears_without_a_reload(browser: &Browser) {
        let home = home_of(&["Lamp", "Fan"]).await;
        let config = Config::of(&home).without_search().plug("lamp", &home, 0);
        let served = Served::start(config.clone()).await;
        let tab = served.page(browser, View::DESK).await;
        tab.until(&is_on("lamp", false)).await;
        tab.eval("globalThis.isSame = true").await;
        served.setup.write(&config.clone().plug("fan", &home, 1).text());
        served.daemon.signal("HUP");
        tab.until(&is_on("fan", false)).await;
        home.plug(1).press_button();
        tab.until(&is_on("fan", true)).await;
        served.setup.write(&config.text());
        served.daemon.signal("HUP");
        tab.until("!document.getElementById('plug-fan')").await;
        assert_eq!(tab.eval("globalThis.isSame").await, true, "the page was loaded again");
    }

    pub(super) async fn text_of_devices_is_text(browser: &Browser) {
        let evil = "<img src=x onerror=evil=1>";
        let home = home_of(&[evil]).await;
        let served = Served::start(Config::of(&home).without_search().plug("lamp", &home, 0)).await;
        let tab = served.page(browser, View::DESK).await;
        let alias = format!("document.getElementById('alias-lamp')?.textContent === {}", json!(evil));
        tab.until(&alias).await;
        // Once more through the script.
        home.plug(0).press_button();
        tab.until(&is_on("lamp", true)).await;
        tab.until(&alias).await;
        assert_eq!(tab.eval("document.images.length + typeof evil").await, "0undefined");
        assert_eq!(tab.faults(&served.origin()), Vec::<String>::new());
    }

    pub(super) async fn search_and_filters_work_in_the_page(browser: &Browser) {
        let aliases: Vec<_> = (1..=21).map(|number| format!("Lamp {number}")).collect();
        let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
        let home = home_of(&aliases).await;
        let served = served(&home).await;
        let tab = served.page(browser, View::DESK).await;
        // The search is a part of the page that the server sends for so many.
        loop {
            tab.open(&format!("{}/", served.origin())).await;
            if tab.eval("document.querySelectorAll('.card[data-state]').length").await == 21 {
                break;
            }
        }
        tab.until(LIVE).await;
        let shown =
            "[...document.querySelectorAll('.card:not([hidden])')].map(card => card.dataset.plug).join()";
        tab.eval("search.value = ' 17 LAMP'; search.dispatchEvent(new Event('input'))").await;
        assert_eq!(tab.eval(shown).await, "lamp-17");
        tab.eval("search.value = ''; search.dispatchEvent(new Event('input'))").await;
        tab.eval("document.querySelector('[data-show=on]').click()").await;
        assert_eq!(tab.eval(shown).await, "");
        assert_eq!(tab.eval("document.getElementById('nothing').hidden").await, false);
        home.plug(4).press_button();
        tab.until(&format!("{shown} === 'lamp-5'")).await;
        tab.until("document.querySelector('[data-show=on] b').textContent === '1'").await;
        tab.until("document.getElementById('headline').textContent === '21 plugs, 1 on'").await;
        // As a link, without the script's help.
        tab.open(&format!("{}/?show=on", served.origin())).await;
        assert_eq!(tab.eval(shown).await, "lamp-5");
    }

    pub(super) async fn it_works_in_a_panel_of_home_assistant(browser: &Browser) {
        let home = home_of(&["Lamp"]).await;
        let app = App::start(&home).await;
        let home_assistant = HomeAssistant::start(app.address, INGRESS).await;
        let tab = browser.tab(View::DESK).await;
        tab.open(&home_assistant.panel("127.0.0.1")).await;
        tab.until(&inside(LIVE)).await;
        tab.until(&inside(&is_on("lamp", false))).await;
        tab.eval("frames[0].isSame = true").await;
        tab.eval(&inside(&format!("{}.click()", switch("lamp")))).await;
        home.wait_until(BOUND, || home.plug(0).is_on()).await.unwrap();
        tab.until(&inside(&is_on("lamp", true))).await;
        tab.until(&inside(&format!("!{}.hasAttribute('aria-busy')", switch("lamp")))).await;
        app.daemon.says(&format!("{USER} in Home Assistant: POST /api/v1/plugs/lamp/on")).await;
        home.plug(0).press_button();
        tab.until(&inside(&is_on("lamp", false))).await;
        assert_eq!(tab.eval("frames[0].isSame").await, true, "the page was loaded again");

        let below = home_assistant.app("127.0.0.1");
        let places = inside(
            "[...document.querySelectorAll('a, link, script, form')].map(of => of.href || of.src || of.action)",
        );
        let places = tab.eval(&places).await;
        let places: Vec<_> = places.as_array().unwrap().iter().map(|of| of.as_str().unwrap()).collect();
        assert!(places.contains(&below.as_str()), "the form is sent there: {places:?}");
        let outside = |place: &&&str| !place.starts_with(&below) && !place.starts_with("data:");
        assert_eq!(places.iter().filter(outside).collect::<Vec<_>>(), [&""; 0]);
        let api = "frames[0].fetch('openapi.json').then(async response => \
                   new URL((await response.json()).servers[0].url, response.url).href)";
        assert_eq!(tab.eval(api).await, below);
        assert_eq!(home_assistant.strays(), [""; 0]);
        assert_eq!(tab.faults(&home_assistant.origin("127.0.0.1")), Vec::<String>::new());
    }

    pub(super) async fn it_works_in_a_panel_of_home_assistant_without_javascript(browser: &Browser) {
        let home = home_of(&["Gästelampe"]).await;
        let app = App::start(&home).await;
        let home_assistant = HomeAssistant::start(app.address, INGRESS).await;
        let tab = browser.tab(View { script: false, ..View::DESK }).await;
        // By its name without `Sec-Fetch-Site`, by its address with it.
        for host in [NAME, "127.0.0.1"] {
            let was_on = home.plug(0).is_on();
            // A page of before the first read has no plug yet.
            loop {
                tab.open(&home_assistant.panel(host)).await;
                if tab.eval(&inside(&is_on("lamp", was_on))).await == true {
                    break;
                }
            }
            assert_eq!(tab.eval(&inside("document.getElementById('live').hidden")).await, true);
            let alias = inside("document.getElementById('alias-lamp').textContent");
            assert_eq!(tab.eval(&alias).await, "Gästelampe");
            tab.eval(&inside(&format!("{}.click()", switch("lamp")))).await;
            home.wait_until(BOUND, || home.plug(0).is_on() != was_on).await.unwrap();
            let shown = format!("{}#plug-lamp", home_assistant.app(host));
            tab.until(&format!("frames[0].location.href === '{shown}'")).await;
            tab.until(&inside(&is_on("lamp", !was_on))).await;
        }
        assert_eq!(home_assistant.strays(), [""; 0]);
    }

    pub(super) async fn only_home_assistant_shows_it_in_a_panel(browser: &Browser) {
        let home = home_of(&["Lamp"]).await;
        let app = App::start(&home).await;
        // A page of another site, which the browser finds at another name.
        let home_assistant = HomeAssistant::start(app.address, INGRESS).await;
        let tab = browser.tab(View::DESK).await;
        tab.open(&home_assistant.panel(NAME)).await;
        assert_eq!(tab.seen("Log.entryAdded"), [Value::Null; 0]);
        let other = home_assistant.app("127.0.0.1");
        tab.eval(&format!("document.querySelector('iframe').src = '{other}'")).await;
        let said = tab.until_seen("Log.entryAdded", 1).await;
        assert!(said[0]["entry"]["text"].as_str().unwrap().contains("frame-ancestors"), "{said:?}");
        // A proxy at another address of the same network.
        let other = HomeAssistant::start(app.address, Ipv4Addr::new(127, 0, 0, 3)).await;
        tab.open(&other.panel(NAME)).await;
        assert_eq!(tab.eval(&inside("document.body.textContent")).await, "no answer");
        assert_eq!(tab.eval(&format!("frames[0].location.pathname === '{PREFIX}'")).await, true);
    }

    pub(super) async fn axe_finds_nothing(browser: &Browser) {
        let Some(peers) = peers() else { return };
        let axe = std::fs::read_to_string(peers.join("node/node_modules/axe-core/axe.min.js")).unwrap();
        let mut options = home_options_of(&[]);
        let lamps = (1..=20).map(|number| (Model::HS100_HW1, format!("Lamp {number}")));
        options.plugs = lamps
            .chain([(Model::HS110_HW1, "Kettle".to_owned()), (Model::HS300, "Desk".to_owned())])
            .collect();
        let home = SimHome::start(options).await.unwrap();
        home.plug(0).press_button();
        home.lan().set_fault(home.plug(1), LanFault::Refused).await.unwrap();
        home.lan().set_fault(home.plug(2), LanFault::Silent).await.unwrap();
        home.plug(2).set_cloud(CloudLink::Offline);
        let served = Served::start(Config::of(&home).set("routing", "command_ttl", "1s")).await;
        let tab = served.page(browser, View::DESK).await;
        tab.until(&has_route("lamp-2", "cloud")).await;
        loop {
            tab.open(&format!("{}/", served.origin())).await;
            if tab.eval("document.querySelectorAll('.card[data-state]').length").await == 21 {
                break;
            }
        }
        tab.eval(&format!("{}.click()", switch("lamp-3"))).await;
        for view in [View::DESK, View { dark: true, ..View::PHONE }] {
            tab.look(view).await;
            assert_eq!(violations(&tab, &axe).await, json!([]), "{view:?}");
        }
        // Nothing there, and no answer.
        drop(served);
        tab.until("document.getElementById('live').dataset.is === 'lost'").await;
        assert_eq!(violations(&tab, &axe).await, json!([]));
    }

    async fn violations(tab: &Tab<'_>, axe: &str) -> Value {
        tab.eval(&format!("{axe}; 0")).await;
        let found = "axe.run().then(found => found.violations.map(of => `${of.id}: ${of.nodes.map(node => node.html + ' ' + \
                     node.failureSummary).join('; ')}`))";
        tab.eval(found).await
    }
}
