//! The same packet at several places counts once, different packets at several places each.
