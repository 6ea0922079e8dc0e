//! The names of links by their numbers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::bind::link_name;

/// How many links are remembered by number.
const MOST_LINKS: usize = 1024;

/// The names of links by number; the kernel does not use a number again.
#[derive(Default)]
pub(super) struct Links {
    names: RefCell<HashMap<u32, Rc<str>>>,
}

impl Links {
    pub(super) fn name(&self, index: u32) -> Rc<str> {
        if let Some(name) = self.names.borrow().get(&index) {
            return Rc::clone(name);
        }
        // A link that was removed meanwhile belongs to no network.
        let Some(name) = link_name(index).map(Rc::<str>::from) else { return Rc::from("") };
        let mut names = self.names.borrow_mut();
        if names.len() >= MOST_LINKS {
            names.clear();
        }
        names.insert(index, Rc::clone(&name));
        name
    }

    /// Forgets the names, because links may have been renamed.
    pub(super) fn forget(&self) {
        self.names.borrow_mut().clear();
    }
}
