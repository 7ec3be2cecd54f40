//! What a machine that has been started is asked (R-TF-8).
//!
//! ```text
//!   ping, tcp, http ─▶ on a test network: inside its namespace; where the run has a port: from there; elsewhere: from this host
//!   guest-agent     ─▶ libvirt ─▶ the machine's channel
//! ```

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use understudy_ids::{MachineName, NetworkName};
use understudy_probe::ProbeKind;

use super::{
    LibvirtHypervisor, command, describe,
    machines::{self, look_up},
    test_network::ping_arguments,
};
use crate::{Answer, Error, PowerState, Question, http};

impl LibvirtHypervisor {
    pub(super) async fn put(&self, question: &Question, limit: Duration) -> Result<Answer, Error> {
        let Question { machine, at, kind } = question;
        let place = || at.as_ref().ok_or_else(|| nowhere(machine));
        match kind.clone() {
            ProbeKind::GuestAgent => self.ask_agent(machine, limit).await,
            ProbeKind::Ping => {
                let (network, address) = place()?;
                self.ping(machine, network, *address, limit.min(http::TO_CONNECT)).await
            }
            ProbeKind::Tcp { port } => {
                let (network, address) = place()?;
                let address = SocketAddr::new(*address, port);
                self.where_it_is_reached(machine, network, move || connect(address, limit)).await
            }
            ProbeKind::Http(asked) => {
                let (network, address) = place()?;
                let address = SocketAddr::new(*address, asked.port);
                self.where_it_is_reached(machine, network, move || http::get(address, &asked, limit)).await
            }
        }
    }

    async fn ping(
        &self,
        machine: &MachineName,
        network: &NetworkName,
        address: IpAddr,
        limit: Duration,
    ) -> Result<Answer, Error> {
        let answered = match self.inside(network, machine).await? {
            Some(namespace) => namespace.ping(address, limit).await?,
            None => {
                let patience = limit + command::LIMIT;
                command::attempt("ping", &ping_arguments(address, limit), patience).await?.0
            }
        };
        Ok(if answered { Answer::yes("") } else { Answer::no("no answer") })
    }

    /// Does work that blocks where the network can be reached.
    async fn where_it_is_reached(
        &self,
        machine: &MachineName,
        network: &NetworkName,
        work: impl FnOnce() -> Answer + Send + 'static,
    ) -> Result<Answer, Error> {
        match self.inside(network, machine).await? {
            Some(namespace) => namespace.run(move || Ok(work())).await,
            None => tokio::task::spawn_blocking(work).await.map_err(|error| Error::Failed {
                what: format!("asking over network {network}"),
                why: error.to_string(),
            }),
        }
    }

    async fn ask_agent(&self, machine: &MachineName, limit: Duration) -> Result<Answer, Error> {
        let what = format!("asking the guest's agent of machine {machine}");
        let machine = machine.clone();
        // Its answer has to come before the one about the call.
        let patience = limit.min(self.session.timeout() / 2);
        self.session
            .call(what, move |connection| {
                let domain = look_up(connection, &machine)?;
                if machines::power(&domain)? != PowerState::Running {
                    return Ok(Answer::no("the machine does not run"));
                }
                Ok(match describe::agent_listens(&describe::description(&domain, false)?) {
                    None => Answer::no(format!("the machine has no channel {}", describe::AGENT_CHANNEL)),
                    Some(false) => Answer::no("nothing in the guest has opened the agent's channel"),
                    Some(true) => {
                        let asked = domain.set_agent_patience(patience).and_then(|()| domain.guest_time());
                        asked.map_or_else(Answer::no, |()| Answer::yes(""))
                    }
                })
            })
            .await
    }
}

fn nowhere(machine: &MachineName) -> Error {
    Error::Failed {
        what: format!("asking machine {machine}"),
        why: "no address to ask it at was given".to_owned(),
    }
}

fn connect(address: SocketAddr, limit: Duration) -> Answer {
    // Zero is no limit to a socket.
    let limit = limit.clamp(Duration::from_millis(1), http::TO_CONNECT);
    match TcpStream::connect_timeout(&address, limit) {
        Ok(_) => Answer::yes("connected"),
        Err(error) => Answer::no(http::in_words(&error)),
    }
}
