//! Masters that are started with what does not fit their disk: at another address, or for another cluster.

use proptests::cluster::{Plan, READY};
use proptests::wait;

#[test]
fn a_member_that_the_others_would_not_find_says_so_and_ends() {
    let mut cluster = Plan::new().masters(3).start();
    let member = cluster.follower();
    let old = cluster.address(&member).port().to_string();
    cluster.stop(&member);
    for join in [None, Some("127.0.0.1:1")] {
        cluster.set_flag(&member, "masters", None);
        cluster.set_flag(&member, "join", join);
        cluster.set_flag(&member, "port", Some(&free_port()));
        cluster.restart(&member);
        assert!(!cluster.wait_end(&member).success());
        let log = cluster.log(&member);
        let said = format!("the other masters reach the master on this disk at 127.0.0.1:{old}");
        assert!(log.contains(&said) && log.contains("meseta masters replace"), "{log}");
    }
    cluster.set_flag(&member, "join", None);
    cluster.set_flag(&member, "port", Some(&old));
    cluster.restart(&member);
    cluster.wait_ready();
}

#[test]
fn a_disk_of_another_cluster_is_not_taken_for_an_empty_one() {
    let other = Plan::new().start();
    let mut cluster = Plan::new().start();
    cluster.stop("m0");
    cluster.set_flag("m0", "join", Some(&other.address("m0").to_string()));
    cluster.restart("m0");
    assert!(!cluster.wait_end("m0").success());
    let log = cluster.log("m0");
    assert!(log.contains("is a master of cluster") && log.contains("belongs to cluster"), "{log}");

    let list = format!("{},127.0.0.1:1,127.0.0.1:2", cluster.address("m0"));
    cluster.set_flag("m0", "join", None);
    cluster.set_flag("m0", "masters", Some(&list));
    cluster.restart("m0");
    cluster.wait_ready();
    wait::until("the warning", READY, || {
        cluster.log("m0").contains("--masters is read on an empty disk alone").then_some(())
    });
}

fn free_port() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("it is bound").port().to_string()
}
