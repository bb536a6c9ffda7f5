//! Which GPUs an agent gives out.

use std::path::Path;

use api::flags::Values;
use api::resources::Parsed;
use containers::isolators::GpuSettings;
use containers::isolators::gpu::{Driver, Nvml, dir, found};
use supervisor::sys::nvml::{Library, NAME};

/// None, without `gpu/nvidia` in `--isolation`. The error is a sentence.
pub(crate) fn read(values: &Values, given: &Parsed, work_dir: &Path) -> Result<GpuSettings, String> {
    let mut named = values.text("isolation").unwrap_or_default().split(',').map(str::trim);
    if !named.any(|name| name == "gpu/nvidia") {
        return match values.is_given("nvidia_gpu_devices") {
            true => Err("Flag '--nvidia_gpu_devices' needs gpu/nvidia in --isolation".to_owned()),
            false => Ok(GpuSettings::default()),
        };
    }
    let cannot = |why: String| format!("gpu/nvidia in --isolation cannot be: {why}");
    let listed = values.text("nvidia_gpu_devices").map(|text| {
        let all = text.split(',').map(|index| index.trim().parse::<u32>());
        all.collect::<Result<Vec<u32>, _>>()
            .map_err(|_| format!("Flag '--nvidia_gpu_devices' must be numbers with ',' between them, not '{text}'"))
    });
    let listed = listed.transpose()?;
    let library = Library::open().map_err(|why| cannot(format!("{} cannot be used: {why}", NAME.to_string_lossy())))?;
    let asked = given.names.iter().any(|name| name == "gpus").then(|| given.resources.scalar_milli("gpus"));
    let gpus = found(&library, asked, listed.as_deref()).map_err(cannot)?;
    let driver = Driver::find();
    tracing::info!(driver = Nvml::version(&library).map_err(cannot)?, ?gpus, files = driver.0.len(), "found GPUs");
    Ok(GpuSettings { gpus, driver, dir: dir(work_dir) })
}
