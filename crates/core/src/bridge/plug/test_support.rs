//! What the unit tests of several parts of a plug share.

use crate::smarthome::message::{Reading, Reply, Request};

/// What a plug of this model says with these further fields.
pub(super) fn reading(model: &str, more: &str) -> Reading {
    let text =
        format!(r#"{{"system":{{"get_sysinfo":{{"deviceId":"{:040}","model":"{model}",{more}}}}}}}"#, 1);
    match Request::SysInfo.read_reply(text.as_bytes(), None) {
        Ok(Reply::SysInfo(reading)) => reading,
        other => panic!("{other:?}"),
    }
}
