//! A model of the account and the cloud, with the daemon's real auth queue as its client: the queue admits calls,
//! shares one token among them, and limits the logins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hs100d::bridge::event::{AccountPlug, CloudStatus, Event, ExchangeId, Outcome};
use hs100d::model::Failure;
use hs100d::secret::Secret;
use hs100d::smarthome::message::Reply;
use hs100d::transport::cloud::api::Granted;
use hs100d::transport::cloud::auth_task::{AuthQueue, AuthRequest, TokenRequest};
use hs100d::transport::cloud::codes::Reaction;
use hs100d::transport::cloud::error::ApiError;
use hs100d::transport::cloud::host::check_host;
use hs100d::transport::cloud::request::{AppIdentity, CloudApi};
use hs100d::transport::cloud::session::{
    AccountMemory, Denied, GrantKind, RefusedToken, SessionAccount, Settled, Token,
};
use hs100d::transport::cloud::signature::AppKeys;
use hs100d::transport::cloud::{CloudError, Tokens};
use tokio::sync::oneshot;

use super::lan::Flight;
use super::plugs::{Condition, PlugCloud};
use super::{Sabotage, World};

/// The time between the daemon and the cloud, one way, and between the cloud and a plug.
const TRIP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(120));
/// How often the cloud has to wake the plug first.
const WAKING: f64 = 0.02;
const LONGEST_WAKING: Duration = Duration::from_secs(12);
/// The time-out of a login or refresh in the auth task.
const AUTH_TIME: Duration = Duration::from_secs(10);
/// The time-out for one device list.
const LIST_TIME: Duration = Duration::from_secs(15);
/// How long the cloud waits for a plug.
const PLUG_TIME: Duration = Duration::from_secs(8);

const USER: &str = "somebody@example.com";
const HOST: &str = "https://wap.tplinkcloud.com";

pub const TOKEN_EXPIRED: i64 = -20651;
const REFRESH_EXPIRED: i64 = -20655;
const WRONG_PASSWORD: i64 = -20601;
const PLUG_OFFLINE: i64 = -20571;
const PLUG_SILENT: i64 = -20002;
const RATE_LIMIT: i64 = -20004;
const LOCKED: i64 = -20661;
/// Refusals that only the user can resolve: wrong password, locked, two-step verification. The first and the last apply
/// only to a login, so the tokens of such an account are voided first.
pub const FINAL: [i64; 3] = [WRONG_PASSWORD, LOCKED, -20677];

/// The server.
#[derive(Debug, Default)]
pub struct Cloud {
    pub reach: Reach,
    pub throttles: bool,
    /// The error that the account returns to every request.
    pub refusal: Option<i64>,
    /// The password in the config, which each login sends.
    pub written_password: u32,
    /// Whether the account has refused that password.
    password_is_refused: bool,
    /// The valid tokens, by number.
    token: Option<u32>,
    refresh: Option<u32>,
    issued: u32,
}

/// Whether the server can be reached, and what it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    #[default]
    Up,
    Unreachable,
    Silent,
    Slow,
    /// A page of a proxy.
    Garbage,
    BadGateway,
    Breaks,
}

impl Reach {
    pub const FAULTS: [Self; 6] =
        [Self::Unreachable, Self::Silent, Self::Slow, Self::Garbage, Self::BadGateway, Self::Breaks];
}

impl Cloud {
    pub fn is_reached(&self) -> bool {
        !matches!(self.reach, Reach::Unreachable)
    }

    /// Voids the token and, if `and_refresh`, the refresh token.
    pub fn forget_tokens(&mut self, and_refresh: bool) {
        self.token = None;
        if and_refresh {
            self.refresh = None;
        }
    }

    /// The server's verdict on a call with this token.
    fn judge(&self, token: &str) -> Result<(), ApiError> {
        match (self.reach, self.refusal) {
            (Reach::Garbage, _) => Err(ApiError::NotAnAnswer("a proxy's page".into())),
            (Reach::BadGateway, _) => Err(ApiError::Http(502)),
            (Reach::Breaks, _) => Err(ApiError::Broken),
            _ if self.throttles => Err(ApiError::Code(RATE_LIMIT)),
            (_, Some(LOCKED)) => Err(ApiError::Code(LOCKED)),
            _ if self.token.is_none_or(|known| token != text(known)) => Err(ApiError::Code(TOKEN_EXPIRED)),
            _ => Ok(()),
        }
    }

    fn log_in(&mut self, kind: GrantKind, brought: &str) -> Result<Granted, ApiError> {
        match (self.reach, self.refusal) {
            (Reach::Garbage, _) => return Err(ApiError::NotAnAnswer("a proxy's page".into())),
            (Reach::BadGateway, _) => return Err(ApiError::Http(502)),
            (Reach::Breaks, _) => return Err(ApiError::Broken),
            _ if self.throttles => return Err(ApiError::Code(RATE_LIMIT)),
            // A refresh sends no password; its refresh token was voided when the password changed.
            (_, Some(WRONG_PASSWORD)) if kind == GrantKind::Refresh => {}
            (_, Some(code)) => return Err(ApiError::Code(code)),
            _ => {}
        }
        let knows_refresh =
            self.refresh.is_some_and(|known| brought.contains(&format!("\"{}\"", text(known))));
        if kind == GrantKind::Refresh && !knows_refresh {
            return Err(ApiError::Code(REFRESH_EXPIRED));
        }
        self.issued += 1;
        let number = self.issued;
        (self.token, self.refresh) = (Some(number), Some(number));
        let secret = Secret::new(text(number));
        Ok(Granted { token: secret.clone(), refresh_token: Some(secret), email: None })
    }
}

fn text(token: u32) -> String {
    format!("token-{token}")
}

/// The version of the cloud's interface. Runs with an even seed sign their requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    First,
    /// The second one, which is asked for the account's host before the first login.
    Signed,
}

impl Interface {
    pub fn of(seed: u64) -> Self {
        if seed.is_multiple_of(2) { Self::Signed } else { Self::First }
    }

    /// Where a login or a refresh goes.
    fn is_at(self, path: &str) -> bool {
        path.starts_with("/api/v2/account/") == (self == Self::Signed)
    }
}

/// The daemon's side.
pub struct Calls {
    interface: Interface,
    /// Whether the account's host is known, which the second interface tells once.
    has_host: bool,
    queue: AuthQueue,
    told: CloudStatus,
    calls: BTreeMap<u64, Call>,
    next: u64,
    auth: Option<(GrantKind, String)>,
    /// How often the account was set up again; results from an earlier setup are discarded.
    setup: u32,
    memory: AccountMemory,
}

fn account(password: u32, memory: &AccountMemory, interface: Interface) -> SessionAccount {
    let key = |text: &str| Secret::new(text.to_owned());
    let keys = AppKeys { access_key: key("made-up-access"), secret_key: key("made-up-sign") };
    let keys = (interface == Interface::Signed).then_some(keys);
    SessionAccount {
        username: USER.to_owned(),
        password: Some(secret(password)),
        terminal: uuid::Uuid::from_u128(0x1234_5678),
        host: check_host(HOST).expect("a host"),
        api: Arc::new(CloudApi::new(AppIdentity::default(), "chaos", keys)),
        memory: memory.clone(),
    }
}

fn secret(password: u32) -> Secret {
    Secret::new(format!("pretend-{password}"))
}

/// One call, from its request to its outcome.
struct Call {
    exchange: Option<ExchangeId>,
    urgent: bool,
    deadline: Duration,
    stage: Stage,
    /// Its token was refused once.
    is_second: bool,
}

enum Stage {
    New,
    WantsToken(oneshot::Receiver<Result<Arc<Token>, CloudError>>),
    /// Has a token, and waits for the rate limit.
    HasToken(Arc<Token>),
    Sent(Arc<Token>),
}

/// The next event of a call or a login.
pub enum Next {
    Enter(u64),
    Arrives(u64),
    AsksPlug(u64),
    Answered(u64, Box<Result<Answer, ApiError>>),
    Deadline(u64),
    LogsIn,
    LoggedIn(u32, Box<Result<Granted, ApiError>>),
}

impl Next {
    /// Whether it happens in the daemon and not in the cloud.
    pub fn is_for_the_daemon(&self) -> bool {
        !matches!(self, Self::Arrives(_) | Self::AsksPlug(_) | Self::LogsIn)
    }
}

/// The response to a call.
pub enum Answer {
    Plug(Result<Reply, Failure>),
    List(Vec<AccountPlug>),
}

impl Calls {
    pub fn new(tokens: Option<Tokens>, password: u32, interface: Interface) -> Self {
        let memory = AccountMemory::default();
        let queue = AuthQueue::new(account(password, &memory, interface), tokens);
        let (told, calls) = (CloudStatus::Off, BTreeMap::new());
        let has_host = interface == Interface::First;
        Self { interface, has_host, queue, told, calls, next: 0, auth: None, setup: 0, memory }
    }

    /// The config has another password: the account is set up again, and keeps its refused passwords and its used rate
    /// limit.
    fn set_up_anew(&mut self, tokens: Option<Tokens>, password: u32) {
        self.queue = AuthQueue::new(account(password, &self.memory, self.interface), tokens);
        self.has_host = self.interface == Interface::First;
        self.told = CloudStatus::Off;
        self.setup += 1;
        self.auth = None;
    }

    pub fn weight(&self) -> usize {
        (self.calls.len() + self.queue.waiting()) * 256
    }
}

impl World {
    /// An exchange over the cloud starts by getting a token.
    pub(super) fn begin_call(&mut self, flight: Flight) {
        if self.gives_up_corrections(&flight) {
            let trip = self.cloud_trip();
            return self.fail_after(flight, trip, Failure::Garbage("rubbish".into()));
        }
        let (exchange, urgent, deadline) = (flight.exchange.id, flight.exchange.urgent, flight.deadline);
        self.keep(flight);
        self.open_call(Some(exchange), urgent, deadline);
    }

    /// Requests the device list.
    pub(super) fn list_account(&mut self) {
        let is_asked = self
            .daemon
            .as_ref()
            .is_some_and(|it| it.calls.calls.values().any(|call| call.exchange.is_none()));
        if !is_asked {
            self.open_call(None, true, self.at + LIST_TIME);
        }
    }

    fn open_call(&mut self, exchange: Option<ExchangeId>, urgent: bool, deadline: Duration) {
        let Some(daemon) = self.daemon.as_mut() else { return };
        daemon.calls.next += 1;
        let number = daemon.calls.next;
        let call = Call { exchange, urgent, deadline, stage: Stage::New, is_second: false };
        daemon.calls.calls.insert(number, call);
        self.account(deadline, Next::Deadline(number));
        self.want_token(number, None);
        self.report_status();
    }

    /// The exchange was aborted, and its call with it.
    pub(super) fn drop_call(&mut self, exchange: ExchangeId) {
        if let Some(daemon) = self.daemon.as_mut() {
            daemon.calls.calls.retain(|_, call| call.exchange != Some(exchange));
        }
    }

    pub(super) fn account_step(&mut self, step: Next) {
        match step {
            Next::Enter(number) => self.enter(number),
            Next::Arrives(number) => self.call_arrives(number),
            Next::AsksPlug(number) => self.cloud_asks_plug(number),
            Next::Answered(number, answer) => self.call_answered(number, *answer),
            Next::Deadline(number) => self.call_is_due(number),
            Next::LogsIn => self.cloud_logs_in(),
            Next::LoggedIn(setup, granted) => self.logged_in(setup, *granted),
        }
        self.serve_those_who_wait();
        self.report_status();
    }

    /// The user has acted: everything that was blocked is tried again.
    pub(super) fn rearm_account(&mut self) {
        self.judge.user_acted();
        if self.plan.sabotage == Some(Sabotage::RepeatsRefusedLogins)
            && let Some(daemon) = self.daemon.as_mut()
        {
            let server =
                account(self.cloud.written_password, &daemon.calls.memory, daemon.calls.interface).server();
            daemon.calls.memory.refused.remove(&server, USER, &secret(self.cloud.written_password));
        }
        let tokens = self.disk.tokens.clone();
        self.ask_queue(AuthRequest::Rearm(tokens));
        self.report_status();
    }

    /// The account accepts logins again. If its password was refused, the user writes another one.
    pub(super) fn account_is_sorted_out(&mut self) {
        self.cloud.refusal = None;
        if !std::mem::take(&mut self.cloud.password_is_refused) {
            return;
        }
        self.cloud.written_password += 1;
        let (tokens, password) = (self.disk.tokens.clone(), self.cloud.written_password);
        let Some(daemon) = self.daemon.as_mut() else { return };
        daemon.calls.set_up_anew(tokens, password);
        let is_waiting =
            |(&number, call): (&u64, &Call)| matches!(call.stage, Stage::WantsToken(_)).then_some(number);
        let waiting: Vec<u64> = daemon.calls.calls.iter().filter_map(is_waiting).collect();
        self.judge.token_settled();
        self.hear(Event::Cloud(CloudStatus::Down(CloudStatus::NOT_ASKED.into())));
        for number in waiting {
            self.call_failed(number, CloudError::Down("the account was set up anew".into()));
        }
    }

    // --- a call, step by step -------------------------------------------------------------------------------------

    fn enter(&mut self, number: u64) {
        let Some(call) = self.call(number) else { return };
        let (urgent, deadline) = (call.urgent || call.is_second, call.deadline);
        let (answer, mut answered) = oneshot::channel();
        self.ask_queue(AuthRequest::Admit { urgent, reply: answer });
        let admitted = answered.try_recv().expect("the queue says at once whether a call may be made");
        let admitted = if self.plan.sabotage == Some(Sabotage::Overspends) { Ok(()) } else { admitted };
        match admitted {
            Ok(()) => self.send_call(number),
            Err(Denied::NotBefore(at)) if urgent && self.since_start(at) < deadline => {
                self.account(self.since_start(at), Next::Enter(number));
            }
            Err(Denied::NotBefore(_)) => self.call_failed(number, CloudError::Throttled),
            Err(Denied::Error(error)) => self.call_failed(number, error),
        }
    }

    fn want_token(&mut self, number: u64, refused: Option<RefusedToken>) {
        let (answer, answered) = oneshot::channel();
        let Some(call) = self.call(number) else { return };
        call.stage = Stage::WantsToken(answered);
        self.ask_queue(AuthRequest::Token { refused, reply: answer });
        self.serve_those_who_wait();
    }

    /// Continues the calls that have got their token.
    fn serve_those_who_wait(&mut self) {
        loop {
            let Some(daemon) = self.daemon.as_mut() else { return };
            let served = daemon.calls.calls.iter_mut().find_map(|(&number, call)| match &mut call.stage {
                Stage::WantsToken(answered) => answered.try_recv().ok().map(|answer| (number, answer)),
                _ => None,
            });
            let Some((number, answer)) = served else { return };
            match answer {
                Err(error) => self.call_failed(number, error),
                Ok(token) => {
                    let Some(call) = self.call(number) else { continue };
                    call.stage = Stage::HasToken(token);
                    self.enter(number);
                }
            }
        }
    }

    fn send_call(&mut self, number: u64) {
        let Some(call) = self.call(number) else { return };
        let Stage::HasToken(token) = &call.stage else { return };
        call.stage = Stage::Sent(Arc::clone(token));
        self.tally.cloud_calls += 1;
        self.judge.calls_cloud();
        match self.cloud.reach {
            Reach::Unreachable => {
                let error = ApiError::Unreachable("connection refused".into());
                self.account(self.at + Duration::from_millis(20), answer(number, Err(error)));
            }
            // The call ends at its deadline.
            Reach::Silent => {}
            _ => {
                let trip = self.cloud_trip();
                self.account(self.at + trip, Next::Arrives(number));
            }
        }
    }

    fn call_arrives(&mut self, number: u64) {
        let Some(call) = self.call(number) else { return };
        let (Stage::Sent(token), exchange) = (&call.stage, call.exchange) else { return };
        let token = Arc::clone(token);
        let trip = self.cloud_trip();
        let opinion = self.cloud.judge(token.token.expose());
        if let Err(error) = opinion {
            return self.account(self.at + trip, answer(number, Err(error)));
        }
        let Some(exchange) = exchange else {
            let rows = self.plugs.iter().map(|plug| AccountPlug {
                device_id: plug.device_id.clone(),
                mac: Some(plug.mac),
                alias: plug.device.alias.clone(),
                model: (*plug.device.model).into(),
                kind: (*plug.device.kind).into(),
                connected: plug.cloud != PlugCloud::Offline,
            });
            let rows = Answer::List(rows.collect());
            return self.account(self.at + trip, answer(number, Ok(rows)));
        };
        let Some(flight) = self.flight(self.life, exchange) else { return };
        let (plug, deadline) = (flight.plug, flight.deadline);
        match self.plugs[plug].cloud {
            _ if self.plugs[plug].condition == Condition::Dark => {
                self.account(self.at + trip, answer(number, Err(ApiError::Code(PLUG_OFFLINE))));
            }
            PlugCloud::Offline => {
                self.account(self.at + trip, answer(number, Err(ApiError::Code(PLUG_OFFLINE))))
            }
            PlugCloud::Silent => {
                self.account(self.at + PLUG_TIME, answer(number, Err(ApiError::Code(PLUG_SILENT))));
            }
            PlugCloud::Late => {
                let left = deadline.saturating_sub(self.at);
                let after = left.mul_f64(self.dice.fraction());
                self.errant_of(exchange, after);
            }
            PlugCloud::Connected => {
                let waking = if self.dice.chance(WAKING) {
                    self.dice.long_tailed(Duration::from_millis(200), LONGEST_WAKING)
                } else {
                    trip
                };
                self.account(self.at + waking, Next::AsksPlug(number));
            }
        }
    }

    fn errant_of(&mut self, exchange: ExchangeId, after: Duration) {
        let Some(flight) = self.daemon.as_mut().and_then(|daemon| daemon.wires.take(exchange)) else {
            return;
        };
        self.send_errant(&flight, after);
        self.keep(flight);
    }

    fn cloud_asks_plug(&mut self, number: u64) {
        let Some(exchange) = self.call(number).and_then(|call| call.exchange) else { return };
        let Some(flight) = self.flight(self.life, exchange) else { return };
        let (plug, request, causes, deadline) =
            (flight.plug, flight.exchange.request.clone(), flight.causes.clone(), flight.deadline);
        // The caller no longer waits, but the cloud has received the call.
        if self.at > deadline {
            return;
        }
        if self.plugs[plug].condition == Condition::Dark {
            return self.account(self.at + PLUG_TIME, answer(number, Err(ApiError::Code(PLUG_SILENT))));
        }
        self.do_as_told(plug, plug, &request, &causes, deadline);
        let reply = self.plugs[plug].answer(&request, self.at);
        let trip = self.cloud_trip();
        self.account(self.at + trip, answer(number, Ok(Answer::Plug(reply))));
    }

    fn call_answered(&mut self, number: u64, answer: Result<Answer, ApiError>) {
        let Some(call) = self.call(number) else { return };
        let (Stage::Sent(token), false) = (&call.stage, call.is_second) else {
            return self.conclude_call(number, answer);
        };
        let token = token.number;
        match answer {
            Err(error) if refuses_the_token(&error) => {
                call.is_second = true;
                self.want_token(number, Some(RefusedToken { number: token, error }));
            }
            answer => self.conclude_call(number, answer),
        }
    }

    fn conclude_call(&mut self, number: u64, answer: Result<Answer, ApiError>) {
        let Some(daemon) = self.daemon.as_mut() else { return };
        let Some(call) = daemon.calls.calls.remove(&number) else { return };
        let Stage::Sent(token) = call.stage else { return };
        let token = token.number;
        let plug =
            call.exchange.and_then(|exchange| self.flight(self.life, exchange)).map(|flight| flight.plug);
        let about = plug.map(|plug| self.plugs[plug].device_id.clone());
        let result = match answer {
            Ok(answer) => {
                self.ask_queue(AuthRequest::Answered { token, about });
                Ok(answer)
            }
            Err(ApiError::TimedOut) if call.exchange.is_some() => Err(CloudError::Silent),
            Err(error) => {
                if matches!(error.reaction(), Reaction::Stop(_)) {
                    self.judge.account_refuses();
                }
                let (answer, mut answered) = oneshot::channel();
                self.ask_queue(AuthRequest::Failed { token, about, error, reply: answer });
                Err(answered.try_recv().expect("the queue says at once what to make of it"))
            }
        };
        self.report_status();
        match (call.exchange, result) {
            (Some(exchange), Ok(Answer::Plug(reply))) => self.answered(exchange, Outcome::of(reply)),
            (Some(exchange), Err(error)) => self.answered(exchange, Outcome::of(Err(error.into()))),
            (None, Ok(Answer::List(rows))) => self.hear(Event::Account(rows)),
            _ => {}
        }
    }

    /// The call failed before it was sent.
    fn call_failed(&mut self, number: u64, error: CloudError) {
        let Some(daemon) = self.daemon.as_mut() else { return };
        let Some(call) = daemon.calls.calls.remove(&number) else { return };
        let life = self.life;
        if let Some(id) = call.exchange {
            // Not in this turn: the bridge is still handing out its actions.
            let outcome = Box::new(Outcome::of(Err(error.into())));
            self.push(self.at, super::Next::Answer { life, id, outcome });
        }
    }

    fn call_is_due(&mut self, number: u64) {
        let Some(call) = self.call(number) else { return };
        match &call.stage {
            Stage::Sent(_) => self.conclude_call(number, Err(ApiError::TimedOut)),
            _ => self.call_failed(number, CloudError::Down("the login was not answered in time".into())),
        }
    }

    // --- logins ---------------------------------------------------------------------------------------------------

    fn ask_queue(&mut self, ask: AuthRequest) {
        let now = self.now();
        let request = self.daemon.as_mut().and_then(|daemon| daemon.calls.queue.take(ask, now));
        if let Some(request) = request {
            self.run_token_request(request);
        }
    }

    fn run_token_request(&mut self, request: TokenRequest) {
        self.judge.asks_for_token();
        if request.kind == GrantKind::Login {
            self.judge.sends_login(self.cloud.written_password);
        }
        if self.plan.sabotage == Some(Sabotage::LogsInTwice) && self.dice.chance(0.2) {
            self.judge.asks_for_token();
        }
        self.tell(None, format!("the account is asked for a token: {:?}", request.kind));
        let Some(daemon) = self.daemon.as_mut() else { return };
        assert!(daemon.calls.interface.is_at(request.request.path), "{}", request.request.path);
        let search = if daemon.calls.has_host { Duration::ZERO } else { 2 * TRIP.1 };
        daemon.calls.auth =
            Some((request.kind, String::from_utf8(request.request.body.to_vec()).expect("JSON")));
        let wait = match self.cloud.reach {
            Reach::Silent => AUTH_TIME,
            _ => self.cloud_trip() + search,
        };
        self.account(self.at + wait, Next::LogsIn);
    }

    fn cloud_logs_in(&mut self) {
        let Some(daemon) = self.daemon.as_mut() else { return };
        let Some((kind, brought)) = daemon.calls.auth.take() else { return };
        let granted = match self.cloud.reach {
            Reach::Unreachable => Err(ApiError::Unreachable("connection refused".into())),
            Reach::Silent => Err(ApiError::TimedOut),
            _ => self.cloud.log_in(kind, &brought),
        };
        let is_seen =
            matches!(granted, Ok(_) | Err(ApiError::Code(_) | ApiError::TimedOut | ApiError::Broken));
        if let Some(daemon) = self.daemon.as_mut() {
            daemon.calls.has_host |= is_seen;
        }
        if is_seen && kind == GrantKind::Login {
            self.judge.login_is_seen();
        }
        self.tally.logins += u64::from(is_seen && kind == GrantKind::Login);
        if matches!(granted, Err(ApiError::Code(WRONG_PASSWORD))) && kind == GrantKind::Login {
            self.judge.refuses_login(self.cloud.written_password);
            self.cloud.password_is_refused = true;
        }
        let setup = self.daemon.as_ref().map_or(0, |daemon| daemon.calls.setup);
        let trip = self.cloud_trip();
        self.account(self.at + trip, Next::LoggedIn(setup, Box::new(granted)));
    }

    fn logged_in(&mut self, setup: u32, granted: Result<Granted, ApiError>) {
        if self.daemon.as_ref().is_none_or(|daemon| daemon.calls.setup != setup) {
            return;
        }
        self.judge.token_settled();
        if let Err(error) = &granted {
            self.tell(None, format!("the account gives no token: {error}"));
            if matches!(error.reaction(), Reaction::Stop(_)) {
                self.judge.account_refuses();
            }
        }
        let now = self.now();
        let is_wrong = matches!(granted, Err(ApiError::Code(WRONG_PASSWORD)));
        let Some(daemon) = self.daemon.as_mut() else { return };
        let (settled, next) = daemon.calls.queue.settle(granted, now);
        if let Settled::Granted(tokens) = settled {
            self.disk.tokens = Some(tokens);
        }
        if self.plan.sabotage == Some(Sabotage::ForgivesItself) {
            self.cloud.forget_tokens(true);
            self.ask_queue(AuthRequest::Rearm(None));
        }
        let insists =
            self.plan.sabotage == Some(Sabotage::LogsInAfterRefusal) && self.cloud.refusal.is_some();
        if insists {
            self.judge.asks_for_token();
            self.judge.token_settled();
        }
        if let Some(request) = next {
            self.run_token_request(request);
        }
        if is_wrong && self.plan.sabotage == Some(Sabotage::RepeatsRefusedLogins) {
            self.reload();
        }
    }

    // --- small parts ----------------------------------------------------------------------------------------------

    fn report_status(&mut self) {
        let life = self.life;
        let Some(daemon) = self.daemon.as_mut() else { return };
        let status = daemon.calls.queue.status();
        if *status != daemon.calls.told {
            daemon.calls.told = status.clone();
            let event = Box::new(Event::Cloud(status.clone()));
            self.push(self.at, super::Next::Heard { life, event });
        }
    }

    fn account(&mut self, at: Duration, step: Next) {
        let life = self.life;
        self.push(at, super::Next::Account { life, step });
    }

    fn call(&mut self, number: u64) -> Option<&mut Call> {
        self.daemon.as_mut()?.calls.calls.get_mut(&number)
    }

    fn cloud_trip(&mut self) -> Duration {
        let trip = self.dice.between(TRIP.0, TRIP.1);
        if self.cloud.reach == Reach::Slow { trip * 40 } else { trip }
    }
}

fn answer(number: u64, answer: Result<Answer, ApiError>) -> Next {
    Next::Answered(number, Box::new(answer))
}

fn refuses_the_token(error: &ApiError) -> bool {
    matches!(error.reaction(), Reaction::Renew | Reaction::Login | Reaction::Elsewhere)
}
