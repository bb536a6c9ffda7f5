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

/// Which end of a day is meant by a date alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    Begin,
    End,
}

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

impl Place {
    /// An index (`1234`), a time (`2026-11-20T23:13:28.419Z`; a space for the T, an offset or nothing for the Z, no fraction,
    /// no seconds), a date, a time of the last 24 hours (`23:13`), so long ago (`-5m`, `-1h30m`), or `@` and seconds since
    /// 1970. All without an offset in UTC, as everything that is shown.
    pub(crate) fn parse(text: &str, edge: Edge) -> Option<Place> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Place::parse_at(text, edge, now.as_millis() as u64)
    }

    fn parse_at(text: &str, edge: Edge, now_ms: u64) -> Option<Place> {
        if let Some(seconds) = text.strip_prefix('@') {
            return epoch_ms(seconds).map(Place::Time);
        }
        if let Ok(index) = text.parse() {
            return Some(Place::Index(index));
        }
        if let Some(ago) = text.strip_prefix('-') {
            return Some(Place::Time(now_ms.saturating_sub(span_ms(ago)?)));
        }
        if let Some(begin_ms) = rfc3339_ms(&format!("{text}T00:00:00Z")) {
            return Some(Place::Time(if edge == Edge::Begin { begin_ms } else { begin_ms + DAY_MS - 1 }));
        }
        if let Some(of_day_ms) = rfc3339_ms(&format!("1970-01-01T{}Z", text.trim_end_matches(['Z', 'z']))) {
            let today_ms = now_ms - now_ms % DAY_MS + of_day_ms;
            return Some(Place::Time(if today_ms > now_ms { today_ms.saturating_sub(DAY_MS) } else { today_ms }));
        }
        rfc3339_ms(text).or_else(|| rfc3339_ms(&format!("{text}Z"))).map(Place::Time)
    }

    /// As `parse`, for the value of the flag `--name`.
    ///
    /// # Errors
    /// A [`Usage`] if it is neither.
    pub(crate) fn of_flag(name: &str, text: &str) -> Result<Place, Usage> {
        let edge = if name == "from" { Edge::Begin } else { Edge::End };
        Place::parse(text, edge).ok_or_else(|| {
            Usage(format!(
                "--{name} must be an index, a time such as 2026-11-20T23:13:28Z or 23:13, a date, -5m for five minutes ago, \
                 or @ and seconds since 1970, not {text:?}"
            ))
        })
    }
}

/// `1h30m`: days, hours, minutes, seconds, each once at most, the largest first.
fn span_ms(text: &str) -> Option<u64> {
    let (mut rest, mut sum_ms) = (text, 0_u64);
    for (unit, ms) in [('d', DAY_MS), ('h', 60 * MINUTE_MS), ('m', MINUTE_MS), ('s', 1000)] {
        if let Some((count, after)) = rest.split_once(unit) {
            sum_ms = sum_ms.checked_add(number(count).filter(|_| !count.is_empty())?.checked_mul(ms)?)?;
            rest = after;
        }
    }
    (rest.is_empty() && !text.is_empty()).then_some(sum_ms)
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

    /// 2026-11-20T23:13:28.419Z
    const NOW_MS: u64 = 1_795_216_408_419;

    fn parse(text: &str) -> Option<Place> {
        Place::parse_at(text, Edge::Begin, NOW_MS)
    }

    #[test]
    fn a_place_is_an_index_or_a_time() {
        assert_eq!(parse("1795216408"), Some(Place::Index(1_795_216_408)));
        for text in [
            "2026-11-20T23:13:28.419Z",
            "2026-11-20 23:13:28.419Z",
            "2026-11-20 23:13:28.419",
            "2026-11-21T00:43:28.4190+01:30",
            "2026-11-20T15:13:28.419-08:00",
            "@1795216408.419",
            "23:13:28.419",
            "-0s",
        ] {
            assert_eq!(parse(text), Some(Place::Time(NOW_MS)), "{text}");
        }
        for (text, shown) in [
            ("2026-11-20T23:13Z", "2026-11-20T23:13:00.000Z"),
            ("2026-11-20", "2026-11-20T00:00:00.000Z"),
            ("23:13", "2026-11-20T23:13:00.000Z"),
            ("23:14", "2026-11-19T23:14:00.000Z"),
            ("00:00Z", "2026-11-20T00:00:00.000Z"),
            ("-5m", "2026-11-20T23:08:28.419Z"),
            ("-1d2h", "2026-11-19T21:13:28.419Z"),
        ] {
            let Some(Place::Time(at_ms)) = parse(text) else { panic!("{text}") };
            assert_eq!(time(at_ms), shown, "{text}");
        }
        let end = Place::parse_at("2026-11-20", Edge::End, NOW_MS);
        assert_eq!(end, parse("2026-11-20T23:59:59.999Z"));
        for ms in [0, 68_256_000_000, 951_782_400_000, 1_709_164_800_000, 4_107_542_400_000] {
            assert_eq!(parse(&time(ms)), Some(Place::Time(ms)), "{}", time(ms));
        }
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "",
            "x",
            "-1",
            "-",
            "-m",
            "-5m1h",
            "@",
            "@x",
            "@1.",
            "2026-11",
            "24:00",
            "10",
            "2026-13-20T23:13:28Z",
            "2026-11-20T23:13:28.Z",
            "26-11-20T23:13:28Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T23:13:28+1",
        ] {
            let is_index = text.parse::<u64>().is_ok();
            assert_eq!(parse(text).is_some(), is_index, "{text}");
        }
    }
}
