//! The lab: two sites, a control site and the WAN between them, on one Linux machine out of real parts.
//!
//! ```text
//!            site alpha                        WAN                       site bravo
//!  ┌──────────────────────────┐     ┌──────────────────────┐     ┌──────────────────────────┐  ┌────────────┐
//!  │ alpha-h1   10.77.1.11    │─────│ br-alpha   br-bravo  │─────│ bravo-h1   10.77.2.11    │  │ control    │
//!  │ libvirtd, agent, store   │mgmt │  10.77.1.1 10.77.2.1 │mgmt │ libvirtd, agent, store   │  │ 10.77.2.10 │
//!  │ br-prod 192.168.50.1     │     │  cut, rate           │──┐  │ br-prod 192.168.50.1     │  │ services,  │
//!  │  ├ web1 .11   ├ db1 .12  │     └──────────────────────┘  │  │  ├ web1 .11   ├ db1 .12  │  │ Postgres   │
//!  │  └ alpha-prod .5 witness │                               │  │  └ bravo-prod .5 witness │  └─────┬──────┘
//!  └──────────────────────────┘                               └──────────────────────────────────────┘ mgmt
//! ```
//!
//! Each box is a network namespace. Production networks have no way to the management network nor to each other; both
//! sites' production networks look the same, so that a machine keeps MAC and address when it moves.
//!
//! The promise: everything of a lab hangs on its id (namespaces `uslab-<id>-*`, files below one directory, processes in
//! those namespaces), so labs coexist and [`Lab::down`] leaves nothing, whatever happened before.

pub mod cli;
mod command;
pub mod guest_image;
pub mod host;
pub mod journal;
pub mod lab;
pub mod machine;
pub mod name_server;
pub mod namespace;
mod places;
pub mod postgres;
pub mod preflight;
pub mod probe;
pub mod process;
pub mod simulated;
pub mod stack;
pub mod story;
pub mod topology;
pub mod visitor;
pub mod wan;

pub use host::Host;
pub use lab::Lab;
pub use namespace::Namespace;
pub use process::{ManagedProcess, ProcessSpec};
pub use stack::{Service, Stack};
pub use topology::{HostName, LabId, Site};
pub use visitor::Visitor;
