//! gRPC over real sockets and real certificates: who gets in, what ends a call, what the outside sees (R-OPS-1, R-OPS-3).

mod calls;
mod certificates;
mod lab;
mod operation;
