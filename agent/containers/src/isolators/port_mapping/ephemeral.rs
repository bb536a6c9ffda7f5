//! Ranges of ephemeral ports: each container has one, which begins at a multiple of its size. Pure.

use std::ops::RangeInclusive;

/// Each has at least so many.
pub(super) const PORTS_MIN: u16 = 16;

/// What is wrong with how many there are, if anything: `ports` are those of containers' resources, `machine` those that the
/// machine takes for itself. A sentence.
pub(super) fn check(
    all: &[RangeInclusive<u16>],
    each: u16,
    ports: &[RangeInclusive<u16>],
    machine: &RangeInclusive<u16>,
) -> Result<(), String> {
    let text = |ranges: &[RangeInclusive<u16>]| {
        let ranges: Vec<String> = ranges.iter().map(|one| format!("{}-{}", one.start(), one.end())).collect();
        format!("[{}]", ranges.join(", "))
    };
    let meets = |one: &RangeInclusive<u16>, other: &RangeInclusive<u16>| {
        one.start() <= other.end() && other.start() <= one.end()
    };
    let meets_any = |others: &[RangeInclusive<u16>]| all.iter().any(|one| others.iter().any(|other| meets(one, other)));
    if all.is_empty() {
        return Err("it needs ephemeral_ports in --resources, as ephemeral_ports:[32768-57344]".to_owned());
    }
    for (others, what) in [
        (ports, "the ports in --resources"),
        (&[0..=1023], "the well-known ports"),
        (std::slice::from_ref(machine), "those that the machine uses (net.ipv4.ip_local_port_range)"),
    ] {
        if meets_any(others) {
            return Err(format!("its ephemeral_ports {} meet {what}: {}", text(all), text(others)));
        }
    }
    if !each.is_power_of_two() || each < PORTS_MIN {
        return Err(format!(
            "Flag '--ephemeral_ports_per_container' must be a power of 2, and {PORTS_MIN} or more, not {each}"
        ));
    }
    if free(all, each, &[]).is_none() {
        return Err(format!(
            "its ephemeral_ports {} have no {each} in a row from a multiple of {each}, which --ephemeral_ports_per_container wants",
            text(all)
        ));
    }
    Ok(())
}

/// The first range that nobody has.
pub(super) fn free(
    all: &[RangeInclusive<u16>],
    each: u16,
    used: &[RangeInclusive<u16>],
) -> Option<RangeInclusive<u16>> {
    let each = u32::from(each);
    let candidates = all.iter().flat_map(|range| {
        let (begin, end) = (u32::from(*range.start()), u32::from(*range.end()));
        let first = begin.next_multiple_of(each);
        (first..).step_by(each as usize).map(move |begin| (begin, begin + each - 1)).take_while(move |one| one.1 <= end)
    });
    let ranges = candidates.filter_map(|(begin, end)| Some(u16::try_from(begin).ok()?..=u16::try_from(end).ok()?));
    let is_free = |range: &RangeInclusive<u16>| {
        used.iter().all(|other| range.end() < other.start() || other.end() < range.start())
    };
    ranges.into_iter().find(is_free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_one_that_begins_at_a_multiple() {
        let all = [30_000..=30_099, 40_000..=u16::MAX];
        assert_eq!(free(&all, 64, &[]), Some(30_016..=30_079));
        assert_eq!(free(&all, 64, &[30_016..=30_079]), Some(40_000..=40_063));
        // One of a container that an agent with other flags launched.
        assert_eq!(free(&all, 64, &[30_032..=30_047, 40_000..=40_063]), Some(40_064..=40_127));
        assert_eq!(free(&[65_520..=65_535], 16, &[]), Some(65_520..=65_535));
        assert_eq!(free(&[65_520..=65_535], 16, &[65_520..=65_535]), None);
        assert_eq!(free(&all, 32_768, &[]), None);
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        let machine = 50_000..=60_000;
        let check = |all: &[RangeInclusive<u16>], each| check(all, each, &[31_000..=32_000], &machine);
        assert_eq!(check(&[32_768..=40_000], 1024), Ok(()));
        for (all, each, why) in [
            (vec![], 1024, "needs ephemeral_ports"),
            (vec![31_500..=40_000], 1024, "the ports in --resources: [31000-32000]"),
            (vec![1000..=2000], 1024, "well-known"),
            (vec![40_000..=50_000], 1024, "ip_local_port_range): [50000-60000]"),
            (vec![40_000..=49_000], 1000, "power of 2"),
            (vec![40_000..=49_000], 8, "16 or more"),
            (vec![40_000..=41_000], 1024, "have no 1024 in a row"),
        ] {
            let found = check(&all, each).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
    }
}
