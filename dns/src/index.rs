//! An index from keys to the few values that share one.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::slice;
use std::sync::Arc;

/// Finds the values of a key, in the order in which they were added.
#[derive(Debug)]
pub(crate) struct Index<K, T: ?Sized>(HashMap<K, Sharers<T>>);

/// The values of one key. Nearly always it is one, which then needs no allocation.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "there are many, and hardly one is the larger kind")]
enum Sharers<T: ?Sized> {
    One(Arc<T>),
    Many(Box<Vec<Arc<T>>>),
}

impl<K, T: ?Sized> Default for Index<K, T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq, T: ?Sized> Index<K, T> {
    /// The values of a key.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> &[Arc<T>]
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map_or(&[], Sharers::as_slice)
    }

    /// The stored key, so that it can be shared.
    pub(crate) fn key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
    {
        self.0.get_key_value(key).map(|(key, _)| key)
    }

    /// All values.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.0.values().flat_map(Sharers::as_slice)
    }

    /// Adds a value under a key.
    pub(crate) fn add(&mut self, key: K, one: &Arc<T>) {
        match self.0.entry(key) {
            Entry::Occupied(mut sharers) => sharers.get_mut().add(one),
            Entry::Vacant(place) => drop(place.insert(Sharers::One(Arc::clone(one)))),
        }
    }

    /// Removes a value from a key.
    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, one: &Arc<T>)
    where
        K: Borrow<Q>,
    {
        if self.0.get_mut(key).is_some_and(|sharers| sharers.remove(one)) {
            self.0.remove(key);
        }
    }
}

impl<T: ?Sized> Sharers<T> {
    fn as_slice(&self) -> &[Arc<T>] {
        match self {
            Self::One(one) => slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn add(&mut self, one: &Arc<T>) {
        match self {
            Self::One(first) => *self = Self::Many(vec![Arc::clone(first), Arc::clone(one)].into()),
            Self::Many(many) => many.push(Arc::clone(one)),
        }
    }

    /// Removes a value; true if none is left.
    fn remove(&mut self, one: &Arc<T>) -> bool {
        match self {
            Self::One(only) => Arc::ptr_eq(only, one),
            Self::Many(many) => {
                many.retain(|other| !Arc::ptr_eq(other, one));
                many.is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_key_are_found_in_their_order_until_they_are_removed() {
        let [a, b, c]: [Arc<str>; 3] = ["a", "b", "c"].map(Into::into);
        let mut index = Index::<Box<str>, str>::default();
        for one in [&a, &b, &c] {
            index.add("key".into(), one);
        }
        index.remove("key", &b);
        index.remove("other", &a);
        assert_eq!(index.get("key"), [Arc::clone(&a), Arc::clone(&c)]);
        index.remove("key", &a);
        index.remove("key", &c);
        assert!(index.get("key").is_empty() && index.key("key").is_none());
    }
}
