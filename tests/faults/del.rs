//! DEL of whatever is left, however little the caller knows: it succeeds, and nothing stays (I5).

use serde_json::{Value, json};

use crate::common::{Guest, Host, Network, Outcome};

/// Something that happens between ADD and DEL, and how DEL is called then.
type Story = fn(&Host, &Guest<'_>) -> Result<(), Outcome>;

const STORIES: [(&str, Story); 11] = [
    ("the namespace is unpinned", |_, guest| {
        guest.container.remove().unwrap();
        guest.del()
    }),
    ("CNI_NETNS is empty", |_, guest| del_with(guest, "CNI_NETNS", "")),
    ("CNI_NETNS is a plain file", |host, guest| {
        let file = host.root().join("plain");
        std::fs::write(&file, "").unwrap();
        del_with(guest, "CNI_NETNS", &file.to_string_lossy())
    }),
    ("the interface is gone", |_, guest| {
        let index = crate::common::inside(guest.container.netns()).link("eth0").unwrap().unwrap().index;
        guest.container.run(|| netlink::delete_link(index, &[], true).unwrap()).unwrap();
        guest.del()
    }),
    ("DEL twice", |_, guest| guest.del().and_then(|()| guest.del())),
    ("DEL without prevResult", |_, guest| {
        guest.remember(None);
        guest.del()
    }),
    ("the bridge has another name by now", |_, guest| {
        del_changed(guest, |config| config["bridge"] = "elsewhere".into())
    }),
    ("the ports are gone from the configuration", |_, guest| {
        del_changed(guest, |config| drop(config.as_object_mut().unwrap().remove("runtimeConfig")))
    }),
    ("the subnet is another by now", |_, guest| {
        del_changed(guest, |config| config["ipam"]["ranges"] = json!([[{"subnet": "10.99.0.0/24"}]]))
    }),
    ("the configuration is faulty by now", |_, guest| {
        del_changed(guest, |config| {
            config["runtimeConfig"] = json!({"portMappings": [{"hostPort": 0, "containerPort": 80}]});
        })
    }),
    ("the rules were flushed", |host, guest| {
        host.firewall(|firewall| firewall.drop_tables().unwrap());
        guest.del()
    }),
];

#[test]
fn rnet_leaves_nothing() {
    tell_all(&Network::rnet("mynet", "10.7.0.0/24"));
}

#[test]
fn the_chain_leaves_nothing() {
    tell_all(&Network::chain("mynet", "10.7.0.0/24"));
}

#[test]
fn del_without_add_is_no_failure_and_makes_nothing() {
    for of in [Network::rnet, Network::chain, Network::restricted] {
        let network = of("mynet", "10.7.0.0/24");
        let host = Host::with_outside();
        let guest = host.guest(&network, "web").publishing(8080);
        let before = host.state(&[&guest]);

        guest.del().unwrap();

        before.assert_same(&host.state(&[&guest]));
    }
}

#[test]
fn the_namespace_has_died() {
    for of in [Network::rnet, Network::chain, Network::restricted] {
        let network = of("mynet", "10.7.0.0/24");
        let host = Host::with_outside();
        warm_up(&host, &network);
        let before = host.state(&[]);
        let guest = host.guest(&network, "web").publishing(8080);
        guest.add().unwrap();
        let Guest { container, who, ports, .. } = guest;
        drop(container);

        for plugin in network.plugins().into_iter().rev() {
            let config = network.config(plugin, &ports, None);
            host.del(plugin, &who, &config);
        }

        before.assert_same(&host.state(&[]));
    }
}

#[test]
fn the_bridge_was_deleted() {
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let host = Host::with_outside();
    let (web, db) =
        (host.guest(&network, "web").publishing(8080), host.guest(&network, "db").publishing(8081));
    let before = host.state(&[&web, &db]);
    web.add().unwrap();
    let bridge = host.link(&network.bridge()).unwrap().index;
    host.run(|| netlink::delete_link(bridge, &[], true).unwrap()).unwrap();

    db.add().unwrap();

    assert!(db.works());
    web.del().unwrap();
    db.del().unwrap();
    before.assert_same(&host.state(&[&web, &db]));
}

#[test]
fn a_network_that_has_moved_to_another_bridge_leaves_neither() {
    let old = Network::rnet("mynet", "10.7.0.0/24");
    let mut new = old.clone();
    new.list["plugins"][0]["bridge"] = "elsewhere".into();
    let host = Host::with_outside();
    let (web, db) = (host.guest(&old, "web").publishing(8080), host.guest(&new, "db").publishing(8081));
    let before = host.state(&[&web, &db]);
    web.add().unwrap();
    db.add().unwrap();

    web.del().unwrap();
    db.del().unwrap();

    before.assert_same(&host.state(&[&web, &db]));
}

fn tell_all(network: &Network) {
    for (title, story) in STORIES {
        eprintln!("{title}");
        let host = Host::with_outside();
        warm_up(&host, network);
        let guest = host.guest(network, "web").publishing(8080);
        let neighbour = host.guest(network, "neighbour").publishing(9000);
        let empty = host.state(&[&neighbour]);
        neighbour.add().unwrap();
        let before = host.state(&[&neighbour]);
        guest.add().unwrap();

        story(&host, &guest).unwrap();

        if title == "the rules were flushed" {
            // They come back with the next ADD, not with a DEL.
            guest.add().unwrap();
            guest.del().unwrap();
        }
        before.assert_same(&host.state(&[&neighbour]));
        assert!(neighbour.works(), "{title}");
        neighbour.del().unwrap();
        empty.assert_same(&host.state(&[&neighbour]));
    }
}

/// A chain's bridge stays once it is made, as upstream's does.
fn warm_up(host: &Host, network: &Network) {
    let first = host.guest(network, "first");
    first.add().unwrap();
    first.del().unwrap();
}

fn del_with(guest: &Guest<'_>, variable: &str, value: &str) -> Result<(), Outcome> {
    let previous = guest.remembered();
    for plugin in guest.network.plugins().into_iter().rev() {
        let outcome = guest.call("DEL", plugin, previous.as_ref(), None).set(variable, value).run();
        if outcome.status != 0 {
            return Err(outcome);
        }
    }
    Ok(())
}

fn del_changed(guest: &Guest<'_>, change: fn(&mut Value)) -> Result<(), Outcome> {
    let previous = guest.remembered();
    for plugin in guest.network.plugins().into_iter().rev() {
        let mut config = guest.network.config(plugin, &guest.ports, previous.as_ref());
        change(&mut config);
        let outcome = guest.call("DEL", plugin, None, None).input(config.to_string()).run();
        if outcome.status != 0 {
            return Err(outcome);
        }
    }
    Ok(())
}
