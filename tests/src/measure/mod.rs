//! Figures that are taken from a lab at work: what the demo, the soak and the bench have in common.

mod clock;
mod link;
mod load;
mod pauses;
mod work;

pub use clock::HostClock;
pub use link::{link_bytes, link_rtt};
pub use load::{http_64k, sets};
pub use pauses::PauseLog;
pub use work::work;
