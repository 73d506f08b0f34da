//! What the cells of a file stand for.

use arrow_cast::parse::string_to_datetime;
use chrono::Utc;

use super::{MAX_MAGNITUDE, MAX_TEXT, shown};
use crate::canonical::canonical;
use crate::{CellRules, Infinite};

/// Spellings of a missing cell where a schema lists none: those of pandas, of Zeek, and of what is common.
pub(crate) const MISSING: [&str; 15] =
    ["", "-", "(empty)", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "nil", "?"];

/// How cells are read.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    missing: Vec<String>,
    /// Spellings that are numbers, as `-1`: they are compared by value, so that a file of numbers has them, too.
    missing_numbers: Vec<f64>,
    infinite: Infinite,
}

/// What a numeric cell holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// NaN where it is missing.
    Value(f64),
    /// A date or time of day, in seconds since 1970 in UTC.
    Moment(f64),
    Unreadable,
}

impl Rules {
    pub(crate) fn new(cells: &CellRules) -> Self {
        let usual = || MISSING.iter().map(|&text| text.to_owned()).collect();
        let missing: Vec<String> = cells.missing.clone().unwrap_or_else(usual);
        let missing_numbers = missing.iter().filter_map(|text| text.parse().ok()).filter(|x: &f64| x.is_finite()).collect();
        Rules { missing, missing_numbers, infinite: cells.infinite.unwrap_or_default() }
    }

    /// Further spellings of a missing cell, which a file declares.
    pub(crate) fn add_missing(&mut self, spelling: &str) {
        if !self.is_missing(spelling) {
            self.missing.push(spelling.to_owned());
            self.missing_numbers.extend(spelling.parse().ok().filter(|x: &f64| x.is_finite()));
        }
    }

    pub(crate) fn is_missing(&self, text: &str) -> bool {
        self.missing.iter().any(|missing| missing == text)
    }

    /// A number of text: decimal, hexadecimal after `0x`, `true` or `false`, a date with or without time, a duration as pandas
    /// writes it.
    pub(crate) fn number(&self, text: &str) -> Number {
        match text.parse::<f64>() {
            // a number too large for f64 parses as infinite
            Ok(value) if value.is_infinite() && text.contains(|c: char| c.is_ascii_digit()) => Number::Unreadable,
            Ok(value) if !value.is_nan() => self.value(value),
            _ if self.is_missing(text) => Number::Value(f64::NAN),
            _ => other_number(text),
        }
    }

    /// A number of at most 15 digits without an exponent, as nearly every cell is: what [`Rules::number`] makes of it, in a third of
    /// the time. The digits and the power of ten below them are whole f64, so that their quotient is the nearest f64 (Clinger, How
    /// to read floating point numbers accurately, 1990).
    pub(super) fn short_number(&self, cell: &[u8]) -> Option<f64> {
        const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
        let (is_negative, cell) = cell.strip_prefix(b"-").map_or((false, cell), |cell| (true, cell));
        let (mut digits, mut n_digits, mut point) = (0_u64, 0, None);
        for (place, &byte) in cell.iter().enumerate() {
            match byte {
                b'0'..=b'9' if n_digits < 15 => (digits, n_digits) = (10 * digits + u64::from(byte - b'0'), n_digits + 1),
                b'.' if point.is_none() => point = Some(place),
                _ => return None,
            }
        }
        let n_after = point.map_or(0, |point| cell.len() - point - 1);
        let value = digits as f64 / POWERS[n_after];
        let value = if is_negative { 0.0 - value } else { value }; // no zero is negative
        (n_digits > 0).then(|| if self.missing_numbers.contains(&value) { f64::NAN } else { value })
    }

    /// A number of a file that holds numbers.
    pub(super) fn value(&self, value: f64) -> Number {
        if value.abs() <= MAX_MAGNITUDE {
            let is_missing = self.missing_numbers.contains(&value);
            return Number::Value(if is_missing { f64::NAN } else { value + 0.0 }); // no zero is negative
        }
        match self.infinite {
            _ if value.is_nan() => Number::Value(f64::NAN),
            Infinite::Missing if value.is_infinite() => Number::Value(f64::NAN),
            Infinite::Clip if value.is_infinite() => Number::Value(value),
            _ => Number::Unreadable,
        }
    }

    /// The text of a category.
    pub(super) fn category(&self, text: &str) -> String {
        if self.is_missing(text) { crate::missing::MISSING.to_owned() } else { canonical(text).into_owned() }
    }
}

/// Texts as a numeric column of a schema that says nothing of its cells: NaN where one is missing or infinite. None where one is no
/// number, or all are missing.
pub fn numbers<S: AsRef<str>>(texts: &[S]) -> Option<Vec<f64>> {
    let rules = Rules::new(&CellRules::default());
    let numbers = texts.iter().map(|text| match rules.number(text.as_ref().trim()) {
        Number::Value(value) | Number::Moment(value) => Some(value),
        Number::Unreadable => None,
    });
    let numbers: Vec<f64> = numbers.collect::<Option<_>>()?;
    numbers.iter().any(|value| !value.is_nan()).then_some(numbers)
}

fn other_number(text: &str) -> Number {
    let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => hexadecimal(digits),
        None => match canonical(text).as_ref() {
            "true" => Some(1.0),
            "false" => Some(0.0),
            _ => duration(text),
        },
    };
    match value {
        Some(value) => Number::Value(value),
        // `12` and `2017` were read as numbers; what is left of dates has several parts
        None if text.len() >= 10 && text.as_bytes()[0].is_ascii_digit() => match string_to_datetime(&Utc, text) {
            Ok(moment) => Number::Moment(moment.timestamp() as f64 + f64::from(moment.timestamp_subsec_nanos()) / 1e9),
            Err(_) => Number::Unreadable,
        },
        None => Number::Unreadable,
    }
}

/// Up to 13 digits: larger ones are no whole f64.
fn hexadecimal(digits: &str) -> Option<f64> {
    let is_plain = (1..=13).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_plain.then(|| u64::from_str_radix(digits, 16).ok().map(|value| value as f64))?
}

/// Seconds of `[[-]D days ][-+]HH:MM:SS[.fraction]`, as pandas writes durations.
fn duration(text: &str) -> Option<f64> {
    let (days, clock) = match text.split_once(" days ").or_else(|| text.split_once(" day ")) {
        Some((days, clock)) => (days.parse::<i32>().ok()?, clock.trim_start_matches('+')),
        None => (0, text),
    };
    let (is_negative, clock) = clock.strip_prefix('-').map_or((false, clock), |clock| (true, clock));
    let mut parts = clock.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let is_plain = |part: &str| (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let is_number = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if parts.next().is_some() || !is_plain(hours) || !is_plain(minutes) || !is_plain(whole) || !is_number {
        return None;
    }
    let of_day = hours.parse::<f64>().ok()? * 3600.0 + minutes.parse::<f64>().ok()? * 60.0 + whole.parse::<f64>().ok()?;
    let size = of_day + format!("0.{fraction}").parse::<f64>().ok()?;
    Some(f64::from(days) * 86_400.0 + if is_negative { -size } else { size })
}

/// A cell's bytes as text.
pub(super) fn text(cell: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(cell).map_err(|_| {
        let name = "windows-1252";
        format!(
            "\"{}\" is not UTF-8 text; save the file as UTF-8, or say how it is written: `encoding: {name}` in the schema",
            shown(&String::from_utf8_lossy(cell))
        )
    })?;
    if text.len() > MAX_TEXT {
        return Err(long_text(text.len()));
    }
    Ok(text)
}

pub(super) fn bad_number(found: &str) -> String {
    format!("cannot read \"{}\" as a number (wanted a finite one of at most {MAX_MAGNITUDE:e})", shown(found))
}

pub(super) fn long_text(len: usize) -> String {
    format!("a text of {len} bytes; wanted at most {MAX_TEXT}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(infinite: Infinite) -> Rules {
        Rules::new(&CellRules { infinite: Some(infinite), ..CellRules::default() })
    }

    fn seen(text: &str) -> String {
        match rules(Infinite::Missing).number(text) {
            Number::Value(value) if value.is_nan() => "missing".to_owned(),
            Number::Value(value) => value.to_string(),
            Number::Moment(value) => format!("moment {value}"),
            Number::Unreadable => "unreadable".to_owned(),
        }
    }

    #[test]
    fn numbers_are_read_however_they_are_written() {
        for (text, wanted) in [
            ("1e3", "1000"),
            ("-0.0", "0"),
            (".5", "0.5"),
            ("+7", "7"),
            ("0xc0a8", "49320"),
            ("0X1F", "31"),
            ("True", "1"),
            ("false", "0"),
            ("0 days 00:00:00.651161", "0.651161"),
            ("-1 days +23:59:59.5", "-0.5"),
            ("2 days 01:02:03", "176523"),
            ("00:00:01.25", "1.25"),
            ("2017-07-03 11:57:41.5", "moment 1499083061.5"),
            ("2017-07-03T11:57:41.5Z", "moment 1499083061.5"),
            ("2023-02-28T11:34:02.133169+0000", "moment 1677584042.133169"),
            ("2017-07-03", "moment 1499040000"),
        ] {
            assert_eq!(seen(text), wanted, "{text}");
        }
    }

    #[test]
    fn missing_cells_are_known_by_their_usual_spellings() {
        for text in
            ["", "-", "(empty)", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>", "?", "Infinity", "inf", "-Inf"]
        {
            assert_eq!(seen(text), "missing", "{text}");
        }
        let own = Rules::new(&CellRules { missing: Some(vec!["n.a.".to_owned()]), ..CellRules::default() });
        assert!(matches!(own.number("n.a."), Number::Value(value) if value.is_nan()));
        for text in ["", "-", "NaN"] {
            assert_eq!(own.number(text), Number::Unreadable, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_short_number_is_the_one_that_a_long_way_gives(text in "-?[0-9]{0,9}[.]?[0-9]{0,9}|-?[1-9][0-9]{13,17}|0[.][0-9]{13,18}|[-0-9.eE+xT]{1,6}") {
            let rules = rules(Infinite::Missing);
            if let Some(value) = rules.short_number(text.as_bytes()) {
                let Number::Value(wanted) = rules.number(&text) else { panic!("{text}: read as {value}") };
                prop_assert_eq!(value.to_bits(), wanted.to_bits(), "{}", text);
            }
        }
    }

    #[test]
    fn a_number_can_be_missing_too() {
        let rules = Rules::new(&CellRules { missing: Some(vec!["-1".to_owned(), "n".to_owned()]), ..CellRules::default() });
        for text in ["-1", "-1.0", "-1e0", "n"] {
            assert!(matches!(rules.number(text), Number::Value(value) if value.is_nan()), "{text}");
        }
        assert!(rules.short_number(b"-1.0").is_some_and(f64::is_nan));
        assert!(matches!(rules.value(-1.0), Number::Value(value) if value.is_nan()));
        assert_eq!(rules.number("1"), Number::Value(1.0));
    }

    #[test]
    fn what_is_no_number_is_not_guessed() {
        for text in [
            "abc",
            "1,5",
            "1e31",
            "1e999",
            "1_000",
            "0x",
            "0xfg",
            "0x10000000000000",
            "1.2.3",
            "03/07/2017 11:57",
            "7 days",
            "--",
        ] {
            assert_eq!(seen(text), "unreadable", "{text}");
        }
    }

    #[test]
    fn an_infinite_number_is_what_the_schema_says() {
        assert_eq!(rules(Infinite::Clip).number("-Infinity"), Number::Value(f64::NEG_INFINITY));
        assert!(matches!(rules(Infinite::Missing).value(f64::INFINITY), Number::Value(value) if value.is_nan()));
        assert_eq!(rules(Infinite::Clip).value(2e30), Number::Unreadable);
    }

    #[test]
    fn a_category_has_one_text_however_it_is_written() {
        let rules = rules(Infinite::Missing);
        for (text, wanted) in
            [("06", "6"), ("6.0", "6"), ("True", "true"), ("", "-"), ("(empty)", "-"), ("tcp", "tcp"), ("no", "no")]
        {
            assert_eq!(rules.category(text), wanted, "{text}");
        }
    }
}
