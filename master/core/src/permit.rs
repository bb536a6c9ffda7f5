//! What the access control lists say to a command. They are the leader's, as they were when it decided: rules are data,
//! and whoever replays the log finds what came of them. Frameworks are asked by the principal that they have, operators
//! by the one that they showed.

use crate::accept::convert::Conversion;
use crate::command::{Caller, What};
use crate::decide::Draft;
use crate::ids::FrameworkKey;
use crate::refusal::{Denied, Refusal, RefusalKind, UNAUTHORIZED};
use crate::view;
use api::limits::quoted;
use api::resources::Resource;
use api::v1;
use api::v1::offer::operation::Type;
use api::v1::resource::disk_info::source::Type as SourceType;
use auth::{Action, Approver, Subject};
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What an operator hears, as clients know it.
const FORBIDDEN: &str = "403 Forbidden.";

fn forbidden(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Forbidden, UNAUTHORIZED, message)
}

/// What the caller may. Whoever has no address is a master itself.
fn of(draft: &Draft, caller: &Caller) -> Approver {
    let subject = match &caller.peer {
        None => Subject::Itself,
        Some(_) => Subject::named(caller.principal.as_deref()),
    };
    draft.options.authorizer.approver(subject)
}

/// Whether the caller may do this to each of these; to nothing of its kind in particular, if none is named.
pub(crate) fn check<'a>(
    draft: &Draft,
    caller: &Caller,
    action: Action,
    objects: impl IntoIterator<Item = &'a str>,
) -> Result<(), Refusal> {
    if !draft.options.authorizer.is_in_force() {
        return Ok(());
    }
    let approver = of(draft, caller);
    let sieve = approver.sieve(action);
    match objects.into_iter().find(|object| !sieve.passes(Some(object))) {
        None => Ok(()),
        Some(object) => {
            deny(draft, &approver, action, Some(object));
            Err(forbidden(FORBIDDEN))
        }
    }
}

/// For the log of refusals.
fn deny(draft: &Draft, approver: &Approver, action: Action, object: Option<&str>) {
    let principal = match approver.subject() {
        Subject::Principal(principal) => Some(principal.to_string()),
        Subject::Itself | Subject::Anybody | Subject::Claims(_) => None,
    };
    let why = approver.rule(action, object).why;
    draft.deny(Denied { principal, action, object: object.map(str::to_owned), why });
}

/// Whether the caller may do this, to whatever it is.
pub(crate) fn check_any(draft: &Draft, caller: &Caller, action: Action) -> Result<(), Refusal> {
    let approver = of(draft, caller);
    if approver.approves(action, None) {
        return Ok(());
    }
    deny(draft, &approver, action, None);
    Err(forbidden(FORBIDDEN))
}

/// Whether an agent may come, or come back, with what is reserved on it from the start. It has a principal if agents are
/// asked for one (--authenticate_agents).
pub(crate) fn agent(draft: &Draft, caller: &Caller, info: &v1::AgentInfo) -> Result<(), Refusal> {
    if !draft.options.authorizer.is_in_force() {
        return Ok(());
    }
    let who = match &caller.principal {
        Some(principal) => format!("agents of principal '{}'", quoted(principal)),
        None => "agents without a principal".to_owned(),
    };
    if check_any(draft, caller, Action::RegisterAgent).is_err() {
        let remedy = match &caller.principal {
            Some(_) => "",
            None => {
                ": it has to say {\"principals\": {\"type\": \"ANY\"}, \"agents\": {\"type\": \"ANY\"}}, or agents have to have one \
                 (--authenticate_agents)"
            }
        };
        return Err(forbidden(format!("register_agents of --acls does not let {who} in{remedy}")));
    }
    let resources = info.resources.iter().filter_map(|resource| Resource::from_v1(resource).ok());
    let mut roles = resources.filter_map(|resource| Some(resource.reservations.last()?.role.to_string()));
    match roles.find(|role| check(draft, caller, Action::ReserveResources, [role.as_str()]).is_err()) {
        None => Ok(()),
        Some(role) => {
            let role = quoted(&role);
            Err(forbidden(format!(
                "reserve_resources of --acls does not let {who} come with resources of role '{role}'"
            )))
        }
    }
}

/// Whether a framework of this principal may have these roles; `id` is its own, if it has one. The sentence if not.
pub(crate) fn roles(draft: &Draft, principal: Option<&str>, id: &str, roles: &[Arc<str>]) -> Result<(), String> {
    if !draft.options.authorizer.is_in_force() {
        return Ok(());
    }
    let approver = draft.options.authorizer.approver(Subject::named(principal));
    let sieve = approver.sieve(Action::RegisterFramework);
    let Some(role) = roles.iter().find(|role| !sieve.passes(Some(role))) else { return Ok(()) };
    deny(draft, &approver, Action::RegisterFramework, Some(role));
    let roles: Vec<&str> = roles.iter().map(|role| &**role).collect::<BTreeSet<_>>().into_iter().collect();
    Err(format!("Not authorized to register framework {id} with roles {{ {} }}", roles.join(", ")))
}

/// The same for UPDATE_FRAMEWORK.
pub(crate) fn update_framework(draft: &Draft, framework: FrameworkKey, named: &[Arc<str>]) -> Result<(), Refusal> {
    let framework = draft.state.frameworks.get(framework).expect("the speaker is live");
    roles(draft, framework.principal.as_deref(), &framework.id, named).map_err(forbidden)
}

/// Whether a framework may run these tasks, those of a group with the executor of the group. The end of the sentence if
/// not: which task may not, and as whom.
pub(crate) fn tasks<'a>(
    draft: &Draft,
    framework: FrameworkKey,
    tasks: impl IntoIterator<Item = &'a v1::TaskInfo>,
    executor: Option<&v1::ExecutorInfo>,
) -> Result<(), Unauthorized> {
    if !draft.options.authorizer.is_in_force() {
        return Ok(());
    }
    let speaker = draft.state.frameworks.get(framework).expect("the speaker is live");
    let principal = speaker.principal.as_deref();
    let approver = draft.options.authorizer.approver(Subject::named(principal));
    let sieve = approver.sieve(Action::RunTask);
    if sieve.passes_all() {
        return Ok(());
    }
    let own = v1::FrameworkInfo::decode(speaker.info.clone()).unwrap_or_default().user;
    let of_executor = |info: &'a v1::ExecutorInfo| info.command.as_ref().and_then(|command| command.user.as_deref());
    for task in tasks {
        let of_task = task.command.as_ref().and_then(|command| command.user.as_deref());
        let as_user = of_task.or_else(|| task.executor.as_ref().and_then(of_executor)).unwrap_or(&own);
        let beside = executor.and_then(|info| info.command.as_ref()).and_then(|command| command.user.as_deref());
        if let Some(user) = [Some(as_user), beside].into_iter().flatten().find(|user| !sieve.passes(Some(user))) {
            deny(draft, &approver, Action::RunTask, Some(user));
            let id = &task.task_id.value;
            let framework = view::framework_id(&draft.state, framework);
            return Err(Unauthorized {
                principal: named(principal),
                task_id: id.clone(),
                what: format!("launch task {id} of framework {framework} under user '{user}'"),
            });
        }
    }
    Ok(())
}

/// A task that its framework may not run.
pub(crate) struct Unauthorized {
    pub(crate) principal: String,
    pub(crate) task_id: String,
    /// `launch task t of framework f under user 'u'`
    pub(crate) what: String,
}

fn named(principal: Option<&str>) -> String {
    principal.unwrap_or("ANY").to_owned()
}

/// Whether a framework of this principal may have an operation done. The sentence if not.
pub(crate) fn operation(draft: &Draft, principal: Option<&str>, made: &Conversion) -> Result<(), String> {
    if !draft.options.authorizer.is_in_force() {
        return Ok(());
    }
    let approver = draft.options.authorizer.approver(Subject::named(principal));
    refused(&approver, made).map_or(Ok(()), |(action, object, resource)| {
        deny(draft, &approver, action, Some(&object));
        let (principal, resource) = (named(principal), api::json::to_string(&resource));
        // `{"value":"..."`, to be gone on with.
        let mut object = api::json::to_string(&v1::FrameworkId { value: object });
        object.pop();
        Err(format!(
            "Principal '{principal}' no authorized to perform action {action} on object {object},\"resource\":{resource}}}"
        ))
    })
}

/// The same for an operator.
pub(crate) fn by_operator(draft: &Draft, caller: &Caller, made: &Conversion) -> Result<(), Refusal> {
    if !draft.options.authorizer.is_in_force() {
        return Ok(());
    }
    let approver = of(draft, caller);
    let Some((action, object, _)) = refused(&approver, made) else { return Ok(()) };
    deny(draft, &approver, action, Some(&object));
    Err(forbidden(FORBIDDEN))
}

/// What of an operation is not allowed: which action, to what, and the resource that it is about.
fn refused(approver: &Approver, made: &Conversion) -> Option<(Action, String, v1::Resource)> {
    let asked = asked(made);
    asked.into_iter().find(|(action, object, _)| !approver.approves(*action, Some(object)))
}

fn asked(made: &Conversion) -> Vec<(Action, String, v1::Resource)> {
    let role = |resource: &v1::Resource| {
        let top = resource.reservations.last();
        top.and_then(|top| top.role.clone()).unwrap_or_else(|| "*".to_owned())
    };
    let each = |action: Action, resources: &[v1::Resource], object: &dyn Fn(&v1::Resource) -> String| {
        resources.iter().map(|resource| (action, object(resource), resource.clone())).collect::<Vec<_>>()
    };
    let info = &made.info;
    match made.kind {
        Type::Reserve => {
            let Some(body) = &info.reserve else { return Vec::new() };
            // In place of another stack: what is above the part that they share goes, and is asked for like any other.
            let shared = body.source.first().zip(body.resources.first()).map_or(0, |(source, target)| {
                let both = source.reservations.iter().zip(&target.reservations);
                both.take_while(|(before, after)| before == after).count()
            });
            let mut asked = each(Action::ReserveResources, &body.resources, &role);
            for source in &body.source {
                let popped = source.reservations.iter().skip(shared);
                asked.extend(popped.map(|one| {
                    (Action::UnreserveResources, one.principal.clone().unwrap_or_default(), source.clone())
                }));
            }
            if !body.source.is_empty() {
                let below = body.resources.iter().flat_map(|target| {
                    let pushed = target.reservations.iter().skip(shared);
                    pushed.map(|one| (Action::ReserveResources, one.role.clone().unwrap_or_default(), target.clone()))
                });
                asked.extend(below);
            }
            asked
        }
        Type::Unreserve => {
            let reserver = |resource: &v1::Resource| {
                resource.reservations.last().and_then(|top| top.principal.clone()).unwrap_or_default()
            };
            let resources = info.unreserve.as_ref().map_or(&[][..], |body| &body.resources);
            each(Action::UnreserveResources, resources, &reserver)
        }
        Type::Create => {
            let volumes = info.create.as_ref().map_or(&[][..], |body| &body.volumes);
            each(Action::CreateVolume, volumes, &role)
        }
        Type::Destroy => {
            let creator = |resource: &v1::Resource| {
                let disk = resource.disk.as_ref().and_then(|disk| disk.persistence.as_ref());
                disk.and_then(|persistence| persistence.principal.clone()).unwrap_or_default()
            };
            let volumes = info.destroy.as_ref().map_or(&[][..], |body| &body.volumes);
            each(Action::DestroyVolume, volumes, &creator)
        }
        Type::GrowVolume => {
            let volumes = info.grow_volume.as_ref().map(|body| std::slice::from_ref(&body.volume));
            each(Action::ResizeVolume, volumes.unwrap_or_default(), &role)
        }
        Type::ShrinkVolume => {
            let volumes = info.shrink_volume.as_ref().map(|body| std::slice::from_ref(&body.volume));
            each(Action::ResizeVolume, volumes.unwrap_or_default(), &role)
        }
        Type::CreateDisk => {
            let Some(body) = &info.create_disk else { return Vec::new() };
            let is_block = body.target_type == SourceType::Block as i32;
            let action = if is_block { Action::CreateBlockDisk } else { Action::CreateMountDisk };
            each(action, std::slice::from_ref(&body.source), &role)
        }
        Type::DestroyDisk => {
            let Some(body) = &info.destroy_disk else { return Vec::new() };
            let source = body.source.disk.as_ref().and_then(|disk| disk.source.as_ref());
            let action = match source.and_then(|source| SourceType::try_from(source.r#type).ok()) {
                Some(SourceType::Block) => Action::DestroyBlockDisk,
                Some(SourceType::Raw) => Action::DestroyRawDisk,
                _ => Action::DestroyMountDisk,
            };
            each(action, std::slice::from_ref(&body.source), &role)
        }
        // They convert nothing.
        Type::Unknown | Type::Launch | Type::LaunchGroup => Vec::new(),
    }
}

/// Whether the caller may pause this. Mesos has no brakes and so no list about them: whoever may set quota may keep others
/// from getting more, and whoever may end a framework may keep it waiting.
pub(crate) fn brake(draft: &Draft, caller: &Caller, what: &What) -> Result<(), Refusal> {
    match what {
        What::Allocation | What::NewFrameworks => check_any(draft, caller, Action::UpdateQuotaWithConfig),
        What::Role(role) => check(draft, caller, Action::UpdateQuotaWithConfig, [role.as_str()]),
        What::Framework(id) => {
            let known = draft.state.frameworks.by_id(id).and_then(|framework| framework.principal.clone());
            check(draft, caller, Action::TeardownFramework, [known.as_deref().unwrap_or_default()])
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::command::Caller;
    use crate::refusal::{Denied, RefusalKind};
    use crate::testing::{Cluster, operation, task_info};
    use api::v1;
    use api::v1::master::Call;
    use api::v1::master::call::{self, Type};
    use auth::{Acls, Action, Authorizer};

    fn cluster(acls: &str) -> Cluster {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster.chosen.authorizer = Authorizer::new(Acls::parse(acls).unwrap());
        cluster
    }

    fn web() -> Caller {
        Caller { principal: Some("web".into()), peer: Some("10.0.0.1:1".into()) }
    }

    fn quota(role: &str) -> Call {
        let config = v1::quota::QuotaConfig { role: role.into(), ..Default::default() };
        let update_quota = Some(call::UpdateQuota { force: None, quota_configs: vec![config] });
        Call { r#type: Some(Type::UpdateQuota as i32), update_quota, ..Default::default() }
    }

    #[test]
    fn whoever_may_not_hears_that_alone() {
        let mut cluster = cluster(
            r#"{"update_quotas": [{"principals": {"values": ["web"]}, "roles": {"values": ["web"]}},
                                  {"principals": {"type": "ANY"}, "roles": {"type": "NONE"}}]}"#,
        );
        assert!(cluster.operator_as(quota("web"), &web()).is_ok());
        let refusal = cluster.operator_as(quota("db"), &web()).unwrap_err();
        assert_eq!((refusal.kind, refusal.message.as_str()), (RefusalKind::Forbidden, "403 Forbidden."));
        let denied = Denied {
            principal: Some("web".into()),
            action: Action::UpdateQuotaWithConfig,
            object: Some("db".into()),
            why: "update_quotas[1] refuses it".into(),
        };
        assert_eq!(refusal.denied, [denied]);
        let nobody = Caller { principal: None, ..web() };
        assert!(cluster.operator_as(quota("web"), &nobody).is_err());
        assert!(cluster.operator_as(quota("db"), &Caller::default()).is_ok(), "a master itself");
    }

    #[test]
    fn an_agent_comes_by_its_principal_with_what_that_may_reserve() {
        let mut cluster = cluster(
            r#"{"permissive": false, "register_agents": [{"principals": {"values": ["web"]}, "agents": {"type": "ANY"}}],
                "reserve_resources": [{"principals": {"values": ["web"]}, "roles": {"values": ["web", "db/%"]}}]}"#,
        );
        let nobody = Caller { principal: None, ..web() };
        let other = Caller { principal: Some("other".into()), ..web() };
        for (caller, resources, why) in [
            (&nobody, "cpus:1", "does not let agents without a principal in: it has to say"),
            (&other, "cpus:1", "register_agents of --acls does not let agents of principal 'other' in"),
            (&web(), "cpus:1;cpus(db):1", "does not let agents of principal 'web' come with resources of role 'db'"),
        ] {
            let refusal = cluster.try_agent_as(caller, resources).unwrap_err();
            assert!(refusal.message.contains(why), "{}", refusal.message);
            assert_eq!(refusal.kind, RefusalKind::Forbidden);
        }
        assert!(cluster.try_agent_as(&web(), "cpus:1;cpus(web):1;mem(db/x):10").is_ok());
    }

    #[test]
    fn a_framework_has_only_roles_that_it_may() {
        let mut cluster = cluster(
            r#"{"register_frameworks": [{"principals": {"values": ["web"]}, "roles": {"values": ["web"]}},
                                        {"principals": {"values": ["web"]}, "roles": {"type": "NONE"}}]}"#,
        );
        let named = |roles: &'static [&'static str]| {
            move |info: &mut v1::FrameworkInfo| {
                info.principal = Some("web".into());
                info.roles = roles.iter().map(|role| (*role).to_owned()).collect();
            }
        };
        let refusal = cluster.try_subscribe(named(&["web", "db"]), &[]).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::OnStream);
        assert_eq!(refusal.message, "Not authorized to register framework  with roles { db, web }");
        let framework = cluster.subscribe_with(named(&["web"]));
        let refusal = cluster.update_framework(framework, named(&["web", "db"])).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Forbidden);
        assert_eq!(refusal.message, "Not authorized to register framework C-0000 with roles { db, web }");
    }

    #[test]
    fn tasks_run_as_whom_their_framework_may() {
        let mut cluster = cluster(
            r#"{"run_tasks": [{"principals": {"values": ["web"]}, "users": {"values": ["nobody"]}},
                              {"principals": {"values": ["web"]}, "users": {"type": "NONE"}}]}"#,
        );
        let framework = cluster.subscribe_with(|info| {
            info.principal = Some("web".into());
            info.user = "nobody".into();
        });
        cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        let mut root = task_info("r1", "cpus:1;mem:10");
        root.command.as_mut().unwrap().user = Some("root".into());
        let names = cluster.accept(framework, &offers, vec![operation(vec![root, task_info("r2", "cpus:1;mem:10")])]);
        assert_eq!(names, ["offers-accepted", "launch-refused", "task-launched"]);
        let status = cluster.statuses().into_iter().find(|status| status.task_id.value == "r1").unwrap();
        assert_eq!(status.reason(), v1::task_status::Reason::TaskUnauthorized);
        assert_eq!(
            status.message(),
            "Principal 'web' no authorized to launch task r1 of framework C-0000 under user 'root'"
        );
    }
}
