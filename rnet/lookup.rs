//! Which network or endpoint a word means: one rule for every verb.
//!
//! The exact name first, and if there is one nothing else counts; then the full id; then the beginning of an id, if it has
//! six hex digits at least and fits one thing only. Two hits are an error, never a guess.

use store::Record;

use crate::containers::Container;
use crate::definitions::Network;
use crate::ended::Ended;
use crate::names;
use crate::report::Problem;

/// A shorter beginning of an id is no word for anything: ids are hashes, so every letter would hit something.
const SHORTEST_PREFIX: usize = 6;

/// What a verb takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Networks and endpoints.
    All,
    /// Networks.
    Networks,
    /// Endpoints.
    Endpoints,
}

/// What a word means.
#[derive(Clone, Copy, Debug)]
pub enum Thing<'a> {
    /// A network.
    Network(&'a Network),
    /// An endpoint that has not ended.
    Endpoint(&'a Container),
    /// An endpoint that has.
    Ended(&'a Ended),
}

impl<'a> Thing<'a> {
    /// The network, if it is one.
    pub fn network(self) -> Option<&'a Network> {
        match self {
            Thing::Network(network) => Some(network),
            _ => None,
        }
    }
}

/// Everything that a word can mean.
#[derive(Debug, Default)]
pub struct Known {
    /// The networks; the built-in one among them if anybody is on it or a word asks for it.
    pub networks: Vec<Network>,
    /// Everybody who is on a network, or was started by `rnet run`.
    pub containers: Vec<Container>,
    /// Those who have ended, the last one first.
    pub ended: Vec<Ended>,
    /// The records that `containers` are made of.
    pub records: Vec<Record>,
}

/// One thing with its words.
struct Candidate<'a> {
    id: String,
    /// None for what another thing of this name hides.
    name: Option<&'a str>,
    thing: Thing<'a>,
}

impl Known {
    /// The one thing that a word means.
    pub fn find(&self, word: &str, kinds: Kinds) -> Result<Thing<'_>, Problem> {
        let candidates = self.candidates(kinds);
        for way in WAYS {
            let hits: Vec<_> = candidates.iter().filter(|candidate| way(word, candidate)).collect();
            match hits[..] {
                [] => {}
                [one] => return Ok(one.thing),
                _ => return Err(ambiguous(word, &hits)),
            }
        }
        Err(self.missing(word, kinds))
    }

    /// The endpoint that a word means. One that has ended is said to have ended.
    pub fn living(&self, word: &str) -> Result<&Container, Problem> {
        match self.find(word, Kinds::Endpoints)? {
            Thing::Endpoint(container) => Ok(container),
            Thing::Ended(ended) => Err(ended.is_over()),
            Thing::Network(_) => Err(self.missing(word, Kinds::Endpoints)),
        }
    }

    /// The network that a word means.
    pub fn network(&self, word: &str) -> Result<&Network, Problem> {
        match self.find(word, Kinds::Networks)? {
            Thing::Network(network) => Ok(network),
            _ => Err(self.missing(word, Kinds::Networks)),
        }
    }

    fn candidates(&self, kinds: Kinds) -> Vec<Candidate<'_>> {
        let networks = self.networks.iter().filter(|_| kinds != Kinds::Endpoints).map(|network| Candidate {
            id: network.id(),
            // The name of the built-in network means that one, even if another network has this name.
            name: Some(network.name.as_str()).filter(|name| *name != names::DEFAULT || network.is_builtin()),
            thing: Thing::Network(network),
        });
        if kinds == Kinds::Networks {
            return networks.collect();
        }
        let containers = self.containers.iter().map(|container| Candidate {
            id: container.id.clone(),
            name: Some(&container.name),
            thing: Thing::Endpoint(container),
        });
        let ended = self.ended.iter().enumerate().map(|(index, ended)| Candidate {
            id: ended.endpoint.id.clone(),
            name: Some(ended.endpoint.name.as_str()).filter(|name| !self.is_hidden(name, index)),
            thing: Thing::Ended(ended),
        });
        networks.chain(containers).chain(ended).collect()
    }

    /// True if a living endpoint, or one that ended later than the one at `index`, has the name.
    fn is_hidden(&self, name: &str, index: usize) -> bool {
        self.containers.iter().any(|container| container.name == name)
            || self.ended[..index].iter().any(|ended| ended.endpoint.name == name)
    }

    fn missing(&self, word: &str, kinds: Kinds) -> Problem {
        if kinds != Kinds::Endpoints && names::WITHOUT_NETWORK.contains(&word) {
            return Problem::NoRealNetwork { name: word.to_owned() };
        }
        let networks = self.networks.iter().map(|network| network.name.as_str()).chain([names::DEFAULT]);
        let endpoints = self.containers.iter().map(|container| container.name.as_str());
        let endpoints = endpoints.chain(self.ended.iter().map(|ended| ended.endpoint.name.as_str()));
        let name = word.to_owned();
        match kinds {
            Kinds::Networks => Problem::NoNetwork { name, near: names::nearest(word, networks) },
            Kinds::Endpoints => Problem::NoEndpoint { name, near: names::nearest(word, endpoints) },
            Kinds::All => Problem::Nothing { name, near: names::nearest(word, networks.chain(endpoints)) },
        }
    }
}

/// Whether a word means a thing.
type Way = fn(&str, &Candidate<'_>) -> bool;

const WAYS: [Way; 3] = [
    |word, candidate| candidate.name == Some(word),
    |word, candidate| candidate.id == word,
    |word, candidate| is_prefix(word) && candidate.id.starts_with(word),
];

fn is_prefix(word: &str) -> bool {
    word.len() >= SHORTEST_PREFIX && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn ambiguous(word: &str, hits: &[&Candidate<'_>]) -> Problem {
    let is_network = |hit: &&&Candidate<'_>| matches!(hit.thing, Thing::Network(_));
    let networks = hits.iter().filter(is_network).count();
    let name = word.to_owned();
    if (networks, hits.len()) == (1, 2) {
        let hits = vec![format!("network {word:?}"), format!("endpoint {word:?}")];
        return Problem::Ambiguous { name, hits, hint: "--type network or --type endpoint" };
    }
    let hits = hits.iter().map(|hit| hit.words()).collect();
    Problem::Ambiguous {
        name,
        hits,
        hint: "more digits of the id (rnet ls --json and rnet ps --json show it)",
    }
}

impl Candidate<'_> {
    /// `network "web"`, `endpoint "web" (4f2a9c001122)`.
    fn words(&self) -> String {
        let id: String = self.id.chars().take(12).collect();
        match self.thing {
            Thing::Network(network) => format!("network {:?}", network.name),
            Thing::Endpoint(container) if container.name == id => format!("endpoint {id}"),
            Thing::Endpoint(container) => format!("endpoint {:?} ({id})", container.name),
            Thing::Ended(ended) => format!("endpoint {:?} ({id}, ended)", ended.endpoint.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions::default_network;
    use crate::endpoint::Endpoint;

    fn container(id: &str, name: &str) -> Container {
        Container { id: id.into(), name: name.into(), ..Container::default() }
    }

    fn ended(id: &str, name: &str) -> Ended {
        let endpoint = Endpoint { id: id.into(), name: name.into(), ..Endpoint::default() };
        Ended { endpoint, ..Ended::default() }
    }

    fn known() -> Known {
        Known {
            networks: vec![default_network("172.18.0.0/16".parse().unwrap()).unwrap()],
            containers: vec![
                container("4f2a9c00", "web"),
                container("4f2a9c11", "db"),
                container("dbdbdbdb", "4f2a9c"),
                container("aaaaaaaa", "twin"),
                container("bbbbbbbb", "twin"),
            ],
            ended: vec![ended("cc00cc00", "db"), ended("cc11cc11", "old"), ended("cc22cc22", "old")],
            records: Vec::new(),
        }
    }

    /// The id of what a word means, or the error's first words.
    fn look(word: &str, kinds: Kinds) -> String {
        match known().find(word, kinds) {
            Ok(Thing::Network(network)) => network.name.clone(),
            Ok(Thing::Endpoint(container)) => container.id.clone(),
            Ok(Thing::Ended(ended)) => ended.endpoint.id.clone(),
            Err(problem) => problem.to_string(),
        }
    }

    #[test]
    fn the_name_counts_before_any_id_and_an_id_needs_six_digits() {
        let look = |word| look(word, Kinds::Endpoints);
        assert_eq!(look("4f2a9c"), "dbdbdbdb", "a name that looks like an id");
        assert_eq!(look("db"), "4f2a9c11", "neither the id that begins so nor the one that ended");
        assert_eq!(look("dbdbdbdb"), "dbdbdbdb");
        assert_eq!(look("dbdbdb"), "dbdbdbdb");
        assert_eq!(look("dbdbd"), "no endpoint \"dbdbd\"");
        assert_eq!(look("4f2a9c0"), "4f2a9c00");
        assert_eq!(look("old"), "cc11cc11", "the last one that ended");
        assert_eq!(look("cc22cc"), "cc22cc22");
        assert_eq!(look(""), "no endpoint \"\"");
    }

    #[test]
    fn two_hits_are_an_error_that_names_both() {
        let look = |word| look(word, Kinds::All);
        assert_eq!(
            look("twin"),
            "\"twin\" is ambiguous: endpoint \"twin\" (aaaaaaaa), endpoint \"twin\" (bbbbbbbb)"
        );
        let mut known = known();
        known.containers.remove(2);
        assert_eq!(
            known.find("4f2a9c", Kinds::All).unwrap_err().to_string(),
            "\"4f2a9c\" is ambiguous: endpoint \"web\" (4f2a9c00), endpoint \"db\" (4f2a9c11)"
        );
    }

    #[test]
    fn dockers_words_for_no_network_are_told_apart_from_slips() {
        assert_eq!(look("bridge", Kinds::Networks), "bridge");
        assert!(
            look("none", Kinds::All).starts_with("none is not a network"),
            "{}",
            look("none", Kinds::All)
        );
        assert_eq!(look("none", Kinds::Endpoints), "no endpoint \"none\"");
        let missing = known().find("wep", Kinds::All).unwrap_err();
        assert!(matches!(missing, Problem::Nothing { near: Some(near), .. } if near == "web"));
    }
}
