//! The packet path between bridge and guest.
