//! Primary and backup as machines without I/O.
