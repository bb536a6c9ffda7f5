//! Stories of reservations and volumes, at the masters.

use crate::effect::Effect;
use crate::ids::{AgentKey, FrameworkKey, OperationKey};
use crate::refusal::RefusalKind;
use crate::testing::{Cluster, conversion, operation, reserved, task_info, volume};
use crate::view;
use api::internal;
use api::resources::{Format, Resources};
use api::v1;
use api::v1::OperationState::*;
use api::v1::framework_info::capability::Type as Capability;
use api::v1::master::call;
use api::v1::offer::operation::Type::*;
use prost::Message;

/// A cluster that knows operations, with a framework of role `web` and an agent.
fn cluster() -> (Cluster, FrameworkKey, AgentKey) {
    let mut cluster = Cluster::new();
    cluster.raise();
    let framework = subscribe(&mut cluster, "web", &[]);
    let agent = cluster.agent("cpus:4;mem:400;disk:1000");
    cluster.offer();
    (cluster, framework, agent)
}

fn subscribe(cluster: &mut Cluster, role: &str, capabilities: &[Capability]) -> FrameworkKey {
    cluster.subscribe_with(|info| {
        info.roles = vec![role.into()];
        let known = [Capability::ReservationRefinement, Capability::SharedResources];
        let all = known[..1].iter().chain(capabilities);
        info.capabilities.extend(all.map(|kind| v1::framework_info::Capability { r#type: Some(*kind as i32) }));
    })
}

fn total(cluster: &Cluster, agent: AgentKey) -> String {
    cluster.state.agents.get(agent).unwrap().total.to_string()
}

/// The newest order of an agent.
fn order(cluster: &Cluster, agent: AgentKey) -> internal::ApplyOperation {
    let (_, order) = cluster.state.agents.get(agent).unwrap().outbox.get_max().unwrap();
    match internal::Order::decode(order.bytes.clone()).unwrap().order.unwrap() {
        internal::order::Order::ApplyOperation(order) => order,
        other => panic!("{other:?}"),
    }
}

/// What the framework is told of the only operation that it is told of, after its state.
fn refused(cluster: &mut Cluster, framework: FrameworkKey, mut operation: v1::offer::Operation) -> String {
    operation.id = Some(v1::OperationId { value: "x".into() });
    let names = cluster.accept_all(framework, vec![operation]);
    assert_eq!(names, ["offers-accepted", "operation-refused"]);
    let [status] = &cluster.operation_statuses()[..] else { panic!("{}", cluster.effects_text()) };
    assert_eq!((status.state(), &status.uuid, &status.agent_id), (OperationError, &None, &None));
    let why = status.message().to_owned();
    cluster.offer();
    why
}

#[test]
fn reserved_made_and_used_in_one_call() {
    let (mut cluster, framework, agent) = cluster();
    let disk = reserved("disk:64", &["web"]);
    let volume = volume(&disk, "v1", false);
    let mut task = task_info("t", "cpus:1;mem:32");
    task.resources.extend(volume.to_v1(Format::PostRefinement));
    let names = cluster.accept_all(
        framework,
        vec![conversion(Reserve, &disk, None), conversion(Create, &volume, None), operation(vec![task])],
    );
    assert_eq!(names, ["offers-accepted", "operation-applied", "operation-applied", "task-launched"]);
    let held = "(reservations: [(DYNAMIC,web)])[v1:data]:64";
    assert_eq!(total(&cluster, agent), format!("cpus:4; mem:400; disk:936; disk{held}"));
    let outbox = &cluster.state.agents.get(agent).unwrap().outbox;
    let create = internal::Order::decode(outbox[&2].bytes.clone()).unwrap().order.unwrap();
    let internal::order::Order::ApplyOperation(create) = create else { panic!("{create:?}") };
    assert_eq!(create.operation, view::operation_uuid(&cluster.state, OperationKey(1)).to_vec());
    assert_eq!(create.framework_id.unwrap().value, "C-0000");
    assert_eq!(Resources::from_v1(&create.checkpointed_resources).unwrap(), volume);
    // Nobody waits for what has no id: it is over when the agent has done it.
    cluster.end_operation(agent, OperationFinished);
    assert_eq!(cluster.end_operation(agent, OperationFinished), ["operation-updated"]);
    assert!(cluster.state.operations.live.is_empty());
}

#[test]
fn what_was_made_is_offered_again_at_once_and_the_rest_is_not() {
    let (mut cluster, framework, _) = cluster();
    let offers: Vec<_> = cluster.state.offers.to(framework).collect();
    cluster.accept(framework, &offers, vec![conversion(Reserve, &reserved("cpus:1", &["web"]), None)]);
    let [offer] = cluster.offer()[..] else { panic!("{}", cluster.effects_text()) };
    let offered = cluster.state.offers.get(offer).unwrap().resources.unallocate();
    assert_eq!(offered.to_string(), "cpus:3; mem:400; disk:1000; cpus(reservations: [(DYNAMIC,web)]):1");
}

#[test]
fn a_framework_hears_what_became_of_its_operation_until_it_acknowledges() {
    let (mut cluster, framework, agent) = cluster();
    cluster.accept_all(framework, vec![conversion(Reserve, &reserved("cpus:1", &["web"]), Some("r"))]);
    let reconcile = |cluster: &mut Cluster, asked: &[(&str, Option<&str>)]| {
        let operations = asked.iter().map(|(id, agent)| call_of(id, *agent)).collect();
        let body = v1::scheduler::call::ReconcileOperations { operations };
        let call = cluster.call_of(framework, v1::scheduler::call::Type::ReconcileOperations);
        let names = cluster.call(framework, v1::scheduler::Call { reconcile_operations: Some(body), ..call });
        assert_eq!(names, [""; 0]);
        let told = cluster.operation_statuses();
        assert!(told.iter().all(|status| status.uuid.is_none()));
        told.iter().map(|status| (status.state(), status.message().to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(reconcile(&mut cluster, &[]), [(OperationPending, String::new())]);
    // What is no end is not one.
    for state in [OperationPending, OperationRecovering, OperationUnsupported, OperationUnknown] {
        cluster.end_operation(agent, state);
        assert_eq!(reconcile(&mut cluster, &[]), [(OperationPending, String::new())], "{state:?}");
    }
    assert_eq!(cluster.end_operation(agent, OperationFinished), ["operation-updated"]);
    let operation = OperationKey(0);
    assert!(cluster.effects.contains(&Effect::OperationWaiting { framework, operation }));
    let shown = view::operations(&cluster.state).next().unwrap();
    assert_eq!((shown.latest_status.state(), shown.statuses.len()), (OperationFinished, 1));
    assert_eq!(shown.latest_status.agent_id.unwrap().value, "C-S0");
    assert_eq!(reconcile(&mut cluster, &[("r", None)]), [(OperationFinished, String::new())]);
    assert_eq!(cluster.acknowledge_operation(framework), ["operation-acknowledged"]);
    assert!(cluster.state.operations.live.is_empty());

    let unknown = |text: &str| (OperationUnknown, format!("Reconciliation: {text}"));
    assert_eq!(reconcile(&mut cluster, &[("r", Some("C-S0"))]), [unknown("Operation is unknown")]);
    assert_eq!(reconcile(&mut cluster, &[("r", Some("C-S9"))]), [unknown("Both operation and agent are unknown")]);
    let unnamed = "Operation is unknown and no 'agent_id' was provided";
    assert_eq!(reconcile(&mut cluster, &[("r", None)]), [unknown(unnamed)]);
    assert_eq!(reconcile(&mut cluster, &[]), []);
}

fn call_of(id: &str, agent: Option<&str>) -> v1::scheduler::call::reconcile_operations::Operation {
    v1::scheduler::call::reconcile_operations::Operation {
        operation_id: v1::OperationId { value: id.into() },
        agent_id: agent.map(|value| v1::AgentId { value: value.into() }),
        ..Default::default()
    }
}

#[test]
fn operations_go_with_their_agent() {
    let (mut cluster, framework, agent) = cluster();
    let reserve = |id| conversion(Reserve, &reserved("cpus:1", &["web"]), Some(id));
    cluster.accept_all(framework, vec![reserve("done"), reserve("pending")]);
    cluster.end_operation(agent, OperationFinished);
    cluster.agent_unreachable(agent);
    let told = |cluster: &Cluster| {
        let told = cluster.operation_statuses();
        told.iter().map(|status| (status.state(), status.message().to_owned())).collect::<Vec<_>>()
    };
    let lost = (OperationUnreachable, "Agent was marked unreachable".to_owned());
    assert_eq!(told(&cluster), [lost.clone(), lost]);
    assert_eq!(view::operations(&cluster.state).count(), 0);
    let body = v1::scheduler::call::ReconcileOperations { operations: vec![call_of("done", None)] };
    let call = cluster.call_of(framework, v1::scheduler::call::Type::ReconcileOperations);
    cluster.call(framework, v1::scheduler::Call { reconcile_operations: Some(body), ..call });
    assert_eq!(told(&cluster), [(OperationUnreachable, "Reconciliation: Agent is unreachable".to_owned())]);
    cluster.resume(agent, &[]).unwrap();
    assert_eq!(view::operations(&cluster.state).count(), 2, "it is back with them");
    cluster.end_operation(agent, OperationFinished);
    cluster.mark_gone(agent);
    let gone = (OperationGoneByOperator, "Agent has been marked gone".to_owned());
    assert_eq!(told(&cluster), [gone.clone(), gone]);
    assert!(cluster.state.operations.live.is_empty());
}

#[test]
fn operations_outlive_their_framework_until_they_are_done() {
    let (mut cluster, framework, agent) = cluster();
    let reserve = |id| conversion(Reserve, &reserved("cpus:1", &["web"]), Some(id));
    cluster.accept_all(framework, vec![reserve("done"), reserve("pending")]);
    cluster.end_operation(agent, OperationFinished);
    cluster.teardown(framework);
    assert_eq!(cluster.state.operations.live.len(), 1);
    cluster.end_operation(agent, OperationFinished);
    assert!(cluster.state.operations.live.is_empty());
    assert!(total(&cluster, agent).contains("(DYNAMIC,web)"), "the reservations stay");
}

#[test]
fn what_an_agent_could_not_do_is_undone_unless_somebody_has_it() {
    let (mut cluster, framework, agent) = cluster();
    let before = total(&cluster, agent);
    let (one, two) = (reserved("cpus:1", &["web"]), reserved("mem:100", &["web"]));
    cluster.accept_all(framework, vec![conversion(Reserve, &one, None), conversion(Reserve, &two, None)]);
    cluster.offer();
    let names = cluster.end_operation(agent, OperationFailed);
    assert_eq!(names, ["offers-returned", "operation-updated"], "what is offered of it is taken back");
    cluster.end_operation(agent, OperationDropped);
    assert_eq!(total(&cluster, agent), before);

    cluster.offer();
    let mut task = task_info("t", "mem:32");
    task.resources.extend(one.to_v1(Format::PostRefinement));
    cluster.accept_all(framework, vec![conversion(Reserve, &one, None), operation(vec![task])]);
    cluster.end_operation(agent, OperationFailed);
    assert!(total(&cluster, agent).contains("(DYNAMIC,web)"), "a task holds it");
}

#[test]
fn a_shared_volume_that_could_not_be_made_is_undone_unless_a_task_has_it() {
    for is_used in [false, true] {
        let mut cluster = Cluster::new();
        cluster.raise();
        let framework = subscribe(&mut cluster, "web", &[Capability::SharedResources]);
        let agent = cluster.agent("cpus:4;mem:400;disk:1000");
        cluster.offer();
        let disk = reserved("disk:64", &["web"]);
        let made = volume(&disk, "v", true);
        let mut operations = vec![conversion(Reserve, &disk, None), conversion(Create, &made, None)];
        if is_used {
            let mut task = task_info("t", "cpus:1;mem:32");
            task.resources.extend(made.to_v1(Format::PostRefinement));
            operations.push(operation(vec![task]));
        }
        cluster.accept_all(framework, operations);
        cluster.end_operation(agent, OperationFinished);
        cluster.end_operation(agent, OperationFailed);
        assert_eq!(total(&cluster, agent).contains("[v:data]"), is_used, "{}", total(&cluster, agent));
    }
}

#[test]
fn who_may_reserve_what() {
    let (mut cluster, framework, _) = cluster();
    let here = "; on agent C-S0 at slave(1)@10.0.0.0:5051 (host)";
    let reserve = |resources: &Resources| conversion(Reserve, resources, None);
    let mut refused = |operation| refused(&mut cluster, framework, operation);
    let allocated = "cpus(allocated: web)";
    assert_eq!(
        refused(reserve(&reserved("cpus:1", &["ops"]))),
        format!(
            "A reserve operation was attempted for a resource with role 'ops', but the resource was allocated to role \
             'web'{here}"
        )
    );
    assert_eq!(
        refused(reserve(&reserved("cpus:1", &[]))),
        format!("Resource {allocated}:1 is not dynamically reserved{here}")
    );
    assert_eq!(
        refused(reserve(&Resources::default())),
        format!("Invalid resources: The resources have multiple resource providers: {here}")
    );
    assert_eq!(
        refused(reserve(&reserved("cpus:100", &["web"]))),
        format!("{allocated}:4; mem(allocated: web):400; disk(allocated: web):1000 does not contain {allocated}:100")
    );
    let star = conversion(Reserve, &reserved("cpus:1", &["*"]), None);
    assert_eq!(
        refused(star),
        "Operation attempted with invalid resources: Resource 'cpus(reservations: [(DYNAMIC,*)]):1' is invalid: Invalid \
         reservation: role \"*\" cannot be reserved"
    );
    let mut update = reserve(&reserved("cpus:1", &["web"]));
    update.reserve.as_mut().unwrap().source = reserved("cpus:1", &[]).to_v1(Format::PostRefinement);
    assert_eq!(
        refused(update),
        "Operation attempted with invalid resources: Reservation updates are not yet implemented for the scheduler API."
    );
    let nothing = v1::offer::Operation { r#type: Some(Reserve as i32), ..Default::default() };
    assert_eq!(
        refused(nothing),
        "Operation attempted with invalid resources: A RESERVE offer operation must have the Offer.Operation.reserve \
         field set."
    );
    assert_eq!(
        refused(conversion(Unreserve, &reserved("cpus:1", &[]), None)),
        format!("Resource {allocated}:1 is not dynamically reserved{here}")
    );
}

#[test]
fn a_framework_with_a_principal_puts_it_on_what_it_makes() {
    let (mut cluster, _, _) = cluster();
    let framework = cluster.subscribe_with(|info| info.principal = Some("me".into()));
    cluster.agent("cpus:4;mem:400;disk:1000");
    cluster.offer();
    let why = refused(&mut cluster, framework, conversion(Reserve, &reserved("cpus:1", &["web"]), None));
    assert!(
        why.starts_with("A reserve operation was attempted by principal 'me', but there is a reserved resource"),
        "{why}"
    );
    let mut other = conversion(Reserve, &reserved("cpus:1", &["web"]), None);
    other.reserve.as_mut().unwrap().resources[0].reservations[0].principal = Some("other".into());
    let why = refused(&mut cluster, framework, other);
    assert!(why.contains("by authenticated principal 'me', which does not match a reserved resource"), "{why}");
    let mut own = conversion(Reserve, &reserved("cpus:1", &["web"]), None);
    own.reserve.as_mut().unwrap().resources[0].reservations[0].principal = Some("me".into());
    assert_eq!(cluster.accept_all(framework, vec![own]), ["offers-accepted", "operation-applied"]);
}

#[test]
fn an_operation_has_a_bound() {
    use api::limits::OPERATION_BYTES_MAX;
    let (mut cluster, framework, _) = cluster();
    // Many small reservations, which their labels tell apart.
    let mut reserve = conversion(Reserve, &reserved("cpus:0.001", &["web"]), None);
    let one = reserve.reserve.as_ref().unwrap().resources[0].clone();
    let labeled = |number: usize| {
        let label = v1::Label { key: number.to_string(), value: Some("v".repeat(1000)) };
        let mut one = one.clone();
        one.reservations[0].labels = Some(v1::Labels { labels: vec![label] });
        one
    };
    reserve.reserve.as_mut().unwrap().resources = (0..OPERATION_BYTES_MAX / 1000).map(labeled).collect();
    let why = refused(&mut cluster, framework, reserve);
    assert!(why.starts_with("RESERVE has ") && why.ends_with("more than the 131072 that are allowed"), "{why}");
}

#[test]
fn what_is_a_volume() {
    let (mut cluster, framework, agent) = cluster();
    let disk = reserved("disk:64", &["web"]);
    let made = volume(&disk, "v", false);
    cluster.accept_all(framework, vec![conversion(Reserve, &disk, None), conversion(Create, &made, None)]);
    cluster.offer();
    let here = "; on agent C-S0 at slave(1)@10.0.0.0:5051 (host)";
    let mut refused = |operation| refused(&mut cluster, framework, operation);
    assert_eq!(refused(conversion(Create, &made, None)), format!("Persistence ID 'v' is not unique{here}"));
    assert_eq!(
        refused(conversion(Create, &volume(&reserved("disk:1", &[]), "w", false), None)),
        format!(
            "Invalid resources: Invalid DiskInfo: Persistent volumes cannot be created from unreserved resources{here}"
        )
    );
    let why = refused(conversion(Create, &volume(&disk, "a/b", false), None));
    assert!(why.contains("Invalid persistence ID for persistent volume: 'a/b' contains invalid characters"), "{why}");
    let mut read_only = conversion(Create, &volume(&disk, "r", false), None);
    let found = read_only.create.as_mut().unwrap().volumes[0].disk.as_mut().unwrap();
    found.volume.as_mut().unwrap().mode = v1::volume::Mode::Ro as i32;
    let why = refused(read_only);
    assert!(why.contains("Read-only persistent volume not supported"), "{why}");
    let why = refused(conversion(Create, &volume(&disk, "s", true), None));
    assert!(why.contains("with no SHARED_RESOURCES capability"), "{why}");
    let why = refused(conversion(Unreserve, &made, None));
    assert!(why.contains("cannot be unreserved directly"), "{why}");
    let other = volume(&reserved("disk:32", &["web"]), "v", false);
    assert_eq!(refused(conversion(Destroy, &other, None)), format!("Persistent volumes not found{here}"));
    let why = refused(conversion(Destroy, &disk, None));
    assert!(why.starts_with("Not a persistent volume: Resource disk("), "{why}");

    let names =
        cluster.accept_all(framework, vec![conversion(Destroy, &made, None), conversion(Unreserve, &disk, None)]);
    assert_eq!(names, ["offers-accepted", "operation-applied", "operation-applied"]);
    assert_eq!(total(&cluster, agent), "cpus:4; mem:400; disk:1000");
}

#[test]
fn a_volume_with_another_size_is_had_from_the_next_offer_on() {
    let (mut cluster, framework, agent) = cluster();
    let disk = reserved("disk:100", &["web"]);
    let made = volume(&reserved("disk:60", &["web"]), "v", false);
    cluster.accept_all(framework, vec![conversion(Reserve, &disk, None), conversion(Create, &made, None)]);
    let grow = |volume: &Resources, more: &str| {
        let one = |resources: &Resources| resources.to_v1(Format::PostRefinement).remove(0);
        let body = v1::offer::operation::GrowVolume { volume: one(volume), addition: one(&reserved(more, &["web"])) };
        v1::offer::Operation {
            r#type: Some(GrowVolume as i32),
            grow_volume: Some(Box::new(body)),
            ..Default::default()
        }
    };
    let shrink = |volume: &Resources, value: f64| {
        let (volume, subtract) = (volume.to_v1(Format::PostRefinement).remove(0), v1::value::Scalar { value });
        let body = v1::offer::operation::ShrinkVolume { volume, subtract };
        v1::offer::Operation {
            r#type: Some(ShrinkVolume as i32),
            shrink_volume: Some(Box::new(body)),
            ..Default::default()
        }
    };
    let grown = volume(&reserved("disk:80", &["web"]), "v", false);
    cluster.offer();
    let mut task = task_info("t", "cpus:1;mem:32");
    task.resources.extend(grown.to_v1(Format::PostRefinement));
    let names = cluster.accept_all(framework, vec![grow(&made, "disk:20"), operation(vec![task])]);
    assert_eq!(names, ["offers-accepted", "operation-applied", "launch-refused"]);
    assert!(total(&cluster, agent).contains("[v:data]:80"), "{}", total(&cluster, agent));
    cluster.offer();
    let mut refused = |operation| refused(&mut cluster, framework, operation);
    let why = refused(grow(&made, "disk:1"));
    assert!(why.starts_with("Invalid GROW_VOLUME operation: ") && why.contains(" does not contain "), "{why}");
    let why = refused(shrink(&grown, 80.0));
    assert!(why.starts_with("Value of 'ShrinkVolume.subtract' must be smaller than the size"), "{why}");
    let why = refused(shrink(&grown, 0.0));
    assert!(why.starts_with("Value of 'ShrinkVolume.subtract' must be greater than zero"), "{why}");
    assert_eq!(cluster.accept_all(framework, vec![shrink(&grown, 70.0)]), ["offers-accepted", "operation-applied"]);
    assert!(total(&cluster, agent).contains("[v:data]:10"), "{}", total(&cluster, agent));
    assert_eq!(cluster.state.agents.get(agent).unwrap().total.scalar_milli("disk"), 1_000_000);
}

#[test]
fn a_shared_volume_has_many_users_and_goes_when_the_last_is_gone() {
    let mut cluster = Cluster::new();
    cluster.raise();
    let shared = [Capability::SharedResources];
    let (first, second) = (subscribe(&mut cluster, "web", &shared), subscribe(&mut cluster, "web", &shared));
    let agent = cluster.agent("cpus:4;mem:400;disk:1000");
    cluster.offer();
    let disk = reserved("disk:64", &["web"]);
    let made = volume(&disk, "s", true);
    let task = |id: &str| {
        let mut task = task_info(id, "cpus:1;mem:32");
        task.resources.extend(made.to_v1(Format::PostRefinement));
        task
    };
    let launch = operation(vec![task("a"), task("b")]);
    let create = vec![conversion(Reserve, &disk, None), conversion(Create, &made, None), launch];
    let names = cluster.accept_all(first, create);
    assert_eq!(names[3..], ["task-launched", "task-launched"]);
    cluster.suppress(first, &["web"]);
    cluster.offer();
    let offer = cluster.state.offers.to(second).next().unwrap();
    assert!(cluster.state.offers.get(offer).unwrap().resources.unallocate().contains(&made), "while it is used");
    let why = refused(&mut cluster, second, conversion(Destroy, &made, None));
    assert!(why.starts_with("Persistent volumes in use"), "{why}");
    for id in ["a", "b"] {
        cluster.update(&(first, id.into()), v1::TaskState::TaskFinished);
    }
    assert_eq!(cluster.state.agents.get(agent).unwrap().used, Resources::default());
    cluster.revive(first, &["web"]);
    cluster.offer();
    assert_eq!(cluster.state.offers.to(first).count(), 1);
    let names = cluster.accept_all(second, vec![conversion(Destroy, &made, None)]);
    assert_eq!(names, ["offers-accepted", "offers-returned", "operation-applied"], "nobody is offered it any more");
    assert!(!total(&cluster, agent).contains("SHARED"));
}

#[test]
fn a_volume_stays_where_its_role_says() {
    let mut cluster = Cluster::new();
    cluster.raise();
    let agent = cluster.agent("cpus:4;mem:400;disk:1000");
    let disk = reserved("disk:10", &["web"]);
    operator(&mut cluster, &disk, call::Type::ReserveResources).unwrap();
    operator(&mut cluster, &volume(&disk, "v", false), call::Type::CreateVolumes).unwrap();
    let below = subscribe(&mut cluster, "web/a", &[]);
    cluster.offer();
    let refined = volume(&reserved("disk:10", &["web", "web/a"]), "v", false);
    let why = refused(&mut cluster, below, conversion(Reserve, &refined, None));
    assert!(why.contains("cannot be reserved for another role"), "{why}");
    let (kind, why) = operator(&mut cluster, &refined, call::Type::ReserveResources).unwrap_err();
    assert_eq!(kind, RefusalKind::Invalid);
    assert!(why.contains("cannot be reserved for another role"), "{why}");
    assert!(total(&cluster, agent).contains("[v:data]:10"));
}

#[test]
fn what_is_shared_is_one_thing_in_several_offers() {
    let mut cluster = Cluster::new();
    cluster.raise();
    let framework = subscribe(&mut cluster, "web", &[Capability::SharedResources]);
    let agent = cluster.agent("cpus:4;mem:400;disk:1000");
    let disk = reserved("disk:10", &["web"]);
    let made = volume(&disk, "s", true);
    cluster.offer();
    let mut task = task_info("t", "cpus:1;mem:32");
    task.resources.extend(made.to_v1(Format::PostRefinement));
    let create = vec![conversion(Reserve, &disk, None), conversion(Create, &made, None), operation(vec![task])];
    cluster.accept_all(framework, create);
    cluster.offer();
    cluster.update(&(framework, "t".into()), v1::TaskState::TaskFinished);
    cluster.offer();
    assert_eq!(cluster.state.offers.to(framework).count(), 2, "both with the volume");
    let mut task = task_info("u", "cpus:1;mem:32");
    task.resources.extend(made.to_v1(Format::PostRefinement));
    let names = cluster.accept_all(framework, vec![conversion(Destroy, &made, None), operation(vec![task])]);
    assert_eq!(names, ["offers-accepted", "operation-applied", "launch-refused"], "it is gone for good");
    assert!(!total(&cluster, agent).contains("SHARED"));
}

fn operator(
    cluster: &mut Cluster,
    resources: &Resources,
    kind: call::Type,
) -> Result<Vec<&'static str>, (RefusalKind, String)> {
    let (agent_id, resources) = (v1::AgentId { value: "C-S0".into() }, resources.to_v1(Format::PostRefinement));
    let mut call = v1::master::Call { r#type: Some(kind as i32), ..Default::default() };
    match kind {
        call::Type::ReserveResources => {
            call.reserve_resources = Some(call::ReserveResources { agent_id, resources, source: Vec::new() });
        }
        call::Type::UnreserveResources => {
            call.unreserve_resources = Some(call::UnreserveResources { agent_id, resources })
        }
        call::Type::CreateVolumes => call.create_volumes = Some(call::CreateVolumes { agent_id, volumes: resources }),
        _ => call.destroy_volumes = Some(call::DestroyVolumes { agent_id, volumes: resources }),
    }
    cluster.operator(call).map_err(|refusal| (refusal.kind, refusal.message))
}

#[test]
fn an_operator_takes_back_what_is_offered_and_no_more() {
    let (mut cluster, framework, agent) = cluster();
    let one = reserved("cpus:1", &["ops"]);
    let names = operator(&mut cluster, &one, call::Type::ReserveResources).unwrap();
    assert_eq!(names, ["offers-returned", "operation-applied"]);
    assert!(cluster.effects_text().contains("SendRescind"));
    assert_eq!(order(&cluster, agent).framework_id, None);
    cluster.offer();
    let names = operator(&mut cluster, &one, call::Type::UnreserveResources).unwrap();
    assert_eq!(names, ["operation-applied"], "no offer of this framework holds it");
    let (kind, why) = operator(&mut cluster, &one, call::Type::UnreserveResources).unwrap_err();
    assert_eq!(kind, RefusalKind::Conflict);
    assert_eq!(why, "cpus:4; mem:400; disk:1000 does not contain cpus(reservations: [(DYNAMIC,ops)]):1");
    assert_eq!(cluster.state.offers.to(framework).count(), 1, "it is left alone");
    let (kind, why) = operator(&mut cluster, &reserved("cpus:1", &[]), call::Type::ReserveResources).unwrap_err();
    assert_eq!(kind, RefusalKind::Invalid);
    assert_eq!(
        why,
        "Invalid RESERVE operation on agent C-S0 at slave(1)@10.0.0.0:5051 (host): Resource cpus:1 is not dynamically \
         reserved"
    );
    let odd = v1::Resource { r#type: 9, ..one.to_v1(Format::PostRefinement)[0].clone() };
    let body = call::UnreserveResources { agent_id: v1::AgentId { value: "C-S0".into() }, resources: vec![odd] };
    let mut odd = v1::master::Call { unreserve_resources: Some(body), ..Default::default() };
    odd.set_type(call::Type::UnreserveResources);
    let why = cluster.operator(odd).unwrap_err().message;
    assert_eq!(why, "Resource 'cpus(reservations: [(DYNAMIC,ops)]):1' is invalid: Unsupported resource type");
    let disk = reserved("disk:10", &["ops"]);
    operator(&mut cluster, &disk, call::Type::ReserveResources).unwrap();
    operator(&mut cluster, &volume(&disk, "v", false), call::Type::CreateVolumes).unwrap();
    assert!(total(&cluster, agent).contains("[v:data]:10"));
    operator(&mut cluster, &volume(&disk, "v", false), call::Type::DestroyVolumes).unwrap();
    let (_, why) = operator(&mut cluster, &volume(&disk, "v", false), call::Type::DestroyVolumes).unwrap_err();
    assert_eq!(why, "Invalid DESTROY operation: Persistent volumes not found");
}

#[test]
fn a_reservation_passes_from_role_to_role() {
    let (mut cluster, _, agent) = cluster();
    let mut update = |from: &Resources, to: &Resources| {
        let agent_id = v1::AgentId { value: "C-S0".into() };
        let (source, resources) = (from.to_v1(Format::PostRefinement), to.to_v1(Format::PostRefinement));
        let body = call::ReserveResources { agent_id, source, resources };
        let kind = Some(call::Type::ReserveResources as i32);
        let call = v1::master::Call { r#type: kind, reserve_resources: Some(body), ..Default::default() };
        cluster.operator(call).map_err(|refusal| refusal.message)
    };
    update(&reserved("cpus:1", &[]), &reserved("cpus:1", &["ops"])).unwrap();
    update(&reserved("cpus:1", &["ops"]), &reserved("cpus:1", &["web", "web/a"])).unwrap();
    let why = update(&reserved("cpus:1", &["web", "web/a"]), &reserved("cpus:0.5", &["ops"])).unwrap_err();
    assert!(
        why.ends_with("Source and target resources should refer to identical resource quantities: cpus:1 vs. cpus:0.5"),
        "{why}"
    );
    assert!(total(&cluster, agent).contains("cpus(reservations: [(DYNAMIC,web),(DYNAMIC,web/a)]):1"));
}

#[test]
fn an_agent_comes_back_with_what_it_keeps() {
    let (mut cluster, framework, agent) = cluster();
    let disk = reserved("disk:500", &["web"]);
    let made = volume(&disk, "v", false);
    cluster.accept_all(framework, vec![conversion(Reserve, &disk, None), conversion(Create, &made, None)]);
    let before = total(&cluster, agent);
    cluster.acknowledge_orders(agent, 2);
    cluster.agent_disconnected(agent);
    let with = |text: &str| {
        let resources = task_info("", text).resources;
        move |resume: &mut internal::Resume| resume.agent_info.resources = resources
    };
    let refusal = cluster.resume_with(agent, with("cpus:4;mem:400;disk:400")).unwrap_err();
    assert_eq!(
        refusal.message,
        "The agent's resources cpus:4; mem:400; disk:400 do not contain disk:500, of which disk(reservations: \
         [(DYNAMIC,web)])[v:data]:500 was made"
    );
    cluster.resume_with(agent, with("cpus:4;mem:400;disk:1000")).unwrap();
    assert_eq!(total(&cluster, agent), before);
    cluster.agent_disconnected(agent);
    cluster.resume_with(agent, with("cpus:8;mem:400;disk:600")).unwrap();
    let held = "disk(reservations: [(DYNAMIC,web)])[v:data]:500";
    assert_eq!(total(&cluster, agent), format!("cpus:8; mem:400; disk:100; {held}"));

    cluster.mark_gone(agent);
    cluster.brought = made.to_v1(Format::PostRefinement);
    let anew = cluster.agent("cpus:1;disk:500");
    assert_eq!(total(&cluster, anew), format!("cpus:1; {held}"));
    let refusal = cluster.try_agent_with_token(99, "cpus:1;disk:499").unwrap_err();
    assert!(refusal.message.contains("do not contain disk:500, of which"), "{}", refusal.message);
}

#[test]
fn nothing_of_the_kind_before_every_master_is_upgraded() {
    let mut cluster = Cluster::new();
    let framework = cluster.subscribe();
    cluster.agent("cpus:4;mem:100");
    cluster.offer();
    let operations = vec![conversion(Reserve, &reserved("cpus:1", &["web"]), Some("r"))];
    let accept = v1::scheduler::call::Accept { operations, ..Default::default() };
    let call = cluster.call_of(framework, v1::scheduler::call::Type::Accept);
    let call = v1::scheduler::Call { accept: Some(accept), ..call };
    let stream = cluster.stream_id(framework);
    let refusal = cluster.try_call(&call, Some(&stream), &Default::default()).unwrap_err();
    assert_eq!(refusal.message, "RESERVE is not supported until every master of this cluster has been upgraded");
    let (kind, _) = operator(&mut cluster, &reserved("cpus:1", &["web"]), call::Type::ReserveResources).unwrap_err();
    assert_eq!(kind, RefusalKind::NotImplemented);
}
