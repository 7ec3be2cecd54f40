//! A real BIND with zones of its own on a port of its own, and somebody on the way to it who can lose messages.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener as AsyncListener, TcpStream},
};
use understudy_network_mapper::{DnsConfig, Servers};

pub const SECRET: &str = "c2VjcmV0LW9mLXRoZS10ZXN0cy10aGF0LW5vYm9keS1zZWVz";
const OTHER_SECRET: &str = "YW5vdGhlci1zZWNyZXQtdW5kZXItdGhlLXNhbWUtbmFtZS4u";

/// `named` with the zones shop.example (updated with our key), test.shop.example (the same) and frozen.example (never updated).
pub struct Named {
    process: Mutex<Child>,
    pub address: SocketAddr,
    dir: TempDir,
}

impl Named {
    pub fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.path().display();
        let zone = |name: &str, updates: &str| {
            let records = "@ 300 IN SOA ns1 hostmaster 1 600 60 86400 60\n@ 300 IN NS ns1\nns1 300 IN A 127.0.0.1\n\
                web1 90 IN A 10.1.0.11\nshared 90 IN A 10.1.0.21\nshared 90 IN A 10.1.0.22\nwww 90 IN CNAME web1\n";
            std::fs::write(dir.path().join(name), records).unwrap();
            format!("zone \"{name}\" {{ type primary; file \"{at}/{name}\"; {updates} }};\n")
        };
        let ours = "update-policy { grant understudy. zonesub A; };";
        let zones = [
            zone("shop.example", ours),
            zone("test.shop.example", ours),
            zone("frozen.example", "allow-update { none; };"),
        ];
        let config = format!(
            "options {{ directory \"{at}\"; pid-file none; lock-file none; session-keyfile none; recursion no; dnssec-validation no;\n\
             listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; }};\ncontrols {{ }};\n\
             key \"understudy.\" {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n{}",
            zones.concat()
        );
        std::fs::write(dir.path().join("named.conf"), config).unwrap();
        let mut process = Command::new("named")
            .args(["-g", "-4", "-n", "1", "-c"])
            .arg(dir.path().join("named.conf"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("named is there: deploy/lab/install.sh installs bind9");
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let named = Self { process: Mutex::new(process), address, dir };
        let mut said = Vec::new();
        loop {
            let line = log.next().unwrap_or_else(|| panic!("named ended: {said:#?}")).unwrap();
            if line.ends_with(" running") {
                break;
            }
            said.push(line);
        }
        // Somebody has to read on, or it would stand still one day.
        std::thread::spawn(move || log.for_each(drop));
        named
    }

    /// What anybody is told: TTL and address of each record, in order.
    pub fn says(&self, name: &str) -> Vec<String> {
        let port = self.address.port().to_string();
        let dug = command("dig", &["@127.0.0.1", "-p", &port, "+tcp", "+noall", "+answer", name, "A"], "");
        let text = String::from_utf8(dug.stdout).unwrap();
        let record = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {}", words[1], words[4])
        };
        let mut records: Vec<String> = text.lines().map(record).collect();
        records.sort();
        records
    }

    /// Changes with each update that changes anything.
    pub fn serial(&self) -> String {
        let port = self.address.port().to_string();
        let dug = command("dig", &["@127.0.0.1", "-p", &port, "+tcp", "+short", "shop.example", "SOA"], "");
        String::from_utf8(dug.stdout).unwrap()
    }

    /// Somebody else gives the name another address.
    pub fn somebody_sets(&self, name: &str, address: &str) {
        let script = format!(
            "server 127.0.0.1 {}\nupdate delete {name} A\nupdate add {name} 90 A {address}\nsend\n",
            self.address.port()
        );
        let key = format!("hmac-sha256:understudy.:{SECRET}");
        let done = command("nsupdate", &["-v", "-y", &key], &script);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn key_file(&self, name: &str, secret: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, format!("{secret}\n")).unwrap();
        path
    }

    /// This server under several names: `ns1`, `wrong-key`, `unknown-key`, `no-key`, `bad-key`, and `way` to it.
    pub fn servers(&self, way: SocketAddr) -> Servers {
        let entry = |name: &str, address: SocketAddr, key_name: &str, file: &Path| {
            format!(
                "[servers.{name}]\naddress = \"{address}\"\nkey_name = \"{key_name}\"\nsecret_file = {:?}\ntime_out_ms = 2000\n",
                file.display().to_string()
            )
        };
        let here = self.address;
        let ours = self.key_file("ours", SECRET);
        let text = [
            entry("ns1", here, "understudy", &ours),
            entry("way", way, "understudy", &ours),
            entry("wrong-key", here, "understudy", &self.key_file("other", OTHER_SECRET)),
            entry("unknown-key", here, "somebody", &ours),
            entry("no-key", here, "understudy", &self.dir.path().join("nothing")),
            entry("bad-key", here, "understudy", &self.key_file("bad", "not!base64")),
        ];
        Servers::new(toml::from_str::<DnsConfig>(&text.concat()).unwrap())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.kill();
    }
}

fn command(program: &str, args: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}; deploy/lab/install.sh installs bind9-dnsutils"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What happens to the next update on the way to the server; what comes behind it arrives.
#[derive(Debug, Clone)]
pub enum Trouble {
    None,
    /// It does not arrive.
    Lost,
    /// It arrives, and nobody is told.
    AnswerLost,
    /// Somebody else is quicker.
    Overtaken {
        name: &'static str,
        address: &'static str,
    },
}

/// A way to the server that can be troubled.
pub struct Way {
    pub address: SocketAddr,
    trouble: Arc<Mutex<Trouble>>,
}

impl Way {
    pub async fn to(named: &Arc<Named>) -> Self {
        let listener = AsyncListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let trouble = Arc::new(Mutex::new(Trouble::None));
        let (seen, named) = (Arc::clone(&trouble), Arc::clone(named));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, named) = (Arc::clone(&seen), Arc::clone(&named));
                tokio::spawn(async move { carry(stream, &named, &seen).await });
            }
        });
        Self { address, trouble }
    }

    pub fn trouble(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap() = trouble;
    }
}

async fn carry(mut client: TcpStream, named: &Arc<Named>, trouble: &Mutex<Trouble>) -> Option<()> {
    let question = message(&mut client).await?;
    // The opcode of an update is 5.
    let is_update = question[2] >> 3 & 0xf == 5;
    let met = if is_update {
        std::mem::replace(&mut *trouble.lock().unwrap(), Trouble::None)
    } else {
        Trouble::None
    };
    match &met {
        Trouble::Lost => return None,
        Trouble::Overtaken { name, address } => {
            let (named, name, address) = (Arc::clone(named), *name, *address);
            tokio::task::spawn_blocking(move || named.somebody_sets(name, address)).await.unwrap();
        }
        Trouble::None | Trouble::AnswerLost => {}
    }
    let mut server = TcpStream::connect(named.address).await.ok()?;
    send(&mut server, &question).await?;
    let answer = message(&mut server).await?;
    match met {
        Trouble::AnswerLost => None,
        _ => send(&mut client, &answer).await,
    }
}

async fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await.ok()?.into()];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> Option<()> {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[length.as_slice(), message].concat()).await.ok()
}
