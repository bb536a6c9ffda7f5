//! What every call needs: a table over all that there are. Whoever adds a call says it here, or it does not compile.

use crate::action::Action;
use api::v1::{agent, executor, master, scheduler};

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: whoever is let into its realm may call.
    Nothing,
    /// This, or it is refused before it is looked at.
    Asks(Action),
    /// GET_ENDPOINT_WITH_PATH for this path, or it is refused before it is looked at.
    AsksPath(&'static str),
    /// These, for what it is about: asked where it is decided, and refused if one of them is missing.
    Decides(&'static [Action]),
    /// Nothing, but what it tells is only what these let be seen.
    Filters(&'static [Action]),
    /// It is not built: refused to everybody.
    NotBuilt,
}

use Need::{Asks, Decides, Filters, NotBuilt, Nothing};

const ALL_OF_STATE: Need = Filters(&[Action::ViewFramework, Action::ViewTask, Action::ViewExecutor, Action::ViewRole]);

/// What a call of an operator to a master needs.
#[allow(deprecated)] // Older ways to set quota still work.
pub fn master_call(call: master::call::Type) -> Need {
    use master::call::Type;
    match call {
        Type::Unknown => NotBuilt,
        Type::GetHealth | Type::GetVersion | Type::GetMetrics | Type::GetLoggingLevel | Type::GetMaster => Nothing,
        Type::GetFlags => Asks(Action::ViewFlags),
        Type::SetLoggingLevel => Asks(Action::SetLogLevel),
        Type::ListFiles | Type::ReadFile => Asks(Action::AccessMesosLog),
        Type::GetState | Type::Subscribe => ALL_OF_STATE,
        Type::GetAgents | Type::GetOperations | Type::GetRoles | Type::GetWeights => Filters(&[Action::ViewRole]),
        Type::GetFrameworks => Filters(&[Action::ViewFramework]),
        Type::GetExecutors => Filters(&[Action::ViewFramework, Action::ViewExecutor]),
        Type::GetTasks => Filters(&[Action::ViewFramework, Action::ViewTask]),
        Type::GetQuota => Filters(&[Action::GetQuota]),
        Type::GetMaintenanceStatus => Filters(&[Action::GetMaintenanceStatus]),
        Type::GetMaintenanceSchedule => Filters(&[Action::GetMaintenanceSchedule]),
        Type::UpdateWeights => Decides(&[Action::UpdateWeight]),
        Type::ReserveResources => Decides(&[Action::ReserveResources, Action::UnreserveResources]),
        Type::UnreserveResources => Decides(&[Action::UnreserveResources]),
        Type::CreateVolumes => Decides(&[Action::CreateVolume]),
        Type::DestroyVolumes => Decides(&[Action::DestroyVolume]),
        Type::GrowVolume | Type::ShrinkVolume => Decides(&[Action::ResizeVolume]),
        Type::UpdateMaintenanceSchedule => Decides(&[Action::UpdateMaintenanceSchedule]),
        Type::StartMaintenance => Decides(&[Action::StartMaintenance]),
        Type::StopMaintenance => Decides(&[Action::StopMaintenance]),
        Type::DrainAgent => Decides(&[Action::DrainAgent, Action::MarkAgentGone]),
        Type::DeactivateAgent => Decides(&[Action::DeactivateAgent]),
        Type::ReactivateAgent => Decides(&[Action::ReactivateAgent]),
        Type::MarkAgentGone => Decides(&[Action::MarkAgentGone]),
        Type::UpdateQuota => Decides(&[Action::UpdateQuotaWithConfig]),
        Type::SetQuota | Type::RemoveQuota => Decides(&[Action::UpdateQuota]),
        Type::Teardown => Decides(&[Action::TeardownFramework]),
    }
}

/// What a call of a framework needs, beside being its own.
pub fn scheduler_call(call: scheduler::call::Type) -> Need {
    use scheduler::call::Type;
    match call {
        Type::Unknown => NotBuilt,
        Type::Subscribe | Type::UpdateFramework => Decides(&[Action::RegisterFramework]),
        // Each operation of it, see `operation`.
        Type::Accept => Decides(&[
            Action::RunTask,
            Action::ReserveResources,
            Action::UnreserveResources,
            Action::CreateVolume,
            Action::DestroyVolume,
            Action::ResizeVolume,
            Action::CreateMountDisk,
            Action::CreateBlockDisk,
            Action::DestroyMountDisk,
            Action::DestroyBlockDisk,
            Action::DestroyRawDisk,
        ]),
        Type::Teardown
        | Type::Decline
        | Type::AcceptInverseOffers
        | Type::DeclineInverseOffers
        | Type::Revive
        | Type::Suppress
        | Type::Kill
        | Type::Shutdown
        | Type::Acknowledge
        | Type::AcknowledgeOperationStatus
        | Type::Reconcile
        | Type::ReconcileOperations
        | Type::Message
        | Type::Request => Nothing,
    }
}

/// What an operation of an ACCEPT needs.
pub fn operation(operation: api::v1::offer::operation::Type) -> Need {
    use api::v1::offer::operation::Type;
    match operation {
        Type::Unknown => NotBuilt,
        // By what is made, and by what goes.
        Type::CreateDisk => Decides(&[Action::CreateMountDisk, Action::CreateBlockDisk]),
        Type::DestroyDisk => Decides(&[Action::DestroyMountDisk, Action::DestroyBlockDisk, Action::DestroyRawDisk]),
        Type::Launch | Type::LaunchGroup => Decides(&[Action::RunTask]),
        Type::Reserve => Decides(&[Action::ReserveResources]),
        Type::Unreserve => Decides(&[Action::UnreserveResources]),
        Type::Create => Decides(&[Action::CreateVolume]),
        Type::Destroy => Decides(&[Action::DestroyVolume]),
        Type::GrowVolume | Type::ShrinkVolume => Decides(&[Action::ResizeVolume]),
    }
}

/// What a call of an operator to an agent needs.
#[allow(deprecated)] // Older calls of nested containers still work.
pub fn agent_call(call: agent::call::Type) -> Need {
    use agent::call::Type;
    match call {
        Type::Unknown => NotBuilt,
        Type::GetHealth | Type::GetVersion | Type::GetMetrics | Type::GetLoggingLevel | Type::GetAgent => Nothing,
        Type::GetFlags => Asks(Action::ViewFlags),
        Type::SetLoggingLevel => Asks(Action::SetLogLevel),
        // By the path: a sandbox is its executor's user's, the log is the log.
        Type::ListFiles | Type::ReadFile => Decides(&[Action::AccessSandbox, Action::AccessMesosLog]),
        Type::GetState => Filters(&[Action::ViewFramework, Action::ViewTask, Action::ViewExecutor]),
        Type::GetContainers => Filters(&[Action::ViewContainer, Action::ViewStandaloneContainer]),
        Type::GetFrameworks => Filters(&[Action::ViewFramework]),
        Type::GetExecutors => Filters(&[Action::ViewFramework, Action::ViewExecutor]),
        Type::GetTasks => Filters(&[Action::ViewFramework, Action::ViewTask, Action::ViewExecutor]),
        Type::GetOperations => Filters(&[Action::ViewRole]),
        Type::GetResourceProviders => Filters(&[Action::ViewResourceProvider]),
        Type::LaunchNestedContainer => Decides(&[Action::LaunchNestedContainer]),
        Type::WaitNestedContainer => Decides(&[Action::WaitNestedContainer]),
        Type::KillNestedContainer => Decides(&[Action::KillNestedContainer]),
        Type::RemoveNestedContainer => Decides(&[Action::RemoveNestedContainer]),
        Type::LaunchNestedContainerSession => {
            Decides(&[Action::LaunchNestedContainerSession, Action::AttachContainerOutput])
        }
        Type::AttachContainerInput => Decides(&[Action::AttachContainerInput]),
        Type::AttachContainerOutput => Decides(&[Action::AttachContainerOutput]),
        Type::LaunchContainer => Decides(&[Action::LaunchNestedContainer, Action::LaunchStandaloneContainer]),
        Type::WaitContainer => Decides(&[Action::WaitNestedContainer, Action::WaitStandaloneContainer]),
        Type::KillContainer => Decides(&[Action::KillNestedContainer, Action::KillStandaloneContainer]),
        Type::RemoveContainer => Decides(&[Action::RemoveNestedContainer, Action::RemoveStandaloneContainer]),
        Type::AddResourceProviderConfig | Type::UpdateResourceProviderConfig | Type::RemoveResourceProviderConfig => {
            Asks(Action::ModifyResourceProviderConfig)
        }
        Type::MarkResourceProviderGone => Asks(Action::MarkResourceProviderGone),
        Type::PruneImages => Asks(Action::PruneImages),
    }
}

/// What a call of an executor needs, beside its realm.
pub fn executor_call(call: executor::call::Type) -> Need {
    use executor::call::Type;
    match call {
        Type::Unknown => NotBuilt,
        Type::Subscribe | Type::Update | Type::Message | Type::Heartbeat => Nothing,
    }
}
