//! Requests that make sites and hosts known.

use understudy_ids::{HostName, SiteName};

use super::MAX_DESCRIPTION;
use crate::{
    Resource, SiteKind,
    check::{Checks, Invalid},
    names::RequestId,
    v1,
};

/// The longest endpoint, in bytes.
const MAX_ENDPOINT: usize = 300;

/// Makes a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSite {
    pub site: SiteName,
    pub kind: SiteKind,
    pub description: String,
    pub request_id: RequestId,
}

impl CreateSite {
    /// # Errors
    /// With every field that is missing, malformed or too long.
    pub fn from_wire(wire: v1::CreateSiteRequest) -> Result<Self, Invalid> {
        let v1::CreateSiteRequest { site_id, kind, description, request_id } = wire;
        let mut checks = Checks::default();
        let site = checks.parse("site_id", &site_id);
        let kind = checks.word("kind", SiteKind::from_wire(kind));
        let description = checks.text("description", description, MAX_DESCRIPTION);
        let request_id = checks.request_id(&request_id);
        let whole =
            (|| Some(Self { site: site?, kind: kind?, description: description?, request_id: request_id? }))(
            );
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::CreateSiteRequest {
        let Self { site, kind, description, request_id } = self;
        v1::CreateSiteRequest {
            site_id: site.to_string(),
            kind: kind.to_wire().into(),
            description,
            request_id: request_id.to_string(),
        }
    }
}

/// Makes a host known by the addresses of its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateHost {
    pub host: HostName,
    /// `https://address:port`
    pub facts_endpoint: String,
    pub sink_endpoint: String,
    pub request_id: RequestId,
}

impl CreateHost {
    /// # Errors
    /// With every field that is missing, malformed or too long.
    pub fn from_wire(wire: v1::CreateHostRequest) -> Result<Self, Invalid> {
        let v1::CreateHostRequest { parent, host_id, facts_endpoint, sink_endpoint, request_id } = wire;
        let mut checks = Checks::default();
        let site: Option<SiteName> = checks.resource("parent", &parent);
        // The host's name is checked on its own, so that it is reported also when the site's is wrong.
        let any_site = site.clone().or_else(|| "x".parse().ok());
        let host = any_site.and_then(|s| checks.keep("host_id", HostName::new(s, &host_id)));
        let facts_endpoint = endpoint(&mut checks, "facts_endpoint", facts_endpoint);
        let sink_endpoint = endpoint(&mut checks, "sink_endpoint", sink_endpoint);
        let request_id = checks.request_id(&request_id);
        let whole = (|| {
            site?;
            Some(Self {
                host: host?,
                facts_endpoint: facts_endpoint?,
                sink_endpoint: sink_endpoint?,
                request_id: request_id?,
            })
        })();
        checks.finish(whole)
    }

    pub fn into_wire(self) -> v1::CreateHostRequest {
        let Self { host, facts_endpoint, sink_endpoint, request_id } = self;
        v1::CreateHostRequest {
            parent: host.site().to_resource(),
            host_id: host.host().to_owned(),
            facts_endpoint,
            sink_endpoint,
            request_id: request_id.to_string(),
        }
    }
}

/// An address that can be dialled: `https`, a host, a port and nothing else. Plain text does not exist.
fn endpoint(checks: &mut Checks, field: &str, text: String) -> Option<String> {
    let text = checks.text(field, text, MAX_ENDPOINT)?;
    let uri = text.parse::<tonic::transport::Uri>().ok();
    let good = uri.is_some_and(|uri| {
        uri.scheme_str() == Some("https")
            && uri.port_u16().is_some_and(|p| p != 0)
            && uri.host().is_some_and(|h| !h.is_empty())
            && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
            && matches!(uri.path_and_query().map(|p| p.as_str()), None | Some("/"))
    });
    if !good {
        checks.refuse(field, "is not of the form https://<address>:<port>");
        return None;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(endpoint: &str) -> v1::CreateHostRequest {
        v1::CreateHostRequest {
            parent: "sites/alpha".into(),
            host_id: "h1".into(),
            facts_endpoint: endpoint.into(),
            sink_endpoint: "https://10.0.0.1:7444".into(),
            request_id: "r".into(),
        }
    }

    #[test]
    fn what_goes_out_comes_in_alike() {
        let site = CreateSite {
            site: "alpha".parse().unwrap(),
            kind: SiteKind::Hypervisor,
            description: "first".into(),
            request_id: "r1".parse().unwrap(),
        };
        assert_eq!(CreateSite::from_wire(site.clone().into_wire()), Ok(site));
        let made = CreateHost::from_wire(host("https://[fd00::1]:7443")).unwrap();
        assert_eq!(CreateHost::from_wire(made.clone().into_wire()), Ok(made));
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let error = CreateSite::from_wire(v1::CreateSiteRequest {
            site_id: "Not A Name".into(),
            kind: 99,
            description: "x".repeat(MAX_DESCRIPTION + 1),
            request_id: String::new(),
        })
        .unwrap_err();
        let fields: Vec<_> = error.0.iter().map(|p| p.subject.as_str()).collect();
        assert_eq!(fields, ["site_id", "kind", "description", "request_id"]);
        let error = CreateHost::from_wire(v1::CreateHostRequest::default()).unwrap_err();
        assert_eq!(error.0.len(), 5, "{error}");
    }

    #[test]
    fn endpoints_are_https_with_a_port_and_nothing_more() {
        for bad in [
            "",
            "10.0.0.1:7443",
            "http://10.0.0.1:7443",
            "https://10.0.0.1",
            "https://10.0.0.1:0",
            "https://:7443",
            "https://a:7443/x",
            "https://a:7443/?q",
            "https://u@a:7443",
            "https://a b:1",
            "file:///etc/passwd",
        ] {
            assert!(CreateHost::from_wire(host(bad)).is_err(), "{bad:?}");
        }
    }
}
