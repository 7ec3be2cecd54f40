//! The driver whose machines are tasks of this process.
