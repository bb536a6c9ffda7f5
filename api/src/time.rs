//! Times and spans as people read them.

/// Milliseconds since the epoch as `2026-11-20T23:13:28.419Z`.
pub fn shown(at_ms: u64) -> String {
    let (seconds, ms) = (at_ms / 1000, at_ms % 1000);
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Years that begin in March put the leap day last; an era is 400 of them.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// As [`shown`], to the second.
pub fn to_the_second(at_ms: u64) -> String {
    format!("{}Z", &shown(at_ms)[..19])
}

/// A length of time in milliseconds: `12ms`, `7.1s`, `9m 2s`, `3h 4m`, `2d 5h`.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => match ms % 1000 / 100 {
            0 => format!("{seconds}s"),
            tenths => format!("{seconds}.{tenths}s"),
        },
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit} {small}{small_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spans() {
        assert_eq!(shown(1_795_216_408_419), "2026-11-20T23:13:28.419Z");
        assert_eq!(shown(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(to_the_second(1_795_216_408_419), "2026-11-20T23:13:28Z");
        let spans = [0, 999, 1000, 7140, 60_000, 542_000, 11_040_000, 190_800_000].map(span);
        assert_eq!(spans, ["0ms", "999ms", "1s", "7.1s", "1m", "9m 2s", "3h 4m", "2d 5h"]);
    }
}
