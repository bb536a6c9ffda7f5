//! Amounts of bytes as flags write them: `2GB`, `64KB`. A step is 1024.

const UNITS: [(&str, u64); 5] = [("B", 1), ("KB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// Reads an amount: a whole number with a unit. The answer is in bytes.
pub fn parse(text: &str) -> Result<u64, String> {
    let at = text.find(|each: char| !each.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let value: u64 = number.parse().map_err(|_| format!("Failed to convert '{number}' to number."))?;
    let (_, size) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| format!("Unknown bytes unit '{unit}', expecting B, KB, MB, GB or TB"))?;
    value.checked_mul(*size).ok_or_else(|| format!("'{text}' is out of range"))
}

/// Writes an amount in the largest unit that needs no fraction.
pub fn format(bytes: u64) -> String {
    let fits = |size: u64| bytes > 0 && bytes.is_multiple_of(size);
    let (unit, size) = UNITS.iter().rev().find(|(_, size)| fits(*size)).unwrap_or(&UNITS[0]);
    format!("{}{unit}", bytes / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (text, bytes) in [("2GB", 2 << 30), ("4KB", 4096), ("0B", 0), ("1TB", 1 << 40), ("7B", 7)] {
            assert_eq!(parse(text), Ok(bytes));
            assert_eq!(format(bytes), text);
        }
        assert_eq!(format(1024 * 1024), "1MB");
        for wrong in ["", "5", "GB", "-1B", "1.5GB", "1gb", "99999999999TB"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
