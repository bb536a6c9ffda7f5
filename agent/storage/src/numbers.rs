//! What became of a provider's operations and of the calls of its plugin, since it was started.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_csi::Volumes;
use api::v1::OperationState;
use api::v1::offer::operation::Type;
use parking_lot::Mutex;

use crate::kept::Kept;

/// Operations that there are.
const KINDS: [Type; 6] =
    [Type::Reserve, Type::Unreserve, Type::Create, Type::Destroy, Type::CreateDisk, Type::DestroyDisk];

/// Shared by the provider and by whoever tells of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    volumes: Option<Volumes>,
    /// By kind and outcome.
    ended: BTreeMap<(i32, &'static str), u64>,
    pending: BTreeMap<i32, u64>,
}

impl Numbers {
    pub(crate) fn of(&self, volumes: &Volumes) {
        self.0.lock().volumes = Some(volumes.clone());
    }

    /// What is not over.
    pub(crate) fn pend(&self, kept: &Kept) {
        let mut pending = BTreeMap::new();
        for one in kept.operations.iter().filter(|one| !one.is_over()) {
            *pending.entry(one.operation.info.r#type() as i32).or_default() += 1;
        }
        self.0.lock().pending = pending;
    }

    pub(crate) fn end(&self, kind: Type, state: OperationState) {
        let outcome = match state {
            OperationState::OperationFinished => "finished",
            OperationState::OperationDropped => "dropped",
            _ => "failed",
        };
        *self.0.lock().ended.entry((kind as i32, outcome)).or_default() += 1;
    }

    pub(crate) fn tell(&self, provider: &str, set: &mut dyn FnMut(&str, f64)) {
        let inner = self.0.lock();
        for kind in KINDS {
            let of = format!("resource_providers/{provider}/operations/{}", kind.as_str_name().to_lowercase());
            for outcome in ["finished", "failed", "dropped"] {
                let count = inner.ended.get(&(kind as i32, outcome)).copied().unwrap_or(0);
                set(&format!("{of}/{outcome}"), count as f64);
            }
            set(&format!("{of}/pending"), inner.pending.get(&(kind as i32)).copied().unwrap_or(0) as f64);
        }
        let calls = inner.volumes.iter().flat_map(|volumes| volumes.calls().into_values());
        for calls in calls {
            for (how, count) in [
                ("pending", calls.pending),
                ("finished", calls.finished),
                ("failed", calls.failed),
                ("cancelled", calls.cancelled),
            ] {
                set(&format!("resource_providers/{provider}/csi_plugin/rpcs_{how}"), count as f64);
            }
        }
    }
}
