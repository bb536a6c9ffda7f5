//! The bytes of events are a file format: these must never change. A test that fails here says that an old log would
//! not be read any more; what is needed then is a new version beside the old one.

use api::resources::{Resources, parse};
use bytes::Bytes;
use expect_test::expect;
use master_core::Event;
use master_core::event::*;
use master_core::ids::*;

fn resources(text: &str) -> Resources {
    parse(text, "*").unwrap().resources.allocate("web")
}

fn hex(event: impl Into<Event>) -> String {
    let event = event.into();
    let (number, version, payload) = event.encode();
    let digits: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{number}.{version} {digits}\n{event}\n")
}

#[test]
fn bytes_of_events() {
    let connection = Connection { at: Incarnation { node: NodeId(1), id: IncarnationId(2) }, id: ConnectionId(0x300) };
    let task: TaskKey = (FrameworkKey(7), "t".into());
    let uuid = Bytes::from_static(&[9; 16]);
    let mut text = hex(ClusterCreated { cluster_id: "C".into() });
    text += &hex(LeaderElected { leader: connection.at, term: 5, version: "1".into() });
    text += &hex(FrameworkDisconnected { framework: FrameworkKey(7), connection: connection.id, deadline_ms: 1000 });
    text += &hex(OffersMade {
        first: OfferKey(300),
        groups: vec![OfferGroup {
            framework: FrameworkKey(7),
            role: "web".into(),
            offers: OfferItems(vec![
                (AgentKey(5), Offered::Whole),
                (AgentKey(6), Offered::Part(resources("cpus:1.5;ports:[1-3]"))),
                (AgentKey(2), Offered::Whole),
            ]),
        }],
        expires_ms: None,
    });
    text += &hex(OffersDeclined {
        framework: FrameworkKey(7),
        offers: OfferKeys::new(vec![OfferKey(302), OfferKey(300), OfferKey(301), OfferKey(310)]),
        until_ms: Some(6000),
    });
    text += &hex(TaskLaunched {
        task: task.clone(),
        agent: AgentKey(5),
        role: "web".into(),
        info: Bytes::from_static(b"info"),
        resources: resources("cpus:1"),
        executor: Some(ExecutorUse { executor_id: "e".into(), new: None }),
    });
    text += &hex(LaunchRefused {
        task: task.clone(),
        agent_id: "C-S5".into(),
        state: 7,
        reason: 21,
        why: "Task uses no resources".into(),
    });
    text += &hex(TaskUpdated {
        task: task.clone(),
        agent: AgentKey(5),
        seq: 1,
        state: 1,
        uuid,
        status: Bytes::from_static(b"status"),
        brief: None,
    });
    text += &hex(UpdateAcknowledged { task: task.clone(), state: 1 });
    text += &hex(TaskDeclared {
        task,
        agent: AgentKey(5),
        state: 5,
        status: Bytes::from_static(b"status"),
        fate: Fate::Unreachable,
    });
    text += &hex(AgentRemoved { agent: AgentKey(5), connection: None, by_operator: true, reason: "gone".into() });
    expect![[r#"
        1.1 0143
        cluster-created cluster_id=C
        2.1 0102050131
        leader-elected leader=0000000000000001/00000000000000000000000000000002 term=5 version=1
        12.1 07fb0003fbe803
        framework-disconnected framework=F7 connection=00000000-0000-0000-0000-000000000300 deadline_ms=1000
        30.1 fb2c01010703776562030a0002010102000001037765620000000000fbb80b0100040103776562000000000101010301070000
        offers-made first=O300 groups=[F7:web:S5+S6(cpus(allocated:web):1.5;ports(allocated:web):[1-3])+S2] expires_ms=-
        31.1 0704fb2c0101010801fb7017
        offers-declined framework=F7 offers=[O300-O302,O310] until_ms=6000
        40.1 070174050377656204696e666f0101000001037765620000000000fbd0070101016500
        task-launched task=F7/t agent=S5 role=web info=4B resources=cpus(allocated:web):1 executor=e
        46.1 07017404432d53350e2a165461736b2075736573206e6f207265736f7572636573
        launch-refused task=F7/t agent_id=C-S5 state=7 reason=21 why="Task uses no resources"
        42.1 07017405010210090909090909090909090909090909090673746174757300
        task-updated task=F7/t agent=S5 seq=1 state=1 uuid=09090909090909090909090909090909 status=6B brief=-
        43.1 07017402
        update-acknowledged task=F7/t state=1
        45.1 070174050a0673746174757301
        task-declared task=F7/t agent=S5 state=5 status=6B fate=unreachable
        24.1 05000104676f6e65
        agent-removed agent=S5 connection=- by_operator=true reason=gone
    "#]]
    .assert_eq(&text);
}

#[test]
fn numbers_and_names_are_used_once() {
    let mut numbers: Vec<u16> = Event::KINDS.iter().map(|(number, _, _)| *number).collect();
    let mut names: Vec<&str> = Event::KINDS.iter().map(|(_, _, name)| *name).collect();
    numbers.sort_unstable();
    names.sort_unstable();
    numbers.dedup();
    names.dedup();
    assert_eq!((numbers.len(), names.len()), (Event::KINDS.len(), Event::KINDS.len()));
}

#[test]
fn foreign_bytes_are_named() {
    let error = Event::decode(9_999, 1, &[]).unwrap_err();
    assert_eq!(error.to_string(), "event 9999 version 1 is not known to this release");
    assert!(Event::decode(1, 1, &[]).is_err());
    assert!(Event::decode(1, 1, &[1, b'C', 0]).is_err(), "nothing may be left over");
}
