//! Records of the input log.
