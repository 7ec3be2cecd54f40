//! Decides where every NIC of a run is connected and which address it gets, and says why (R-NET).
//!
//! ```text
//!   machines of a run ─┐
//!   VM networks        ├─▶ connect::plan ─▶ one connection per NIC, networks to make or to look into │ or every problem at once
//!   mappings           │       │
//!   addresses held ────┘       └─▶ records::plan ─▶ what the machines' names are to say
//! ```
//!
//! Pure: what it is told is all it knows, the same input gives the same plan, and nothing is reserved. Reserving exactly what was
//! planned, or refusing, is network-mapper's part.

pub mod chosen;
pub mod connect;
pub mod mapping;
pub mod network;
pub mod records;
pub mod rehearsal;
pub mod retain;
pub mod traffic;

pub use chosen::{ChosenAddress, chosen};
pub use connect::{
    Connection, ConnectionPlan, ExistingNetwork, HeldAddress, MachineConnections, MachineNic,
    PlannedTestNetwork, ProbePort, Purpose, plan,
};
pub use mapping::{Mapping, counterpart};
pub use network::{AddressPool, Addressing, Isolation, NetworkRef, VmNetwork};
pub use records::{DnsName, DnsZone, HostRecord, PlannedRecord, ZonePurpose};
pub use retain::{AddressRule, Neighbour, SplitSubnet, split_subnets};
pub use traffic::{PlannedHook, TrafficChange, TrafficHook};
