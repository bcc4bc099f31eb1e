//! Why each route to a plug failed last, and the text for results and events.

use crate::model::{Failure, Route};

/// The last failure of each route since it last worked. Nearly all plugs have none.
#[derive(Debug, Clone, Default)]
pub struct Failures(Option<Box<[Option<Failure>; 2]>>);

impl Failures {
    /// How the route failed last.
    pub fn get(&self, route: Route) -> Option<&Failure> {
        self.0.as_ref()?[route.index()].as_ref()
    }

    /// The route failed.
    pub(crate) fn note(&mut self, route: Route, failure: &Failure) {
        let known = &mut self.0.get_or_insert_default()[route.index()];
        if known.as_ref() != Some(failure) {
            *known = Some(failure.clone());
        }
    }

    /// The route works, or is not used.
    pub(crate) fn forget(&mut self, route: Route) {
        self.0.take_if(|known| {
            known[route.index()] = None;
            known.iter().all(Option::is_none)
        });
    }

    /// Adds why the route cannot be tried. A route that hangs is silent, if nothing else is known.
    pub(super) fn complete(&mut self, route: Route, unusable: Option<Failure>, hangs: bool) {
        let hangs = hangs && self.get(route).is_none();
        if let Some(failure) = unusable.or(hangs.then_some(Failure::Silent)) {
            self.note(route, &failure);
        }
    }

    /// `local: connection refused; cloud: …; more`.
    pub(crate) fn words(&self, more: Option<&str>) -> String {
        let of_route = |route: Route| self.get(route).map(|failure| format!("{route}: {failure}"));
        let mut words: Vec<_> = Route::ALL.into_iter().filter_map(of_route).collect();
        words.extend(more.map(str::to_owned));
        if words.is_empty() { "there was no route to try".to_owned() } else { words.join("; ") }
    }
}
