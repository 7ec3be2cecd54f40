use understudy_recovery_api::{RecoveryClient, request::CreateSite, view::Site as View};

use super::{all, request_id};
use crate::{
    args::Site,
    output::{self, Format},
};

pub async fn run(client: &RecoveryClient, format: Format, verb: Site) -> anyhow::Result<()> {
    let sites = match verb {
        Site::Create { site, kind, description } => {
            let request = CreateSite { site, kind, description, request_id: request_id() };
            vec![client.create_site(request).await?]
        }
        Site::List => all(usize::MAX, |page| client.list_sites(page)).await?,
    };
    output::print(format, &sites, || {
        output::rows(["SITE", "KIND", "DESCRIPTION", "CREATED"], &sites, |s: &View| {
            [s.name.to_string(), s.kind.to_string(), s.description.clone(), output::time(s.create_time)]
        })
    })
}
