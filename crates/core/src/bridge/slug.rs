//! An alias as a name that fits into a topic and an entity id.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Lower case, accents folded, everything but `a-z 0-9` as single dashes, none at the ends. May be empty.
pub fn slug(alias: &str) -> String {
    let mut slug = String::new();
    let folded = alias.nfkd().filter(|&c| !is_combining_mark(c)).flat_map(char::to_lowercase);
    for c in folded {
        match c {
            'a'..='z' | '0'..='9' => slug.push(c),
            _ => match without_accent(c) {
                Some(letters) => slug.push_str(letters),
                None if slug.is_empty() || slug.ends_with('-') => {}
                None => slug.push('-'),
            },
        }
    }
    slug.truncate(slug.trim_end_matches('-').len());
    slug
}

/// Letters whose accent is part of their shape, which Unicode does not take apart.
fn without_accent(c: char) -> Option<&'static str> {
    Some(match c {
        'ß' => "ss",
        'æ' => "ae",
        'œ' => "oe",
        'ø' => "o",
        'đ' | 'ð' => "d",
        'ł' => "l",
        'þ' => "th",
        'ı' => "i",
        'ħ' => "h",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_becomes_a_slug() {
        for (alias, expected) in [
            ("Kitchen Kettle", "kitchen-kettle"),
            ("  Küche ☕ / Straße 3 ", "kuche-strasse-3"),
            ("Ærø Łódź İstanbul", "aero-lodz-istanbul"),
            ("a/b+c#d", "a-b-c-d"),
            ("---", ""),
            ("☕🔌", ""),
            ("日本", ""),
            ("", ""),
            ("K\u{fffd}che\0", "k-che"),
        ] {
            assert_eq!(slug(alias), expected, "{alias:?}");
        }
    }
}
