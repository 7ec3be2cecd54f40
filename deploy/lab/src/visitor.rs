//! A visitor: a namespace plugged into a bridge for a while, to look at a network from inside.
//!
//! A test network may carry the very addresses of production, so its host, which has a leg in production, cannot ask a
//! machine in it by address; a visitor that sees only that network can. It is gone when dropped, whatever happened.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use crate::{
    command,
    host::Host,
    namespace::{Namespace, cable},
};

/// Somebody on one network of one host.
#[derive(Debug)]
pub struct Visitor(Namespace);

impl Visitor {
    /// Plugs a visitor called `name` (1 to 8 letters or digits, one at a time on a host) into `bridge`, with `address` in a
    /// /24.
    ///
    /// # Errors
    /// When there is no such bridge on the host, or the name is taken.
    pub fn enter(host: &Host, bridge: &str, name: &str, address: Ipv4Addr) -> Result<Self> {
        let there = host.namespace();
        let visitor = Self(host.sibling(&format!("visit-{name}")));
        visitor.0.create()?;
        let plug = format!("visit-{name}");
        cable((&there, &plug), (&visitor.0, "visit"))?;
        there
            .ip(&["link", "set", &plug, "master", bridge])
            .with_context(|| format!("cannot visit {bridge} on {}", host.name()))?;
        visitor.0.ip(&["address", "add", &format!("{address}/24"), "dev", "visit"])?;
        Ok(visitor)
    }

    /// Where to look from.
    pub fn namespace(&self) -> &Namespace {
        &self.0
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        // Both ends of the cable go with the namespace; if it cannot be removed, `down` will.
        if let Err(error) = command::output(command::new("ip").args(["netns", "delete", self.0.name()])) {
            eprintln!("{error:#}");
        }
    }
}
