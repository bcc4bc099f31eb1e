//! The messages to a plug and its replies, as JSON: `{"<module>":{"<method>":{…}}}` both ways.
//!
//! Pure: it does not know how a message travels. Facts are from recordings of real devices. Every method's argument is
//! `{}`, never `null`: some firmwares answer `null` with nothing. Each method is sent alone, because some firmwares crash
//! on modules that they lack. The one exception is [`Request::SetRelayAndRead`], whose two methods every firmware has.
//!
//! [`Request`] and [`Reply`] are in `request`; `answer` finds the method's answer in a reply; each other file reads one
//! kind of answer.

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
pub use self::meter::{Date, MOST_POWER, Meter};
pub use self::outlets::{Outlet, OutletDescription, OutletIds, Outlets};
pub use self::request::{Reply, Request};
pub use self::rules::ScheduleRule;
pub use self::sysinfo::{DeviceInfo, DeviceKind, OutletState, Reading, is_plug_kind};
