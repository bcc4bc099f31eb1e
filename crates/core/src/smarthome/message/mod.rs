//! The messages to a plug and its replies, as JSON: `{"<module>":{"<method>":{…}}}` in both directions.
//!
//! Pure: it does not know the transport. Facts are from recordings of real devices. Every method's argument is `{}`,
//! never `null`: some firmwares do not answer `null`. Each method is sent alone, because some firmwares crash on
//! modules that they lack. The one exception is [`Request::SetRelayAndRead`], whose two methods every firmware has.
//!
//! [`Request`] and [`Reply`] are in `request`; `answer` finds the method's part of a reply; each other file parses one
//! kind of reply.

mod answer;
mod cloud_info;
mod meter;
mod number;
mod outlets;
mod request;
mod rules;
mod sysinfo;

pub use self::answer::NotAnAnswer;
pub use self::cloud_info::CloudInfo;
pub(crate) use self::meter::MOST_POWER;
pub use self::meter::{Date, Meter};
pub use self::outlets::{Outlet, OutletDescription, OutletIds, Outlets};
pub use self::request::{Reply, Request};
pub use self::rules::ScheduleRule;
pub use self::sysinfo::is_plug_kind;
pub use self::sysinfo::{DeviceInfo, DeviceKind, OutletState, Reading};
