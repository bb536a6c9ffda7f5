//! NVIDIA's management library, `libnvidia-ml.so.1`: opened when the agent starts, if GPUs are to be given out, and asked which there
//! are. It is the driver's, so it is found on the machine and not linked to.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use nix::libc;

/// What the loader looks for.
pub const NAME: &CStr = c"libnvidia-ml.so.1";

type Device = *mut c_void;
const DONE: c_int = 0;
/// More than any version of a driver has, its end included.
const VERSION_MAX: usize = 80;

/// The library, which stays open for as long as this process lives.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    version: unsafe extern "C" fn(*mut c_char, c_uint) -> c_int,
    count: unsafe extern "C" fn(*mut c_uint) -> c_int,
    by_index: unsafe extern "C" fn(c_uint, *mut Device) -> c_int,
    minor: unsafe extern "C" fn(Device, *mut c_uint) -> c_int,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
}

/// Why the loader did not do what it was asked.
fn why() -> String {
    // SAFETY: what is returned is null or text that stays until this thread asks the loader again.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the loader says nothing".to_owned();
    }
    // SAFETY: as above: it is text, and is copied at once.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

impl Library {
    /// Opens the library, and has it find the GPUs. The error is a sentence.
    ///
    /// # Errors
    /// It is not there, is none, or finds no driver.
    pub fn open() -> Result<Library, String> {
        // SAFETY: the name is text that lives for ever. What the library does when it is loaded is the driver's to answer for.
        let library = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return Err(why());
        }
        let symbol = |name: &CStr| {
            // SAFETY: the library was opened and stays so; the name is text.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            if found.is_null() { Err(why()) } else { Ok(found) }
        };
        // SAFETY: these functions have these types in all versions of the library that have their names.
        let (start, opened) = unsafe {
            let start: unsafe extern "C" fn() -> c_int = std::mem::transmute(symbol(c"nvmlInit_v2")?);
            let opened = Library {
                version: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_char, c_uint) -> c_int>(
                    symbol(c"nvmlSystemGetDriverVersion")?,
                ),
                count: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_uint) -> c_int>(symbol(
                    c"nvmlDeviceGetCount_v2",
                )?),
                by_index: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_uint, *mut Device) -> c_int>(
                    symbol(c"nvmlDeviceGetHandleByIndex_v2")?,
                ),
                minor: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(Device, *mut c_uint) -> c_int>(symbol(
                    c"nvmlDeviceGetMinorNumber",
                )?),
                error: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> *const c_char>(symbol(
                    c"nvmlErrorString",
                )?),
            };
            (start, opened)
        };
        // SAFETY: takes nothing; it may be called again.
        opened.done("nvmlInit", unsafe { start() })?;
        Ok(opened)
    }

    fn done(&self, what: &str, result: c_int) -> Result<(), String> {
        if result == DONE {
            return Ok(());
        }
        // SAFETY: takes a number.
        let text = unsafe { (self.error)(result) };
        let text = match text.is_null() {
            true => result.to_string(),
            // SAFETY: it is text that lives for as long as the library.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        };
        Err(format!("{what}: {text}"))
    }

    /// The version of the driver. The error is a sentence.
    ///
    /// # Errors
    /// The library does not tell.
    pub fn version(&self) -> Result<String, String> {
        let mut text: [c_char; VERSION_MAX] = [0; VERSION_MAX];
        // SAFETY: the library writes no more than so many bytes, the last of them nought.
        let result = unsafe { (self.version)(text.as_mut_ptr(), VERSION_MAX as c_uint) };
        self.done("nvmlSystemGetDriverVersion", result)?;
        text[VERSION_MAX - 1] = 0;
        // SAFETY: it ends in nought, as was seen to just now.
        Ok(unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// How many GPUs there are. The error is a sentence.
    ///
    /// # Errors
    /// The library does not tell.
    pub fn count(&self) -> Result<u32, String> {
        let mut count = 0;
        // SAFETY: the library writes a number.
        let result = unsafe { (self.count)(&raw mut count) };
        self.done("nvmlDeviceGetCount", result).map(|()| count)
    }

    /// The second number of the device of a GPU, by its index. The error is a sentence.
    ///
    /// # Errors
    /// There is none, or the library does not tell.
    pub fn minor(&self, index: u32) -> Result<u32, String> {
        let (mut device, mut minor): (Device, c_uint) = (std::ptr::null_mut(), 0);
        // SAFETY: the library writes what stands for a GPU, which stays valid for as long as it is open.
        let result = unsafe { (self.by_index)(index, &raw mut device) };
        self.done("nvmlDeviceGetHandleByIndex", result)?;
        // SAFETY: the library gave the device just now, and writes a number.
        let result = unsafe { (self.minor)(device, &raw mut minor) };
        self.done("nvmlDeviceGetMinorNumber", result).map(|()| minor)
    }
}
