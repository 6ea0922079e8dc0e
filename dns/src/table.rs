//! Who has which name, for whom.
