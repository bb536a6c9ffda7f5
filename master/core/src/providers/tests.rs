//! Stories of resource providers, at the masters.

use crate::ids::{AgentKey, FrameworkKey};
use crate::refusal::RefusalKind;
use crate::testing::{
    Cluster, conversion, create_disk, destroy_disk, operation, provider, reserved, stored, task_info, volume,
};
use crate::view;
use api::internal;
use api::resources::{Format, Resources};
use api::v1;
use api::v1::OperationState::*;
use api::v1::offer::operation::Type::{Create, Reserve, Unreserve};
use api::v1::resource::disk_info::source::Type::{Block, Mount, Path, Raw};
use prost::Message;

/// A cluster with a framework of role `web`, and an agent with a provider `p` of 100 of storage.
fn cluster() -> (Cluster, FrameworkKey, AgentKey) {
    let mut cluster = Cluster::new();
    cluster.raise();
    let framework = cluster.subscribe_with(|info| {
        info.roles = vec!["web".into()];
        let refined = v1::framework_info::capability::Type::ReservationRefinement as i32;
        info.capabilities.push(v1::framework_info::Capability { r#type: Some(refined) });
    });
    let agent = cluster.agent("cpus:4;mem:400;disk:1000");
    assert_eq!(cluster.tell_providers(agent, vec![provider("p", 1, Some(&raw(100)))]), ["agent-providers-changed"]);
    cluster.offer();
    (cluster, framework, agent)
}

fn raw(size: i32) -> Resources {
    stored("p", size, Raw, |source| source.profile = Some("fast".into()))
}

fn disk(size: i32, id: &str) -> Resources {
    stored("p", size, Mount, |source| {
        source.profile = Some("fast".into());
        source.id = Some(id.into());
    })
}

/// The same, reserved dynamically for a role.
fn reserve(what: &Resources, role: &str) -> Resources {
    let (role, labels) = (role.into(), Vec::new());
    what.push_reservation(&api::resources::Reservation { dynamic: true, role, principal: None, labels })
}

fn provided(cluster: &Cluster, agent: AgentKey) -> String {
    crate::resources::provided(&cluster.state.agents.get(agent).unwrap().total).to_string()
}

fn own(cluster: &Cluster, agent: AgentKey) -> String {
    crate::resources::own(&cluster.state.agents.get(agent).unwrap().total).to_string()
}

fn used(cluster: &Cluster, agent: AgentKey) -> String {
    cluster.state.agents.get(agent).unwrap().used.unallocate().to_string()
}

fn offered(cluster: &Cluster, framework: FrameworkKey) -> Resources {
    let offers = cluster.state.offers.to(framework).filter_map(|key| cluster.state.offers.get(key));
    offers.fold(Resources::default(), |sum, offer| sum.plus(&offer.resources.unallocate()))
}

/// All that the framework is offered goes back, and is offered again with what else there is: a disk alone would not be.
fn offer_anew(cluster: &mut Cluster, framework: FrameworkKey) {
    if cluster.state.offers.to(framework).next().is_some() {
        cluster.accept_all(framework, Vec::new());
    }
    cluster.offer();
}

/// The newest order of an agent.
fn newest(cluster: &Cluster, agent: AgentKey) -> internal::order::Order {
    let (_, order) = cluster.state.agents.get(agent).unwrap().outbox.get_max().unwrap();
    internal::Order::decode(order.bytes.clone()).unwrap().order.unwrap()
}

fn order(cluster: &Cluster, agent: AgentKey) -> internal::ApplyOperation {
    match newest(cluster, agent) {
        internal::order::Order::ApplyOperation(order) => order,
        other => panic!("{other:?}"),
    }
}

fn refused(cluster: &mut Cluster, framework: FrameworkKey, mut operation: v1::offer::Operation) -> String {
    operation.id = Some(v1::OperationId { value: "x".into() });
    let names = cluster.accept_all(framework, vec![operation]);
    assert_eq!(names, ["offers-accepted", "operation-refused"]);
    let why = cluster.operation_statuses().pop().unwrap().message().to_owned();
    cluster.offer();
    why
}

#[test]
fn what_providers_have_is_offered_beside_the_agents_own() {
    let (mut cluster, framework, agent) = cluster();
    assert_eq!(offered(&cluster, framework), cluster.state.agents.get(agent).unwrap().total);
    assert_eq!(own(&cluster, agent), "cpus:4; mem:400; disk:1000");
    assert_eq!(provided(&cluster, agent), "disk[RAW(,,fast)]:100");
    // Another one, and no word about the first.
    let other = stored("q", 7, Path, |_| {});
    let names = cluster.tell_providers(agent, vec![provider("p", 1, None), provider("q", 1, Some(&other))]);
    assert_eq!(names, ["offers-returned", "agent-providers-changed"]);
    assert!(cluster.effects_text().contains("SendRescind"));
    assert_eq!(provided(&cluster, agent), "disk[RAW(,,fast)]:100; disk[PATH]:7");
    let again = cluster.tell_providers(agent, vec![provider("p", 1, None), provider("q", 1, None)]);
    assert_eq!(again, ["agent-messages-received"], "the same is no news");
    cluster.offer();
    // The one is away, the other is gone for good.
    let mut away = provider("p", 1, Some(&Resources::default()));
    away.is_subscribed = false;
    assert_eq!(cluster.tell_providers(agent, vec![away]), ["offers-returned", "agent-providers-changed"]);
    assert_eq!(provided(&cluster, agent), "{}");
    let known: Vec<_> = cluster.state.providers.of(agent).iter().map(|it| (&*it.id, it.is_subscribed)).collect();
    assert_eq!(known, [("p", false)]);
    cluster.offer();
    assert_eq!(offered(&cluster, framework).to_string(), "cpus:4; mem:400; disk:1000");
    // The agent goes, and its providers with it.
    cluster.mark_gone(agent);
    assert!(cluster.state.providers.by_agent.is_empty());
}

#[test]
fn a_list_that_makes_no_sense_is_left_out() {
    let (mut cluster, _, agent) = cluster();
    let foreign = stored("q", 7, Raw, |_| {});
    let volumes = volume(&reserved("disk:1", &["web"]), "v", false);
    let many = (0..65).map(|number| provider(&number.to_string(), 1, None)).collect();
    let mut long = provider("p", 1, None);
    long.info.name = "n".repeat(api::limits::AGENT_PROVIDERS_BYTES_MAX);
    let mut short = provider("p", 1, Some(&raw(1)));
    short.state.as_mut().unwrap().resource_version = vec![1; 15].into();
    for list in [
        vec![provider("p", 1, Some(&foreign))],
        vec![provider("p", 1, Some(&volumes))],
        vec![provider("p", 1, None), provider("p", 1, None)],
        vec![provider("", 1, None)],
        vec![long],
        vec![short],
        many,
    ] {
        assert_eq!(cluster.tell_providers(agent, list), ["agent-messages-received"]);
    }
    assert_eq!(provided(&cluster, agent), "disk[RAW(,,fast)]:100");
}

#[test]
fn an_agent_comes_back_with_its_providers() {
    let (mut cluster, _, agent) = cluster();
    cluster.agent_disconnected(agent);
    let resources = crate::testing::task_info("", "cpus:8;mem:400;disk:1000").resources;
    cluster.resume_with(agent, |resume| resume.agent_info.resources = resources).unwrap();
    assert_eq!(own(&cluster, agent), "cpus:8; mem:400; disk:1000");
    assert_eq!(provided(&cluster, agent), "disk[RAW(,,fast)]:100");
    cluster.agent_disconnected(agent);
    let configured = raw(5).to_v1(Format::PostRefinement);
    let refusal = cluster.resume_with(agent, |resume| resume.agent_info.resources = configured).unwrap_err();
    assert!(refusal.message.contains("told by them, not configured"), "{}", refusal.message);
    let mut bytes = Vec::new();
    cluster.state.write_snapshot(&mut bytes).unwrap();
    assert_eq!(crate::State::read_snapshot(&mut bytes.as_slice()).unwrap(), cluster.state);
}

#[test]
fn a_disk_is_created_and_destroyed() {
    let (mut cluster, framework, agent) = cluster();
    let names = cluster.accept_all(framework, vec![create_disk(&raw(40), None, Some("c"))]);
    assert_eq!(names, ["offers-accepted", "operation-begun"]);
    let apply = order(&cluster, agent);
    let to = apply.provider.unwrap();
    assert_eq!((to.id.value.as_str(), &to.resource_version[..]), ("p", &[1; 16][..]));
    let source = apply.info.create_disk.unwrap().source;
    assert_eq!(source.allocation_info.unwrap().role(), "web");
    assert!(apply.checkpointed_resources.is_empty());
    // Held, and not yet anything else.
    assert_eq!(used(&cluster, agent), "disk[RAW(,,fast)]:40");
    assert_eq!(provided(&cluster, agent), "disk[RAW(,,fast)]:100");
    cluster.offer();
    assert_eq!(crate::resources::provided(&offered(&cluster, framework)), raw(60));
    let shown: Vec<_> = view::operations(&cluster.state).collect();
    assert_eq!(shown[0].latest_status.state(), OperationPending);
    assert_eq!(shown[0].latest_status.resource_provider_id.as_ref().unwrap().value, "p");

    let made = disk(40, "v1");
    let names = cluster.end_operation_with(agent, OperationFinished, &made);
    assert_eq!(names, ["operation-ended"]);
    assert!(cluster.effects_text().contains("OperationWaiting"));
    assert_eq!(used(&cluster, agent), "{}");
    assert_eq!(provided(&cluster, agent), "disk[RAW(,,fast)]:60; disk[MOUNT(,v1,fast)]:40");
    let shown: Vec<_> = view::operations(&cluster.state).collect();
    assert_eq!(Resources::from_v1(&shown[0].latest_status.converted_resources).unwrap(), made);
    assert_eq!(shown[0].latest_status.resource_provider_id.as_ref().unwrap().value, "p");
    cluster.acknowledge_operation(framework);
    assert!(cluster.state.operations.of_providers.is_empty());

    offer_anew(&mut cluster, framework);
    let names = cluster.accept_all(framework, vec![destroy_disk(&made, None)]);
    assert_eq!(names, ["offers-accepted", "operation-begun"]);
    assert_eq!(cluster.end_operation_with(agent, OperationFinished, &raw(40)), ["operation-ended"]);
    assert_eq!(provided(&cluster, agent), "disk[RAW(,,fast)]:100");
    assert!(cluster.state.operations.live.is_empty(), "without an id nobody has to hear of it");
}

#[test]
fn what_fails_is_given_back() {
    let (mut cluster, framework, agent) = cluster();
    for state in [OperationFailed, OperationDropped, OperationError, OperationGoneByOperator] {
        cluster.accept_all(framework, vec![create_disk(&raw(40), None, None)]);
        assert_eq!(cluster.end_operation(agent, state), ["operation-ended"]);
        assert_eq!((used(&cluster, agent), provided(&cluster, agent).as_str()), ("{}".into(), "disk[RAW(,,fast)]:100"));
        cluster.offer();
    }
    // Nothing is gained or lost by what a provider says it made.
    for made in [disk(41, "v"), disk(40, "v").plus(&disk(1, "w")), stored("q", 40, Mount, |_| {}), Resources::default()]
    {
        cluster.accept_all(framework, vec![create_disk(&raw(40), None, None)]);
        cluster.end_operation_with(agent, OperationFinished, &made);
        assert_eq!((used(&cluster, agent), provided(&cluster, agent).as_str()), ("{}".into(), "disk[RAW(,,fast)]:100"));
        cluster.offer();
    }
}

#[test]
fn what_cannot_be_a_disk_is_refused() {
    let (mut cluster, framework, agent) = cluster();
    let here = "; on agent C-S0 at slave(1)@10.0.0.0:5051 (host)";
    let refused_of = refused;
    let mut refused = |operation| refused_of(&mut cluster, framework, operation);
    let own = reserved("disk:10", &[]);
    assert_eq!(refused(create_disk(&own, None, None)), format!("'source' is not managed by a resource provider{here}"));
    let path = stored("p", 10, Path, |_| {});
    assert_eq!(refused(create_disk(&path, None, None)), format!("'source' is not a RAW disk resource{here}"));
    let sentence = format!("'target_profile' must not be set when 'source' has a profile{here}");
    assert_eq!(refused(create_disk(&raw(10), Some("fast"), None)), sentence);
    let plain = stored("p", 10, Raw, |source| source.id = Some("pre".into()));
    let sentence = format!("'target_profile' must be set when 'source' has no profile{here}");
    assert_eq!(refused(create_disk(&plain, None, None)), sentence);
    let mut to_path = create_disk(&raw(10), None, None);
    to_path.create_disk.as_mut().unwrap().target_type = Path as i32;
    assert_eq!(refused(to_path), format!("'target_type' is neither MOUNT or BLOCK{here}"));
    let why = refused(create_disk(&raw(101), None, None));
    assert!(
        why.starts_with("Invalid CREATE_DISK Operation: cpus(allocated: web):4; ")
            && why.contains(" does not contain "),
        "{why}"
    );
    let sentence = format!("'source' is neither a MOUNT, BLOCK or RAW disk resource{here}");
    assert_eq!(refused(destroy_disk(&path, None)), sentence);
    assert_eq!(refused(destroy_disk(&raw(10), None)), format!("'source' is not backed by a CSI volume{here}"));
    let held = volume(&reserve(&disk(10, "v"), "web"), "id", false);
    let mut persistent = destroy_disk(&disk(10, "v"), None);
    persistent.destroy_disk.as_mut().unwrap().source = {
        let mut message = reserve(&disk(10, "v"), "web").to_v1(Format::PostRefinement).remove(0);
        let of = held.to_v1(Format::PostRefinement).remove(0).disk.unwrap();
        let source = message.disk.as_ref().unwrap().source.clone();
        message.disk = Some(Box::new(v1::resource::DiskInfo { source, ..*of }));
        message
    };
    let why = refused(persistent);
    assert!(why.starts_with("A disk resource containing a persistent volume "), "{why}");
    let block = stored("p", 10, Block, |source| source.id = Some("b".into()));
    assert!(refused(destroy_disk(&block, None)).starts_with("Invalid DESTROY_DISK Operation: "));
    // Of one provider only.
    let both = reserve(&raw(10), "web").plus(&reserved("disk:10", &["web"]));
    let sentence = format!("Invalid resources: Some resources have a resource provider and some do not{here}");
    assert_eq!(refused(conversion(Reserve, &both, None)), sentence);
    // By an agent that can.
    let without = |resume: &mut internal::Resume| resume.capabilities.retain(|name| name != "RESOURCE_PROVIDER");
    cluster.resume_with(agent, without).unwrap();
    cluster.offer();
    let why = refused_of(&mut cluster, framework, create_disk(&raw(10), None, None));
    let agent = "C-S0 at slave(1)@10.0.0.0:5051 (host)";
    assert_eq!(why, format!("Not supported on agent {agent} because it does not have RESOURCE_PROVIDER capability"));
}

#[test]
fn what_was_made_is_made_again_of_what_a_provider_says() {
    let (mut cluster, framework, agent) = cluster();
    let part = reserve(&raw(30), "web");
    let names = cluster.accept_all(framework, vec![conversion(Reserve, &part, Some("r"))]);
    assert_eq!(names, ["offers-accepted", "operation-applied"]);
    assert_eq!(order(&cluster, agent).provider.unwrap().id.value, "p");
    let made = "disk[RAW(,,fast)]:70; disk(reservations: [(DYNAMIC,web)])[RAW(,,fast)]:30";
    assert_eq!(provided(&cluster, agent), made);
    // It says it anew in the version that the operation is for: it will be done.
    cluster.tell_providers(agent, vec![provider("p", 1, Some(&raw(100)))]);
    assert_eq!(provided(&cluster, agent), made);
    // In another version it will be dropped, unless the provider has it.
    let mut has = provider("p", 2, Some(&raw(50)));
    let uuid = view::operation_uuid(&cluster.state, crate::ids::OperationKey(0));
    has.state.as_mut().unwrap().operations = vec![uuid.to_vec().into()];
    cluster.tell_providers(agent, vec![has]);
    let smaller = "disk[RAW(,,fast)]:20; disk(reservations: [(DYNAMIC,web)])[RAW(,,fast)]:30";
    assert_eq!(provided(&cluster, agent), smaller);
    cluster.tell_providers(agent, vec![provider("p", 2, Some(&raw(50)))]);
    assert_eq!(provided(&cluster, agent), "disk[RAW(,,fast)]:50");
    // So what became of it takes nothing back.
    assert_eq!(cluster.end_operation(agent, OperationDropped), ["operation-updated"]);
    assert_eq!(provided(&cluster, agent), "disk[RAW(,,fast)]:50");
    cluster.acknowledge_operation(framework);

    // What is done stays, and what is not is undone.
    cluster.offer();
    cluster.accept_all(framework, vec![conversion(Reserve, &part, None)]);
    cluster.end_operation(agent, OperationFinished);
    assert_eq!(provided(&cluster, agent), smaller);
    cluster.offer();
    cluster.accept_all(framework, vec![conversion(Unreserve, &part, None)]);
    cluster.end_operation(agent, OperationFailed);
    assert_eq!(provided(&cluster, agent), smaller);
}

#[test]
fn a_volume_on_a_providers_disk_is_the_providers() {
    let (mut cluster, framework, agent) = cluster();
    cluster.tell_providers(agent, vec![provider("p", 2, Some(&disk(40, "v1")))]);
    cluster.offer();
    let held = reserve(&disk(40, "v1"), "web");
    let mut messages = held.to_v1(Format::PostRefinement);
    let of = volume(&reserved("disk:1", &["web"]), "id", false).to_v1(Format::PostRefinement).remove(0).disk.unwrap();
    let source = messages[0].disk.as_ref().unwrap().source.clone();
    messages[0].disk = Some(Box::new(v1::resource::DiskInfo { source, ..*of }));
    let made = Resources::from_v1(&messages).unwrap();
    let both = vec![conversion(Reserve, &held, None), conversion(Create, &made, None)];
    assert_eq!(cluster.accept_all(framework, both), ["offers-accepted", "operation-applied", "operation-applied"]);
    assert!(order(&cluster, agent).checkpointed_resources.is_empty(), "the agent keeps its own alone");
    assert_eq!(crate::resources::provided(&cluster.state.agents.get(agent).unwrap().total), made);
    cluster.offer();
    // What is launched on it says of which version of the provider's resources that came.
    let mut task = task_info("t", "cpus:0.1;mem:1");
    task.resources.extend(made.to_v1(Format::PostRefinement));
    assert_eq!(cluster.accept_all(framework, vec![operation(vec![task])]), ["offers-accepted", "task-launched"]);
    let internal::order::Order::Launch(launch) = newest(&cluster, agent) else { panic!("a launch") };
    let of: Vec<_> = launch.providers.iter().map(|one| (one.id.value.as_str(), &one.resource_version[..])).collect();
    assert_eq!(of, [("p", &[2; 16][..])]);
    cluster.offer();
    // Its id is unique on the agent, whoever has it.
    let disk = reserved("disk:5", &["web"]);
    let again = vec![conversion(Reserve, &disk, None), conversion(Create, &volume(&disk, "id", false), Some("x"))];
    let names = cluster.accept_all(framework, again);
    assert_eq!(names, ["offers-accepted", "operation-applied", "operation-refused"]);
    assert!(cluster.operation_statuses()[0].message().contains("'id' is not unique"));
}

#[test]
fn what_is_held_outlives_its_provider_and_its_framework() {
    let (mut cluster, framework, agent) = cluster();
    cluster.accept_all(framework, vec![create_disk(&raw(40), None, Some("c"))]);
    assert_eq!(cluster.tell_providers(agent, Vec::new()), ["agent-providers-changed"]);
    assert_eq!((used(&cluster, agent).as_str(), provided(&cluster, agent).as_str()), ("disk[RAW(,,fast)]:40", "{}"));
    cluster.teardown(framework);
    let other = cluster.subscribe();
    cluster.offer();
    assert_eq!(offered(&cluster, other).to_string(), "cpus:4; mem:400; disk:1000", "nothing else is held up");
    cluster.tell_providers(agent, vec![provider("p", 3, Some(&raw(100)))]);
    offer_anew(&mut cluster, other);
    assert_eq!(crate::resources::provided(&offered(&cluster, other)), raw(60));
    assert_eq!(cluster.end_operation_with(agent, OperationFinished, &disk(40, "v")), ["operation-ended"]);
    assert_eq!(provided(&cluster, agent), "disk[RAW(,,fast)]:60; disk[MOUNT(,v,fast)]:40");
    assert!(cluster.state.operations.live.is_empty());

    // And nothing of it outlives its agent.
    let offers: Vec<_> = cluster.state.offers.to(other).collect();
    cluster.accept(other, &offers, vec![create_disk(&raw(10), None, Some("d"))]);
    let names = cluster.mark_gone(agent);
    assert!(names.contains(&"operation-declared") && names.contains(&"agent-removed"), "{names:?}");
    let told = cluster.operation_statuses();
    assert_eq!(told[0].state(), OperationGoneByOperator);
    assert!(cluster.state.frameworks.get(other).unwrap().used.is_empty());
}

#[test]
fn an_agent_is_drained_when_its_provider_has_ended_what_it_was_to_do() {
    let (mut cluster, framework, agent) = cluster();
    cluster.accept_all(framework, vec![create_disk(&raw(40), None, None)]);
    assert_eq!(cluster.drain(agent).unwrap(), ["agent-drain-started"]);
    assert_eq!(cluster.end_operation(agent, OperationFailed), ["operation-ended", "agent-drained"]);
}

#[test]
fn frameworks_ask_for_operations_of_providers() {
    let (mut cluster, framework, agent) = cluster();
    let ask = |cluster: &mut Cluster, provider: &str| {
        let asked = v1::scheduler::call::reconcile_operations::Operation {
            operation_id: v1::OperationId { value: "none".into() },
            agent_id: Some(v1::AgentId { value: "C-S0".into() }),
            resource_provider_id: Some(v1::ResourceProviderId { value: provider.into() }),
        };
        let body = v1::scheduler::call::ReconcileOperations { operations: vec![asked] };
        let call = cluster.call_of(framework, v1::scheduler::call::Type::ReconcileOperations);
        cluster.call(framework, v1::scheduler::Call { reconcile_operations: Some(body), ..call });
        let status = cluster.operation_statuses().pop().unwrap();
        assert_eq!(status.resource_provider_id.as_ref().unwrap().value, provider);
        status.state()
    };
    assert_eq!(ask(&mut cluster, "p"), OperationUnknown);
    assert_eq!(ask(&mut cluster, "q"), OperationUnknown);
    let away = internal::Provider { is_subscribed: false, ..provider("p", 1, Some(&Resources::default())) };
    cluster.tell_providers(agent, vec![away]);
    assert_eq!(ask(&mut cluster, "p"), OperationRecovering);
}

#[test]
fn nothing_of_the_kind_before_every_master_is_upgraded() {
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    let agent = cluster.agent("cpus:4;mem:100");
    let names = cluster.tell_providers(agent, vec![provider("p", 1, Some(&raw(100)))]);
    assert_eq!(names, ["agent-messages-received"]);
    let operations = vec![create_disk(&raw(10), None, None)];
    let accept = v1::scheduler::call::Accept { operations, ..Default::default() };
    let call = cluster.call_of(framework, v1::scheduler::call::Type::Accept);
    let call = v1::scheduler::Call { accept: Some(accept), ..call };
    let stream = cluster.stream_id(framework);
    let refusal = cluster.try_call(&call, Some(&stream), &Default::default()).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NotImplemented);
    assert_eq!(refusal.message, "CREATE_DISK is not supported until every master of this cluster has been upgraded");
}
