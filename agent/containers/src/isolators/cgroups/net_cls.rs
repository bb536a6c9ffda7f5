//! `cgroups/net_cls`: a number on all that a container sends, by which whoever runs the machine shapes and filters it: a primary handle
//! that is the same for all of an agent's containers, and a secondary one of each one's own. Without
//! `--cgroups_net_cls_primary_handle` containers have groups, and somebody else numbers them.
//!
//! The kernel keeps the number with the group: an agent that is started again finds it there.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use api::v1::cgroup_info::NetCls;
use api::v1::{CgroupInfo, ContainerStatus};
use parking_lot::Mutex;

use super::{join, number, own, shared, write};
use crate::cgroups::Cgroups;
use crate::container::Container;
use crate::containerizer::Creation;
use crate::isolators::Isolator;

const FILE: &str = "net_cls.classid";

/// What there is to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handles {
    /// That of the agent.
    pub primary: u16,
    /// Those of containers; none is 0.
    pub secondary: RangeInclusive<u16>,
}

impl Handles {
    /// As `--cgroups_net_cls_primary_handle` and `--cgroups_net_cls_secondary_handles` say it: a number, and the first and the last of a
    /// range with a comma between them.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(primary: Option<&str>, secondary: Option<&str>) -> Result<Option<Handles>, String> {
        let number = |flag: &str, text: &str| {
            let digits = text.trim();
            let parsed = match digits.strip_prefix("0x") {
                Some(hex) => u16::from_str_radix(hex, 16),
                None => digits.parse(),
            };
            parsed
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| format!("Flag '--{flag}' must have numbers between 1 and 0xffff, not '{digits}'"))
        };
        let flag = "cgroups_net_cls_secondary_handles";
        let range = secondary.map(|text| {
            let (first, last) = text
                .split_once(',')
                .ok_or_else(|| format!("Flag '--{flag}' must be a range, as 1,0xffff, not '{text}'"))?;
            let (first, last) = (number(flag, first)?, number(flag, last)?);
            if first > last {
                return Err(format!("Flag '--{flag}' has nothing between {first} and {last}"));
            }
            Ok(first..=last)
        });
        let range = range.transpose()?;
        match primary.map(|text| number("cgroups_net_cls_primary_handle", text)).transpose()? {
            Some(primary) => Ok(Some(Handles { primary, secondary: range.unwrap_or(1..=u16::MAX) })),
            None if range.is_some() => Err(format!("Flag '--{flag}' needs '--cgroups_net_cls_primary_handle'")),
            None => Ok(None),
        }
    }

    fn class(&self, secondary: u16) -> u32 {
        u32::from(self.primary) << 16 | u32::from(secondary)
    }

    /// The secondary handle of a class that is one of these.
    fn secondary_of(&self, class: u32) -> Option<u16> {
        let secondary = (class & 0xffff) as u16;
        (class >> 16 == u32::from(self.primary) && self.secondary.contains(&secondary)).then_some(secondary)
    }
}

/// `cgroups/net_cls`
#[derive(Clone, Debug)]
pub struct CgroupsNetCls {
    groups: Cgroups,
    handles: Option<Handles>,
    /// Secondary handles, and the containers that have them.
    taken: Arc<Mutex<BTreeMap<u16, String>>>,
}

impl CgroupsNetCls {
    /// On these groups, with these handles.
    pub fn new(groups: &Cgroups, handles: Option<&Handles>) -> CgroupsNetCls {
        CgroupsNetCls { groups: groups.clone(), handles: handles.cloned(), taken: Arc::default() }
    }

    fn take(&self, handles: &Handles, container_id: &str) -> Result<u32, String> {
        let mut taken = self.taken.lock();
        // Of a launch of the same container that was given up.
        if let Some((secondary, _)) = taken.iter().find(|(_, id)| *id == container_id) {
            return Ok(handles.class(*secondary));
        }
        let free = handles.secondary.clone().find(|one| !taken.contains_key(one)).ok_or_else(|| {
            let (first, last) = (handles.secondary.start(), handles.secondary.end());
            format!("all of --cgroups_net_cls_secondary_handles, {first} to {last}, are taken by containers")
        })?;
        taken.insert(free, container_id.to_owned());
        Ok(handles.class(free))
    }
}

impl Isolator for CgroupsNetCls {
    fn name(&self) -> &'static str {
        "cgroups/net_cls"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let group = join(&self.groups, self.name(), creation)?;
        let (Some(group), Some(handles)) = (group, &self.handles) else { return Ok(()) };
        write(&group, FILE, self.take(handles, &creation.container.id)?)
    }

    fn recover(&self, container: &Container) {
        let class = own(&self.groups, "net_cls", container).and_then(|group| number(&group, FILE));
        let secondary =
            class.zip(self.handles.as_ref()).and_then(|(class, handles)| handles.secondary_of(class as u32));
        if let Some(secondary) = secondary {
            self.taken.lock().insert(secondary, container.id.clone());
        }
    }

    fn status(&self, container_id: &str, status: &mut ContainerStatus) {
        let class = shared(&self.groups, "net_cls", container_id)
            .and_then(|group| number(&group, FILE))
            .filter(|class| *class > 0);
        if let Some(class) = class {
            let net_cls = Some(NetCls { classid: u32::try_from(class).ok() });
            status.cgroup_info = Some(CgroupInfo { net_cls });
        }
    }

    fn cleanup(&self, container: &Container) {
        self.taken.lock().retain(|_, id| *id != container.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_numbers_and_a_range() {
        let parse = |primary, secondary| Handles::parse(primary, secondary);
        let all = Handles { primary: 18, secondary: 1..=0xffff };
        assert_eq!(parse(None, None), Ok(None));
        assert_eq!(parse(Some("0x12"), None), Ok(Some(all.clone())));
        assert_eq!(parse(Some("18"), Some("0x0001, 0xffff")), Ok(Some(all)));
        for (primary, secondary, why) in [
            (Some("0"), None, "between 1 and 0xffff, not '0'"),
            (Some("65536"), None, "not '65536'"),
            (Some("1"), Some("0,5"), "cgroups_net_cls_secondary_handles' must have numbers between 1"),
            (Some("1"), Some("5"), "must be a range"),
            (Some("1"), Some("6,5"), "nothing between 6 and 5"),
            (None, Some("1,5"), "needs '--cgroups_net_cls_primary_handle'"),
        ] {
            let said = parse(primary, secondary).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let few = Handles { primary: 0x12, secondary: 5..=6 };
        assert_eq!((few.class(5), few.secondary_of(0x0012_0005)), (0x0012_0005, Some(5)));
        assert_eq!((few.secondary_of(0x0012_0007), few.secondary_of(0x0013_0005)), (None, None));
    }

    #[test]
    fn a_handle_is_one_containers_until_that_is_over() {
        for (groups, _) in crate::cgroups::tests::real("handles") {
            let handles = Handles { primary: 1, secondary: 5..=6 };
            let isolator = CgroupsNetCls::new(&groups, Some(&handles));
            let take = |id: &str| isolator.take(&handles, id);
            assert_eq!([take("a"), take("a"), take("b")], [Ok(0x10005), Ok(0x10005), Ok(0x10006)]);
            assert!(take("c").unwrap_err().contains("5 to 6, are taken"));
            isolator.cleanup(&Container { id: "a".into(), ..Container::default() });
            assert_eq!(take("c"), Ok(0x10005));
            crate::cgroups::tests::take_away(&groups);
        }
    }
}
