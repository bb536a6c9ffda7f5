//! A place in a log, as people name it: an index, or a time.

use crate::args::Usage;

/// Where in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The record at this index.
    Index(u64),
    /// The last record that was made at this time or before it, in milliseconds since 1970.
    Time(u64),
}

impl Place {
    /// `1234`, `2026-11-20T23:13:28.419Z` (a space for the T, an offset for the Z, no fraction, no seconds) or
    /// `@1795216408.419`.
    pub(crate) fn parse(text: &str) -> Option<Place> {
        if let Some(seconds) = text.strip_prefix('@') {
            return epoch_ms(seconds).map(Place::Time);
        }
        if let Ok(index) = text.parse() {
            return Some(Place::Index(index));
        }
        rfc3339_ms(text).map(Place::Time)
    }

    /// As `parse`, for the value of the flag `--name`.
    ///
    /// # Errors
    /// A [`Usage`] if it is neither.
    pub(crate) fn of_flag(name: &str, text: &str) -> Result<Place, Usage> {
        Place::parse(text).ok_or_else(|| {
            Usage(format!(
                "--{name} must be an index, a time such as 2026-11-20T23:13:28Z, or @ and seconds since 1970, \
                 not {text:?}"
            ))
        })
    }
}

/// Whole seconds and at most milliseconds.
fn epoch_ms(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    number(seconds)?.checked_mul(1000)?.checked_add(thousandths(fraction)?)
}

fn thousandths(fraction: &str) -> Option<u64> {
    number(fraction)?;
    number(&format!("{:0<3.3}", fraction))
}

/// Digits only: no sign, not empty.
fn number(text: &str) -> Option<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn rfc3339_ms(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone_at);
    let offset_minutes = match zone {
        "Z" | "z" => 0,
        _ => {
            let [hours, minutes] = numbers(&zone[1..], ':', [2, 2])?;
            let minutes = (hours * 60 + minutes) as i64;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = match clock.len() {
        5 => numbers(clock, ':', [2, 2]).map(|[hour, minute]| [hour, minute, 0])?,
        _ => numbers(clock, ':', [2, 2, 2])?,
    };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let minutes = (days(year, month, day) * 24 + hour as i64) * 60 + minute as i64 - offset_minutes;
    let ms = (minutes * 60 + second as i64) * 1000 + thousandths(fraction)? as i64;
    ms.try_into().ok()
}

/// Numbers of exactly so many digits.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (slot, digits) in found.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits)?;
        *slot = number(part)?;
    }
    parts.next().is_none().then_some(found)
}

/// Days since 1970. Years that begin in March put the leap day last.
fn days(year: u64, month: u64, day: u64) -> i64 {
    let year = year as i64 - i64::from(month <= 2);
    let from_march = (month as i64 + 9) % 12;
    let day_of_year = (153 * from_march + 2) / 5 + day as i64 - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::time;

    #[test]
    fn a_place_is_an_index_or_a_time() {
        assert_eq!(Place::parse("1795216408"), Some(Place::Index(1_795_216_408)));
        for text in [
            "2026-11-20T23:13:28.419Z",
            "2026-11-20 23:13:28.419Z",
            "2026-11-21T00:43:28.4190+01:30",
            "2026-11-20T15:13:28.419-08:00",
            "@1795216408.419",
        ] {
            assert_eq!(Place::parse(text), Some(Place::Time(1_795_216_408_419)), "{text}");
        }
        assert_eq!(Place::parse("2026-11-20T23:13Z"), Some(Place::Time(1_795_216_380_000)));
        for ms in [0, 68_256_000_000, 951_782_400_000, 1_709_164_800_000, 4_107_542_400_000] {
            assert_eq!(Place::parse(&time(ms)), Some(Place::Time(ms)), "{}", time(ms));
        }
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "",
            "x",
            "-1",
            "@",
            "@x",
            "@1.",
            "2026-11-20",
            "2026-11-20T23:13:28",
            "2026-13-20T23:13:28Z",
            "2026-11-20T23:13:28.Z",
            "26-11-20T23:13:28Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T23:13:28+1",
        ] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }
}
