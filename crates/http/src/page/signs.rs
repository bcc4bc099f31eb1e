//! The signs of the page, drawn with lines. Each stands beside a word that says the same.

use maud::{Markup, html};

/// The icon of the page, in its address, so that no browser asks for another.
pub(super) const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' \
     height='32' rx='8' fill='%2317735a'/%3E%3Cpath d='M12 6v6M20 6v6M8.5 12h15v3.5a7.5 7.5 0 0 1-15 0zM16 \
     23v4' fill='none' stroke='%23fff' stroke-width='2.5' stroke-linecap='round' stroke-linejoin='round'/%3E%3C/svg%3E";

/// The signs of the page by id: drawn with a line, 24 by 24.
const SIGNS: [(&str, &str); 7] = [
    ("plug", "M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4"),
    ("lan", "M3 11.5 12 4l9 7.5M5.5 9.8V20h13V9.8"),
    ("cloud", "M7 19a4.5 4.5 0 0 1-.6-8.96 6 6 0 0 1 11.5 1.02A4 4 0 0 1 17.5 19z"),
    ("none", "M12 3a9 9 0 1 0 0 18 9 9 0 1 0 0-18M6 6l12 12"),
    ("good", "M12 3a9 9 0 1 0 0 18 9 9 0 1 0 0-18M8 12.5l2.8 2.8L16 9.5"),
    ("idle", "M12 3a9 9 0 1 0 0 18 9 9 0 1 0 0-18M8 12h8"),
    ("alert", "M12 3.5 22 20.5H2zM12 10v4.5M12 17.6v.1"),
];

pub(super) fn signs() -> Markup {
    html! {
        svg hidden {
            @for (id, path) in SIGNS {
                symbol id=(id) viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2"
                    stroke-linecap="round" stroke-linejoin="round" {
                    path d=(path) {}
                }
            }
        }
    }
}

/// One of [`SIGNS`]. The words beside it say what it means.
pub(super) fn icon(sign: &str) -> Markup {
    html! { svg.icon aria-hidden="true" { use href={ "#" (sign) } {} } }
}

/// A message of the log; its commands, which stand in back quotes, as such.
pub(super) fn prose(message: &str) -> Markup {
    html! {
        @for (n, part) in message.split('`').enumerate() {
            @if n % 2 == 0 { (part) } @else { code { (part) } }
        }
    }
}
