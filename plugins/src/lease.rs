//! IPAM plugins: host-local in this process, or another program.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use cni::{Call, CniResult, Config, Request, Verb, delegate};
use engine::spec::{Lease, Leaser};
use store::Id;

use crate::error::Fault;
use crate::members::is_named;
use crate::{Error, call, host_local};

/// The IPAM plugin of a network's configuration.
pub struct Delegate<'r> {
    /// Its name, which is looked up in CNI_PATH.
    name: String,
    /// The call that needs it.
    request: Request<'r>,
    /// Set by the first look-up.
    found: OnceCell<Found>,
}

/// Where the IPAM plugin was found.
enum Found {
    /// host-local of this program, in this process.
    HostLocal,
    /// The program at this path.
    Program(PathBuf),
}

impl Leaser for Delegate<'_> {
    fn require(&self) -> Result<(), engine::Error> {
        Ok(self.find().map(drop)?)
    }

    fn is_foreign(&self) -> bool {
        matches!(self.find(), Ok(Found::Program(_)))
    }

    fn lease(&self) -> Result<Lease, engine::Error> {
        Ok(match self.find()? {
            Found::HostLocal => host_local::lease(&self.request)?,
            Found::Program(program) => {
                call::lease(execute(program, Verb::Add, &self.request)?.unwrap_or_default())
            }
        })
    }

    /// The plugin knows the network by the name that it had at ADD.
    fn release(&self, id: &Id) -> Result<(), engine::Error> {
        let config = rename(self.request.config, &id.network);
        let is_of_the_call =
            call::id(&self.request) == Id { network: self.request.config.name.clone(), ..id.clone() };
        let mut of = self.request.call.clone();
        if !is_of_the_call {
            of = Call {
                container_id: id.container.clone(),
                ifname: id.ifname.clone(),
                netns: String::new(),
                ..of
            };
        }
        let request = Request { call: &of, config: &config };
        self.call(Verb::Del, &request, host_local::release)
    }

    fn check(&self) -> Result<(), engine::Error> {
        self.call(Verb::Check, &self.request, host_local::check)
    }

    fn status(&self) -> Result<(), engine::Error> {
        self.call(Verb::Status, &self.request, host_local::status)
    }

    fn gc(&self) -> Result<(), engine::Error> {
        self.call(Verb::Gc, &self.request, host_local::gc)
    }
}

impl<'r> Delegate<'r> {
    /// The plugin called `name`.
    pub fn new(name: String, request: &Request<'r>) -> Self {
        Self { name, request: *request, found: OnceCell::new() }
    }

    fn call(
        &self,
        verb: Verb,
        request: &Request<'_>,
        here: fn(&Request<'_>) -> Result<(), Error>,
    ) -> Result<(), engine::Error> {
        match self.find()? {
            Found::HostLocal => Ok(here(request)?),
            Found::Program(program) => Ok(execute(program, verb, request).map(drop)?),
        }
    }

    fn find(&self) -> Result<&Found, Error> {
        match self.found.get() {
            Some(found) => Ok(found),
            None => self.look_up().map(|found| self.found.get_or_init(|| found)),
        }
    }

    /// In this process if CNI_PATH leads to this very program. Any other plugin of rnet's would wait for the locks that its
    /// caller holds.
    fn look_up(&self) -> Result<Found, Error> {
        if self.request.call.own_delegates && self.name == "host-local" {
            return Ok(Found::HostLocal);
        }
        let program = delegate::find(&self.name, &self.request.call.path)?;
        if !delegate::is_this_program(&program) {
            return Ok(Found::Program(program));
        }
        match is_named(&self.name, "host-local") {
            true => Ok(Found::HostLocal),
            false => Err(Error::Config(Fault::NotIpam(self.name.clone()))),
        }
    }
}

fn execute(program: &Path, verb: Verb, request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let config = &request.config.raw;
    let Some(reply) = delegate::exec(program, request.call, verb, config)? else { return Ok(None) };
    // It may answer in another version than it was asked in.
    Ok(Some(CniResult::parse_any(&reply, request.config.cni_version)?))
}

/// The configuration of a network as it was when that had another name.
fn rename<'a>(config: &'a Config, name: &str) -> Cow<'a, Config> {
    if config.name == name {
        return Cow::Borrowed(config);
    }
    let mut renamed = config.clone();
    renamed.name = name.to_owned();
    if let Some(members) = renamed.raw.as_object_mut() {
        members.retain(|key, _| !key.eq_ignore_ascii_case("name"));
        members.insert("name".into(), name.into());
    }
    Cow::Owned(renamed)
}
