//! Where answers go: text for people, or one JSON object a line for programs.

use std::io::{self, BufWriter, Stdout, Write};

/// Standard output.
pub(crate) struct Output {
    json: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    /// As JSON, or as text.
    pub(crate) fn new(json: bool) -> Output {
        Output { json, out: BufWriter::new(io::stdout()) }
    }

    /// Whether programs read it.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One answer in either form.
    ///
    /// # Errors
    /// What writing answers.
    pub(crate) fn line(
        &mut self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> serde_json::Value,
    ) -> io::Result<()> {
        if self.json { writeln!(self.out, "{}", json()) } else { writeln!(self.out, "{}", text()) }
    }

    /// For what is written piece by piece.
    pub(crate) fn writer(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    /// Shows what was written so far.
    ///
    /// # Errors
    /// What writing answers.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The end.
    ///
    /// # Errors
    /// What writing answers.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }
}

/// Milliseconds since the epoch as `2026-11-20T23:13:28.419Z`.
pub(crate) fn time(at_ms: u64) -> String {
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

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times() {
        assert_eq!(time(1_795_216_408_419), "2026-11-20T23:13:28.419Z");
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
    }
}
