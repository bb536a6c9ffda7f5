//! What the running program is.

use api::v1;
use std::time::UNIX_EPOCH;

/// What was built, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Build {
    /// UTC, `2020-11-24 15:38:37`.
    pub date: String,
    /// The same in seconds since the epoch.
    pub time_s: f64,
    /// Who built it.
    pub user: String,
    /// The commit.
    pub git_sha: String,
    /// The tag.
    pub git_tag: String,
}

impl Build {
    /// Of the running program: what the build said, and the time at which its file was written.
    pub fn of_this_program() -> Build {
        let written = std::env::current_exe().and_then(std::fs::metadata).and_then(|file| file.modified());
        let seconds = written.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, |past| past.as_secs());
        Build {
            date: date(seconds),
            time_s: seconds as f64,
            user: option_env!("MESETA_BUILD_USER").unwrap_or("meseta").into(),
            git_sha: option_env!("MESETA_GIT_SHA").unwrap_or("unknown").into(),
            git_tag: option_env!("MESETA_GIT_TAG").unwrap_or(env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// The same as clients of the v1 API read it.
    pub fn version_info(&self) -> v1::VersionInfo {
        v1::VersionInfo {
            version: api::MESOS_VERSION.into(),
            build_date: Some(self.date.clone()),
            build_time: Some(self.time_s),
            build_user: Some(self.user.clone()),
            git_sha: Some(self.git_sha.clone()),
            git_tag: Some(self.git_tag.clone()),
            ..Default::default()
        }
    }
}

/// `2020-11-24 15:38:37`, UTC.
fn date(seconds: u64) -> String {
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Years that begin in March put the leap day last; an era is 400 of them.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates() {
        assert_eq!(date(1_606_232_317), "2020-11-24 15:38:37");
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
    }
}
