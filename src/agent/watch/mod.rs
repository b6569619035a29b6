//! Threads that follow what changes by itself: interfaces, pods, the configuration file.

mod config_file;
pub(super) mod interfaces;
mod news;
pub(super) mod pods;

pub(super) use config_file::ConfigWatch;
