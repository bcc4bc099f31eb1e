//! The outlets of a strip, and the id of each on a route.
//!
//! Firmwares differ in the form of the ids, and one firmware differs between its transports: two digits, or the strip's
//! device id and two digits. The last two characters are always the outlet's own.

use crate::model::DeviceId;

/// An outlet of a strip, counted from 0.
pub type Outlet = u8;

/// More outlets than any strip has; further ones in a list are ignored.
pub(super) const MOST_OUTLETS: usize = 32;

/// Some outlets of one strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outlets(u32);

impl Outlets {
    /// One outlet. Strips have at most six; an outlet beyond 31 is ignored.
    pub fn one(outlet: Outlet) -> Self {
        Self(1_u32.checked_shl(outlet.into()).unwrap_or(0))
    }

    /// The outlets of both.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether this outlet is one of them.
    pub fn has(self, outlet: Outlet) -> bool {
        self.0 & Self::one(outlet).0 != 0
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Outlet> {
        (0..32).filter(move |&outlet| self.has(outlet))
    }
}

/// The id and the name of an outlet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutletDescription {
    /// Its id in the form that the strip reported over this route: two digits, or the strip's device id and two digits.
    pub id: Box<str>,
    /// The name that the user gave it; may be empty.
    pub alias: Box<str>,
}

/// The ids of a strip's outlets on a route.
#[derive(Debug, Clone, Copy)]
pub enum OutletIds<'a> {
    /// As the strip reported them over this route.
    AsGiven(&'a [OutletDescription]),
    /// The strip's device id and two digits, as the cloud requires them.
    Long(&'a DeviceId),
    /// The device has no outlets, or has not reported them.
    None,
}

impl OutletIds<'_> {
    /// The ids of these outlets.
    pub(super) fn list(self, outlets: Outlets) -> Vec<String> {
        outlets.iter().map(|outlet| self.of(outlet)).collect()
    }

    fn of(self, outlet: Outlet) -> String {
        match self {
            Self::AsGiven(outlets_info) => outlets_info
                .get(usize::from(outlet))
                .map_or_else(|| format!("{outlet:02}"), |device| device.id.to_string()),
            Self::Long(device_id) => format!("{}{outlet:02}", device_id.as_str()),
            Self::None => format!("{outlet:02}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlets_are_a_set_in_order() {
        let outlets = Outlets::one(5).and(Outlets::one(0)).and(Outlets::one(5));
        assert_eq!(outlets.iter().collect::<Vec<_>>(), [0, 5]);
        assert!(outlets.has(0) && outlets.has(5) && !outlets.has(1));
        assert_eq!(Outlets::default().iter().count(), 0);
    }

    #[test]
    fn an_outlet_that_no_strip_has_is_none() {
        assert_eq!(Outlets::one(31).iter().collect::<Vec<_>>(), [31]);
        for outlet in [32, 33, 64, u8::MAX] {
            assert_eq!(Outlets::one(outlet), Outlets::default());
            assert!(!Outlets(u32::MAX).has(outlet));
        }
    }

    #[test]
    fn each_wire_has_its_form_of_the_ids() {
        let id = DeviceId::new("8006aa00000000000000000000000000000000ff").unwrap();
        let device = |id: &str| OutletDescription { id: id.into(), alias: Box::default() };
        let given = [device("00"), device("8006aa00000000000000000000000000000000ff01")];
        let both = Outlets::one(0).and(Outlets::one(1));
        assert_eq!(
            OutletIds::AsGiven(&given).list(both),
            ["00", "8006aa00000000000000000000000000000000ff01"],
            "the id is not changed"
        );
        assert_eq!(OutletIds::AsGiven(&given).list(Outlets::one(4)), ["04"]);
        assert_eq!(
            OutletIds::Long(&id).list(both),
            ["8006AA00000000000000000000000000000000FF00", "8006AA00000000000000000000000000000000FF01"]
        );
        assert_eq!(OutletIds::None.list(both), ["00", "01"]);
    }
}
