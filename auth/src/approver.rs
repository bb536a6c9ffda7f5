//! From lists to answers. An approver answers for one subject, by the lists as they were when it was made, for as long as
//! it lives; whoever is told something later asks for a new one.

use crate::acls::{Acls, Entity, Entry};
use crate::action::{Action, List, Objects};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The lists that are in force, or that there are none: then all is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorizer {
    acls: Option<Arc<Acls>>,
}

/// Who it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The daemon itself: nobody asked it to, and no list is about it.
    Itself,
    /// Somebody who did not say who they are.
    Anybody,
    /// Whoever has this principal.
    Principal(Arc<str>),
    /// Whoever holds a token without a principal, an executor say: what it claims.
    Claims(Arc<BTreeMap<String, String>>),
}

/// What one subject may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    acls: Option<Arc<Acls>>,
    subject: Subject,
}

/// What one subject may do with one action: the entries that are about it, in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sieve {
    arms: Vec<Arm>,
    otherwise: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Arm {
    objects: Matching,
    allows: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Matching {
    /// Every object, named or not.
    Every,
    /// These.
    Names(BTreeSet<String>),
    /// Roles that begin so.
    Below(String),
}

/// What of the state a subject may see. Those whose sights are equal see the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sight {
    /// By their users.
    pub frameworks: Sieve,
    /// By their users.
    pub tasks: Sieve,
    /// By their users.
    pub executors: Sieve,
    /// By their names.
    pub roles: Sieve,
    /// By their names.
    pub quotas: Sieve,
    /// All or none.
    pub schedule: bool,
    /// All or none.
    pub machines: bool,
    /// All or none.
    pub flags: bool,
}

/// An answer with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Whether it may.
    pub allowed: bool,
    /// Which entry said so; None: none matched.
    pub entry: Option<(List, usize)>,
    /// A sentence for people.
    pub why: String,
}

impl Authorizer {
    /// By these lists.
    pub fn new(acls: Acls) -> Authorizer {
        Authorizer { acls: Some(Arc::new(acls)) }
    }

    /// Whether there are lists.
    pub fn is_in_force(&self) -> bool {
        self.acls.is_some()
    }

    /// What `subject` may do.
    pub fn approver(&self, subject: Subject) -> Approver {
        Approver { acls: self.acls.clone(), subject }
    }
}

impl Subject {
    /// The principal, or whoever has none.
    pub fn named(principal: Option<&str>) -> Subject {
        principal.map_or(Subject::Anybody, |principal| Subject::Principal(Arc::from(principal)))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Itself => f.write_str("the daemon itself"),
            Subject::Anybody => f.write_str("whoever is not authenticated"),
            Subject::Principal(principal) => write!(f, "principal '{principal}'"),
            Subject::Claims(_) => f.write_str("the holder of a token without a principal"),
        }
    }
}

impl Default for Approver {
    /// Of the daemon itself.
    fn default() -> Approver {
        Approver { acls: None, subject: Subject::Itself }
    }
}

impl Approver {
    /// Whether there are lists that say what it may.
    pub fn is_in_force(&self) -> bool {
        self.acls.is_some()
    }

    /// Who it is about.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Whether `action` may be done to `object`; None: to anything of its kind.
    pub fn approves(&self, action: Action, object: Option<&str>) -> bool {
        action.lists().iter().all(|list| self.sieve_of(*list).passes(object))
    }

    /// Whether LAUNCH_NESTED_CONTAINER or a session may be: as the user of the new container, if one is named, and below
    /// an executor of the user `parent`.
    pub fn approves_below(&self, action: Action, user: Option<&str>, parent: Option<&str>, has_command: bool) -> bool {
        let [as_user, under] = action.lists() else { return self.approves(action, parent) };
        self.sieve_of(*under).passes(parent) && (!has_command || self.sieve_of(*as_user).passes(user))
    }

    /// For a token without a principal: whether it is for the container that `root` is the outermost of. None: it is about
    /// somebody else, and the lists say.
    pub fn claims_container(&self, root: &str) -> Option<bool> {
        match &self.subject {
            Subject::Claims(claims) => Some(claims.get("cid").is_some_and(|own| own == root)),
            Subject::Itself | Subject::Anybody | Subject::Principal(_) => None,
        }
    }

    /// The answers for one action of one list.
    pub fn sieve(&self, action: Action) -> Sieve {
        match action.lists() {
            [list] => self.sieve_of(*list),
            // Whoever may all of them.
            lists => {
                let sieves: Vec<Sieve> = lists.iter().map(|list| self.sieve_of(*list)).collect();
                let all = sieves.iter().all(Sieve::passes_all);
                Sieve { arms: Vec::new(), otherwise: all }
            }
        }
    }

    fn sieve_of(&self, list: List) -> Sieve {
        let all = |otherwise| Sieve { arms: Vec::new(), otherwise };
        let Some(acls) = &self.acls else { return all(true) };
        let principal = match &self.subject {
            Subject::Itself => return all(true),
            // What no principal is named for is no entry's.
            Subject::Claims(_) => return all(false),
            Subject::Anybody => None,
            Subject::Principal(principal) => Some(&**principal),
        };
        let arms = acls.list(list).iter().filter_map(|entry| subject_allowed(entry, principal).map(|is| (entry, is)));
        let arms = arms.flat_map(|(entry, is_allowed)| arms_of(list, entry, is_allowed));
        Sieve { arms: arms.collect(), otherwise: acls.permissive }.shortest()
    }

    /// What of the state it may see; None: all of it.
    pub fn sight(&self) -> Option<Arc<Sight>> {
        let sight = Sight {
            frameworks: self.sieve(Action::ViewFramework),
            tasks: self.sieve(Action::ViewTask),
            executors: self.sieve(Action::ViewExecutor),
            roles: self.sieve(Action::ViewRole),
            quotas: self.sieve(Action::GetQuota),
            schedule: self.approves(Action::GetMaintenanceSchedule, None),
            machines: self.approves(Action::GetMaintenanceStatus, None),
            flags: self.approves(Action::ViewFlags, None),
        };
        (!sight.is_all()).then(|| Arc::new(sight))
    }

    /// The answer with its reason.
    pub fn rule(&self, action: Action, object: Option<&str>) -> Ruling {
        let Some(acls) = &self.acls else {
            return Ruling { allowed: true, entry: None, why: "there is no --acls: everything is allowed".to_owned() };
        };
        let principal = match &self.subject {
            Subject::Itself => {
                return Ruling { allowed: true, entry: None, why: "no list is about the daemon itself".to_owned() };
            }
            Subject::Claims(_) => {
                let why = "a token without a principal is good for its own container alone".to_owned();
                return Ruling { allowed: false, entry: None, why };
            }
            Subject::Anybody => None,
            Subject::Principal(principal) => Some(&**principal),
        };
        let mut ruling = None;
        for list in action.lists() {
            let entries = acls.list(*list).iter().enumerate();
            let decided = entries.filter_map(|(at, entry)| Some((at, entry, subject_allowed(entry, principal)?)));
            let mut decided = decided.filter_map(|(at, entry, is_allowed)| {
                let arm = arms_of(*list, entry, is_allowed).into_iter().find(|arm| arm.objects.has(object))?;
                Some((at, arm.allows))
            });
            let field = list.field();
            let one = match decided.next() {
                Some((at, allowed)) => {
                    let verb = if allowed { "allows" } else { "refuses" };
                    Ruling { allowed, entry: Some((*list, at)), why: format!("{field}[{at}] {verb} it") }
                }
                None => {
                    let allowed = acls.permissive;
                    let verb = if allowed { "allows" } else { "refuses" };
                    let why = format!("no entry of {field} matches, and permissive={allowed} {verb} it");
                    Ruling { allowed, entry: None, why }
                }
            };
            if ruling.as_ref().is_none_or(|before: &Ruling| before.allowed) {
                ruling = Some(one);
            }
        }
        ruling.unwrap_or_else(|| Ruling {
            allowed: acls.permissive,
            entry: None,
            why: "no list is about it".to_owned(),
        })
    }
}

/// Whether an entry is about the principal, and if so, whether its side of it allows.
fn subject_allowed(entry: &Entry, principal: Option<&str>) -> Option<bool> {
    match (&entry.principals, principal) {
        (Entity::Any, _) => Some(true),
        (Entity::None, _) => Some(false),
        (Entity::Some(names), Some(principal)) => names.contains(principal).then_some(true),
        (Entity::Some(_), None) => None,
    }
}

fn arms_of(list: List, entry: &Entry, is_allowed: bool) -> Vec<Arm> {
    let names = match &entry.objects {
        Entity::Any => return vec![Arm { objects: Matching::Every, allows: is_allowed }],
        Entity::None => return vec![Arm { objects: Matching::Every, allows: false }],
        Entity::Some(names) => names,
    };
    let below = |name: &String| name.strip_suffix('%').filter(|_| name.ends_with("/%")).map(str::to_owned);
    let below = |name: &String| below(name).filter(|_| list.objects() == Objects::Roles);
    let plain: BTreeSet<String> = names.iter().filter(|name| below(name).is_none()).cloned().collect();
    let mut arms: Vec<Arm> = names
        .iter()
        .filter_map(below)
        .map(|start| Arm { objects: Matching::Below(start), allows: is_allowed })
        .collect();
    if !plain.is_empty() {
        arms.push(Arm { objects: Matching::Names(plain), allows: is_allowed });
    }
    arms
}

impl Matching {
    fn has(&self, object: Option<&str>) -> bool {
        match (self, object) {
            (Matching::Every, _) => true,
            (Matching::Names(names), Some(object)) => names.contains(object),
            (Matching::Below(start), Some(object)) => object.len() > start.len() && object.starts_with(start.as_str()),
            (Matching::Names(_) | Matching::Below(_), None) => false,
        }
    }
}

impl Sieve {
    /// Whether it may be done to `object`; None: to anything of its kind.
    pub fn passes(&self, object: Option<&str>) -> bool {
        self.arms.iter().find(|arm| arm.objects.has(object)).map_or(self.otherwise, |arm| arm.allows)
    }

    /// Whether it may be done to whatever there is.
    pub fn passes_all(&self) -> bool {
        self.arms.is_empty() && self.otherwise
    }

    /// Whether it may be done to nothing.
    pub fn passes_none(&self) -> bool {
        self.arms.is_empty() && !self.otherwise
    }

    /// The same answers with as few words as that takes, so that equal answers are equal.
    fn shortest(mut self) -> Sieve {
        if let Some(last) = self.arms.iter().position(|arm| arm.objects == Matching::Every) {
            self.otherwise = self.arms[last].allows;
            self.arms.truncate(last);
        }
        while self.arms.last().is_some_and(|arm| arm.allows == self.otherwise) {
            self.arms.pop();
        }
        self
    }
}

impl Sight {
    fn is_all(&self) -> bool {
        let sieves = [&self.frameworks, &self.tasks, &self.executors, &self.roles, &self.quotas];
        sieves.into_iter().all(Sieve::passes_all) && self.schedule && self.machines && self.flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approver(text: &str, principal: Option<&str>) -> Approver {
        Authorizer::new(Acls::parse(text).unwrap()).approver(Subject::named(principal))
    }

    const RESERVE: &str = r#"{"reserve_resources": [
        {"principals": {"values": ["a", "b"]}, "roles": {"values": ["web", "db/%"]}},
        {"principals": {"values": ["a"]}, "roles": {"type": "NONE"}},
        {"principals": {"type": "NONE"}, "roles": {"values": ["secret"]}}]}"#;

    #[test]
    fn the_first_entry_that_matches_decides() {
        let may = |principal, role| approver(RESERVE, principal).approves(Action::ReserveResources, Some(role));
        assert!(may(Some("a"), "web"));
        assert!(!may(Some("a"), "web/x"), "a name is that role alone");
        assert!(may(Some("a"), "db/x/y"));
        assert!(!may(Some("a"), "db"), "% is below, not the role itself");
        assert!(!may(Some("a"), "dbx"));
        assert!(!may(Some("a"), "other"));
        assert!(may(Some("b"), "other"), "permissive");
        assert!(!may(Some("b"), "secret"), "of no principal");
        assert!(!may(None, "secret"));
        assert!(may(None, "web"), "an entry for some is not about whoever has no principal");
        let strict = RESERVE.replacen('{', r#"{"permissive": false, "#, 1);
        assert!(!approver(&strict, Some("b")).approves(Action::ReserveResources, Some("other")));
        assert!(!approver(&strict, Some("a")).approves(Action::RunTask, Some("root")), "whatever is not named");
    }

    #[test]
    fn reasons_agree_with_answers() {
        for principal in [None, Some("a"), Some("b"), Some("c")] {
            for object in [None, Some("web"), Some("db/x"), Some("db"), Some("secret"), Some("other")] {
                for action in Action::ALL {
                    let approver = approver(RESERVE, principal);
                    assert_eq!(approver.rule(*action, object).allowed, approver.approves(*action, object), "{action}");
                }
            }
        }
        let ruling = approver(RESERVE, Some("a")).rule(Action::ReserveResources, Some("x"));
        assert_eq!((ruling.allowed, ruling.why.as_str()), (false, "reserve_resources[1] refuses it"));
        let ruling = approver(RESERVE, Some("c")).rule(Action::ReserveResources, Some("x"));
        assert_eq!(ruling.why, "no entry of reserve_resources matches, and permissive=true allows it");
    }

    #[test]
    fn whoever_sees_the_same_has_the_same_sight() {
        let text = r#"{"view_roles": [{"principals": {"values": ["ops"]}, "roles": {"type": "ANY"}},
            {"principals": {"values": ["a", "b"]}, "roles": {"values": ["web"]}},
            {"principals": {"type": "ANY"}, "roles": {"type": "NONE"}}]}"#;
        let sight = |principal| approver(text, Some(principal)).sight();
        assert_eq!(sight("ops"), None, "all of it");
        assert_eq!(sight("a"), sight("b"));
        assert_ne!(sight("a"), sight("c"));
        assert!(sight("c").unwrap().roles.passes_none());
        assert_eq!(Approver::default().sight(), None);
    }

    #[test]
    fn a_token_is_good_for_its_own_container() {
        let claims = [("cid".to_owned(), "c1".to_owned())].into();
        let holder = Authorizer::new(Acls::default()).approver(Subject::Claims(Arc::new(claims)));
        assert_eq!(holder.claims_container("c1"), Some(true));
        assert_eq!(holder.claims_container("c2"), Some(false));
        assert!(!holder.approves(Action::ViewFlags, None), "and for nothing that a list is about");
        assert_eq!(approver("{}", Some("a")).claims_container("c1"), None);
    }
}
