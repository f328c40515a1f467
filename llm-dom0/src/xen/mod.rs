//! What we ask of Xen: one file a device or tool, safe wrappers, no policy.
