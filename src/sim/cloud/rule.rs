//! The faults of the simulated cloud, as plain values: on which calls, how often, and what happens.

use std::time::{Duration, Instant};

/// A call of the V1 interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `login`
    Login,
    /// `refreshToken`
    RefreshToken,
    /// `getDeviceList`
    DeviceList,
    /// `passthrough`
    Passthrough,
    /// Anything else, also what is no call at all.
    Other,
}

impl Method {
    /// All of them, in the order in which tables indexed by method hold them.
    pub const ALL: [Self; 5] =
        [Self::Login, Self::RefreshToken, Self::DeviceList, Self::Passthrough, Self::Other];

    /// The index in a table indexed by method.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// The method that goes by this name on the wire.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "login" => Self::Login,
            "refreshToken" => Self::RefreshToken,
            "getDeviceList" => Self::DeviceList,
            "passthrough" => Self::Passthrough,
            _ => Self::Other,
        }
    }
}

/// What the cloud does instead of answering as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudFault {
    /// Answers this `error_code`; nothing is done.
    Code(i64),
    /// Answers `error_code` 0 with this code, as text, in `result.errorCode`; nothing is done.
    NestedCode(i64),
    /// Answers with this HTTP status and a page of HTML; nothing is done.
    Status(u16),
    /// Answers 200 with a page of HTML, as a proxy or a login portal does; nothing is done.
    Html,
    /// Answers 307 to this URL; nothing is done.
    Redirect(String),
    /// Takes the request and never answers; nothing is done.
    Silent,
    /// Closes the connection instead of answering; nothing is done.
    Close,
    /// Answers after this time.
    Latency(Duration),
    /// Acts, then sends half of the answer and closes the connection.
    CutOff,
    /// Acts, then sends the answer one byte at a time, this far apart.
    SlowBytes(Duration),
    /// The device list is empty; other calls are answered as they should.
    EmptyList,
}

/// A fault, and on which calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FaultRule {
    /// On which calls; `None` for all.
    pub(crate) on: Option<Method>,
    /// How often.
    pub(crate) times: Times,
    /// The fault.
    pub(crate) fault: CloudFault,
}

/// How often a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Until it is removed.
    Always,
    /// On this many calls.
    Next(u32),
    /// On all calls before this moment.
    Until(Instant),
}

/// The rules in force. The first that fits a call decides.
#[derive(Debug, Default)]
pub(super) struct FaultRules(Vec<FaultRule>);

impl FaultRules {
    pub(super) fn add(&mut self, rule: FaultRule) {
        self.0.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault on this call, which is counted.
    pub(super) fn fall(&mut self, on: Method, now: Instant) -> Option<CloudFault> {
        self.0.retain(|rule| match rule.times {
            Times::Always => true,
            Times::Next(left) => left > 0,
            Times::Until(end) => now < end,
        });
        let rule = self.0.iter_mut().find(|rule| rule.on.is_none_or(|method| method == on))?;
        if let Times::Next(left) = &mut rule.times {
            *left -= 1;
        }
        Some(rule.fault.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_falls_on_its_calls_as_often_as_it_should() {
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let mut rules = FaultRules::default();
        rules.add(FaultRule { on: Some(Method::Login), times: Times::Next(2), fault: CloudFault::Html });
        rules.add(FaultRule { on: None, times: Times::Until(later), fault: CloudFault::Close });
        assert_eq!(rules.fall(Method::Login, now), Some(CloudFault::Html));
        assert_eq!(rules.fall(Method::DeviceList, now), Some(CloudFault::Close));
        assert_eq!(rules.fall(Method::Login, now), Some(CloudFault::Html));
        assert_eq!(rules.fall(Method::Login, now), Some(CloudFault::Close));
        assert_eq!(rules.fall(Method::Login, later), None);
        rules.add(FaultRule { on: None, times: Times::Always, fault: CloudFault::Silent });
        assert_eq!(rules.fall(Method::Other, later), Some(CloudFault::Silent));
        rules.clear();
        assert_eq!(rules.fall(Method::Other, later), None);
    }
}
