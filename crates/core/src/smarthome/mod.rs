//! The plug's protocol, pure: the messages ([`message`]), the TCP frame ([`frame`]), the cipher ([`cipher`]).
//! `lenient` parses replies that are not quite JSON. The same messages travel over TCP 9999 and, without frame and
//! cipher, through the cloud.

pub mod cipher;
pub mod frame;
pub mod lenient;
pub mod message;
