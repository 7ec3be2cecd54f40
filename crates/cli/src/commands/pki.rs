use time::OffsetDateTime;
use understudy_pki::{Authority, Validity};

use crate::{args::Pki, output};

pub fn run(verb: Pki) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    match verb {
        Pki::Init { dir, valid } => {
            Authority::create(&dir, Validity::starting(now, valid))?;
            output::say(&format!(
                "made a certificate authority in {}; keep ca.key there safe",
                dir.display()
            ));
        }
        Pki::Issue { dir, identity, out, name, valid } => {
            Authority::load(&dir)?.issue_to(&identity, Validity::starting(now, valid), &out, &name)?;
            output::say(&format!("issued {identity} as {}", out.join(format!("{name}.pem")).display()));
        }
    }
    Ok(())
}
