//! Sites, hosts, machines and policies.

use understudy_ids::{HostName, PolicyName, Problem, SiteName, UnixMicros};
use understudy_recovery_api::{
    Resource,
    request::{CreateHost, CreatePolicy, CreateSite, MachineParent, UpdatePolicy},
    view::{Host, Machine, Policy, Site},
};
use understudy_rpc::ApiError;
use understudy_sealing::Recipient;

use super::{Runtime, call::Call, gather::is_connected, now, view};
use crate::store::{Failure, hosts, policies, sites};

impl Runtime {
    pub async fn create_site(&self, call: &Call, request: CreateSite) -> Result<Site, ApiError> {
        let name = request.site.clone();
        self.once(call, move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let subject = request.site.to_resource();
                if !sites::insert(tx, &request.site, request.kind, &request.description).await? {
                    return Err(taken("SITE_EXISTS", &subject));
                }
                Ok(subject)
            })
        })
        .await?;
        let site = sites::get(&mut *self.reader().await?, &name).await?;
        site.ok_or_else(|| not_found("SITE_NOT_FOUND", &name.to_resource()))
    }

    /// Sites after the one called `after`, at most `limit`.
    pub async fn list_sites(&self, after: &str, limit: i64) -> Result<Vec<Site>, ApiError> {
        Ok(sites::list(&mut *self.reader().await?, after, limit).await?)
    }

    pub async fn create_host(&self, call: &Call, request: CreateHost) -> Result<Host, ApiError> {
        let name = request.host.clone();
        self.once(call, move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let (host, subject) = (&request.host, request.host.to_resource());
                if sites::get(&mut *tx, host.site()).await?.is_none() {
                    return Err(not_found("SITE_NOT_FOUND", &host.site().to_resource()).into());
                }
                if !hosts::insert(tx, host, &request.facts_endpoint, &request.sink_endpoint).await? {
                    return Err(taken("HOST_EXISTS", &subject));
                }
                Ok(subject)
            })
        })
        .await?;
        self.get_host(&name).await
    }

    pub async fn get_host(&self, name: &HostName) -> Result<Host, ApiError> {
        let record = hosts::get(&mut *self.reader().await?, name).await?;
        let record = record.ok_or_else(|| not_found("HOST_NOT_FOUND", &name.to_resource()))?;
        Ok(view::host(&record, now()))
    }

    pub async fn list_hosts(
        &self,
        site: Option<&SiteName>,
        after: &str,
        limit: i64,
    ) -> Result<Vec<Host>, ApiError> {
        let site = site.map_or("", SiteName::as_str);
        let now = now();
        let records = hosts::list(&mut *self.reader().await?, site, after, limit).await?;
        Ok(records.iter().map(|record| view::host(record, now)).collect())
    }

    /// Machines in the order of their names, after `after`, at most `limit`.
    ///
    /// A host that is silent now tells nothing: its machines are shown as last told, with unknown power (invariant 16).
    pub async fn list_machines(
        &self,
        parent: &MachineParent,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Machine>, ApiError> {
        let mut conn = self.reader().await?;
        let records = match parent {
            MachineParent::All => hosts::list(&mut conn, "", "", i64::MAX).await?,
            MachineParent::Site(site) => hosts::list(&mut conn, site.as_str(), "", i64::MAX).await?,
            MachineParent::Host(host) => hosts::get(&mut conn, host).await?.into_iter().collect(),
        };
        let now = now();
        let mut machines: Vec<Machine> = Vec::new();
        for record in &records {
            let heard = record.heard.iter();
            machines.extend(
                heard
                    .flat_map(|h| &h.inventory.machines)
                    .map(|machine| view::machine(&record.name, machine, is_connected(record, now))),
            );
        }
        // In the order of the texts that page tokens hold.
        machines.sort_by_cached_key(|machine| machine.name.to_string());
        let rest = machines.into_iter().filter(|machine| machine.name.to_string().as_str() > after);
        Ok(rest.take(limit).collect())
    }

    pub async fn create_policy(&self, call: &Call, request: CreatePolicy) -> Result<Policy, ApiError> {
        let name = request.policy.clone();
        let now = now();
        self.once(call, move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let subject = request.policy.to_resource();
                let ended = ended_certificates(&request.settings.replication.encrypt_for, now);
                refuse_ended(ended.into_iter().map(|(_, problem)| problem).collect())?;
                if !policies::insert(tx, &request.policy, &request.settings).await? {
                    return Err(taken("POLICY_EXISTS", &subject));
                }
                Ok(subject)
            })
        })
        .await?;
        self.get_policy(&name).await
    }

    /// Its items follow by corrections, as soon as their agents' facts say otherwise (R-REP-8).
    pub async fn update_policy(&self, call: &Call, request: UpdatePolicy) -> Result<Policy, ApiError> {
        let (name, now) = (request.policy.clone(), now());
        self.once(call, move |tx| {
            let request = request.clone();
            Box::pin(async move {
                let subject = request.policy.to_resource();
                policies::lock(&mut *tx, &request.policy).await?;
                let before = policies::get(&mut *tx, &request.policy).await?;
                let before = before.ok_or_else(|| not_found("POLICY_NOT_FOUND", &subject))?;
                if request.etag.as_ref().is_some_and(|etag| *etag != before.settings.etag()) {
                    let message = format!("{subject} has other settings by now than those that were changed");
                    let remedy = "read the policy again, and make the change to what it is now";
                    return Err(ApiError::aborted("POLICY_CHANGED", message, remedy).into());
                }
                // Whoever only changes the interval need not replace a certificate that has ended since.
                let known = before.settings.replication.encrypt_for;
                let asked = &request.settings.replication.encrypt_for;
                let ended =
                    ended_certificates(asked, now).into_iter().filter(|(n, _)| !known.contains(&asked[*n]));
                refuse_ended(ended.map(|(_, problem)| problem).collect())?;
                policies::update(tx, &request.policy, &request.settings).await?;
                Ok(subject)
            })
        })
        .await?;
        self.get_policy(&name).await
    }

    pub async fn get_policy(&self, name: &PolicyName) -> Result<Policy, ApiError> {
        let policy = policies::get(&mut *self.reader().await?, name).await?;
        policy.ok_or_else(|| not_found("POLICY_NOT_FOUND", &name.to_resource()))
    }

    pub async fn list_policies(&self, after: &str, limit: i64) -> Result<Vec<Policy>, ApiError> {
        Ok(policies::list(&mut *self.reader().await?, after, limit).await?)
    }
}

fn refuse_ended(ended: Vec<Problem>) -> Result<(), ApiError> {
    let message = "replicas cannot be encrypted for these certificates";
    if ended.is_empty() { Ok(()) } else { Err(ApiError::refused("RECIPIENT_EXPIRED", message, ended)) }
}

/// What is encrypted for a certificate that has ended could not be opened by anybody (R-REP-10). Each with its place in the list.
fn ended_certificates(certificates: &[String], now: UnixMicros) -> Vec<(usize, Problem)> {
    let problem = |(n, pem): (usize, &String)| {
        let recipient = Recipient::from_pem(pem).ok().filter(|recipient| recipient.not_after <= now)?;
        let subject = format!("policy.replication.encrypt_for[{n}]");
        let message = format!("the certificate of {} has ended", recipient.subject);
        let remedy = "Give a certificate that is valid.";
        Some((n, Problem::new("RECIPIENT_EXPIRED", subject, message, remedy)))
    };
    certificates.iter().enumerate().filter_map(problem).collect()
}

pub fn taken(reason: &'static str, subject: &str) -> Failure {
    ApiError::already_exists(
        reason,
        format!("{subject} exists already"),
        "Use it as it is, or choose another name.",
    )
    .into()
}

pub fn not_found(reason: &'static str, subject: &str) -> ApiError {
    ApiError::not_found(reason, format!("there is no {subject}"), "List what there is, and correct the name.")
}
