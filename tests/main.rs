//! The tests that need more than one module, or the kernel.

mod http;
mod injected;
mod live;
mod support;
