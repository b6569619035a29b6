//! What is known of a connection lives as long as anything judges by it.
