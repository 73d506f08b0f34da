//! One text for each category, however a file spells it.

use std::borrow::Cow;

/// The spelling of a category that every other one is read as, so that CSV and Parquet of one table give the same categories:
///
/// | found | canonical |
/// |---|---|
/// | `06`, `6.0`, `+6` | `6` |
/// | `1.50` | `1.5` |
/// | `-0`, `0.00` | `0` |
/// | `True`, `TRUE`, `T`, `t` | `true` |
/// | `False`, `FALSE`, `F`, `f` | `false` |
/// | nothing | `-` |
///
/// A number is `[+-]?digits[.digits]` and nothing else. All other texts stay as they are.
pub(crate) fn canonical(text: &str) -> Cow<'_, str> {
    match text {
        "" => "-".into(),
        "True" | "TRUE" | "T" | "t" => "true".into(),
        "False" | "FALSE" | "F" | "f" => "false".into(),
        _ => number(text).unwrap_or(Cow::Borrowed(text)),
    }
}

/// Texts that are read as a category: it as it stands, its canonical form and the other usual spellings of that.
pub(crate) fn spellings(category: &str) -> Vec<String> {
    let canonical = canonical(category).into_owned();
    let others: &[&str] = match canonical.as_str() {
        "-" => &[""],
        "true" => &["True", "TRUE", "T", "t"],
        "false" => &["False", "FALSE", "F", "f"],
        _ => &[],
    };
    let is_whole =
        canonical.bytes().last().is_some_and(|c| c.is_ascii_digit()) && !canonical.contains('.') && number(&canonical).is_some();
    let with_fraction = is_whole.then(|| format!("{canonical}.0"));
    let others = others.iter().map(|text| (*text).to_owned()).chain(with_fraction);
    [category.to_owned(), canonical].into_iter().chain(others).collect()
}

/// `text` without zeros and signs that say nothing; `None` where it is no number.
fn number(text: &str) -> Option<Cow<'_, str>> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) = match unsigned.split_once('.') {
        Some((whole, fraction)) if digits(fraction) => (whole, fraction.trim_end_matches('0')),
        Some(_) => return None,
        None => (unsigned, ""),
    };
    if !digits(whole) {
        return None;
    }
    let stripped = whole.trim_start_matches('0');
    let whole = if stripped.is_empty() { &whole[whole.len() - 1..] } else { stripped };
    let sign = if text.starts_with('-') && (whole, fraction) != ("0", "") { "-" } else { "" };
    let dot = if fraction.is_empty() { "" } else { "." };
    let is_canonical = sign.len() + whole.len() + dot.len() + fraction.len() == text.len();
    Some(if is_canonical { Cow::Borrowed(text) } else { Cow::Owned([sign, whole, dot, fraction].concat()) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_number_or_truth_has_one_spelling() {
        let spellings: [(&str, &[&str]); 9] = [
            ("6", &["6", "06", "6.0", "+6", "006.000"]),
            ("-6", &["-6", "-06", "-6.00"]),
            ("0", &["0", "00", "-0", "+0", "0.0", "-0.00"]),
            ("1.5", &["1.5", "01.50", "+1.500"]),
            ("-0.5", &["-0.5", "-00.50"]),
            ("100", &["100", "0100", "100.0"]),
            ("true", &["true", "True", "TRUE", "T", "t"]),
            ("false", &["false", "False", "FALSE", "F", "f"]),
            ("-", &["-", ""]),
        ];
        for (wanted, found) in spellings {
            for text in found {
                assert_eq!(canonical(text), wanted, "{text:?}");
            }
        }
    }

    #[test]
    fn every_spelling_of_a_category_is_read_as_it() {
        for (category, n) in [("6", 3), ("06", 3), ("1.5", 2), ("true", 6), ("F", 6), ("-", 3), ("tcp", 2), ("0x06", 2)] {
            let found = spellings(category);
            assert_eq!(found.len(), n, "{found:?}");
            assert!(found.iter().all(|text| canonical(text) == canonical(category)), "{found:?}");
        }
    }

    #[test]
    fn what_is_no_plain_number_stays() {
        for text in [
            "tcp", "TCP", "6.", ".5", "+", "--6", "1e3", "0x06", "10.0.0.0", "6 ", "1,0", "nan", "-.0", "٦", "tRUE", "1.0.",
            "a.0",
        ] {
            assert_eq!(canonical(text), text);
        }
    }

    #[test]
    fn what_is_canonical_is_not_copied() {
        for text in ["6", "0", "-1.5", "tcp", "10.0.0.1", "100", "0.05"] {
            assert!(matches!(canonical(text), Cow::Borrowed(_)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_canonical_text_is_its_own_canonical_text(text in "[-+]?[0-9]{0,4}[.]?[0-9]{0,4}|[TtFf]|[ -~]{0,6}") {
            let once = canonical(&text).into_owned();
            prop_assert_eq!(canonical(&once), once.as_str());
        }

        #[test]
        fn numbers_share_a_text_where_they_are_equal(a in "[-+]?[0-9]{1,3}([.][0-9]{1,3})?", b in "[-+]?[0-9]{1,3}([.][0-9]{1,3})?") {
            let value = |text: &str| (text.parse::<f64>().unwrap() + 0.0).to_bits();
            prop_assert_eq!(value(&canonical(&a)), value(&a));
            prop_assert_eq!(value(&a) == value(&b), canonical(&a) == canonical(&b));
        }

        #[test]
        fn zeros_that_say_nothing_make_no_other_number(n in -300i32..300, before in 0usize..3, after in 0usize..3) {
            let (sign, size) = (if n < 0 { "-" } else { "" }, n.unsigned_abs());
            let fraction = if after == 0 { String::new() } else { format!(".{}", "0".repeat(after)) };
            let text = format!("{sign}{}{size}{fraction}", "0".repeat(before));
            prop_assert_eq!(canonical(&text), n.to_string());
        }
    }
}
