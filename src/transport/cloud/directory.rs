//! What the account lists: which server has which plug. Read when first needed, again when it is old or seems
//! wrong, and never forgotten for an answer that failed or came back empty.
//!
//! One task reads the list, so that one reading is in flight whoever wants it; everybody reads what it found.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout_at;
use tracing::{debug, warn};

use crate::bridge::event::Event;
use crate::model::DeviceId;
use crate::transport::cloud::CloudError;
use crate::transport::cloud::api::{self, Row};
use crate::transport::cloud::codes::PlugFault;
use crate::transport::cloud::line::{Call, Line};
use crate::transport::cloud::pace::BackOff;

/// A list older than this is read again, behind the back of the call that noticed.
const OLD: Duration = Duration::from_secs(30 * 60);
/// A list younger than this is as good as a new one.
const FRESH: Duration = Duration::from_secs(60);
/// Between readings for a plug that is missing or seems to have moved; doubles while they bring nothing new.
const LOOK: (Duration, Duration) = (Duration::from_secs(60), OLD);
/// Between readings that fail.
const FAILING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// For one reading.
const LIST_TIME: Duration = Duration::from_secs(15);
/// Ten thousand plugs of some 600 bytes.
const LIST_SIZE: usize = 8 * 1024 * 1024;
/// Asks that may lie before the task before those that ask must wait.
const QUEUE: usize = 256;

/// Where plugs are looked up. Cheap to clone; the task ends with the last one.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    asks: mpsc::Sender<Ask>,
    listing: watch::Receiver<Listing>,
}

/// What the account listed, and when. Cheap to clone.
#[derive(Debug, Clone, Default)]
struct Listing {
    rows: Arc<HashMap<DeviceId, Arc<Row>>>,
    read_at: Option<Instant>,
}

/// Why the list should be read, and who waits for it.
#[derive(Debug)]
enum Ask {
    /// It is old; nobody waits.
    Freshen,
    /// It seems wrong about a plug.
    Look(oneshot::Sender<Result<(), CloudError>>),
    /// Somebody wants to see it.
    List(oneshot::Sender<Result<(), CloudError>>),
}

impl Directory {
    /// The row of a plug; reads the list when it is not there.
    pub(super) async fn find(&self, id: &DeviceId, deadline: Instant) -> Result<Arc<Row>, CloudError> {
        if let Some(row) = self.known(id) {
            self.freshen();
            return Ok(row);
        }
        self.ask(Ask::Look, deadline).await?;
        self.known(id).ok_or(CloudError::Plug(PlugFault::NotListed))
    }

    /// Reads the list again, if that was not done lately, for a plug that is not where its row says. Its row, if
    /// that names another server.
    pub(super) async fn find_moved(&self, row: &Row, deadline: Instant) -> Option<Arc<Row>> {
        self.ask(Ask::Look, deadline).await.ok()?;
        self.known(&row.device_id).filter(|found| found.server != row.server)
    }

    /// All rows, as fresh as the account should be asked for them.
    pub(super) async fn list(&self) -> Result<Vec<Row>, CloudError> {
        self.ask(Ask::List, Instant::now() + LIST_TIME * 2).await?;
        let rows = Arc::clone(&self.listing.borrow().rows);
        Ok(rows.values().map(|row| Row::clone(row)).collect())
    }

    fn known(&self, id: &DeviceId) -> Option<Arc<Row>> {
        self.listing.borrow().rows.get(id).cloned()
    }

    fn freshen(&self) {
        if self.listing.borrow().is_old(Instant::now()) {
            // A full queue means that the task is busy with the same thing.
            let _ = self.asks.try_send(Ask::Freshen);
        }
    }

    async fn ask<F>(&self, ask: F, deadline: Instant) -> Result<(), CloudError>
    where
        F: FnOnce(oneshot::Sender<Result<(), CloudError>>) -> Ask,
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

impl Listing {
    fn is_old(&self, now: Instant) -> bool {
        self.read_at.is_some_and(|read_at| now >= read_at + OLD)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.read_at.is_some_and(|read_at| now < read_at + FRESH)
    }
}

/// The task that reads the list.
pub(super) struct Reader {
    asks: mpsc::Receiver<Ask>,
    line: Line,
    listing: watch::Sender<Listing>,
    events: mpsc::UnboundedSender<Event>,
    /// Holds while the list need not be read again for a plug that is not in it.
    look: BackOff,
    /// Holds after a reading failed.
    failing: BackOff,
    failure: CloudError,
    /// Plugs whose servers were refused, and warned of.
    warned: HashSet<DeviceId>,
}

impl Reader {
    /// A reader and the directory that it fills. `seed` spreads its waits. Nothing happens until somebody asks.
    pub(super) fn new(line: Line, events: mpsc::UnboundedSender<Event>, seed: u64) -> (Self, Directory) {
        let (sender, asks) = mpsc::channel(QUEUE);
        let (listing, seen) = watch::channel(Listing::default());
        let reader = Self {
            asks,
            line,
            listing,
            events,
            look: BackOff::new(LOOK.0, LOOK.1, seed),
            failing: BackOff::new(FAILING.0, FAILING.1, seed),
            failure: CloudError::Throttled,
            warned: HashSet::new(),
        };
        (reader, Directory { asks: sender, listing: seen })
    }

    /// Serves until every directory is gone.
    pub(super) async fn run(mut self) {
        while let Some(ask) = self.asks.recv().await {
            let Some(ask) = self.answer_at_once(ask, Instant::now()) else { continue };
            if self.read(ask).await.is_none() {
                return;
            }
        }
    }

    /// Answers what needs no reading; gives back what does.
    fn answer_at_once(&mut self, ask: Ask, now: Instant) -> Option<Ask> {
        let listing = self.listing.borrow();
        let failing = self.failing.holds(now).map(|_| Err(self.failure.clone()));
        let enough = match &ask {
            // Several calls may have noticed before the first one's reading was done.
            Ask::Freshen => failing.or((!listing.is_old(now)).then_some(Ok(()))),
            Ask::Look(answer) if answer.is_closed() => Some(Ok(())),
            Ask::Look(_) => failing.or(self.look.holds(now).map(|_| Ok(()))),
            Ask::List(_) => failing.or(listing.is_fresh(now).then_some(Ok(()))),
        };
        drop(listing);
        match enough {
            None => Some(ask),
            Some(result) => {
                if matches!((&ask, &result), (Ask::List(_), Ok(()))) {
                    self.tell_rows();
                }
                ask.answer(result);
                None
            }
        }
    }

    /// Reads the list while further asks gather, and answers them all. Nothing when the last directory is gone.
    async fn read(&mut self, first: Ask) -> Option<()> {
        let mut waiting = vec![first];
        let line = self.line.clone();
        let reading = fetch(&line);
        tokio::pin!(reading);
        let fetched = loop {
            tokio::select! {
                fetched = &mut reading => break fetched,
                ask = self.asks.recv() => waiting.push(ask?),
            }
        };
        let now = Instant::now();
        let result = match fetched {
            Ok(rows) => {
                self.take_in(rows, now);
                Ok(())
            }
            Err(error) => {
                self.note_failure(&error, now);
                Err(error)
            }
        };
        for ask in waiting {
            ask.answer(result.clone());
        }
        Some(())
    }

    fn take_in(&mut self, rows: Vec<Row>, now: Instant) {
        self.failing.succeed();
        let known = Arc::clone(&self.listing.borrow().rows);
        if rows.is_empty() && !known.is_empty() {
            // Seen for weeks on a throttled account, between full lists.
            warn!(
                known = known.len(),
                "the account's list came back empty; the plugs known from it are kept"
            );
            self.look.fail(now);
            self.listing.send_modify(|listing| listing.read_at = Some(now));
            return;
        }
        self.warn_of_refused_servers(&rows);
        let rows: HashMap<_, _> =
            rows.into_iter().map(|row| (row.device_id.clone(), Arc::new(row))).collect();
        debug!(plugs = rows.len(), "the account's list was read");
        if rows != *known {
            self.look.succeed();
        }
        self.look.fail(now);
        self.listing.send_replace(Listing { rows: Arc::new(rows), read_at: Some(now) });
        self.tell_rows();
    }

    /// What the session holds back of itself needs no second brake.
    fn note_failure(&mut self, error: &CloudError, now: Instant) {
        if matches!(error, CloudError::Down(_) | CloudError::Faulty(_)) {
            self.failing.fail(now);
            self.failure = error.clone();
        }
    }

    fn warn_of_refused_servers(&mut self, rows: &[Row]) {
        for row in rows.iter().filter(|row| row.is_supported()) {
            match row.server {
                Ok(_) => drop(self.warned.remove(&row.device_id)),
                Err(why) if self.warned.insert(row.device_id.clone()) => warn!(
                    plug = %row.device_id,
                    "the account names a server for this plug that is not used, because it {why}"
                ),
                Err(_) => {}
            }
        }
    }

    fn tell_rows(&self) {
        let plugs = self.listing.borrow().rows.values().map(|row| row.to_account_plug()).collect();
        // Without the loop there is nobody left to tell.
        let _ = self.events.send(Event::Account(plugs));
    }
}

impl Ask {
    fn answer(self, result: Result<(), CloudError>) {
        match self {
            Self::Freshen => {}
            // Whoever waited may have gone.
            Self::Look(answer) | Self::List(answer) => drop(answer.send(result)),
        }
    }
}

async fn fetch(line: &Line) -> Result<Vec<Row>, CloudError> {
    line.call(Call {
        host: &line.account,
        // Seldom, and commands wait for it.
        urgent: true,
        deadline: Instant::now() + LIST_TIME,
        size: LIST_SIZE,
        relayed: false,
        words: api::device_list,
        read: |page: &api::Page| api::read_device_list(page, &line.account),
    })
    .await
}
