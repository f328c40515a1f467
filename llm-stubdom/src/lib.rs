//! What the unikernel is made of, as far as it can be tested on a host.
#![no_std]
