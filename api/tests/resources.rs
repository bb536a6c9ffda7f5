//! The laws of resources, their text, and their three formats on the wire.

use api::json;
use api::resources::{Format, Name, Reservation, Resource, Resources, Value, parse};
use api::v1;
use expect_test::expect;
use proptest::prelude::*;

fn resources(text: &str) -> Resources {
    parse(text, "*").expect(text).resources
}

fn volume(id: &str) -> Resource {
    let text = format!(
        r#"{{"name":"disk","type":"SCALAR","scalar":{{"value":64.0}},"reservations":[{{"type":"DYNAMIC","role":"ops"}}],
            "disk":{{"persistence":{{"id":"{id}"}},"volume":{{"mode":"RW","container_path":"data"}}}}}}"#
    );
    let message: v1::Resource = json::from_slice(text.as_bytes()).expect("a volume");
    Resource::from_v1(&message).expect("a volume")
}

#[test]
fn text_of_flags() {
    let parsed = parse(" cpus : 2 ; mem(web):1024.5;ports:[5-6, 1-3,4-4]; ids:{b,a,b} ; gpus:0 ;cpus:0.5", "*");
    let parsed = parsed.expect("valid");
    expect!["cpus:2.5; ports:[1-6]; ids:{a, b}; mem(reservations: [(STATIC,web)]):1024.5"]
        .assert_eq(&parsed.resources.to_string());
    assert_eq!(parsed.names, ["cpus", "mem", "ports", "ids", "gpus"]);
    let none = parse("ports:[];ids:{};disks:{a,{b}}", "*").expect("nothing is an amount");
    assert_eq!((none.names.len(), none.resources.to_string().as_str()), (3, "disks:{a, b}"), "and is not detected");
    expect!["cpus(reservations: [(STATIC,a/b)]):1"]
        .assert_eq(&parse("cpus:1", "a/b").expect("valid").resources.to_string());
    for wrong in [
        "cpus",
        "cpus:",
        ":1",
        "cpus:two",
        "cpus:-1",
        "cpus:inf",
        "cpus:1e300",
        "cpus:0.0001",
        "ports:[2-1]",
        "ports:[1-2",
        "ports:[1-2]]",
        "ids:{a,b}}",
        "cpus(web:1",
        "cpus(a//b):1",
        "cpus:1;cpus:[1-2]",
        "gpus:0.5",
        "[{}]",
        "[1]",
        "[",
        "cpus:NaN",
    ] {
        assert!(parse(wrong, "*").is_err(), "{wrong}");
    }
}

#[test]
fn json_of_flags() {
    let text = r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":2}},
        {"name":"mem","type":"SCALAR","scalar":{"value":10},"role":"web"},
        {"name":"ports","type":"RANGES","ranges":{"range":[{"begin":1,"end":2}]},
         "reservations":[{"type":"STATIC","role":"db"}]}]"#;
    expect!["ports(reservations: [(STATIC,db)]):[1-2]; cpus(reservations: [(STATIC,ops)]):2; mem(reservations: [(STATIC,web)]):10"]
        .assert_eq(&parse(text, "ops").expect("valid").resources.to_string());
    for wrong in [
        r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":2},"revocable":{}}]"#,
        r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":2},"reservations":[{"type":"DYNAMIC","role":"a"}]}]"#,
        r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":2},"role":"a","reservation":{}}]"#,
        r#"[{"name":"cpus","type":"SCALAR"}]"#,
        r#"[{"name":"cpus"}]"#,
    ] {
        assert!(parse(wrong, "*").is_err(), "{wrong}");
    }
}

/// As in the answer to a reservation of more than there is.
#[test]
fn text_in_errors() {
    let mut sum = resources("cpus:1.9; mem:22949; disk:252899; ports:[31000-32000]");
    let reservation = Reservation { dynamic: true, role: "ops".into(), principal: Some("op".into()), labels: vec![] };
    sum.add(&resources("mem:100").push_reservation(&reservation));
    expect!["cpus:1.9; mem:22949; disk:252899; ports:[31000-32000]; mem(reservations: [(DYNAMIC,ops,op)]):100"]
        .assert_eq(&sum.to_string());
    expect!["mem:1000000000"].assert_eq(&resources("mem:1000000000").to_string());
    let volume: Resources = [volume("vol1")].into_iter().collect();
    expect!["disk(allocated: ops)(reservations: [(DYNAMIC,ops)])[vol1:data]:64"]
        .assert_eq(&volume.allocate("ops").to_string());
}

/// Disks as they are told in sentences: source, persistence, where a task sees them.
#[test]
fn text_of_disks() {
    let shown = |disk: &str, shared: bool| {
        let shared = if shared { r#","shared":{}"# } else { "" };
        let text = format!(r#"{{"name":"disk","type":"SCALAR","scalar":{{"value":1}},"disk":{disk}{shared}}}"#);
        let message: v1::Resource = json::from_slice(text.as_bytes()).expect(disk);
        Resources::from_v1(&[message.clone(), message]).expect(disk).to_string()
    };
    let mount = r#"{"source":{"type":"MOUNT","mount":{"root":"/mnt1"}},"persistence":{"id":"hadoop"},
        "volume":{"host_path":"/hdfs","container_path":"/data","mode":"RW"}}"#;
    expect!["disk[MOUNT:/mnt1,hadoop:/hdfs:/data:rw]:1; disk[MOUNT:/mnt1,hadoop:/hdfs:/data:rw]:1"]
        .assert_eq(&shown(mount, false));
    expect!["disk[MOUNT:/mnt1,hadoop:/hdfs:/data:rw]<SHARED>:1<2>"].assert_eq(&shown(mount, true));
    let plugin = r#"{"source":{"type":"BLOCK","vendor":"v","id":"i","profile":"p"}}"#;
    expect!["disk[BLOCK(v,i,p)]:1; disk[BLOCK(v,i,p)]:1"].assert_eq(&shown(plugin, false));
    let place = r#"{"volume":{"container_path":"x","mode":"RO"}}"#;
    expect!["disk[:x]:2"].assert_eq(&shown(place, false));
}

/// Where a task sees a volume and who made it do not make it another; of equal ones the first is shown.
#[test]
fn a_disk_is_its_source_and_its_id() {
    let disk = |principal: &str, path: &str| {
        let text = format!(
            r#"{{"name":"disk","type":"SCALAR","scalar":{{"value":5}},"reservations":[{{"type":"DYNAMIC","role":"a"}}],
                "disk":{{"persistence":{{"id":"1","principal":"{principal}"}},"volume":{{"mode":"RW","container_path":"{path}"}}}}}}"#
        );
        Resource::from_v1(&json::from_slice(text.as_bytes()).expect("a volume")).expect("a volume")
    };
    let held: Resources = [disk("p", "x"), disk("q", "y")].into_iter().collect();
    assert_eq!(held.count(&disk("r", "z")), 1, "only of what is shared there are several");
    assert_eq!(held.checked_sub(&[disk("r", "z")].into_iter().collect()), Some([disk("", "")].into_iter().collect()));
    expect!["disk(reservations: [(DYNAMIC,a)])[1:x]:5; disk(reservations: [(DYNAMIC,a)])[1:x]:5"]
        .assert_eq(&held.to_string());
}

#[test]
fn operations_lose_nothing() {
    let disk = resources("disk(a):100;cpus(a):1");
    let volume = |milli| Resource {
        reservations: vec![Reservation { dynamic: false, role: "a".into(), principal: None, labels: vec![] }],
        value: Value::Scalar(milli),
        ..volume("v")
    };
    let one = |resource: Resource| -> Resources { [resource].into_iter().collect() };
    let created = disk.create(&one(volume(60_000))).expect("room for it");
    assert_eq!(created.scalar_milli("disk"), 100_000);
    assert!(disk.create(&one(volume(101_000))).is_err() && disk.create(&resources("disk(a):1")).is_err());
    let grown = created.grow(&volume(60_000), resources("disk(a):10").iter().next().expect("one")).expect("room");
    assert_eq!((grown.count(&volume(70_000)), grown.scalar_milli("disk")), (1, 100_000));
    assert!(created.grow(&volume(60_000), resources("cpus(a):1").iter().next().expect("one")).is_err());
    let shrunk = grown.shrink_volume(&volume(70_000), 20_000).expect("large enough");
    assert_eq!((shrunk.count(&volume(50_000)), shrunk.scalar_milli("disk")), (1, 100_000));
    for wrong in [0, -1, 70_000, 80_000] {
        assert!(grown.shrink_volume(&volume(70_000), wrong).is_err(), "{wrong}");
    }
    assert_eq!(shrunk.destroy(&one(volume(50_000))), Ok(disk.clone()));
    let shared = Resource { shared: true, ..volume(60_000) };
    let twice = disk.create(&one(shared.clone())).expect("room").plus(&one(shared.clone()));
    assert_eq!((twice.count(&shared), twice.scalar_milli("disk")), (2, 100_000), "it counts once");
    assert!(twice.destroy(&one(shared.clone())).is_err(), "somebody uses it");
    let once = twice.checked_sub(&one(shared.clone())).expect("there");
    assert_eq!(once.destroy(&one(shared)), Ok(disk.clone()));
    assert_eq!(disk.unreserve(&resources("cpus(a):1")), Ok(resources("disk(a):100;cpus:1")));
    assert!(resources("cpus:1").reserve(&resources("cpus:1")).is_err(), "for nobody");
}

#[test]
fn volumes_are_things() {
    let mut sum: Resources = [volume("a"), volume("b"), volume("a")].into_iter().collect();
    assert_eq!(sum.scalar_milli("disk"), 192_000);
    assert_eq!(sum.to_v1(Format::PostRefinement).len(), 3);
    sum.saturating_sub(&[volume("a")].into_iter().collect());
    assert_eq!(sum, [volume("a"), volume("b")].into_iter().collect());
    let half: Resources = [Resource { value: Value::Scalar(32_000), ..volume("a") }].into_iter().collect();
    assert!(!sum.contains(&half), "half a volume is no part of it");
}

#[test]
fn formats() {
    let mut sum = resources("cpus:1;mem(a):2");
    let dynamic = |role: &str| Reservation { dynamic: true, role: role.into(), principal: None, labels: vec![] };
    sum.add(&resources("disk:3").push_reservation(&dynamic("a")));
    sum.add(&resources("gpus(a):4").push_reservation(&dynamic("a/b")));
    let written = |format| {
        let messages = sum.to_v1(format);
        assert_eq!(Resources::from_v1(&messages), Ok(sum.clone()), "{format:?}");
        messages.iter().map(json::to_string).collect::<Vec<_>>().join("\n")
    };
    expect![[r#"
        {"name":"cpus","type":"SCALAR","scalar":{"value":1.0},"role":"*"}
        {"name":"mem","type":"SCALAR","scalar":{"value":2.0},"role":"a"}
        {"name":"gpus","type":"SCALAR","scalar":{"value":4.0},"reservations":[{"type":"STATIC","role":"a"},{"type":"DYNAMIC","role":"a/b"}]}
        {"name":"disk","type":"SCALAR","scalar":{"value":3.0},"role":"a","reservation":{}}"#]]
    .assert_eq(&written(Format::PreRefinement));
    expect![[r#"
        {"name":"cpus","type":"SCALAR","scalar":{"value":1.0}}
        {"name":"mem","type":"SCALAR","scalar":{"value":2.0},"reservations":[{"type":"STATIC","role":"a"}]}
        {"name":"gpus","type":"SCALAR","scalar":{"value":4.0},"reservations":[{"type":"STATIC","role":"a"},{"type":"DYNAMIC","role":"a/b"}]}
        {"name":"disk","type":"SCALAR","scalar":{"value":3.0},"reservations":[{"type":"DYNAMIC","role":"a"}]}"#]]
    .assert_eq(&written(Format::PostRefinement));
    expect![[r#"
        {"name":"cpus","type":"SCALAR","scalar":{"value":1.0},"role":"*"}
        {"name":"mem","type":"SCALAR","scalar":{"value":2.0},"role":"a","reservations":[{"type":"STATIC","role":"a"}]}
        {"name":"gpus","type":"SCALAR","scalar":{"value":4.0},"reservations":[{"type":"STATIC","role":"a"},{"type":"DYNAMIC","role":"a/b"}]}
        {"name":"disk","type":"SCALAR","scalar":{"value":3.0},"role":"a","reservation":{},"reservations":[{"type":"DYNAMIC","role":"a"}]}"#]]
    .assert_eq(&written(Format::Endpoint));
}

#[test]
fn what_is_no_resource() {
    for wrong in [
        r#"{"name":"","type":"SCALAR","scalar":{"value":1}}"#,
        r#"{"name":"cpus","type":"TEXT"}"#,
        r#"{"name":"cpus","type":"SCALAR","ranges":{"range":[]}}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":-1}}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":0.0001}}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":"Infinity"}}"#,
        r#"{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":2,"end":1}]}}"#,
        r#"{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":1,"end":3},{"begin":3,"end":4}]}}"#,
        r#"{"name":"ids","type":"SET","set":{"item":["a","a"]}}"#,
        r#"{"name":"gpus","type":"SCALAR","scalar":{"value":0.5}}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"role":"*","reservation":{}}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"role":"a b"}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"role":"a"}]}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"type":"DYNAMIC","role":"*"}]}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"type":"DYNAMIC","role":"a"},{"type":"DYNAMIC","role":"a"}]}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"type":"DYNAMIC","role":"a"},{"type":"STATIC","role":"a/b"}]}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"role":"b","reservations":[{"type":"STATIC","role":"a"}]}"#,
        r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"disk":{"source":{"type":"MOUNT"}}}"#,
        r#"{"name":"disk","type":"SCALAR","scalar":{"value":1},"disk":{"source":{"type":"UNKNOWN"}}}"#,
        r#"{"name":"disk","type":"SCALAR","scalar":{"value":1},"shared":{}}"#,
    ] {
        let message: v1::Resource = json::from_slice(wrong.as_bytes()).expect(wrong);
        assert!(Resource::from_v1(&message).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_wrong_is_said_in_words_that_clients_know() {
    let why = |rest: &str, value: &str| {
        let text = format!(r#"{{"name":"disk","type":"SCALAR","scalar":{{"value":{value}}}{rest}}}"#);
        Resource::from_v1(&json::from_slice(text.as_bytes()).expect(&text)).unwrap_err().why
    };
    assert_eq!(why("", "0.0001"), "Invalid scalar resource: value <= 0");
    let disk = |source: &str| why(&format!(r#","disk":{{"source":{source}}}"#), "1");
    assert_eq!(disk(r#"{"type":"UNKNOWN"}"#), "Unsupported 'DiskInfo.Source.Type' in 'UNKNOWN'");
    assert_eq!(disk(r#"{"type":"RAW","path":{}}"#), "Path should not be set for RAW disk source");
    assert_eq!(disk(r#"{"type":"BLOCK","path":{},"mount":{}}"#), "Mount should not be set for BLOCK disk source");
    let both = |old: &str| {
        let labels = r#"{"labels":[{"key":"k","value":"v"},{"key":"l"}]}"#;
        let new = format!(r#"{{"type":"DYNAMIC","role":"a","principal":"p","labels":{labels}}}"#);
        why(&format!(r#","role":"a","reservation":{old},"reservations":[{new}]"#), "1")
    };
    let wrong = "Invalid resource format: 'Resource.reservation";
    assert_eq!(
        both(r#"{"principal":"q"}"#),
        format!("{wrong}.principal' field with 'q' does not match the principal 'p' in 'Resource.reservations'")
    );
    assert_eq!(
        both(r#"{"principal":"p"}"#),
        format!("{wrong}.labels' field with '{{}}' does not match the labels '{{k: v, l}}' in 'Resource.reservations'")
    );
}

#[test]
fn state_shows_four_names_always() {
    expect![[r#"{"cpus":0.0,"disk":0.0,"gpus":0.0,"mem":0.0}"#]]
        .assert_eq(&Resources::new().to_state_json().to_string());
    let mut text = vec![];
    resources("ports:[31000-32000];cpus:2;mem(a):1;mem:2").write_state_json(&mut text);
    expect![[r#"{"disk":0.0,"mem":3.0,"gpus":0.0,"cpus":2.0,"ports":"[31000-32000]"}"#]]
        .assert_eq(&String::from_utf8(text).expect("text"));
}

#[test]
fn who_may_have_it() {
    let all = resources("cpus:1;cpus(a):2;cpus(a/b):4;cpus(ab):8");
    for (role, milli) in [("a", 3000), ("a/b", 7000), ("a/b/c", 7000), ("a/c", 3000), ("ab", 9000), ("x", 1000)] {
        assert_eq!(all.available_to(role).scalar_milli("cpus"), milli, "{role}");
    }
    assert_eq!(all.reservation_roles(), ["a", "a/b", "ab"]);
    assert_eq!(all.reserved_by("a/b").scalar_milli("cpus"), 4000);
    assert_eq!(all.unreserved().plus(&all.reserved()), all);
    assert_eq!(all.quantities().get(&Name::Cpus), Some(&15_000));
}

fn name() -> impl Strategy<Value = (Name, u8)> {
    prop_oneof![
        Just((Name::Cpus, 0)),
        Just((Name::Mem, 0)),
        Just((Name::Other("things".into()), 0)),
        Just((Name::Ports, 1)),
        Just((Name::Other("ids".into()), 2))
    ]
}

fn value(kind: u8) -> BoxedStrategy<Value> {
    match kind {
        0 => (0i64..5000).prop_map(Value::Scalar).boxed(),
        1 => prop::collection::vec((0u64..40, 0u64..6), 0..5)
            .prop_map(|ranges| Value::ranges(ranges.into_iter().map(|(begin, length)| (begin, begin + length))))
            .boxed(),
        _ => prop::collection::vec("[a-e]", 0..5)
            .prop_map(|items| Value::set(items.iter().map(|item| item.as_str().into())))
            .boxed(),
    }
}

fn one() -> impl Strategy<Value = Resource> {
    let stack = prop_oneof![Just(vec![]), Just(vec!["a"]), Just(vec!["a", "a/b"])];
    let plain = (name(), stack, any::<bool>(), prop::option::of("[xy]")).prop_flat_map(
        |((name, kind), stack, revocable, allocated)| {
            value(kind).prop_map(move |value| Resource {
                reservations: stack
                    .iter()
                    .map(|role| Reservation { dynamic: true, role: (*role).into(), principal: None, labels: vec![] })
                    .collect(),
                revocable,
                allocation_role: allocated.as_deref().map(Into::into),
                ..Resource::new(name.as_str(), value)
            })
        },
    );
    prop_oneof![9 => plain, 1 => "[ab]".prop_map(|id| volume(&id))]
}

fn amount() -> impl Strategy<Value = Resources> {
    prop::collection::vec(one(), 0..8).prop_map(|all| all.into_iter().collect())
}

proptest! {
    #[test]
    fn addition_is_commutative_and_associative(a in amount(), b in amount(), c in amount()) {
        prop_assert_eq!(a.plus(&b), b.plus(&a));
        prop_assert_eq!(a.plus(&b).plus(&c), a.plus(&b.plus(&c)));
        prop_assert_eq!(a.plus(&Resources::new()), a);
    }

    #[test]
    fn a_sum_contains_its_parts(a in amount(), b in amount()) {
        let sum = a.plus(&b);
        prop_assert!(sum.contains(&a) && sum.contains(&b));
        prop_assert!(a.contains(&a) && a.contains(&Resources::new()));
        prop_assert_eq!(b.contains(&a) && a.contains(&b), a == b);
    }

    #[test]
    fn what_is_taken_can_be_given_back(a in amount(), b in amount()) {
        let part = a.intersection(&b);
        prop_assert!(a.contains(&part) && b.contains(&part));
        let rest = a.checked_sub(&part).expect("a part");
        prop_assert_eq!(rest.plus(&part), a.clone());
        prop_assert_eq!(a.checked_sub(&a), Some(Resources::new()));
        let mut left = a.clone();
        left.saturating_sub(&b);
        prop_assert_eq!(left, rest);
    }

    #[test]
    fn subtraction_is_refused_unless_all_is_there(a in amount(), b in amount()) {
        prop_assert_eq!(a.checked_sub(&b).is_some(), a.contains(&b));
    }

    #[test]
    fn filters_split(a in amount()) {
        prop_assert_eq!(a.revocable().plus(&a.non_revocable()), a.clone());
        prop_assert_eq!(a.reserved().plus(&a.unreserved()), a.clone());
        prop_assert_eq!(a.unallocate().allocate("r").unallocate(), a.unallocate());
        let reservation = Reservation { dynamic: true, role: "z".into(), principal: None, labels: vec![] };
        prop_assert_eq!(a.push_reservation(&reservation).pop_reservation(), a);
    }

    #[test]
    fn formats_lose_nothing(a in amount()) {
        for format in [Format::PreRefinement, Format::PostRefinement, Format::Endpoint] {
            prop_assert_eq!(Resources::from_v1(&a.to_v1(format)), Ok(a.clone()));
        }
    }

    #[test]
    fn text_of_plain_amounts_reads_back(a in amount()) {
        let plain: Resources = a.filter(|it| it.disk.is_none() && !it.revocable).unallocate().without_reservations();
        if !plain.is_empty() {
            prop_assert_eq!(parse(&plain.to_string(), "*").expect("text").resources, plain);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-z0-9:;(){}, .-]{0,40}|\\PC{0,40}") {
        let _ = parse(&text, "*");
        let _ = api::attributes::parse(&text);
    }
}

/// Many resources in one call: the time must not grow with the square of their number.
#[test]
fn hostile_amounts_are_cheap() {
    let many: Resources = (0..60_000u64)
        .rev()
        .map(|n| Resource::new(format!("r{n:06}").as_str(), Value::Scalar(1)))
        .chain((0..60_000).map(|n| Resource::new("ports", Value::ranges([(n * 3, n * 3 + 1)]))))
        .collect();
    assert_eq!(many.iter().count(), 60_001);
    assert!(many.contains(&many));
    assert_eq!(many.plus(&many).checked_sub(&many).map(|left| left.scalar_milli("r000000")), Some(1));
    assert_eq!(many.intersection(&many), many);
    let mut left = many.clone();
    left.saturating_sub(&many);
    assert!(left.is_empty());
}
