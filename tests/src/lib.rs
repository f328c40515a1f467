//! The lab: two real Xen hosts in QEMU, their guest and their clients.
pub mod bare;
pub mod bench;
pub mod clients;
pub mod demo;
pub mod faults;
pub mod fuzzing;
pub mod held;
pub mod lab;
pub mod measure;
pub mod replay_sim;
pub mod report;
pub mod scenario;
pub mod sim;
pub mod stubdom;
pub mod suite;
