//! The plug's language, pure: what is said ([`message`]), how it is wrapped ([`frame`]), how it is veiled
//! ([`cipher`]). What is odd in an answer is read by [`lenient`]. The same words travel over TCP 9999 and through the
//! cloud, which takes them unwrapped.

pub mod cipher;
pub mod frame;
pub mod lenient;
pub mod message;
