//! What this process knows about itself, beside State.

use master_core::ids::NodeId;
use std::time::UNIX_EPOCH;

/// The version of Mesos whose behaviour clients get: they parse it and choose by it.
pub const MESOS_VERSION: &str = "1.11.0";

/// What a read tells about this master. The same for the whole life of the process.
#[derive(Clone, Debug)]
pub struct About {
    /// This master's disk.
    pub node: NodeId,
    /// The name under which clients reach it.
    pub hostname: String,
    /// ip:port on which it listens.
    pub address: String,
    /// The flags in force by name, as text.
    pub flags: Vec<(String, String)>,
    /// When the process started, in milliseconds since the epoch.
    pub start_ms: u64,
    /// What was built, and when.
    pub build: Build,
}

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

impl About {
    /// The value of a flag.
    pub fn flag(&self, name: &str) -> Option<&str> {
        self.flags.iter().find(|(flag, _)| flag == name).map(|(_, value)| value.as_str())
    }

    /// As libprocess would name it: some clients take the address out of it.
    pub fn pid(&self) -> String {
        format!("master@{}", self.address)
    }
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
