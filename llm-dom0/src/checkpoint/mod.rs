//! Checkpoint engines.
