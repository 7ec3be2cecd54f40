//! Tests of the store from outside, in one binary so that it is linked once.

mod beside;
mod export;
mod faults;
mod import;
mod injected;
mod one_writer;
mod qcow2;
mod repair;
mod scrub;
mod sealed;
mod store;
mod support;
