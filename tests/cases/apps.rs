//! Detectors know what real implementations send.
