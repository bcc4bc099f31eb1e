//! The faults of the simulated cloud, as plain values: which requests, how often, and what happens.

use std::time::{Duration, Instant};

/// The method of a request.
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
    /// `getAccountStatusAndUrl`, of the second version only
    AccountHost,
    /// `getPushVC4TerminalMFA` or `getEmailVC4TerminalMFA`, of the second version only
    SendCode,
    /// `checkMFACodeAndLogin`, of the second version only
    CheckCode,
    /// Anything else, including a request without a valid method.
    Other,
}

impl Method {
    /// Every method, in the order of tables that are indexed by method.
    pub const ALL: [Self; 8] = [
        Self::Login,
        Self::RefreshToken,
        Self::DeviceList,
        Self::Passthrough,
        Self::AccountHost,
        Self::SendCode,
        Self::CheckCode,
        Self::Other,
    ];

    /// The index in such a table.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Parses the `method` of a request.
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

/// What the cloud does instead of answering correctly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudFault {
    /// Returns this `error_code`; nothing is done.
    Code(i64),
    /// Returns `error_code` 0 with this code, as a string, in `result.errorCode`; nothing is done.
    NestedCode(i64),
    /// Returns this HTTP status and an HTML page; nothing is done.
    Status(u16),
    /// Returns 200 and an HTML page, as a proxy or a login portal does; nothing is done.
    Html,
    /// Returns 307 to this URL; nothing is done.
    Redirect(String),
    /// Receives the request and never responds; nothing is done.
    Silent,
    /// Closes the connection without a response; nothing is done.
    Close,
    /// Responds after this delay.
    Latency(Duration),
    /// Acts, then sends half of the response and closes the connection.
    CutOff,
    /// Acts, then sends the response byte by byte, at this interval.
    SlowBytes(Duration),
    /// Returns an empty device list; other methods work.
    EmptyList,
}

/// A fault, with the requests that it affects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FaultRule {
    /// The method that it affects; `None` for all.
    pub(crate) on: Option<Method>,
    /// How many requests it affects.
    pub(crate) times: Times,
    pub(crate) fault: CloudFault,
}

/// How many requests a fault affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// All, until it is removed.
    Always,
    /// This many.
    Next(u32),
    /// All before this moment.
    Until(Instant),
}

/// The rules in force. The first that matches a request decides.
#[derive(Debug, Default)]
pub(super) struct FaultRules(Vec<FaultRule>);

impl FaultRules {
    pub(super) fn add(&mut self, rule: FaultRule) {
        self.0.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault for this request; counts the request.
    pub(super) fn next_fault(&mut self, on: Method, now: Instant) -> Option<CloudFault> {
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
        assert_eq!(rules.next_fault(Method::Login, now), Some(CloudFault::Html));
        assert_eq!(rules.next_fault(Method::DeviceList, now), Some(CloudFault::Close));
        assert_eq!(rules.next_fault(Method::Login, now), Some(CloudFault::Html));
        assert_eq!(rules.next_fault(Method::Login, now), Some(CloudFault::Close));
        assert_eq!(rules.next_fault(Method::Login, later), None);
        rules.add(FaultRule { on: None, times: Times::Always, fault: CloudFault::Silent });
        assert_eq!(rules.next_fault(Method::Other, later), Some(CloudFault::Silent));
        rules.clear();
        assert_eq!(rules.next_fault(Method::Other, later), None);
    }
}
