//! The service of a plugin that makes volumes and deletes them, says which there are and how much room there is, and lets machines have them.

use std::collections::BTreeMap;
use std::time::Duration;

use api::v1::volume::source::csi_volume::VolumeCapability;

use crate::asked::to_wire;
use crate::node::{CALL_MAX, Failure, Node};
use crate::wire;
use crate::wire::controller_service_capability::{Type, rpc};

/// Answers of a list, one after the other, and no more: one that never ends is none.
const PAGES_MAX: usize = 1000;

/// What such a service can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// CreateVolume and DeleteVolume.
    pub creates: bool,
    /// ControllerPublishVolume and ControllerUnpublishVolume.
    pub publishes: bool,
    /// ListVolumes.
    pub lists: bool,
    /// GetCapacity.
    pub measures: bool,
}

/// A volume, as its plugin tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its name there.
    pub id: String,
    /// Its size; 0 if it is not told.
    pub bytes: u64,
    /// To be told the plugin again, whenever the volume is to be had.
    pub context: BTreeMap<String, String>,
}

impl From<wire::Volume> for Found {
    fn from(volume: wire::Volume) -> Found {
        let bytes = u64::try_from(volume.capacity_bytes).unwrap_or(0);
        Found { id: volume.volume_id, bytes, context: volume.volume_context }
    }
}

/// Where it is asked. No call waits longer than a minute for its answer.
#[derive(Clone, Debug)]
pub struct Controller(pub(crate) Node);

impl Controller {
    /// Whether it is ready, and what it calls itself: its name and version.
    ///
    /// # Errors
    /// It is not.
    pub async fn probe(&self) -> Result<(String, String), Failure> {
        self.0.probe(CALL_MAX).await
    }

    /// What it can do.
    ///
    /// # Errors
    /// It does not say.
    pub async fn abilities(&self) -> Result<Abilities, Failure> {
        self.abilities_within(CALL_MAX).await
    }

    pub(crate) async fn abilities_within(&self, patience: Duration) -> Result<Abilities, Failure> {
        let call = "/csi.v1.Controller/ControllerGetCapabilities";
        let answer: wire::ControllerGetCapabilitiesResponse =
            self.0.call(call, wire::ControllerGetCapabilitiesRequest {}, patience).await?;
        let has = |kind: rpc::Type| {
            answer.capabilities.iter().any(|one| matches!(&one.r#type, Some(Type::Rpc(rpc)) if rpc.r#type() == kind))
        };
        Ok(Abilities {
            creates: has(rpc::Type::CreateDeleteVolume),
            publishes: has(rpc::Type::PublishUnpublishVolume),
            lists: has(rpc::Type::ListVolumes),
            measures: has(rpc::Type::GetCapacity),
        })
    }

    /// Makes a volume, once for one `name`.
    ///
    /// # Errors
    /// It is not made; or nobody knows, if that [is open](Failure::is_open).
    pub async fn create(
        &self,
        name: &str,
        bytes: u64,
        capability: &VolumeCapability,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Found, Failure> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let request = wire::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(wire::CapacityRange { required_bytes: bytes, limit_bytes: bytes }),
            volume_capabilities: vec![to_wire(capability)],
            parameters: parameters.clone(),
            secrets: BTreeMap::new(),
        };
        let answer: wire::CreateVolumeResponse =
            self.0.call("/csi.v1.Controller/CreateVolume", request, CALL_MAX).await?;
        Ok(answer.volume.unwrap_or_default().into())
    }

    /// Deletes a volume, if it is there.
    ///
    /// # Errors
    /// It is not deleted; or nobody knows.
    pub async fn delete(&self, volume_id: &str) -> Result<(), Failure> {
        let request = wire::DeleteVolumeRequest { volume_id: volume_id.to_owned(), secrets: BTreeMap::new() };
        let done = self.0.call("/csi.v1.Controller/DeleteVolume", request, CALL_MAX).await;
        done.map(|wire::DeleteVolumeResponse {}| ())
    }

    /// All volumes that there are.
    ///
    /// # Errors
    /// It does not say.
    pub async fn list(&self) -> Result<Vec<Found>, Failure> {
        let mut found = Vec::new();
        let mut starting_token = String::new();
        for _ in 0..PAGES_MAX {
            let request = wire::ListVolumesRequest { max_entries: 0, starting_token };
            let answer: wire::ListVolumesResponse =
                self.0.call("/csi.v1.Controller/ListVolumes", request, CALL_MAX).await?;
            found.extend(answer.entries.into_iter().filter_map(|entry| entry.volume).map(Found::from));
            starting_token = answer.next_token;
            if starting_token.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// Bytes of which volumes can be made.
    ///
    /// # Errors
    /// It does not say.
    pub async fn capacity(
        &self,
        capability: &VolumeCapability,
        parameters: &BTreeMap<String, String>,
    ) -> Result<u64, Failure> {
        let request =
            wire::GetCapacityRequest { volume_capabilities: vec![to_wire(capability)], parameters: parameters.clone() };
        let answer: wire::GetCapacityResponse =
            self.0.call("/csi.v1.Controller/GetCapacity", request, CALL_MAX).await?;
        Ok(u64::try_from(answer.available_capacity).unwrap_or(0))
    }

    /// Whether a volume can be had so; if not, why.
    ///
    /// # Errors
    /// It does not say.
    pub async fn validate(
        &self,
        found: &Found,
        capability: &VolumeCapability,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Option<String>, Failure> {
        let request = wire::ValidateVolumeCapabilitiesRequest {
            volume_id: found.id.clone(),
            volume_context: found.context.clone(),
            volume_capabilities: vec![to_wire(capability)],
            parameters: parameters.clone(),
            secrets: BTreeMap::new(),
        };
        let answer: wire::ValidateVolumeCapabilitiesResponse =
            self.0.call("/csi.v1.Controller/ValidateVolumeCapabilities", request, CALL_MAX).await?;
        let Some(confirmed) = answer.confirmed else { return Ok(Some(answer.message)) };
        let what = match () {
            () if confirmed.volume_context != found.context => "volume context",
            () if !confirmed.volume_capabilities.contains(&to_wire(capability)) => "volume capability",
            () if confirmed.parameters != *parameters => "parameters",
            () => return Ok(None),
        };
        Ok(Some(format!("its plugin confirms another {what}")))
    }

    pub(crate) async fn attach(
        &self,
        request: wire::ControllerPublishVolumeRequest,
        patience: Duration,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let done = self.0.call("/csi.v1.Controller/ControllerPublishVolume", request, patience).await;
        done.map(|answer: wire::ControllerPublishVolumeResponse| answer.publish_context)
    }

    pub(crate) async fn detach(&self, volume_id: &str, node_id: &str) -> Result<(), Failure> {
        let (volume_id, node_id) = (volume_id.to_owned(), node_id.to_owned());
        let request = wire::ControllerUnpublishVolumeRequest { volume_id, node_id, secrets: BTreeMap::new() };
        let done = self.0.call("/csi.v1.Controller/ControllerUnpublishVolume", request, CALL_MAX).await;
        done.map(|wire::ControllerUnpublishVolumeResponse {}| ())
    }
}
