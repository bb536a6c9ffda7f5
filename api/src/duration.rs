//! Durations as flags and query parameters write them: `15secs`, `1.5hrs`, `10mins`.

use std::time::Duration;

/// Units and their length in nanoseconds, from small to large; each is a multiple of the one before.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("secs", 1_000_000_000),
    ("mins", 60_000_000_000),
    ("hrs", 3_600_000_000_000),
    ("days", 86_400_000_000_000),
    ("weeks", 604_800_000_000_000),
];

/// Reads a duration: a number, not negative, with a unit. At most i64::MAX nanoseconds (292 years), as on the wire.
pub fn parse(text: &str) -> Result<Duration, String> {
    let at =
        text.find(|each: char| !each.is_ascii_digit() && each != '.').ok_or(format!("Invalid duration '{text}'"))?;
    let (number, unit) = text.split_at(at);
    let value: f64 = number.parse().map_err(|_| format!("Failed to convert '{number}' to number."))?;
    let (_, length) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| {
        format!("Unknown duration unit '{unit}', expecting ns, us, ms, secs, mins, hrs, days or weeks")
    })?;
    // Whole numbers stay exact beyond the 53 bits of a double.
    let nanoseconds = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(*length),
        Err(_) => Some((value * *length as f64).round()).filter(|it| *it < i64::MAX as f64).map(|it| it as u64),
    };
    nanoseconds
        .filter(|it| i64::try_from(*it).is_ok())
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("Duration '{text}' is out of range"))
}

/// Writes a duration in the largest unit that needs no fraction: `90secs`, `2weeks`, `0ns`.
pub fn format(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let fits = |length: u64| nanoseconds > 0 && nanoseconds.is_multiple_of(length.into());
    let (unit, length) = UNITS.iter().rev().find(|(_, length)| fits(*length)).unwrap_or(&UNITS[0]);
    format!("{}{unit}", nanoseconds / u128::from(*length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts() {
        for (text, written) in [
            ("15secs", "15secs"),
            ("90secs", "90secs"),
            ("60secs", "1mins"),
            ("1.5hrs", "90mins"),
            ("0secs", "0ns"),
            ("14days", "2weeks"),
            ("0.5ms", "500us"),
        ] {
            assert_eq!(parse(text).map(format), Ok(written.to_owned()), "{text}");
        }
        assert_eq!(parse("bad"), Err("Failed to convert '' to number.".into()));
        for wrong in ["", "5", "5sec", "-5secs", "5 secs", "1.2.3secs", "999999weeks", "99999999999999999999secs"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn written_and_read(nanoseconds in 0..=i64::MAX as u64) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn any_text(text in "\\PC{0,12}|[0-9.]{0,30}[a-z]{0,5}") {
            let _ = parse(&text);
        }
    }
}
