//! DEL of whatever is left, however little the caller knows: it succeeds, and nothing stays (I5).

use serde_json::{Value, json};

use crate::common::Outcome;
use crate::site::{Member, Network, Site};

/// Something that happens between ADD and DEL, and how DEL is called then.
type Story = fn(&Site, &Member<'_>) -> Result<(), Outcome>;

const STORIES: [(&str, Story); 11] = [
    ("the namespace is unpinned", |_, member| {
        member.container.remove().unwrap();
        member.del()
    }),
    ("CNI_NETNS is empty", |_, member| del_with(member, "CNI_NETNS", "")),
    ("CNI_NETNS is a plain file", |site, member| {
        let file = site.lab.host.root().join("plain");
        std::fs::write(&file, "").unwrap();
        del_with(member, "CNI_NETNS", &file.to_string_lossy())
    }),
    ("the interface is gone", |_, member| {
        let index = crate::common::inside(member.container.netns()).link("eth0").unwrap().unwrap().index;
        member.container.run(|| netlink::delete_link(index, &[], true).unwrap()).unwrap();
        member.del()
    }),
    ("DEL twice", |_, member| member.del().and_then(|()| member.del())),
    ("DEL without prevResult", |_, member| {
        member.remember(None);
        member.del()
    }),
    ("the bridge has another name by now", |_, member| {
        del_changed(member, |config| config["bridge"] = "elsewhere".into())
    }),
    ("the ports are gone from the configuration", |_, member| {
        del_changed(member, |config| drop(config.as_object_mut().unwrap().remove("runtimeConfig")))
    }),
    ("the subnet is another by now", |_, member| {
        del_changed(member, |config| config["ipam"]["ranges"] = json!([[{"subnet": "10.99.0.0/24"}]]))
    }),
    ("the configuration is faulty by now", |_, member| {
        del_changed(member, |config| {
            config["runtimeConfig"] = json!({"portMappings": [{"hostPort": 0, "containerPort": 80}]});
        })
    }),
    ("the rules were flushed", |site, member| {
        site.lab.firewall(|firewall| firewall.drop_tables().unwrap());
        member.del()
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
        let site = Site::new();
        let member = site.member(&network, "web").publishing(8080);
        let before = site.state(&[&member]);

        member.del().unwrap();

        before.assert_same(&site.state(&[&member]));
    }
}

#[test]
fn the_namespace_has_died() {
    for of in [Network::rnet, Network::chain, Network::restricted] {
        let network = of("mynet", "10.7.0.0/24");
        let site = Site::new();
        warm_up(&site, &network);
        let before = site.state(&[]);
        let member = site.member(&network, "web").publishing(8080);
        member.add().unwrap();
        let Member { container, who, ports, .. } = member;
        drop(container);

        for plugin in network.plugins().into_iter().rev() {
            let config = network.config(plugin, &ports, None);
            site.lab.del(plugin, &who, &config);
        }

        before.assert_same(&site.state(&[]));
    }
}

#[test]
fn the_bridge_was_deleted() {
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let site = Site::new();
    let (web, db) =
        (site.member(&network, "web").publishing(8080), site.member(&network, "db").publishing(8081));
    let before = site.state(&[&web, &db]);
    web.add().unwrap();
    let bridge = site.lab.link(&network.bridge()).unwrap().index;
    site.lab.host.run(|| netlink::delete_link(bridge, &[], true).unwrap()).unwrap();

    db.add().unwrap();

    assert!(db.works());
    web.del().unwrap();
    db.del().unwrap();
    before.assert_same(&site.state(&[&web, &db]));
}

#[test]
fn a_network_that_has_moved_to_another_bridge_leaves_neither() {
    let old = Network::rnet("mynet", "10.7.0.0/24");
    let mut new = old.clone();
    new.list["plugins"][0]["bridge"] = "elsewhere".into();
    let site = Site::new();
    let (web, db) = (site.member(&old, "web").publishing(8080), site.member(&new, "db").publishing(8081));
    let before = site.state(&[&web, &db]);
    web.add().unwrap();
    db.add().unwrap();

    web.del().unwrap();
    db.del().unwrap();

    before.assert_same(&site.state(&[&web, &db]));
}

fn tell_all(network: &Network) {
    for (title, story) in STORIES {
        eprintln!("{title}");
        let site = Site::new();
        warm_up(&site, network);
        let member = site.member(network, "web").publishing(8080);
        let neighbour = site.member(network, "neighbour").publishing(9000);
        let empty = site.state(&[&neighbour]);
        neighbour.add().unwrap();
        let before = site.state(&[&neighbour]);
        member.add().unwrap();

        story(&site, &member).unwrap();

        if title == "the rules were flushed" {
            // They come back with the next ADD, not with a DEL.
            member.add().unwrap();
            member.del().unwrap();
        }
        before.assert_same(&site.state(&[&neighbour]));
        assert!(neighbour.works(), "{title}");
        neighbour.del().unwrap();
        empty.assert_same(&site.state(&[&neighbour]));
    }
}

/// A chain's bridge stays once it is made, as upstream's does.
fn warm_up(site: &Site, network: &Network) {
    let first = site.member(network, "first");
    first.add().unwrap();
    first.del().unwrap();
}

fn del_with(member: &Member<'_>, variable: &str, value: &str) -> Result<(), Outcome> {
    let previous = member.remembered();
    for plugin in member.network.plugins().into_iter().rev() {
        let outcome = member.call("DEL", plugin, previous.as_ref(), None).set(variable, value).run();
        if outcome.status != 0 {
            return Err(outcome);
        }
    }
    Ok(())
}

fn del_changed(member: &Member<'_>, change: fn(&mut Value)) -> Result<(), Outcome> {
    let previous = member.remembered();
    for plugin in member.network.plugins().into_iter().rev() {
        let mut config = member.network.config(plugin, &member.ports, previous.as_ref());
        change(&mut config);
        let outcome = member.call("DEL", plugin, None, None).input(config.to_string()).run();
        if outcome.status != 0 {
            return Err(outcome);
        }
    }
    Ok(())
}
