//! The reply to `cnCloud.get_info`.

use serde::Deserialize;

use crate::smarthome::lenient::if_readable;
use crate::smarthome::message::number::Num;

/// Whether a plug is bound to an account and connected. The reply also has the account's name, which is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloudInfo {
    /// The plug belongs to an account.
    pub bound: bool,
    /// It is connected to the cloud now.
    pub connected: bool,
}

/// `cnCloud.get_info`.
#[derive(Deserialize)]
pub(super) struct RawCloudInfo {
    #[serde(default, deserialize_with = "if_readable")]
    binded: Option<Num>,
    #[serde(default)]
    cld_connection: Num,
}

impl From<RawCloudInfo> for CloudInfo {
    fn from(raw: RawCloudInfo) -> Self {
        Self { bound: raw.binded == Some(Num(1)), connected: raw.cld_connection.0 == 1 }
    }
}
