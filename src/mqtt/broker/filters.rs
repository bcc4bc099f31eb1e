//! Topic filters: which are valid, what they match, and who subscribes to a topic (MQTT 5.0, section 4.7).

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

/// The most levels of a filter with a wildcard. Each takes room, and is one call deeper.
pub(super) const MAX_LEVELS: usize = 32;

const WILDCARDS: [char; 2] = ['+', '#'];

/// Begins the filter of a shared subscription: `$share/NAME/FILTER` (section 4.8.2).
const SHARED: &str = "$share/";

/// A filter as a client wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filter<'a> {
    /// Of all subscribers with this name, one receives each message.
    pub(super) share: Option<&'a str>,
    /// What topics are compared with.
    pub(super) pattern: &'a str,
}

impl<'a> Filter<'a> {
    /// `None` if it is not valid.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (share, pattern) = match text.strip_prefix(SHARED) {
            None => (None, text),
            Some(shared) => {
                let (name, pattern) = shared.split_once('/')?;
                if name.is_empty() || name.contains(WILDCARDS) {
                    return None;
                }
                (Some(name), pattern)
            }
        };
        // A wildcard is a whole level, and `#` the last one.
        let has_whole = |level: &str| matches!(level, "#" | "+") || !level.contains(WILDCARDS);
        let mut above_last = pattern.rsplit('/').skip(1);
        let filter = Self { share, pattern };
        let is_valid = !pattern.is_empty()
            && pattern.split('/').all(has_whole)
            && above_last.all(|level| level != "#")
            && (!filter.has_wildcard() || pattern.split('/').count() <= MAX_LEVELS);
        is_valid.then_some(filter)
    }

    pub(super) fn has_wildcard(&self) -> bool {
        self.pattern.contains(WILDCARDS)
    }

    /// The part before the first wildcard; each topic that the filter matches begins with it, or is it without its last `/`.
    pub(super) fn literal(&self) -> &'a str {
        let end = self.pattern.find(WILDCARDS).unwrap_or(self.pattern.len());
        &self.pattern[..end]
    }

    /// Whether a topic matches.
    pub(super) fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') != self.pattern.starts_with('$') {
            return false;
        }
        let mut levels = topic.split('/');
        for wanted in self.pattern.split('/') {
            match (wanted, levels.next()) {
                // `a/#` matches `a` as well.
                ("#", _) => return true,
                (_, None) => return false,
                ("+", Some(_)) => {}
                (wanted, Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

/// Who subscribes to what.
#[derive(Debug, Default)]
pub(super) struct SubscriptionTree {
    /// Filters without a wildcard: one look for each topic, however many there are.
    exact: HashMap<Box<str>, Subscribers>,
    /// Those with one.
    root: Node,
}

/// What a level of filters leads to.
#[derive(Debug, Default)]
struct Node {
    levels: HashMap<Box<str>, Self>,
    /// Filters that end here.
    here: Subscribers,
    /// Filters that end in `#` below this level.
    all_below: Subscribers,
}

/// The subscribers of one filter. There are no more of them than clients.
#[derive(Debug, Default)]
struct Subscribers {
    /// Each of them receives each message.
    all: Vec<(u64, Terms)>,
    /// By the name that they share.
    shared: BTreeMap<Box<str>, Sharers>,
}

/// Of these clients one receives each message, in turn.
#[derive(Debug, Default)]
struct Sharers {
    clients: Vec<(u64, Terms)>,
    turn: Cell<usize>,
}

/// How a client wants what it subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// The highest quality of service.
    pub(super) qos: u8,
    /// Not what it publishes itself.
    pub(super) no_local: bool,
    /// With the retain flag with which it was published.
    pub(super) keeps_retain: bool,
    /// The subscription identifier, sent with each message.
    pub(super) identifier: Option<usize>,
}

impl SubscriptionTree {
    /// Adds a subscription, or changes its terms.
    pub(super) fn insert(&mut self, client: u64, filter: Filter<'_>, terms: Terms) {
        let subscribers = match filter.has_wildcard() {
            false => self.exact.entry(Box::from(filter.pattern)).or_default(),
            true => self.root.subscribers(filter.pattern),
        };
        let list = match filter.share {
            None => &mut subscribers.all,
            Some(name) => &mut subscribers.shared.entry(Box::from(name)).or_default().clients,
        };
        match list.iter_mut().find(|(known, _)| *known == client) {
            Some((_, known)) => *known = terms,
            None => list.push((client, terms)),
        }
    }

    /// Removes a subscription.
    pub(super) fn remove(&mut self, client: u64, filter: Filter<'_>) {
        if filter.has_wildcard() {
            let levels: Vec<_> = filter.pattern.split('/').collect();
            self.root.remove(&levels, client, filter.share);
        } else if let Some(subscribers) = self.exact.get_mut(filter.pattern) {
            subscribers.remove(client, filter.share);
            if subscribers.is_empty() {
                self.exact.remove(filter.pattern);
            }
        }
    }

    /// Calls `each` with all subscriptions that a topic matches. A client may come more than once. Of those that share one,
    /// a client that `is_connected` goes before the others.
    pub(super) fn each_match(
        &self,
        topic: &str,
        is_connected: &dyn Fn(u64) -> bool,
        mut each: impl FnMut(u64, Terms),
    ) {
        let mut found = |subscribers: &Subscribers| subscribers.each(is_connected, &mut each);
        if let Some(subscribers) = self.exact.get(topic) {
            found(subscribers);
        }
        let mut levels = topic.split('/');
        // A text has at least one level.
        let first = levels.next().unwrap_or_default();
        self.root.each_match(first, levels, topic.starts_with('$'), &mut found);
    }
}

impl Node {
    fn subscribers(&mut self, pattern: &str) -> &mut Subscribers {
        let mut node = self;
        for level in pattern.split('/') {
            if level == "#" {
                return &mut node.all_below;
            }
            node = node.levels.entry(Box::from(level)).or_default();
        }
        &mut node.here
    }

    fn remove(&mut self, levels: &[&str], client: u64, share: Option<&str>) {
        match levels {
            [] => self.here.remove(client, share),
            ["#"] => self.all_below.remove(client, share),
            [level, below @ ..] => {
                let Some(node) = self.levels.get_mut(*level) else { return };
                node.remove(below, client, share);
                if node.levels.is_empty() && node.here.is_empty() && node.all_below.is_empty() {
                    self.levels.remove(*level);
                }
            }
        }
    }

    /// A wildcard in the first level does not match a topic that begins with `$` (section 4.7.2).
    fn each_match(
        &self,
        level: &str,
        below: std::str::Split<'_, char>,
        is_reserved: bool,
        found: &mut dyn FnMut(&Subscribers),
    ) {
        if !is_reserved {
            found(&self.all_below);
        }
        let wildcard = if is_reserved { None } else { self.levels.get("+") };
        for node in [self.levels.get(level), wildcard].into_iter().flatten() {
            let mut below = below.clone();
            match below.next() {
                Some(level) => node.each_match(level, below, false, found),
                None => {
                    found(&node.here);
                    found(&node.all_below);
                }
            }
        }
    }
}

impl Subscribers {
    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.shared.is_empty()
    }

    fn remove(&mut self, client: u64, share: Option<&str>) {
        let Some(name) = share else {
            self.all.retain(|(known, _)| *known != client);
            return;
        };
        let Some(sharers) = self.shared.get_mut(name) else { return };
        sharers.clients.retain(|(known, _)| *known != client);
        if sharers.clients.is_empty() {
            self.shared.remove(name);
        }
    }

    fn each(&self, is_connected: &dyn Fn(u64) -> bool, each: &mut dyn FnMut(u64, Terms)) {
        let chosen = self.shared.values().filter_map(|sharers| sharers.next(is_connected));
        for (client, terms) in self.all.iter().chain(chosen) {
            each(*client, *terms);
        }
    }
}

impl Sharers {
    fn next(&self, is_connected: &dyn Fn(u64) -> bool) -> Option<&(u64, Terms)> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let from_turn =
            || self.clients.iter().cycle().skip(turn % self.clients.len().max(1)).take(self.clients.len());
        from_turn().find(|(client, _)| is_connected(*client)).or_else(|| from_turn().next())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_filter_is_valid_or_not() {
        for valid in ["a", "/", "a/b", "+", "#", "a/+/b", "a/#", "+/#", "/+", "$SYS/#", "a//b", "ä/日本"] {
            let filter = Filter::parse(valid).unwrap();
            assert_eq!((filter.share, filter.pattern), (None, valid));
        }
        for wrong in
            ["", "a+", "a/b#", "#/a", "a/#/b", "+a/b", "##", "$share/", "$share/a", "$share//b", "$share/a/"]
        {
            assert_eq!(Filter::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Filter::parse("$share/+/b"), None);
        let shared = Filter::parse("$share/us/a/#").unwrap();
        assert_eq!((shared.share, shared.pattern), (Some("us"), "a/#"));
        let deep = |levels: usize| vec!["+"; levels].join("/");
        assert!(Filter::parse(&deep(MAX_LEVELS)).is_some());
        assert!(Filter::parse(&deep(MAX_LEVELS + 1)).is_none());
    }

    #[test]
    fn a_filter_matches_as_the_specification_says() {
        let matches = |filter, topic| Filter::parse(filter).unwrap().matches(topic);
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("#", "a"),
            ("#", "/a"),
            ("+/tennis/#", "sport/tennis"),
            ("sport/+/player1", "sport/tennis/player1"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("$SYS/#", "$SYS/monitor/Clients"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("a/+", "a/"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player2"),
            ("sport/+", "sport"),
            ("sport/+", "sport/a/b"),
            ("+", "/finance"),
            ("#", "$SYS/monitor"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("a", "A"),
            ("a/b", "a"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    fn found(tree: &SubscriptionTree, topic: &str) -> Vec<(u64, usize)> {
        let mut found = Vec::new();
        let mut each = |client, terms: Terms| found.push((client, terms.identifier.unwrap_or_default()));
        tree.each_match(topic, &|client| client != AWAY, &mut each);
        found.sort_unstable();
        found
    }

    /// A client that is not connected.
    const AWAY: u64 = 9;

    fn terms(identifier: usize) -> Terms {
        Terms { qos: 1, no_local: false, keeps_retain: false, identifier: Some(identifier) }
    }

    #[test]
    fn of_those_that_share_a_filter_one_at_a_time_has_its_turn() {
        let mut tree = SubscriptionTree::default();
        for (client, filter) in
            [(1, "$share/us/a/+"), (2, "$share/us/a/+"), (3, "$share/them/a/+"), (4, "a/+")]
        {
            tree.insert(client, Filter::parse(filter).unwrap(), terms(0));
        }
        // Messages that nobody shares do not move the turn.
        let turns: Vec<_> = (0..4)
            .map(|_| {
                found(&tree, "b");
                found(&tree, "a/b")
            })
            .collect();
        let of = |client| [(client, 0), (3, 0), (4, 0)].to_vec();
        assert!(turns == [of(1), of(2), of(1), of(2)] || turns == [of(2), of(1), of(2), of(1)], "{turns:?}");
        tree.remove(2, Filter::parse("$share/us/a/+").unwrap());
        assert_eq!([found(&tree, "a/b"), found(&tree, "a/b")], [of(1), of(1)]);
        // One that is away has no turn while another is there.
        tree.insert(AWAY, Filter::parse("$share/us/a/+").unwrap(), terms(0));
        assert_eq!([found(&tree, "a/b"), found(&tree, "a/b")], [of(1), of(1)]);
        tree.remove(1, Filter::parse("$share/us/a/+").unwrap());
        assert_eq!(found(&tree, "a/b"), [(3, 0), (4, 0), (AWAY, 0)]);
    }

    #[test]
    fn what_is_removed_leaves_nothing_behind() {
        let mut tree = SubscriptionTree::default();
        let filters = ["a", "a/+/c", "a/#", "$share/x/a/+/c", "$share/x/a", "#", "+"];
        for filter in filters {
            tree.insert(1, Filter::parse(filter).unwrap(), terms(0));
        }
        for filter in filters {
            tree.remove(1, Filter::parse(filter).unwrap());
        }
        assert!(tree.exact.is_empty() && tree.root.levels.is_empty(), "{tree:?}");
        assert!(tree.root.all_below.is_empty() && tree.root.here.is_empty(), "{tree:?}");
    }

    proptest! {
        /// The tree finds what a comparison with each filter finds.
        #[test]
        fn the_tree_agrees_with_one_filter_at_a_time(
            filters in prop::collection::vec("(\\$|[ab+])?(/[ab+]){0,3}(/#)?", 1..12),
            removed in prop::collection::vec(any::<bool>(), 12),
            topic in "(\\$|[ab])?(/[ab]){0,3}",
        ) {
            prop_assume!(!topic.is_empty());
            let mut tree = SubscriptionTree::default();
            let mut expected = Vec::new();
            for (number, text) in filters.iter().enumerate() {
                let Some(filter) = Filter::parse(text) else { continue };
                let client = number as u64;
                tree.insert(client, filter, terms(number));
                if removed[number] {
                    tree.remove(client, filter);
                } else if filter.matches(&topic) {
                    expected.push((client, number));
                }
            }
            prop_assert_eq!(found(&tree, &topic), expected);
        }
    }
}
