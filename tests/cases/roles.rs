//! Who the client is: evidence goes before a guess.
