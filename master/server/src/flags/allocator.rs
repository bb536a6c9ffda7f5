//! The flags of the allocator: what is offered to whom.

use api::flags::Values;
use api::resources::Quantities;
use api::v1;
use master_core::allocator::{Options, Sorting};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the flags say of offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllocatorSettings {
    /// For every plan.
    pub options: Options,
    /// The file that lists the hosts whose agents are offered; it may change.
    pub whitelist: Option<PathBuf>,
    /// Where the masters are.
    pub domain: Option<v1::DomainInfo>,
    /// Agents must say where they are.
    pub require_agent_domain: bool,
}

/// Reads them.
///
/// # Errors
/// One sentence.
pub(super) fn read(values: &Values) -> Result<AllocatorSettings, String> {
    let mut options = Options {
        filter_gpu_resources: values.bool("filter_gpu_resources"),
        role_sorter: sorter(values, "role_sorter")?,
        framework_sorter: sorter(values, "framework_sorter")?,
        offer_timeout_ms: values
            .duration("offer_timeout")
            .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        ..Options::default()
    };
    match values.text("allocator") {
        None | Some("hierarchical" | "HierarchicalDRF") => {}
        Some("random") => (options.role_sorter, options.framework_sorter) = (Sorting::Random, Sorting::Random),
        Some(other) => {
            return Err(format!("--allocator is hierarchical (or HierarchicalDRF, the same) or random, not '{other}'"));
        }
    }
    if options.offer_timeout_ms == Some(0) {
        return Err("--offer_timeout must be longer than nothing".into());
    }
    if let Some(text) = values.text("min_allocatable_resources") {
        options.min_allocatable = least(text)?;
    }
    if let Some(text) = values.text("fair_sharing_excluded_resource_names") {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        options.excluded = names.map(Into::into).collect();
    }
    let domain = values.text("domain").map(domain).transpose()?;
    let fault_domain = domain.as_ref().and_then(|domain| domain.fault_domain.as_ref());
    options.region = fault_domain.map(|domain| domain.region.name.as_str().into());
    let require_agent_domain = values.bool("require_agent_domain");
    if require_agent_domain && domain.is_none() {
        return Err("--require_agent_domain needs a --domain of the masters: agents are compared with it".into());
    }
    let whitelist = values.path("whitelist");
    if let Some(path) = &whitelist {
        options.whitelist = Some(hostnames(path)?);
    }
    Ok(AllocatorSettings { options, whitelist, domain, require_agent_domain })
}

fn sorter(values: &Values, flag: &str) -> Result<Sorting, String> {
    match values.text(flag) {
        None | Some("drf") => Ok(Sorting::DominantShare),
        Some("random") => Ok(Sorting::Random),
        Some(other) => Err(format!("--{flag} is drf or random, not '{other}'")),
    }
}

/// `cpus:0.01|mem:32`: one of these; nothing at all: anything.
fn least(text: &str) -> Result<Vec<Quantities>, String> {
    let alternatives = text.split('|').map(str::trim).filter(|each| !each.is_empty());
    let each = |each: &str| Quantities::parse(each).map_err(|why| format!("--min_allocatable_resources: {why}"));
    alternatives.map(each).collect()
}

fn domain(text: &str) -> Result<v1::DomainInfo, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|why| format!("--domain is no JSON: {why}"))?;
    let domain: v1::DomainInfo = api::json::from_value(&value).map_err(|why| format!("--domain: {why}"))?;
    match &domain.fault_domain {
        Some(_) => Ok(domain),
        None => Err("--domain must have a fault_domain, with a region and a zone".into()),
    }
}

/// The hosts that a file lists, one a line.
///
/// # Errors
/// One sentence.
pub(crate) fn hostnames(path: &Path) -> Result<BTreeSet<Arc<str>>, String> {
    let text = std::fs::read_to_string(path).map_err(|why| format!("--whitelist={}: {why}", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Arc::from).collect())
}
