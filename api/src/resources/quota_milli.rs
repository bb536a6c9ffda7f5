//! The numbers of a quota: from the doubles of the wire to thousandths, or what is wrong with them.

/// The largest amount of memory or disk in a quota, in megabytes: an exabyte.
const MEGABYTES_MAX: u64 = 1 << 40;
/// The largest amount of anything else.
const OTHERS_MAX: u64 = 1_000_000_000_000;

/// What is wrong with so much of `name`, if it is too much.
pub fn too_large(name: &str, value: f64) -> Option<String> {
    let (most, word) = match name {
        "mem" | "disk" => (MEGABYTES_MAX, "1 exabyte"),
        _ => (OTHERS_MAX, "1 trillion"),
    };
    (value > most as f64)
        .then(|| format!("{{'{name}': {value}}} is invalid: values greater than {word} ({most}) are not supported"))
}

/// The thousandths of an amount that is not too large, to the nearest.
///
/// # Errors
/// A sentence, if it is no amount.
pub fn milli(value: f64) -> Result<i64, &'static str> {
    if value.is_infinite() {
        return Err("Infinite values not supported");
    }
    if value.is_nan() {
        return Err("NaN not supported");
    }
    if value.is_subnormal() {
        return Err("Subnormal values not supported");
    }
    if value < 0.0 {
        return Err("Negative values not supported");
    }
    Ok((value * 1000.0).round() as i64)
}
