//! What the account lists: which server has which plug. Read when first needed, again when it is old or seems
//! wrong, and never forgotten for an answer that failed or came back empty.
//!
//! One task reads the list, so that one reading is in flight whoever wants it; everybody reads what it found.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout_at;
use tracing::{debug, info, warn};

use crate::bridge::event::Event;
use crate::logging::Repeated;
use crate::model::DeviceId;
use crate::transport::cloud::CloudError;
use crate::transport::cloud::api::{self, Row};
use crate::transport::cloud::client::{AccountCall, CloudClient};
use crate::transport::cloud::codes::PlugFault;
use crate::transport::cloud::host::RefusedServer;
use crate::transport::cloud::rate_limit::Cooldown;

/// A list older than this is read again, behind the back of the call that noticed.
const OLD: Duration = Duration::from_secs(30 * 60);
/// A list younger than this is as good as a new one.
const FRESH: Duration = Duration::from_secs(60);
/// Between readings for a plug that is missing or seems to have moved; doubles while they bring nothing new.
const LOOK: (Duration, Duration) = (Duration::from_secs(60), OLD);
/// Between readings that fail. Short, because until the first one succeeds no plug can be reached.
const FAILING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));
/// For one reading.
const LIST_TIME: Duration = Duration::from_secs(15);
/// Ten thousand plugs of some 600 bytes.
const LIST_SIZE: usize = 8 * 1024 * 1024;
/// Asks that may lie before the task before those that ask must wait.
const QUEUE: usize = 256;

/// Where plugs are looked up. Cheap to clone; the task ends with the last one.
#[derive(Debug, Clone)]
pub(super) struct DeviceListHandle {
    asks: mpsc::Sender<ListRequest>,
    rows: watch::Receiver<Rows>,
}

/// The rows by device id. Cheap to clone.
type Rows = Arc<HashMap<DeviceId, Arc<Row>>>;

/// Why the list should be read, and who waits for it.
#[derive(Debug)]
enum ListRequest {
    /// It is old; nobody waits.
    Freshen,
    /// It seems wrong about a plug.
    Look(oneshot::Sender<Result<(), CloudError>>),
    /// Somebody wants to see it.
    List(oneshot::Sender<Result<(), CloudError>>),
    /// The user acted, so that what failed may succeed.
    Rearm,
}

impl DeviceListHandle {
    /// The row of a plug; reads the list when it is not there.
    pub(super) async fn find(&self, id: &DeviceId, deadline: Instant) -> Result<Arc<Row>, CloudError> {
        if let Some(row) = self.known(id) {
            // A full queue means that the task is busy with the same thing.
            let _ = self.asks.try_send(ListRequest::Freshen);
            return Ok(row);
        }
        self.ask(ListRequest::Look, deadline).await?;
        self.known(id).ok_or(CloudError::Plug(PlugFault::NotListed))
    }

    /// Reads the list again, if that was not done lately, for a plug that is not where its row says. Its row, if
    /// that names another server.
    pub(super) async fn find_moved(&self, row: &Row, deadline: Instant) -> Option<Arc<Row>> {
        self.ask(ListRequest::Look, deadline).await.ok()?;
        self.known(&row.device_id).filter(|found| found.server != row.server)
    }

    /// All rows, as fresh as the account should be asked for them.
    pub(super) async fn list(&self) -> Result<Vec<Row>, CloudError> {
        self.ask(ListRequest::List, Instant::now() + LIST_TIME * 2).await?;
        let rows = self.rows.borrow().clone();
        Ok(rows.values().map(|row| Row::clone(row)).collect())
    }

    /// Forgets that readings failed.
    pub(super) async fn rearm(&self) {
        // Without the task there is nothing to forget.
        let _ = self.asks.send(ListRequest::Rearm).await;
    }

    fn known(&self, id: &DeviceId) -> Option<Arc<Row>> {
        self.rows.borrow().get(id).cloned()
    }

    async fn ask<F>(&self, ask: F, deadline: Instant) -> Result<(), CloudError>
    where
        F: FnOnce(oneshot::Sender<Result<(), CloudError>>) -> ListRequest,
    {
        let gone = || CloudError::Down("it was shut down".into());
        let (answer, answered) = oneshot::channel();
        self.asks.send(ask(answer)).await.map_err(|_| gone())?;
        match timeout_at(deadline.into(), answered).await {
            Ok(answer) => answer.map_err(|_| gone())?,
            Err(_) => Err(CloudError::Down("the account's list was not there in time".into())),
        }
    }
}

/// The task that reads the list.
pub(super) struct DeviceListTask {
    asks: mpsc::Receiver<ListRequest>,
    line: CloudClient,
    book: DeviceList,
    rows: watch::Sender<Rows>,
    events: mpsc::UnboundedSender<Event>,
    /// Plugs whose servers were refused, and warned of.
    warned: HashMap<DeviceId, RefusedServer>,
    /// Lists that came back empty.
    emptied: Repeated,
}

impl DeviceListTask {
    /// A reader and the directory that it fills. `seed` spreads its waits. Nothing happens until somebody asks.
    pub(super) fn new(
        line: CloudClient,
        events: mpsc::UnboundedSender<Event>,
        seed: u64,
    ) -> (Self, DeviceListHandle) {
        let (sender, asks) = mpsc::channel(QUEUE);
        let book = DeviceList::new(seed);
        let (rows, seen) = watch::channel(book.rows.clone());
        let reader =
            Self { asks, line, book, rows, events, warned: HashMap::new(), emptied: Repeated::default() };
        (reader, DeviceListHandle { asks: sender, rows: seen })
    }

    /// Serves until every directory is gone.
    pub(super) async fn run(mut self) {
        while let Some(ask) = self.asks.recv().await {
            let need = match &ask {
                ListRequest::Freshen => self.book.freshen(Instant::now()),
                ListRequest::Look(answer) if answer.is_closed() => ListDecision::Nothing,
                ListRequest::Look(_) => self.book.look(Instant::now()),
                ListRequest::List(_) => self.book.list(Instant::now()),
                ListRequest::Rearm => self.book.rearm(),
            };
            match need {
                ListDecision::Nothing => {
                    if matches!(ask, ListRequest::List(_)) {
                        self.tell_rows();
                    }
                    ask.answer(Ok(()));
                }
                ListDecision::Patience(error) => ask.answer(Err(error)),
                ListDecision::Reading => {
                    let Some(()) = self.read(ask).await else { return };
                }
            }
        }
    }

    /// Reads the list while further asks gather, and answers them all. Nothing when the last directory is gone.
    async fn read(&mut self, first: ListRequest) -> Option<()> {
        let mut waiting = vec![first];
        let line = self.line.clone();
        let reading = fetch(&line);
        tokio::pin!(reading);
        let fetched = loop {
            tokio::select! {
                fetched = &mut reading => break fetched,
                ask = self.asks.recv() => match ask? {
                    ListRequest::Freshen => {}
                    ask => waiting.push(ask),
                },
            }
        };
        let result = fetched.map(|rows| self.take_in(rows));
        if let Err(error) = &result {
            self.book.fail(error, Instant::now());
        }
        for ask in waiting {
            if matches!(ask, ListRequest::Rearm) {
                self.book.rearm();
            }
            ask.answer(result.clone());
        }
        Some(())
    }

    fn take_in(&mut self, rows: Vec<Row>) {
        self.warn_of_refused_servers(&rows);
        if self.book.take_in(rows, Instant::now()) {
            debug!(plugs = self.book.rows.len(), "the account's list was read");
            if let Some(past) = self.emptied.ended(Instant::now()) {
                info!("the account's list is whole again {past}");
            }
            self.rows.send_replace(self.book.rows.clone());
            self.tell_rows();
        } else {
            // Seen for weeks on a throttled account, between full lists.
            let known = self.book.rows.len();
            if self.emptied.failed("", Instant::now()).is_some() {
                info!("the account's list came back empty; the {known} plugs known from it are kept");
            }
        }
    }

    fn warn_of_refused_servers(&mut self, rows: &[Row]) {
        for row in rows.iter().filter(|row| row.is_supported()) {
            let Err(refused) = &row.server else {
                self.warned.remove(&row.device_id);
                continue;
            };
            if self.warned.insert(row.device_id.clone(), refused.clone()).as_ref() != Some(refused) {
                warn!(
                    plug = %row.device_id,
                    "{}: the account names the server {} for it, which is not used because it {}: the plug is served \
                     over the LAN only; please report this",
                    row.device_id, refused.named, refused.why
                );
            }
        }
    }

    fn tell_rows(&self) {
        let plugs = self.book.rows.values().map(|row| row.to_account_plug()).collect();
        // Without the loop there is nobody left to tell.
        let _ = self.events.send(Event::Account(plugs));
    }
}

/// What the account listed, and when to ask it again. No socket, no clock.
struct DeviceList {
    rows: Rows,
    read_at: Option<Instant>,
    /// Holds while another look would bring nothing new, to judge by the last one.
    look: Cooldown,
    /// Holds after a reading failed in this way.
    failing: Cooldown,
    failure: CloudError,
}

/// What an ask needs.
#[derive(Debug, PartialEq, Eq)]
enum ListDecision {
    /// What is known is good enough.
    Nothing,
    /// The list must be read.
    Reading,
    /// It was tried a moment ago, and this came of it.
    Patience(CloudError),
}

impl DeviceList {
    fn new(seed: u64) -> Self {
        Self {
            rows: Rows::default(),
            read_at: None,
            look: Cooldown::new(LOOK.0, LOOK.1, seed),
            failing: Cooldown::new(FAILING.0, FAILING.1, seed),
            failure: CloudError::Throttled,
        }
    }

    /// A call used the list.
    fn freshen(&self, now: Instant) -> ListDecision {
        self.unless(self.read_at.is_some_and(|read_at| now < read_at + OLD), now)
    }

    /// A plug is not in the list, or not where it says.
    fn look(&self, now: Instant) -> ListDecision {
        self.unless(self.look.until(now).is_some(), now)
    }

    /// Somebody wants to see it.
    fn list(&self, now: Instant) -> ListDecision {
        self.unless(self.read_at.is_some_and(|read_at| now < read_at + FRESH), now)
    }

    /// The user acted.
    fn rearm(&mut self) -> ListDecision {
        self.failing.succeed();
        ListDecision::Nothing
    }

    fn unless(&self, enough: bool, now: Instant) -> ListDecision {
        match (enough, self.failing.until(now)) {
            (true, _) => ListDecision::Nothing,
            (false, Some(_)) => ListDecision::Patience(self.failure.clone()),
            (false, None) => ListDecision::Reading,
        }
    }

    /// Takes in a list that was read. False: it is empty and was not before, which is not believed.
    fn take_in(&mut self, rows: Vec<Row>, now: Instant) -> bool {
        self.failing.succeed();
        self.read_at = Some(now);
        let believed = !rows.is_empty() || self.rows.is_empty();
        let rows: HashMap<_, _> =
            rows.into_iter().map(|row| (row.device_id.clone(), Arc::new(row))).collect();
        if believed && self.leads_elsewhere(&rows) {
            self.look.succeed();
        } else {
            self.look.fail(now);
        }
        if believed {
            self.rows = Arc::new(rows);
        }
        believed
    }

    /// A reading failed. What the session holds back of itself needs no second brake.
    fn fail(&mut self, error: &CloudError, now: Instant) {
        if matches!(error, CloudError::Down(_) | CloudError::OnlyHere(_) | CloudError::Faulty(_)) {
            self.failing.fail(now);
            self.failure = error.clone();
        }
    }

    /// Whether these rows lead to a plug or a server that was not known. Who is connected changes all the time.
    fn leads_elsewhere(&self, rows: &HashMap<DeviceId, Arc<Row>>) -> bool {
        let server = |id| self.rows.get(id).map(|row| &row.server);
        rows.len() != self.rows.len() || rows.values().any(|row| server(&row.device_id) != Some(&row.server))
    }
}

impl ListRequest {
    fn answer(self, result: Result<(), CloudError>) {
        match self {
            Self::Freshen | Self::Rearm => {}
            // Whoever waited may have gone.
            Self::Look(answer) | Self::List(answer) => drop(answer.send(result)),
        }
    }
}

async fn fetch(line: &CloudClient) -> Result<Vec<Row>, CloudError> {
    line.call(AccountCall {
        host: &line.account,
        // Seldom, and commands wait for it.
        urgent: true,
        deadline: Instant::now() + LIST_TIME,
        size: LIST_SIZE,
        about: None,
        words: api::device_list,
        read: |page: &api::HttpResponse| api::read_device_list(page, &line.account),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::cloud::host::check_host;

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
        let mut book = DeviceList::new(7);
        assert_eq!((book.look(now), book.list(now)), (ListDecision::Reading, ListDecision::Reading));
        assert!(book.take_in(vec![row(1, HERE)], now));
        assert_eq!(book.freshen(now + 30 * MINUTE - SECOND), ListDecision::Nothing);
        assert_eq!(book.freshen(now + 30 * MINUTE), ListDecision::Reading);
        assert_eq!(book.list(now + MINUTE - SECOND), ListDecision::Nothing);
        assert_eq!(book.list(now + MINUTE), ListDecision::Reading);
    }

    #[test]
    fn a_plug_that_stays_missing_has_the_list_read_ever_more_seldom() {
        let mut now = Instant::now();
        let mut book = DeviceList::new(7);
        let mut readings = 0;
        for _ in 0..24 * 60 {
            if book.look(now) == ListDecision::Reading {
                readings += 1;
                book.take_in(vec![row(1, HERE)], now);
            }
            now += MINUTE;
        }
        assert!((24..=55).contains(&readings), "{readings} readings in a day");
    }

    #[test]
    fn a_list_that_leads_elsewhere_makes_looking_worth_while_again() {
        let now = Instant::now();
        let mut book = DeviceList::new(7);
        book.take_in(vec![row(1, HERE)], now);
        book.take_in(vec![row(1, HERE)], now);
        assert_eq!(book.look(now), ListDecision::Nothing);
        book.take_in(vec![row(1, THERE)], now);
        assert_eq!(book.look(now), ListDecision::Reading);
        book.take_in(vec![Row { connected: false, ..row(1, THERE) }], now);
        assert_eq!(book.look(now), ListDecision::Nothing, "who is connected is no news");
    }

    #[test]
    fn an_empty_list_forgets_nothing_unless_there_was_nothing() {
        let now = Instant::now();
        let mut book = DeviceList::new(7);
        assert!(book.take_in(vec![], now));
        assert!(book.take_in(vec![row(1, HERE), row(2, HERE)], now));
        assert!(!book.take_in(vec![], now));
        assert_eq!(book.rows.len(), 2);
        assert!(book.take_in(vec![row(2, HERE)], now));
        assert_eq!(book.rows.len(), 1, "a plug that was removed is gone");
    }

    #[test]
    fn a_reading_that_fails_is_not_repeated_at_once_and_forgets_nothing() {
        let now = Instant::now();
        let mut book = DeviceList::new(7);
        book.take_in(vec![row(1, HERE)], now);
        let later = now + 40 * MINUTE;
        let error = CloudError::Down("HTTP status 502".into());
        book.fail(&error, later);
        assert_eq!(book.freshen(later), ListDecision::Patience(error.clone()));
        assert_eq!(book.freshen(later + 10 * SECOND), ListDecision::Reading);
        book.fail(&error, later);
        book.rearm();
        assert_eq!(book.freshen(later), ListDecision::Reading, "the user acted");
        assert_eq!(book.rows.len(), 1);
        book.fail(&CloudError::Throttled, later + 10 * SECOND);
        assert_eq!(
            book.freshen(later + 10 * SECOND),
            ListDecision::Reading,
            "the session's own brake is enough"
        );
    }
}
