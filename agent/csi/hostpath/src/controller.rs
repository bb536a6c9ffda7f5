//! Its controller: volumes are folders that it makes and deletes, as far as there is room. What size each was asked for is in a file.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::sync::Arc;

use agent_csi::wire;
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;

use crate::{Called, State, called, unary};

/// The folder of files with sizes, beside the volumes.
const SIZES: &str = ".sizes";
/// What its machine is called.
const NODE: &str = "here";

fn broken(error: io::Error) -> Status {
    Status::internal(error.to_string())
}

impl State {
    /// The volumes with their sizes, in bytes.
    fn volumes(&self) -> io::Result<BTreeMap<String, i64>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let id = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && !id.starts_with('.') {
                let size = fs::read_to_string(self.root.join(SIZES).join(&id)).ok();
                found.insert(id, size.and_then(|text| text.trim().parse().ok()).unwrap_or(0));
            }
        }
        Ok(found)
    }

    fn free(&self) -> io::Result<i64> {
        let taken: i64 = self.volumes()?.values().sum();
        Ok((self.capacity.unwrap_or(0) - taken).max(0))
    }

    async fn create(&self, request: wire::CreateVolumeRequest) -> Result<wire::CreateVolumeResponse, Status> {
        let id = request.name.clone();
        let mut capacity_bytes = request.capacity_range.map_or(0, |range| range.required_bytes);
        let volume_context = BTreeMap::from([("made-as".to_owned(), id.clone())]);
        if self.note(called("CreateVolume", &id, "", request.parameters)).await? {
            if id.is_empty() || id.starts_with('.') || id.contains('/') {
                return Err(Status::invalid_argument("no name of a folder"));
            }
            match self.volumes().map_err(broken)?.get(&id) {
                Some(size) => capacity_bytes = *size,
                None if self.free().map_err(broken)? < capacity_bytes => {
                    return Err(Status::resource_exhausted("there is not so much room"));
                }
                None => {
                    let sizes = self.root.join(SIZES);
                    let write = || {
                        fs::create_dir_all(&sizes)?;
                        fs::write(sizes.join(&id), capacity_bytes.to_string())?;
                        fs::create_dir(self.root.join(&id))
                    };
                    write().map_err(broken)?;
                }
            }
        }
        Ok(wire::CreateVolumeResponse { volume: Some(wire::Volume { capacity_bytes, volume_id: id, volume_context }) })
    }

    async fn delete(&self, request: wire::DeleteVolumeRequest) -> Result<wire::DeleteVolumeResponse, Status> {
        let id = &request.volume_id;
        if self.note(called("DeleteVolume", id, "", BTreeMap::new())).await?
            && let Ok(folder) = self.folder(id)
        {
            fs::remove_dir_all(folder).map_err(broken)?;
            let _ = fs::remove_file(self.root.join(SIZES).join(id));
        }
        Ok(wire::DeleteVolumeResponse {})
    }

    async fn list(&self, _: wire::ListVolumesRequest) -> Result<wire::ListVolumesResponse, Status> {
        self.note(called("ListVolumes", "", "", BTreeMap::new())).await?;
        let volumes = self.volumes().map_err(broken)?;
        let entry = |(id, capacity_bytes): (String, i64)| {
            let is_made = self.root.join(SIZES).join(&id).exists() && uuid_like(&id);
            let context = is_made.then(|| ("made-as".to_owned(), id.clone()));
            let volume_context = context.into_iter().collect();
            wire::list_volumes_response::Entry {
                volume: Some(wire::Volume { capacity_bytes, volume_id: id, volume_context }),
            }
        };
        Ok(wire::ListVolumesResponse { entries: volumes.into_iter().map(entry).collect(), next_token: String::new() })
    }

    async fn capacity(&self, request: wire::GetCapacityRequest) -> Result<wire::GetCapacityResponse, Status> {
        self.note(called("GetCapacity", "", "", request.parameters)).await?;
        Ok(wire::GetCapacityResponse { available_capacity: self.free().map_err(broken)? })
    }

    async fn validate(
        &self,
        request: wire::ValidateVolumeCapabilitiesRequest,
    ) -> Result<wire::ValidateVolumeCapabilitiesResponse, Status> {
        self.folder(&request.volume_id)?;
        self.note(called("ValidateVolumeCapabilities", &request.volume_id, "", request.parameters.clone())).await?;
        let confirmed = wire::validate_volume_capabilities_response::Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
        };
        Ok(wire::ValidateVolumeCapabilitiesResponse { confirmed: Some(confirmed), message: String::new() })
    }

    async fn attach(
        &self,
        request: wire::ControllerPublishVolumeRequest,
    ) -> Result<wire::ControllerPublishVolumeResponse, Status> {
        self.folder(&request.volume_id)?;
        let noted = called("ControllerPublishVolume", &request.volume_id, &request.node_id, request.volume_context);
        self.note(Called { readonly: request.readonly, ..noted }).await?;
        let publish_context = BTreeMap::from([("attached-to".to_owned(), request.node_id)]);
        Ok(wire::ControllerPublishVolumeResponse { publish_context })
    }

    async fn detach(
        &self,
        request: wire::ControllerUnpublishVolumeRequest,
    ) -> Result<wire::ControllerUnpublishVolumeResponse, Status> {
        let noted = called("ControllerUnpublishVolume", &request.volume_id, &request.node_id, BTreeMap::new());
        self.note(noted).await?;
        Ok(wire::ControllerUnpublishVolumeResponse {})
    }
}

/// Of a volume that was made by its name, and not by somebody else.
fn uuid_like(id: &str) -> bool {
    id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn abilities() -> wire::ControllerGetCapabilitiesResponse {
    use wire::controller_service_capability::{Rpc, Type, rpc};
    let all = [
        rpc::Type::CreateDeleteVolume,
        rpc::Type::PublishUnpublishVolume,
        rpc::Type::ListVolumes,
        rpc::Type::GetCapacity,
    ];
    let one =
        |kind: rpc::Type| wire::ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: kind as i32 })) };
    wire::ControllerGetCapabilitiesResponse { capabilities: all.map(one).to_vec() }
}

/// Answers calls of this service, if there is one.
pub(crate) async fn answer(
    state: Arc<State>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let call = path.strip_prefix("/csi.v1.Controller/").filter(|_| state.capacity.is_some());
    Ok(match call.unwrap_or_default() {
        "ControllerGetCapabilities" => {
            unary(request, |_: wire::ControllerGetCapabilitiesRequest| async { Ok(abilities()) }).await
        }
        "CreateVolume" => unary(request, |asked| async move { state.create(asked).await }).await,
        "DeleteVolume" => unary(request, |asked| async move { state.delete(asked).await }).await,
        "ListVolumes" => unary(request, |asked| async move { state.list(asked).await }).await,
        "GetCapacity" => unary(request, |asked| async move { state.capacity(asked).await }).await,
        "ValidateVolumeCapabilities" => unary(request, |asked| async move { state.validate(asked).await }).await,
        "ControllerPublishVolume" => unary(request, |asked| async move { state.attach(asked).await }).await,
        "ControllerUnpublishVolume" => unary(request, |asked| async move { state.detach(asked).await }).await,
        _ if path == "/csi.v1.Node/NodeGetInfo" => {
            let info = wire::NodeGetInfoResponse { node_id: NODE.to_owned() };
            unary(request, |_: wire::NodeGetInfoRequest| async { Ok(info) }).await
        }
        _ => Status::unimplemented(path).into_http(),
    })
}
