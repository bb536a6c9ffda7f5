//! Paths to handlers. The longest registered prefix wins, as clients of Mesos expect it: `/api/v1/operator` is served
//! by `/api/v1`, `/master/frameworks/` by `/frameworks`.

use std::collections::BTreeMap;

use crate::query::decode;

/// A table of paths. `T` is whatever the caller wants to find, usually a variant of its enum of endpoints.
#[derive(Clone, Debug)]
pub struct Router<T> {
    prefix: &'static str,
    routes: BTreeMap<Vec<String>, T>,
}

impl<T> Router<T> {
    /// An empty table. A first segment equal to `prefix` (`master`, `slave(1)`) is optional in every path.
    pub fn new(prefix: &'static str) -> Router<T> {
        Router { prefix, routes: BTreeMap::new() }
    }

    /// Adds a path.
    #[must_use]
    pub fn at(mut self, path: &str, target: T) -> Router<T> {
        self.routes.insert(segments(path), target);
        self
    }

    /// What serves `path`, and the segments behind the part that was matched. Double and trailing slashes do not
    /// matter. The root is matched only exactly.
    pub fn find(&self, path: &str) -> Option<(&T, Vec<String>)> {
        let mut path = segments(path);
        if let Some(found) = self.longest(&path) {
            return Some(found);
        }
        if path.first().is_some_and(|first| first == self.prefix) {
            path.remove(0);
            return self.longest(&path);
        }
        None
    }

    fn longest(&self, path: &[String]) -> Option<(&T, Vec<String>)> {
        let least = usize::from(!path.is_empty());
        let mut lengths = (least..=path.len()).rev();
        lengths.find_map(|length| Some((self.routes.get(&path[..length])?, path[length..].to_vec())))
    }
}

fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|segment| !segment.is_empty()).map(|segment| decode(segment, false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client demand 14: longest prefix, with and without the daemon's own name, slashes doubled or left behind.
    #[test]
    fn the_longest_prefix_serves() {
        let router = Router::new("slave(1)").at("/api/v1", 1).at("/api/v1/executor", 2).at("/state", 3).at("/", 4);
        let find = |path| router.find(path).map(|(target, rest)| (*target, rest.join(",")));
        assert_eq!(find("/api/v1"), Some((1, String::new())));
        assert_eq!(find("/api/v1/operator/x"), Some((1, "operator,x".into())));
        assert_eq!(find("/api/v1/executor/"), Some((2, String::new())));
        assert_eq!(find("//slave(1)//state/"), Some((3, String::new())));
        assert_eq!(find("/slave%281%29/state"), Some((3, String::new())));
        assert_eq!(find("/"), Some((4, String::new())));
        assert_eq!(find("/slave(1)"), Some((4, String::new())));
        assert_eq!(find("/nosuch"), None);
        assert_eq!(find("/master/state"), None);
    }
}
