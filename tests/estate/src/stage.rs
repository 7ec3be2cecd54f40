//! Puts players on the loopback.

use std::{net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;
use understudy_ids::HostName;
use understudy_jobs_api::Worker;
use understudy_network_api::NETWORK_SERVICE;
use understudy_rpc::{
    AccessRule, Channel, ClientConfig, ExpectedPeer, PeerKind, Server, ServerConfig, ServiceKind, TlsFiles,
    access, connect,
};

use crate::{Estate, Hand, Mapper, MapperHand, Teller};

/// Who plays: in which estate, with whose certificates, at which job-tracker, until when.
pub struct Players<'a> {
    pub estate: &'a Arc<Estate>,
    /// The certificate of an identity, such as `agent/alpha/h1`.
    pub files: &'a dyn Fn(&str) -> TlsFiles,
    /// `https://address:port`
    pub tracker: &'a str,
    /// Tasks that a host has in its hands at once.
    pub slots: u32,
    pub until: &'a CancellationToken,
}

impl Players<'_> {
    /// Tells a host's facts and does its tasks. Returns where it is reached.
    pub async fn agent(&self, host: &HostName) -> SocketAddr {
        use understudy_replication_api::{FILE_DESCRIPTOR_SET, activation_service, facts_service, method};
        let identity = format!("agent/{host}");
        let server = Server::bind(self.server(&identity)).await.unwrap();
        let address = server.local_addr();
        let rule = |method| AccessRule::new(method, &[PeerKind::Orchestrator]);
        let facts = [method::GET_FACTS, method::WATCH_FACTS].map(rule);
        let activation = [method::GET_PULSE, method::RENEW_LEASES].map(rule);
        let teller = Arc::new(Teller { estate: self.estate.clone(), host: host.clone() });
        let server = server
            .add_service(facts_service(teller.clone()), &facts)
            .add_service(activation_service(teller), &activation)
            .descriptors(FILE_DESCRIPTOR_SET);
        self.serve(server);
        let hand = Arc::new(Hand { estate: self.estate.clone(), host: host.clone() });
        let (worker, slots, stop) = (Worker::new(self.channel(&identity)), self.slots, self.until.clone());
        let queue = format!("hosts/{host}").parse().unwrap();
        tokio::spawn(async move { worker.run(queue, slots, hand, stop).await });
        address
    }

    /// Answers for network-mapper and does its tasks. Returns where it is reached.
    pub async fn mapper(&self, mapper: &Arc<Mapper>) -> SocketAddr {
        let identity = "service/network-mapper";
        let server = Server::bind(self.server(identity)).await.unwrap();
        let address = server.local_addr();
        let descriptors = understudy_network_api::FILE_DESCRIPTOR_SET;
        let methods = access::methods(descriptors).unwrap();
        let own = methods.into_iter().filter(|method| method.service == NETWORK_SERVICE);
        let rules: Vec<AccessRule> =
            own.map(|method| AccessRule::new(method.path.leak(), &[PeerKind::Orchestrator])).collect();
        let server = server.add_service(understudy_network_api::service(mapper.clone()), &rules);
        self.serve(server.descriptors(descriptors));
        let hand = Arc::new(MapperHand { estate: self.estate.clone() });
        let (worker, slots, stop) = (Worker::new(self.channel(identity)), self.slots, self.until.clone());
        tokio::spawn(async move { worker.run("network-mapper".parse().unwrap(), slots, hand, stop).await });
        address
    }

    fn server(&self, identity: &str) -> ServerConfig {
        ServerConfig::new(([127, 0, 0, 1], 0).into(), (self.files)(identity))
    }

    fn serve(&self, server: Server) {
        let stop = self.until.clone();
        tokio::spawn(async move { server.serve(stop).await.unwrap() });
    }

    fn channel(&self, identity: &str) -> Channel {
        let expect = ExpectedPeer::Service(ServiceKind::JobTracker);
        let descriptors = understudy_jobs_api::FILE_DESCRIPTOR_SET;
        connect(ClientConfig::new(self.tracker, (self.files)(identity), expect, descriptors)).unwrap()
    }
}
