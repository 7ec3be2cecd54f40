//! What callers ask for, checked: every way in lists all problems at once, every way out cannot fail.

mod change;
mod group;
mod protection;
mod recovery_plan;
mod run;
mod site;

pub use change::{
    ChangeRun, RunChange, preview_from_wire as change_preview_from_wire,
    preview_to_wire as change_preview_to_wire,
};
pub use group::{ChangeGroup, CreateGroup, DeleteGroup};
pub use protection::{
    ChangeDisks, CreatePolicy, PolicySettings, ProtectMachine, ScrubItem, Seed, SetItemAddress,
    SetItemPolicy, SetItemProbes, Steer, Unprotect, UpdatePolicy,
};
pub(crate) use protection::{chosen_addresses, chosen_to_wire, policy_to_wire, probes, settings};
pub use recovery_plan::{CreatePlan, DeletePlan, UpdatePlan, plan_etag};
pub(crate) use recovery_plan::{plan, plan_to_wire};
pub use run::{AnswerRun, CompleteTest, RunDeadline, RunInstant, RunSpec, RunVerb, SetRunDeadline, StartRun};
pub use site::{CreateHost, CreateSite};

use crate::check::{Checks, Invalid};

/// The longest description, in bytes.
const MAX_DESCRIPTION: usize = 1024;
/// The longest page token, in bytes.
const MAX_PAGE_TOKEN: usize = 512;
/// The largest page, and the size of a page when none was asked for.
pub const MAX_PAGE_SIZE: u32 = 1000;
pub const DEFAULT_PAGE_SIZE: u32 = 100;

/// Which part of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// 0 means [`DEFAULT_PAGE_SIZE`]; larger than [`MAX_PAGE_SIZE`] is refused.
    pub size: u32,
    /// From the answer before; empty for the first page.
    pub token: String,
}

impl Page {
    /// # Errors
    /// When the size is above [`MAX_PAGE_SIZE`] or the token longer than any that we make.
    pub fn from_wire(size: u32, token: String) -> Result<Self, Invalid> {
        let mut checks = Checks::default();
        if size > MAX_PAGE_SIZE {
            checks.refuse("page_size", format!("is {size}, the most is {MAX_PAGE_SIZE}"));
        }
        let token = checks.text("page_token", token, MAX_PAGE_TOKEN);
        let size = if size == 0 { DEFAULT_PAGE_SIZE } else { size };
        checks.finish(token.map(|token| Self { size, token }))
    }
}

/// A resource name that is the whole request.
///
/// # Errors
/// When it does not have the form of a `T`'s name.
pub fn name_from_wire<T: crate::Resource>(field: &str, text: &str) -> Result<T, Invalid> {
    let mut checks = Checks::default();
    let name = checks.resource(field, text);
    checks.finish(name)
}

/// A resource name that may be left out.
///
/// # Errors
/// When it is neither empty nor of the form of a `T`'s name.
pub fn optional_name_from_wire<T: crate::Resource>(field: &str, text: &str) -> Result<Option<T>, Invalid> {
    let mut checks = Checks::default();
    let name = checks.optional_resource(field, text);
    checks.finish(name)
}

/// Where a list of machines begins (R-SITE-1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineParent {
    All,
    Site(understudy_ids::SiteName),
    Host(understudy_ids::HostName),
}

impl MachineParent {
    /// # Errors
    /// When `text` is neither empty nor the name of a site or host.
    pub fn from_wire(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Ok(Self::All);
        }
        if text.contains("/hosts/") {
            return name_from_wire("parent", text).map(Self::Host);
        }
        name_from_wire("parent", text).map(Self::Site)
    }

    pub fn to_wire(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Site(site) => crate::site(site),
            Self::Host(host) => crate::host(host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_a_default_and_a_limit() {
        assert_eq!(Page::from_wire(0, String::new()).unwrap().size, DEFAULT_PAGE_SIZE);
        assert!(Page::from_wire(MAX_PAGE_SIZE, String::new()).is_ok());
        let both = Page::from_wire(MAX_PAGE_SIZE + 1, "x".repeat(MAX_PAGE_TOKEN + 1)).unwrap_err();
        assert_eq!(both.0.len(), 2, "{both}");
    }

    #[test]
    fn machines_are_listed_for_all_a_site_or_a_host() {
        for text in ["", "sites/alpha", "sites/alpha/hosts/h1"] {
            assert_eq!(MachineParent::from_wire(text).unwrap().to_wire(), text);
        }
        assert!(MachineParent::from_wire("hosts/h1").is_err());
    }
}
