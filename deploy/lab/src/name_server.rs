//! A primary DNS server at the control site, where neither site's loss takes it away: a real BIND with a zone that takes updates with a key
//! of its own. Labs have none until one is added.

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use crate::{HostName, Lab, ManagedProcess, ProcessSpec, command, topology::CONTROL};

/// As network-mapper's configuration calls it.
pub const SERVER: &str = "lab";
/// The zone that it has.
pub const ZONE: &str = "shop.example";
const START_LIMIT: Duration = Duration::from_secs(30);

/// The DNS server of one lab, running or not.
#[derive(Debug, Clone)]
pub struct NameServer {
    lab: Lab,
}

impl NameServer {
    pub(crate) fn of(lab: &Lab) -> Self {
        Self { lab: lab.clone() }
    }

    fn directory(&self) -> PathBuf {
        self.lab.control_dir().join("names")
    }

    fn secret(&self) -> PathBuf {
        self.directory().join("secret")
    }

    /// What network-mapper's configuration says of it; nothing while there is none.
    pub(crate) fn mappers_config(&self) -> String {
        if !self.secret().exists() {
            return String::new();
        }
        format!(
            "[dns.servers.{SERVER}]\naddress = \"{CONTROL}:53\"\nkey_name = \"understudy\"\nsecret_file = \"{}\"\n",
            self.secret().display()
        )
    }

    /// Starts it with these records in its zone and waits until it tells them.
    pub(crate) fn start(&self, records: &[(&str, Ipv4Addr)]) -> Result<()> {
        let directory = self.directory();
        fs::create_dir_all(&directory)?;
        let key = command::output(command::new("tsig-keygen").args(["-a", "hmac-sha256", "understudy"]))?;
        let secret = key.lines().find_map(|line| line.trim().strip_prefix("secret \"")?.strip_suffix("\";"));
        fs::write(self.secret(), secret.context("tsig-keygen made a key")?)?;
        let mut zone =
            format!("@ 60 IN SOA ns1 hostmaster 1 600 60 86400 60\n@ 60 IN NS ns1\nns1 60 IN A {CONTROL}\n");
        for (name, address) in records {
            zone += &format!("{name}. 60 IN A {address}\n");
        }
        fs::write(directory.join(ZONE), zone)?;
        let at = directory.display();
        let config = format!(
            r#"options {{ directory "{at}"; pid-file none; lock-file none; session-keyfile none; recursion no; dnssec-validation no;
          listen-on {{ {CONTROL}; }}; listen-on-v6 {{ none; }}; }};
controls {{ }};
{key}
zone "{ZONE}" {{ type primary; file "{at}/{ZONE}"; update-policy {{ grant understudy zonesub A; }}; }};
"#
        );
        let file = directory.join("named.conf");
        fs::write(&file, config)?;
        let args = ["-g", "-4", "-n", "1", "-c", &file.display().to_string()];
        let process = ManagedProcess::start(ProcessSpec::new(
            self.lab.id(),
            &self.lab.control(),
            &self.lab.control_dir(),
            "named",
            "/usr/sbin/named",
            args,
        ))?;
        process
            .wait_for("the zone to be told", START_LIMIT, || {
                Ok((self.says("ns1.shop.example").ok() == Some(vec![CONTROL])).then_some(()))
            })
            .map(drop)
    }

    /// The addresses that a client at the first site is told for a name.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn says(&self, name: &str) -> Result<Vec<Ipv4Addr>> {
        let mut dig = self.lab.host(HostName::AlphaH1).namespace().command("dig");
        dig.args([&format!("@{CONTROL}"), "+tcp", "+tries=1", "+time=2", "+short", name, "A"]);
        let said = command::output(&mut dig)?;
        said.lines().map(|line| line.parse().with_context(|| format!("dig says {line:?}"))).collect()
    }
}
