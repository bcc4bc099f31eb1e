// The status page while JavaScript is on: keeps it up to date from the stream of events, and sends presses without a reload.
//
// The server renders everything; this file changes what the events say, and takes cards that it does not have, and the
// drawings of those in view, from the server's HTML. Text from devices is only ever set as text.

const STREAM = "api/v1/events";
// The stream sends a comment every 15 s.
const SILENT_AFTER = 40_000;
const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 30_000;
// The age of a card's drawings, and of the overview, at which they are fetched again.
const DRAWN_EVERY = 60_000;
const OVERVIEW_EVERY = 20_000;
// A page that nobody sees gives its stream back after this time.
const HIDDEN_FOR = 60_000;
// More cards than this are fetched with the whole page.
const FEW = 8;

const SIGNS = { local: ["lan", "LAN"], cloud: ["cloud", "Cloud"], none: ["none", "Not reachable"] };

const page = document.documentElement;
const live = document.getElementById("live");
const list = document.getElementById("plugs");

// --- Small things ---------------------------------------------------------------------------------------------------

const part = (element, name) => element.querySelector(`:scope [data-part="${name}"]`);

function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

/** The whole text of a response in problem+json as one sentence. */
async function problemOf(response) {
  const problem = await response.json().catch(() => ({}));
  return problem.result?.error ?? problem.detail ?? `${response.status} ${response.statusText}`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "numeric", minute: "2-digit" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "numeric", minute: "2-digit" });

/** A moment in the browser's own zone, as short as it is clear. */
function moment(at) {
  const age = Date.now() - at;
  if (age < 12 * 3_600_000 || at.toDateString() === new Date().toDateString()) return clock.format(at);
  return (age < 6 * 86_400_000 ? weekday : date).format(at);
}

function ago(at) {
  const minutes = Math.floor((Date.now() - at) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  return minutes < 1440 ? `${Math.floor(minutes / 60)} h ago` : `${Math.floor(minutes / 1440)} d ago`;
}

/** Writes the times below this element as the browser's zone has them. */
function localTimes(root) {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    setText(time, time.dataset.is === "age" ? ago(at) : `${time.dataset.is} ${moment(at)}`);
  }
}

// --- What changes is spoken, once, and never more than a sentence at a time -------------------------------------------

const changes = document.getElementById("changes");
const said = new Map();

function say(plug, words) {
  if (!said.size) setTimeout(speak, 600);
  said.set(plug, words);
}

function speak() {
  const sentences = [...said.values()];
  changes.textContent = sentences.length > 3 ? `${sentences.length} plugs changed.` : sentences.join(" ");
  said.clear();
}

// --- Plugs ------------------------------------------------------------------------------------------------------------

/** The element of each plug and each outlet by its name. */
const plugs = new Map();

function index() {
  plugs.clear();
  for (const element of list.querySelectorAll("[data-plug]")) plugs.set(element.dataset.plug, element);
}

const titleOf = (element) => part(element, "alias").textContent;

/** The state of a plug, as its topic has it. */
function showState(element, { state, route, on_since, brightness, until }, at) {
  const was = { ...element.dataset };
  element.dataset.state = state;
  element.dataset.route = route;
  const isOn = state === "ON";
  const isAway = route === "none";
  const hasChanged = was.state !== state || was.route !== route;

  const word = isAway ? `was ${isOn ? "on" : "off"}` : isOn && brightness ? `On, ${brightness} %` : isOn ? "On" : "Off";
  setText(part(element, "word"), word);
  showSince(part(element, "since"), !isAway && isOn ? on_since : hasChanged && (isAway || was.state !== state) ? at : null, hasChanged);
  showUntil(part(element, "until"), until, isOn);
  const [sign, name] = SIGNS[route] ?? SIGNS.none;
  const shown = part(element, "route");
  if (shown && was.route !== route) {
    shown.classList.remove("local", "cloud", "none");
    shown.classList.add(route);
    shown.querySelector("use").setAttribute("href", `#${sign}`);
    setText(shown.querySelector("span"), name);
  }
  const button = part(element, "switch");
  if (!button.dataset.target) showSwitch(button, isOn);
  if (!hasChanged) return;
  soon(element);
  recount();
  if (was.state && was.route) {
    say(element.dataset.plug, isAway ? `${titleOf(element)} is not reachable.` : `${titleOf(element)} is ${isOn ? "on" : "off"}, over the ${route === "cloud" ? "cloud" : "LAN"}.`);
  }
}

function showSince(element, since, hasChanged) {
  if (!element) return;
  const at = since && new Date(since);
  if (!at && !hasChanged) return;
  element.hidden = !at;
  if (!at) return;
  const time = element.firstElementChild;
  time.dateTime = at.toISOString();
  setText(time, `since ${moment(at)}`);
}

function showUntil(element, until, isOn) {
  if (!element) return;
  element.hidden = !until;
  if (until) setText(element, `${isOn ? "off" : "on"} at ${moment(new Date(until))}`);
}

function showSwitch(button, isOn) {
  button.setAttribute("aria-pressed", String(isOn));
  button.name = isOn ? "off" : "on";
  setText(button.firstElementChild, isOn ? "On" : "Off");
}


function showEnergy(element, { power, energy_today }) {
  if (power === undefined || power === null) return;
  const meter = part(element, "power");
  // The first value of a meter: the card has no place for it yet.
  if (!meter) return soon(element);
  setText(meter, `${power.toFixed(power >= 100 ? 0 : 1)} W`);
  const today = part(element, "today");
  if (today && energy_today !== undefined) setText(today, `${energy_today.toFixed(2)} kWh today`);
}

function showInfo(element, { alias, model, rssi }) {
  if (alias) setText(part(element, "alias"), alias);
  setText(part(element, "model"), model);
  const signal = part(element, "signal");
  if (!signal) return;
  signal.hidden = rssi === null || rssi === undefined;
  if (signal.hidden) return;
  const full = rssi >= -55 ? 4 : rssi >= -65 ? 3 : rssi >= -75 ? 2 : 1;
  signal.querySelectorAll("rect").forEach((bar, n) => bar.classList.toggle("full", n < full));
  setText(signal.querySelector("span"), `${rssi < 0 ? "−" : ""}${Math.abs(rssi)} dBm`);
}

// --- Presses ----------------------------------------------------------------------------------------------------------

list.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (!button?.matches(".switch")) return;
  event.preventDefault();
  press(button);
});

/** Asks for the other state; while a press is under way, for the opposite of what that one wants. */
async function press(button) {
  const element = button.closest("[data-plug]");
  const { plug } = element.dataset;
  const target = button.dataset.target ? (button.dataset.target === "on" ? "off" : "on") : button.name;
  button.dataset.target = target;
  button.setAttribute("aria-busy", "true");
  tell(element, `Switching ${target} …`, false);
  let failed;
  try {
    const response = await fetch(`api/v1/plugs/${plug}/${target}`, { method: "POST", headers: { accept: "application/json" } });
    if (!response.ok && response.status !== 409) failed = await problemOf(response);
  } catch {
    failed = "hs100d did not answer. Whether the plug has switched shows when it does.";
  }
  // A newer press is under way: this one is over.
  if (button.dataset.target !== target || !button.isConnected) return;
  delete button.dataset.target;
  button.removeAttribute("aria-busy");
  showSwitch(button, element.dataset.state === "ON");
  tell(element, failed ? `Not switched ${target}: ${failed}` : "", Boolean(failed));
  if (failed) {
    say(plug, `${titleOf(element)} was not switched ${target}: ${failed}`);
    soon(element);
  }
}

function tell(element, words, isFault) {
  const note = part(element, "note");
  note.hidden = !words;
  note.classList.toggle("failed", isFault);
  setText(note, words);
}

// --- The stream -------------------------------------------------------------------------------------------------------

let stream;
let lost;
let pause = FIRST_PAUSE;
let retry;

function light(is, words) {
  live.hidden = false;
  live.dataset.is = is;
  setText(live, words);
  page.classList.toggle("stale", is === "lost");
}

async function listen() {
  clearTimeout(retry);
  stream?.abort();
  const mine = (stream = new AbortController());
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => mine.abort(), SILENT_AFTER);
  };
  let why = "";
  try {
    heard();
    const response = await fetch(STREAM, { headers: { accept: "text/event-stream" }, cache: "no-store", signal: mine.signal });
    if (!response.ok) throw new Error(await problemOf(response));
    await read(response.body, heard);
  } catch (error) {
    if (error.message && !(error instanceof TypeError) && error.name !== "AbortError") why = ` (${error.message})`;
  } finally {
    clearTimeout(silence);
    // Also if this was a fault of our own: the next snapshot mends it.
    mine.abort();
  }
  if (stream !== mine) return;
  lost ??= new Date();
  light("lost", `No connection since ${clock.format(lost)}${why}. Trying again.`);
  retry = setTimeout(listen, pause * (0.75 + Math.random() / 2));
  pause = Math.min(pause * 2, LONGEST_PAUSE);
}

/** Reads server-sent events until the stream ends. Comments, which EventSource would hide, show that it lives. */
async function read(body, heard) {
  let rest = "";
  for (const reader = body.pipeThrough(new TextDecoderStream()).getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const fields = event.split("\n").map((line) => line.match(/^(event|data): ?(.*)$/)).filter(Boolean);
      const of = (name) => fields.filter((field) => field[1] === name).map((field) => field[2]).join("\n");
      if (of("data")) take(of("event"), JSON.parse(of("data")));
    }
  }
}

function take(kind, data) {
  if (kind === "snapshot") return takeSnapshot(data);
  if (kind === "event") return takeNotice(data);
  if (kind === "bridge") return overview();
  const element = plugs.get(data.plug);
  if (kind === "gone") return element ? remove(element) : undefined;
  if (!element) return data.plug ? missing(data.plug) : undefined;
  if (kind === "state") showState(element, data, data.since ?? new Date());
  if (kind === "energy") showEnergy(element, data);
  if (kind === "info") showInfo(element, data);
  if (kind === "availability" || kind === "result") soon(element);
}

function takeSnapshot({ plugs: all }) {
  const isBack = Boolean(lost);
  lost = undefined;
  pause = FIRST_PAUSE;
  light("live", "Live");
  for (const { name, state, energy, info, since } of all) {
    const element = plugs.get(name);
    if (!element) continue;
    if (state) showState(element, state, since);
    if (energy) showEnergy(element, energy);
    if (info) showInfo(element, info);
  }
  const names = new Set(all.map(({ name }) => name));
  const isSame = names.size === plugs.size && [...names].every((name) => plugs.has(name));
  if (isBack || !isSame) fetchAll();
}

function takeNotice({ event, plug }) {
  overview();
  const element = plugs.get(plug);
  if (event === "plug_gone" && element) return remove(element);
  if (element) soon(element);
  else if (plug) missing(plug);
}

function remove(element) {
  element.remove();
  index();
  recount();
}

// A page that nobody looks at needs no stream: a phone in a pocket, one of many tabs.
let hiding;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      clearTimeout(retry);
      const mine = stream;
      stream = undefined;
      mine?.abort();
    }, HIDDEN_FOR);
  } else if (!stream || lost) {
    lost ??= new Date();
    again();
  }
});

function again() {
  pause = FIRST_PAUSE;
  listen();
}
addEventListener("online", again);
// A page that comes back from the browser's cache of pages has lost its stream.
addEventListener("pageshow", (event) => event.persisted && again());

// --- HTML from the server ---------------------------------------------------------------------------------------------

async function fetchPage(query) {
  const response = await fetch(`./${query}`, { headers: { accept: "text/html" }, cache: "no-store" });
  if (!response.ok) throw new Error(await problemOf(response));
  const fetched = new DOMParser().parseFromString(await response.text(), "text/html");
  // Another version of the daemon: its page may need another script.
  if (fetched.documentElement.dataset.key !== page.dataset.key) location.reload();
  takeOverview(fetched);
  return fetched;
}

/** Replaces what is above the cards, if it differs. */
function takeOverview(fetched) {
  for (const id of ["facts", "notes", "unserved"]) {
    const [ours, theirs] = [document, fetched].map((of) => of.getElementById(id));
    const isOpen = ours.querySelector("details")?.open;
    if (ours.dataset.html === theirs.innerHTML) continue;
    ours.dataset.html = theirs.innerHTML;
    ours.replaceChildren(...theirs.childNodes);
    const details = ours.querySelector("details");
    if (details) details.open = isOpen ?? false;
    localTimes(ours);
  }
}

/** Puts the plugs of the server's page in place of ours, in its order; those that we have keep their element. */
async function fetchAll() {
  const fetched = await fetchPage("").catch(() => undefined);
  if (!fetched) return;
  const cards = [...fetched.getElementById("plugs").children].map((card) => {
    const ours = card.dataset.plug && plugs.get(card.dataset.plug);
    if (!ours?.matches(".card") || ours.querySelectorAll("[data-plug]").length !== card.querySelectorAll("[data-plug]").length) return adopt(card);
    redraw(ours, card);
    return ours;
  });
  const focused = document.activeElement;
  if (cards.some((card, n) => list.children[n] !== card) || list.children.length !== cards.length) list.replaceChildren(...cards);
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
  index();
  recount();
  observe();
}

function adopt(card) {
  const own = document.importNode(card, true);
  localTimes(own);
  return own;
}

let fetching;

/** A plug that the page does not have. */
function missing() {
  fetching ??= setTimeout(() => {
    fetching = undefined;
    fetchAll();
  }, 300);
}

/** Takes from a card of the server what is not in the events: the drawings and the last failure. */
function redraw(ours, theirs) {
  for (const name of ["day", "fault"]) {
    const places = [ours, theirs].map((card) => card.querySelectorAll(`[data-part="${name}"]`));
    if (places[0].length !== places[1].length) continue;
    places[0].forEach((place, n) => {
      const fresh = document.importNode(places[1][n], true);
      localTimes(fresh);
      if (place.isEqualNode(fresh)) return;
      const details = fresh.querySelector("details");
      if (details) details.open = place.querySelector("details")?.open ?? false;
      place.replaceWith(fresh);
    });
  }
}

let asked;

function overview() {
  clearTimeout(asked);
  asked = setTimeout(() => fetchPage("?only=bridge").catch(() => {}), 300);
}

// --- What is in view is drawn, and drawn again ------------------------------------------------------------------------

const inView = new Map();
const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) inView.delete(target);
    else if (!inView.has(target)) inView.set(target, drawnAt(target) + DRAWN_EVERY);
  }
  if (inView.size) draw();
}, { rootMargin: "200px" });

/** When the drawings of a card are from; one without has to be drawn at once. */
function drawnAt(card) {
  return card.dataset.undrawn === undefined ? (drawn.get(card) ?? loaded) : 0;
}

const drawn = new WeakMap();
const loaded = Date.now();

function observe() {
  observer.disconnect();
  inView.clear();
  for (const card of list.querySelectorAll(".card")) observer.observe(card);
}

/** The drawings of this plug's card are to be fetched soon, if it is in view. */
function soon(element) {
  const card = element.closest(".card");
  drawn.set(card, Math.min(drawnAt(card), Date.now() - DRAWN_EVERY + 1_500));
  if (inView.has(card)) inView.set(card, drawnAt(card) + DRAWN_EVERY);
}

let drawing = false;

async function draw() {
  if (drawing || document.hidden || lost) return;
  drawing = true;
  const due = [...inView].filter(([, at]) => at <= Date.now()).map(([card]) => card).slice(0, FEW);
  await Promise.all(due.map(async (card) => {
    inView.set(card, Date.now() + DRAWN_EVERY);
    drawn.set(card, Date.now());
    const fetched = await fetchPage(`?only=${card.dataset.plug}`).catch(() => undefined);
    const fresh = fetched?.getElementById(card.id);
    if (!fresh) return;
    delete card.dataset.undrawn;
    redraw(card, fresh);
  }));
  drawing = false;
  if (due.length === FEW) draw();
}

setInterval(draw, 1_000);
setInterval(() => document.hidden || lost || overview(), OVERVIEW_EVERY);
setInterval(() => document.hidden || localTimes(document), 30_000);

// --- Counts, search and filters ---------------------------------------------------------------------------------------

const search = document.getElementById("search");
const filters = [...document.querySelectorAll("[data-show]")];
let shown = new URLSearchParams(location.search).get("show") ?? "all";

const FITS = {
  all: () => true,
  on: ({ state, route }) => state === "ON" && route !== "none",
  unreachable: ({ route }) => route === "none",
  cloud: ({ route }) => route === "cloud",
};

let counting;

function recount() {
  counting ??= requestAnimationFrame(() => {
    counting = undefined;
    const cards = [...list.querySelectorAll(".card")];
    const count = (show) => cards.filter((card) => FITS[show](card.dataset)).length;
    const [all, on, away] = ["all", "on", "unreachable"].map(count);
    if (all) setText(document.getElementById("headline"), headline(all, on, away));
    for (const filter of filters) setText(filter.querySelector("b"), String(count(filter.dataset.show)));
    sift();
  });
}

function headline(all, on, away) {
  return `${all} ${all === 1 ? "plug" : "plugs"}, ${on} on${away ? `, ${away} not reachable` : ""}`;
}

/** Shows the cards that fit the filter and the search. */
function sift() {
  if (!search) return;
  const words = search.value.trim().toLowerCase().split(/\s+/);
  const fits = FITS[shown] ?? FITS.all;
  let found = 0;
  for (const card of list.querySelectorAll(".card")) {
    const names = [card, ...card.querySelectorAll("[data-plug]")];
    const text = () => names.map((of) => `${of.dataset.plug} ${titleOf(of)} ${part(of, "model")?.textContent ?? ""}`).join(" ").toLowerCase();
    const isShown = fits(card.dataset) && (words[0] === "" || words.every((word) => text().includes(word)));
    if (card.hidden === isShown) card.hidden = !isShown;
    found += isShown;
  }
  document.getElementById("nothing").hidden = found > 0;
}

if (search) {
  search.addEventListener("input", sift);
  search.form.addEventListener("submit", (event) => event.preventDefault());
  for (const filter of filters) {
    filter.addEventListener("click", (event) => {
      event.preventDefault();
      shown = filter.dataset.show;
      for (const other of filters) other.toggleAttribute("aria-current", other === filter);
      filter.setAttribute("aria-current", "true");
      history.replaceState(null, "", filter.href);
      sift();
    });
  }
}

// --- Start ------------------------------------------------------------------------------------------------------------

index();
localTimes(document);
recount();
observe();
light("wait", "Connecting …");
listen();
