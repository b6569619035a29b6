//! An outcome looks at what the packet is.
