//! Maps and lists inside entries of a snapshot. Their own readers set aside what a length says before they see that there is
//! nothing behind it, and a length of many digits ends the process.

use std::collections::BTreeMap;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Deserializer};

/// Reads a map as it comes.
pub(super) fn map<'de, K, V, D>(input: D) -> Result<OrdMap<K, V>, D::Error>
where
    K: Deserialize<'de> + Ord + Clone,
    V: Deserialize<'de> + Clone,
    D: Deserializer<'de>,
{
    Ok(BTreeMap::deserialize(input)?.into_iter().collect())
}

/// Reads a list as it comes.
pub(super) fn vector<'de, T, D>(input: D) -> Result<Vector<T>, D::Error>
where
    T: Deserialize<'de> + Clone,
    D: Deserializer<'de>,
{
    Ok(Vec::deserialize(input)?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use crate::state::frameworks::RoleState;

    #[test]
    fn a_length_with_nothing_behind_it_is_an_error() {
        let mut bytes = event_log::encode_payload(&RoleState::default());
        assert_eq!(bytes.pop(), Some(0), "no filters");
        bytes.extend([0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
        assert!(event_log::decode_payload::<RoleState>(&bytes).is_err());
    }
}
