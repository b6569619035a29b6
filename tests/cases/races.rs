//! CPUs do not race for what is known of a connection.
