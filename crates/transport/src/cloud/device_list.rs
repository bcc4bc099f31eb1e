//! The account's device list: which server each plug is connected to. Read when first needed, and again when it is old or
//! seems wrong. A read that fails or is empty does not remove what is known.
//!
//! One task reads the list, so that one read runs at a time; its handles share the result.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout_at;
use tracing::{debug, info, warn};

use crate::cloud::api::{self, Row};
use crate::cloud::client::{AccountCall, CloudClient};
use crate::cloud::codes::PlugFault;
use crate::cloud::error::CloudError;
use crate::cloud::host::RefusedServer;
use crate::cloud::rate_limit::Cooldown;
use hs100d_core::bridge::counters::CloudMethod;
use hs100d_core::bridge::event::Event;
use hs100d_core::logging::Repeated;
use hs100d_core::model::DeviceId;
use hs100d_core::secret::Secret;

/// A list older than this is read again in the background.
const OLD: Duration = Duration::from_secs(30 * 60);
/// A list younger than this is not read again to be shown.
const FRESH: Duration = Duration::from_secs(60);
/// Between reads for a plug that is missing or seems to have moved, while they bring nothing new.
const MISSING: (Duration, Duration) = (Duration::from_secs(60), OLD);
/// Between reads that fail. Short: until the first one succeeds, no plug can be reached.
const FAILING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));
/// For one read.
const LIST_TIME: Duration = Duration::from_secs(15);
/// Ten thousand plugs of some 600 bytes.
const LIST_SIZE: usize = 8 * 1024 * 1024;
/// Requests to the task that may wait in its channel.
const QUEUE: usize = 256;

/// Finds plugs in the list. Cheap to clone; the task ends with the last one.
#[derive(Debug, Clone)]
pub(super) struct DeviceListHandle {
    requests: mpsc::Sender<ListRequest>,
    rows: watch::Receiver<Rows>,
}

/// The rows by device id. Cheap to clone.
type Rows = Arc<HashMap<DeviceId, Arc<Row>>>;

/// A request to the task.
#[derive(Debug)]
enum ListRequest {
    /// Read the list if it is old. No caller waits.
    Refresh,
    /// A plug is missing, or its row seems wrong.
    Find(oneshot::Sender<Result<(), CloudError>>),
    /// The whole list is to be shown.
    List(oneshot::Sender<Result<(), CloudError>>),
    /// The user acted: a read that failed may succeed now.
    Rearm,
}

impl DeviceListHandle {
    /// The row of a plug. Reads the list if it is not there.
    pub(super) async fn find(&self, id: &DeviceId, deadline: Instant) -> Result<Arc<Row>, CloudError> {
        if let Some(row) = self.known(id) {
            // If the channel is full, such a request is in it.
            let _ = self.requests.try_send(ListRequest::Refresh);
            return Ok(row);
        }
        self.ask(ListRequest::Find, deadline).await?;
        self.known(id).ok_or(CloudError::Plug(PlugFault::NotListed))
    }

    /// Reads the list again, if that was not done recently, because a plug is not where its row says. Returns its new row
    /// if that has another server.
    pub(super) async fn find_moved(&self, row: &Row, deadline: Instant) -> Option<Arc<Row>> {
        self.ask(ListRequest::Find, deadline).await.ok()?;
        self.known(&row.device_id).filter(|found| found.server != row.server)
    }

    /// All rows, at most [`FRESH`] old.
    pub(super) async fn list(&self) -> Result<Vec<Row>, CloudError> {
        self.ask(ListRequest::List, Instant::now() + LIST_TIME * 2).await?;
        let rows = self.rows.borrow().clone();
        Ok(rows.values().map(|row| Row::clone(row)).collect())
    }

    /// The user acted: a read that failed may be tried again at once.
    pub(super) async fn rearm(&self) {
        // Fails only at the shutdown.
        let _ = self.requests.send(ListRequest::Rearm).await;
    }

    fn known(&self, id: &DeviceId) -> Option<Arc<Row>> {
        self.rows.borrow().get(id).cloned()
    }

    async fn ask<F>(&self, request: F, deadline: Instant) -> Result<(), CloudError>
    where
        F: FnOnce(oneshot::Sender<Result<(), CloudError>>) -> ListRequest,
    {
        let gone = || CloudError::Down("it was shut down".into());
        let (reply, replied) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        match timeout_at(deadline.into(), replied).await {
            Ok(result) => result.map_err(|_| gone())?,
            Err(_) => Err(CloudError::Down("the account's list did not arrive in time".into())),
        }
    }
}

/// Reads the list for all handles.
pub(super) struct DeviceListTask {
    requests: mpsc::Receiver<ListRequest>,
    client: CloudClient,
    list: DeviceList,
    rows: watch::Sender<Rows>,
    events: mpsc::UnboundedSender<Event>,
    /// Refused servers that were reported.
    reported: HashMap<DeviceId, RefusedServer>,
    /// Reads that were empty.
    emptied: Repeated,
}

impl DeviceListTask {
    /// The task and its handle. `seed` spreads its retries. The network is not used before the first request.
    pub(super) fn new(
        client: CloudClient,
        events: mpsc::UnboundedSender<Event>,
        seed: u64,
    ) -> (Self, DeviceListHandle) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let list = DeviceList::new(seed);
        let (rows, watched) = watch::channel(list.rows.clone());
        let (reported, emptied) = (HashMap::new(), Repeated::default());
        let task = Self { requests, client, list, rows, events, reported, emptied };
        (task, DeviceListHandle { requests: sender, rows: watched })
    }

    /// Serves until every handle is dropped.
    pub(super) async fn run(mut self) {
        while let Some(request) = self.requests.recv().await {
            let decision = match &request {
                ListRequest::Refresh => self.list.refresh(Instant::now()),
                ListRequest::Find(reply) if reply.is_closed() => ListDecision::Known,
                ListRequest::Find(_) => self.list.find(Instant::now()),
                ListRequest::List(_) => self.list.list(Instant::now()),
                ListRequest::Rearm => self.list.rearm(),
            };
            match decision {
                ListDecision::Known => {
                    if matches!(request, ListRequest::List(_)) {
                        self.send_rows();
                    }
                    request.reply(Ok(()));
                }
                ListDecision::Refuse(error) => request.reply(Err(error)),
                ListDecision::Read => {
                    let Some(()) = self.read(request).await else { return };
                }
            }
        }
    }

    /// Reads the list, and replies to this request and to those that arrive meanwhile. `None` if every handle is dropped.
    async fn read(&mut self, first: ListRequest) -> Option<()> {
        let mut waiting = vec![first];
        let client = self.client.clone();
        let reading = fetch(&client);
        tokio::pin!(reading);
        let fetched = loop {
            tokio::select! {
                fetched = &mut reading => break fetched,
                request = self.requests.recv() => match request? {
                    ListRequest::Refresh => {}
                    request => waiting.push(request),
                },
            }
        };
        let result = fetched.map(|rows| self.take(rows));
        if let Err(error) = &result {
            self.list.fail(error, Instant::now());
        }
        for request in waiting {
            if matches!(request, ListRequest::Rearm) {
                self.list.rearm();
            }
            request.reply(result.clone());
        }
        Some(())
    }

    fn take(&mut self, rows: Vec<Row>) {
        self.warn_of_refused_servers(&rows);
        if self.list.take(rows, Instant::now()) {
            debug!(plugs = self.list.rows.len(), "the account's list was read");
            if let Some(past) = self.emptied.ended(Instant::now()) {
                info!("the account's list is complete again {past}");
            }
            self.rows.send_replace(self.list.rows.clone());
            self.send_rows();
        } else {
            // A throttled account alternated between empty and full lists for weeks.
            let known = self.list.rows.len();
            if self.emptied.failed("", Instant::now()).is_some() {
                info!("the account's list is empty; the {known} plugs known from it are kept");
            }
        }
    }

    fn warn_of_refused_servers(&mut self, rows: &[Row]) {
        for row in rows.iter().filter(|row| row.is_supported()) {
            let Err(refused) = &row.server else {
                self.reported.remove(&row.device_id);
                continue;
            };
            if self.reported.insert(row.device_id.clone(), refused.clone()).as_ref() != Some(refused) {
                warn!(
                    plug = %row.device_id,
                    "{}: the account names the server {} for it, which is not used because it {}: the plug is served \
                     over the LAN only; please report this",
                    row.device_id, refused.named, refused.why
                );
            }
        }
    }

    fn send_rows(&self) {
        let plugs = self.list.rows.values().map(|row| row.to_account_plug()).collect();
        // Fails only at the shutdown.
        let _ = self.events.send(Event::Account(plugs));
    }
}

/// What the account listed, and when to read it again. No I/O, no clock.
struct DeviceList {
    rows: Rows,
    read_at: Option<Instant>,
    /// While it lasts, another read for a missing plug would bring nothing new.
    missing: Cooldown,
    /// Runs after a read failed with `failure`.
    failing: Cooldown,
    failure: CloudError,
}

/// What to do for a request.
#[derive(Debug, PartialEq, Eq)]
enum ListDecision {
    /// Use the rows that are known.
    Known,
    /// Read the list.
    Read,
    /// A read failed a moment ago, with this error.
    Refuse(CloudError),
}

impl DeviceList {
    fn new(seed: u64) -> Self {
        Self {
            rows: Rows::default(),
            read_at: None,
            missing: Cooldown::new(MISSING.0, MISSING.1, seed),
            failing: Cooldown::new(FAILING.0, FAILING.1, seed),
            failure: CloudError::Throttled,
        }
    }

    fn refresh(&self, now: Instant) -> ListDecision {
        self.unless(self.read_at.is_some_and(|read_at| now < read_at + OLD), now)
    }

    fn find(&self, now: Instant) -> ListDecision {
        self.unless(self.missing.until(now).is_some(), now)
    }

    fn list(&self, now: Instant) -> ListDecision {
        self.unless(self.read_at.is_some_and(|read_at| now < read_at + FRESH), now)
    }

    fn rearm(&mut self) -> ListDecision {
        self.failing.succeed();
        ListDecision::Known
    }

    fn unless(&self, is_good: bool, now: Instant) -> ListDecision {
        match (is_good, self.failing.until(now)) {
            (true, _) => ListDecision::Known,
            (false, Some(_)) => ListDecision::Refuse(self.failure.clone()),
            (false, None) => ListDecision::Read,
        }
    }

    /// Takes the rows that were read. Ignores an empty list if there are known rows, and returns false.
    fn take(&mut self, rows: Vec<Row>, now: Instant) -> bool {
        self.failing.succeed();
        self.read_at = Some(now);
        let is_credible = !rows.is_empty() || self.rows.is_empty();
        let rows: HashMap<_, _> =
            rows.into_iter().map(|row| (row.device_id.clone(), Arc::new(row))).collect();
        if is_credible && self.has_new_places(&rows) {
            self.missing.succeed();
        } else {
            self.missing.fail(now);
        }
        if is_credible {
            self.rows = Arc::new(rows);
        }
        is_credible
    }

    /// A read failed. Errors that make the session refuse calls need no cooldown here.
    fn fail(&mut self, error: &CloudError, now: Instant) {
        if matches!(error, CloudError::Down(_) | CloudError::OnlyHere(_) | CloudError::Faulty(_)) {
            self.failing.fail(now);
            self.failure = error.clone();
        }
    }

    /// Whether a plug or a server is new. Which plugs are connected changes all the time and does not count.
    fn has_new_places(&self, rows: &HashMap<DeviceId, Arc<Row>>) -> bool {
        let server = |id| self.rows.get(id).map(|row| &row.server);
        rows.len() != self.rows.len() || rows.values().any(|row| server(&row.device_id) != Some(&row.server))
    }
}

impl ListRequest {
    fn reply(self, result: Result<(), CloudError>) {
        match self {
            Self::Refresh | Self::Rearm => {}
            // Fails if the caller has gone.
            Self::Find(reply) | Self::List(reply) => drop(reply.send(result)),
        }
    }
}

async fn fetch(client: &CloudClient) -> Result<Vec<Row>, CloudError> {
    let call = AccountCall {
        method: CloudMethod::GetDeviceList,
        host: None,
        // Rare, and commands wait for it.
        urgent: true,
        deadline: Instant::now() + LIST_TIME,
        size: LIST_SIZE,
        about: None,
        request: |token: &Secret| client.api.device_list(token),
        read: |response: &api::HttpResponse| api::read_device_list(response, client.account.entry()),
    };
    client.call(call).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::host::check_host;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn row(n: u32, server: &str) -> Row {
        Row {
            device_id: DeviceId::new(&format!("{n:040}")).unwrap(),
            mac: None,
            alias: "".into(),
            model: "".into(),
            kind: "".into(),
            server: Ok(check_host(server).unwrap()),
            connected: true,
            same_region: true,
        }
    }

    const HERE: &str = "https://wap.tplinkcloud.com";
    const THERE: &str = "https://eu-wap.tplinkcloud.com";

    #[test]
    fn the_list_is_read_when_first_needed_and_when_it_is_old() {
        let now = Instant::now();
        let mut list = DeviceList::new(7);
        assert_eq!((list.find(now), list.list(now)), (ListDecision::Read, ListDecision::Read));
        assert!(list.take(vec![row(1, HERE)], now));
        assert_eq!(list.refresh(now + 30 * MINUTE - SECOND), ListDecision::Known);
        assert_eq!(list.refresh(now + 30 * MINUTE), ListDecision::Read);
        assert_eq!(list.list(now + MINUTE - SECOND), ListDecision::Known);
        assert_eq!(list.list(now + MINUTE), ListDecision::Read);
    }

    #[test]
    fn the_list_is_read_less_often_while_a_plug_stays_missing() {
        let mut now = Instant::now();
        let mut list = DeviceList::new(7);
        let mut reads = 0;
        for _ in 0..24 * 60 {
            if list.find(now) == ListDecision::Read {
                reads += 1;
                list.take(vec![row(1, HERE)], now);
            }
            now += MINUTE;
        }
        assert!((24..=55).contains(&reads), "{reads} reads in a day");
    }

    #[test]
    fn a_new_plug_or_server_in_the_list_ends_the_cooldown() {
        let now = Instant::now();
        let mut list = DeviceList::new(7);
        list.take(vec![row(1, HERE)], now);
        list.take(vec![row(1, HERE)], now);
        assert_eq!(list.find(now), ListDecision::Known);
        list.take(vec![row(1, THERE)], now);
        assert_eq!(list.find(now), ListDecision::Read);
        list.take(vec![Row { connected: false, ..row(1, THERE) }], now);
        assert_eq!(list.find(now), ListDecision::Known, "who is connected does not count");
    }

    #[test]
    fn an_empty_list_removes_nothing() {
        let now = Instant::now();
        let mut list = DeviceList::new(7);
        assert!(list.take(vec![], now));
        assert!(list.take(vec![row(1, HERE), row(2, HERE)], now));
        assert!(!list.take(vec![], now));
        assert_eq!(list.rows.len(), 2);
        assert!(list.take(vec![row(2, HERE)], now));
        assert_eq!(list.rows.len(), 1, "a plug that was removed is gone");
    }

    #[test]
    fn a_read_that_fails_is_not_repeated_at_once_and_removes_nothing() {
        let now = Instant::now();
        let mut list = DeviceList::new(7);
        list.take(vec![row(1, HERE)], now);
        let later = now + 40 * MINUTE;
        let error = CloudError::Down("HTTP status 502".into());
        list.fail(&error, later);
        assert_eq!(list.refresh(later), ListDecision::Refuse(error.clone()));
        assert_eq!(list.refresh(later + 10 * SECOND), ListDecision::Read);
        list.fail(&error, later);
        list.rearm();
        assert_eq!(list.refresh(later), ListDecision::Read, "the user acted");
        assert_eq!(list.rows.len(), 1);
        list.fail(&CloudError::Throttled, later + 10 * SECOND);
        assert_eq!(list.refresh(later + 10 * SECOND), ListDecision::Read, "the session refuses calls itself");
    }
}
