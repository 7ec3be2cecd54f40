//! Talks to the primary servers of zones: what a name has, and that it has something else from now on (RFC 2136, TSIG by RFC 8945).
//!
//! ```text
//!   ask      name A?                                              ── signed, TCP ─▶ what the server itself says, signed
//!   replace  "name has exactly this" · nothing · these addresses  ── signed, TCP ─▶ done as a whole │ it has something else │ refused, and why
//! ```
//!
//! Each question is one connection, and each answer is believed only with the key's signature. An answer that does not come within the
//! server's time limit says nothing about what was done: asking again does. Keys are read when they are used, so that a changed file counts
//! at once, and nothing here prints one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode, UpdateMessage},
    rr::{
        DNSClass, Name, RData, Record, RecordType, TSigner,
        rdata::{
            A,
            tsig::{TsigAlgorithm, TsigError},
        },
    },
};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use understudy_ids::DnsServerName;
use understudy_netplan::{DnsName, DnsZone};
use understudy_rpc::ApiError;

/// By how much our clock and the server's may differ (RFC 8945 recommends it).
const FUDGE_SECONDS: u16 = 300;

/// `[dns]` of the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    #[serde(default)]
    pub servers: BTreeMap<DnsServerName, ServerConfig>,
}

/// A primary server and the key that it takes updates with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// `192.0.2.53:53`
    pub address: SocketAddr,
    /// As the server calls the key.
    pub key_name: DnsKeyName,
    #[serde(default)]
    pub algorithm: Algorithm,
    /// The key in base64, and nothing else.
    pub secret_file: PathBuf,
    /// For one question and its answer.
    #[serde(default = "default_time_out_ms")]
    pub time_out_ms: u64,
}

const fn default_time_out_ms() -> u64 {
    5000
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    #[default]
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

impl From<Algorithm> for TsigAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::HmacSha256 => Self::HmacSha256,
            Algorithm::HmacSha384 => Self::HmacSha384,
            Algorithm::HmacSha512 => Self::HmacSha512,
        }
    }
}

/// A key's name is a domain name of any form, with or without its final dot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DnsKeyName(Name);

impl TryFrom<String> for DnsKeyName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut name = Name::from_ascii(&text).map_err(|e| format!("{text:?} is no name of a key: {e}"))?;
        name.set_fqdn(true);
        Ok(Self(name))
    }
}

impl DnsConfig {
    pub(crate) fn problems(&self) -> Vec<String> {
        let off = |ms: u64| !(100..=60_000).contains(&ms);
        let wrong = self.servers.iter().filter(|(_, server)| off(server.time_out_ms));
        wrong.map(|(name, _)| format!("dns.servers.{name}.time_out_ms: must be 100 to 60000")).collect()
    }
}

/// The addresses that a name has, and for how long they may be kept; no address: there is no record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    pub addresses: BTreeSet<Ipv4Addr>,
    pub ttl_seconds: u32,
}

impl Addresses {
    pub fn one(address: Ipv4Addr, ttl_seconds: u32) -> Self {
        Self { addresses: [address].into(), ttl_seconds }
    }

    pub fn list(&self) -> Vec<Ipv4Addr> {
        self.addresses.iter().copied().collect()
    }
}

/// What came of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    Done,
    /// Nothing was changed: the name does not have what it was thought to have.
    HadOther,
}

/// Why a server did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("no DNS server {0} is configured")]
    NotConfigured(DnsServerName),
    #[error("the key in {path} cannot be used: {cause}")]
    Key { path: String, cause: String },
    #[error("DNS server {0} does not answer: {1}")]
    NoAnswer(SocketAddr, String),
    #[error("DNS server {0} does not know our key, or has another one under its name")]
    KeyRefused(SocketAddr),
    #[error("the clock of DNS server {0} is more than 5 minutes away from ours")]
    Clock(SocketAddr),
    #[error("what answers at {0} does not have our key: {1}")]
    NotSigned(SocketAddr, String),
    #[error("DNS server {0} refuses that: {1}")]
    Refused(SocketAddr, String),
    #[error("DNS server {0} is not the primary server of {1}")]
    NotOfZone(SocketAddr, DnsName),
    #[error("DNS server {0} cannot do it now: {1}")]
    Failing(SocketAddr, ResponseCode),
    #[error("{0} is an alias")]
    Alias(DnsName),
    #[error("DNS server {0} answers what is not understood: {1}")]
    Strange(SocketAddr, String),
}

impl From<DnsError> for ApiError {
    /// What may be another way in a moment is *unavailable*, and tried again.
    fn from(error: DnsError) -> Self {
        use DnsError as E;
        let message = error.to_string();
        match error {
            E::NotConfigured(_) => Self::failed_precondition(
                "DNS_SERVER_NOT_CONFIGURED",
                message,
                "add it to [dns.servers] in network-mapper's configuration, or make the zone again with another server",
            ),
            E::Key { .. } => Self::failed_precondition(
                "DNS_KEY_UNUSABLE",
                message,
                "put the key in base64 into that file, readable for network-mapper",
            ),
            E::NoAnswer(..) => Self::unavailable(
                "DNS_NO_ANSWER",
                message,
                "start the server, or repair the way to it from network-mapper; TCP is used",
            ),
            E::KeyRefused(_) => Self::failed_precondition(
                "DNS_KEY_REFUSED",
                message,
                "compare key_name, algorithm and key with the server's configuration",
            ),
            E::Clock(_) => Self::failed_precondition("DNS_CLOCK", message, "set the clocks of both by NTP"),
            E::NotSigned(..) => Self::failed_precondition(
                "DNS_ANSWER_NOT_SIGNED",
                message,
                "look who answers at that address; nothing that it says is believed",
            ),
            E::Refused(..) => Self::failed_precondition(
                "DNS_REFUSED",
                message,
                "let the server take queries and updates of the zone with our key (allow-query, update-policy)",
            ),
            E::NotOfZone(..) => Self::failed_precondition(
                "DNS_ZONE_NOT_SERVED",
                message,
                "make the zone again with its primary server",
            ),
            E::Failing(..) => Self::unavailable(
                "DNS_SERVER_FAILING",
                message,
                "look into the server's log; is the zone loaded and writable?",
            ),
            E::Alias(_) => Self::failed_precondition(
                "RECORD_IS_ALIAS",
                message,
                "give the machine the name that the alias stands for",
            ),
            E::Strange(..) => Self::failed_precondition(
                "DNS_ANSWER_STRANGE",
                message,
                "look into the server's log at this time",
            ),
        }
    }
}

/// The configured servers.
#[derive(Debug, Clone, Default)]
pub struct Servers {
    servers: BTreeMap<DnsServerName, ServerConfig>,
}

impl Servers {
    pub fn new(config: DnsConfig) -> Self {
        Self { servers: config.servers }
    }

    pub fn names(&self) -> Vec<&DnsServerName> {
        self.servers.keys().collect()
    }

    /// Says of each key that cannot be used that it cannot, while there is time to see to it.
    pub fn warn_of_keys(&self) {
        for (name, server) in &self.servers {
            if let Err(error) = signer(server) {
                tracing::warn!(%error, server = %name, "zones of this DNS server cannot be updated");
            }
        }
    }

    /// # Errors
    /// When it is not configured, or its key cannot be used.
    pub fn primary(&self, zone: &DnsZone) -> Result<Primary, DnsError> {
        let config =
            self.servers.get(&zone.server).ok_or_else(|| DnsError::NotConfigured(zone.server.clone()))?;
        Ok(Primary {
            address: config.address,
            time_out: Duration::from_millis(config.time_out_ms),
            signer: signer(config)?,
            zone: zone.clone(),
        })
    }
}

fn signer(config: &ServerConfig) -> Result<TSigner, DnsError> {
    let unusable = |cause: String| DnsError::Key { path: config.secret_file.display().to_string(), cause };
    let text = std::fs::read_to_string(&config.secret_file).map_err(|e| unusable(e.to_string()))?;
    // What a decoder says about it might quote it.
    let key = STANDARD.decode(text.trim()).map_err(|_| unusable("it is not base64".to_owned()))?;
    if key.is_empty() {
        return Err(unusable("it is empty".to_owned()));
    }
    TSigner::new(key, config.algorithm.into(), config.key_name.0.clone(), FUDGE_SECONDS)
        .map_err(|e| unusable(e.to_string()))
}

/// The primary server of one zone.
pub struct Primary {
    address: SocketAddr,
    time_out: Duration,
    signer: TSigner,
    zone: DnsZone,
}

impl Primary {
    /// # Errors
    /// When the server does not say, or says that it is an alias.
    pub async fn ask(&self, name: &DnsName) -> Result<Addresses, DnsError> {
        let wanted = self.name(name)?;
        let mut message = Message::query();
        message.metadata.recursion_desired = false;
        message.add_query(Query::query(wanted.clone(), RecordType::A));
        let answer = self.exchange(message).await?;
        match answer.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => {}
            other => return Err(self.refusal(other)),
        }
        if !answer.authoritative {
            return Err(DnsError::NotOfZone(self.address, self.zone.name.clone()));
        }
        let mut found = Addresses::default();
        for record in answer.answers.iter().filter(|record| record.name == wanted) {
            match &record.data {
                RData::A(A(address)) => {
                    found.addresses.insert(*address);
                    found.ttl_seconds = record.ttl;
                }
                RData::CNAME(_) => return Err(DnsError::Alias(name.clone())),
                _ => {}
            }
        }
        Ok(found)
    }

    /// The name has exactly `after` from now on, if it has exactly `before` now; both or neither, in one message.
    ///
    /// # Errors
    /// When the server refuses. Without an answer nobody knows whether it was done.
    pub async fn replace(
        &self,
        name: &DnsName,
        before: &Addresses,
        after: &Addresses,
    ) -> Result<Replaced, DnsError> {
        let name = self.name(name)?;
        let mut zone = Query::new();
        zone.set_name(self.name(&self.zone.name)?)
            .set_query_class(DNSClass::IN)
            .set_query_type(RecordType::SOA);
        let mut message = Message::query();
        message.metadata.op_code = OpCode::Update;
        message.metadata.recursion_desired = false;
        message.add_zone(zone);
        if before.addresses.is_empty() {
            message
                .add_pre_requisite(of_class(Record::update0(name.clone(), 0, RecordType::A), DNSClass::NONE));
        }
        for address in &before.addresses {
            message.add_pre_requisite(Record::from_rdata(name.clone(), 0, RData::A(A(*address))));
        }
        message.add_update(of_class(Record::update0(name.clone(), 0, RecordType::A), DNSClass::ANY));
        for address in &after.addresses {
            message.add_update(Record::from_rdata(name.clone(), after.ttl_seconds, RData::A(A(*address))));
        }
        match self.exchange(message).await?.response_code {
            ResponseCode::NoError => Ok(Replaced::Done),
            ResponseCode::NXRRSet | ResponseCode::YXRRSet | ResponseCode::NXDomain => Ok(Replaced::HadOther),
            other => Err(self.refusal(other)),
        }
    }

    fn name(&self, name: &DnsName) -> Result<Name, DnsError> {
        Name::from_ascii(name.as_str()).map_err(|e| self.strange(e))
    }

    fn strange(&self, cause: impl std::fmt::Display) -> DnsError {
        DnsError::Strange(self.address, cause.to_string())
    }

    fn refusal(&self, code: ResponseCode) -> DnsError {
        match code {
            ResponseCode::Refused => DnsError::Refused(
                self.address,
                format!("our key may not do it, or zone {} is not there", self.zone.name),
            ),
            ResponseCode::NotAuth | ResponseCode::NotZone => {
                DnsError::NotOfZone(self.address, self.zone.name.clone())
            }
            ResponseCode::ServFail => DnsError::Failing(self.address, code),
            other => self.strange(other),
        }
    }

    /// Sends the message signed, and gives the answer if it is signed with the same key.
    async fn exchange(&self, mut message: Message) -> Result<Message, DnsError> {
        let id = message.id;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| self.strange(e))?.as_secs();
        let verifier = message.finalize(&self.signer, now).map_err(|e| self.strange(e))?;
        let mut verifier = verifier.ok_or_else(|| self.strange("the question was not signed"))?;
        let question = message.to_vec().map_err(|e| self.strange(e))?;
        let answer = tokio::time::timeout(self.time_out, carried(self.address, &question)).await;
        let answer = match answer {
            Ok(answer) => answer.map_err(|e| DnsError::NoAnswer(self.address, e.to_string()))?,
            Err(_) => {
                return Err(DnsError::NoAnswer(self.address, format!("nothing within {:?}", self.time_out)));
            }
        };
        let read = Message::from_vec(&answer).map_err(|e| self.strange(e))?;
        if let Err(cause) = verifier.verify(&answer) {
            return Err(self.unsigned(&read, &cause.to_string()));
        }
        if read.id != id {
            return Err(self.strange("it answers another question"));
        }
        Ok(read)
    }

    /// A server that does not accept our signature cannot sign its answer.
    fn unsigned(&self, answer: &Message, cause: &str) -> DnsError {
        match answer.signature.as_ref().and_then(|signature| signature.data.error) {
            Some(TsigError::BadKey | TsigError::BadSig) => DnsError::KeyRefused(self.address),
            Some(TsigError::BadTime) => DnsError::Clock(self.address),
            _ if answer.response_code == ResponseCode::NotAuth => DnsError::KeyRefused(self.address),
            _ => DnsError::NotSigned(self.address, cause.to_owned()),
        }
    }
}

fn of_class(mut record: Record, class: DNSClass) -> Record {
    record.dns_class = class;
    record
}

/// One message each way over a connection of its own (RFC 1035, 4.2.2).
async fn carried(address: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let length = u16::try_from(question.len()).map_err(|_| io::Error::other("the question is too long"))?;
    stream.write_all(&[length.to_be_bytes().as_slice(), question].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
