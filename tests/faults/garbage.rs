//! Files of rnet that are torn, empty or foreign are set aside, and calls go on.

use std::fs;
use std::path::Path;

use crate::common::{Host, Network};

/// What becomes of a file's content.
type Spoil = fn(&[u8]) -> Vec<u8>;

const SPOILS: [Spoil; 3] = [
    |_| Vec::new(),
    |whole| whole[..whole.len() / 2].to_vec(),
    |whole| whole.iter().map(|byte| !byte).collect(),
];

#[test]
fn a_del_whose_record_is_garbage_takes_all_away_by_its_key() {
    for of in [Network::rnet, Network::chain, Network::restricted] {
        let network = of("mynet", "10.7.0.0/24");
        let host = Host::with_outside();
        let web = host.guest(&network, "web").publishing(8080);
        let neighbour = host.guest(&network, "neighbour").publishing(9000);
        neighbour.add().unwrap();
        let before = host.state(&[&web, &neighbour]);
        for spoil in SPOILS {
            web.add().unwrap();
            records_of(&host, "web").iter().for_each(|file| spoil_file(file, spoil));
            // It looks at all records, and sets these aside.
            neighbour.gc(&["web", "neighbour"]).unwrap();

            web.del().unwrap();

            before.assert_same(&host.state(&[&web, &neighbour]));
            host.assert_balanced(&[&web, &neighbour]);
            assert!(neighbour.works());
        }
    }
}

#[test]
fn an_add_over_a_garbage_record_attaches_anew() {
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let host = Host::with_outside();
    let web = host.guest(&network, "web").publishing(8080);
    let before = host.state(&[&web]);
    for spoil in SPOILS {
        web.add().unwrap();
        records_of(&host, "web").iter().for_each(|file| spoil_file(file, spoil));

        web.add().unwrap();

        assert!(web.works());
        host.assert_balanced(&[&web]);
        web.del().unwrap();
        before.assert_same(&host.state(&[&web]));
    }
}

#[test]
fn what_is_noted_of_the_ruleset_and_the_lease_index_are_made_anew() {
    let network = Network::rnet("mynet", "10.7.0.0/24");
    let host = Host::with_outside();
    let (web, db) =
        (host.guest(&network, "web").publishing(8080), host.guest(&network, "db").publishing(8081));
    let before = host.state(&[&web, &db]);
    web.add().unwrap();
    for spoil in SPOILS {
        let run = host.store().paths().run();
        spoil_file(&run.join("ruleset"), spoil);
        let index = fs::read_dir(run.join("index")).unwrap();
        index.for_each(|file| spoil_file(&file.unwrap().path(), spoil));

        db.add().unwrap();

        assert!(web.works() && db.works());
        host.assert_balanced(&[&web, &db]);
        db.del().unwrap();
    }
    web.del().unwrap();
    before.assert_same(&host.state(&[&web, &db]));
}

/// The files that hold the records of a container.
fn records_of(host: &Host, container: &str) -> Vec<std::path::PathBuf> {
    let folders = fs::read_dir(host.store().paths().run().join("records")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    let files = files.map(|file| file.unwrap().path());
    files.filter(|file| fs::read_to_string(file).unwrap().contains(&format!("\"{container}\""))).collect()
}

fn spoil_file(file: &Path, spoil: Spoil) {
    fs::write(file, spoil(&fs::read(file).unwrap())).unwrap();
}
