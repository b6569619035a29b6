//! A moment is not taken for another: an answer, a round trip, an end.
