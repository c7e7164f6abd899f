//! `computecore.dll`: Microsoft's reference of the Host Compute System API.

use std::ffi::c_void;
use std::path::Path;
use std::ptr;

use windows_sys::Win32::Foundation::{GENERIC_ALL, HANDLE};
use windows_sys::core::{HRESULT, PCWSTR, PWSTR};

use super::System;
use super::binding::bindings;
use super::text::{Allocated, Wide};
use crate::windows::{ComputeApi, ComputeSystem, Error, HResult, Result};

type SystemHandle = *mut c_void;
type OperationHandle = *mut c_void;

bindings! {
    COMPUTECORE = "computecore.dll", build 17763;
    create_operation: "HcsCreateOperation", build 17763, fn(*const c_void, *const c_void) -> OperationHandle;
    close_operation: "HcsCloseOperation", build 17763, fn(OperationHandle);
    wait: "HcsWaitForOperationResult", build 17763, fn(OperationHandle, u32, *mut PWSTR) -> HRESULT;
    create: "HcsCreateComputeSystem", build 17763, fn(
        PCWSTR, PCWSTR, OperationHandle, *const c_void, *mut SystemHandle,
    ) -> HRESULT;
    open: "HcsOpenComputeSystem", build 17763, fn(PCWSTR, u32, *mut SystemHandle) -> HRESULT;
    close: "HcsCloseComputeSystem", build 17763, fn(SystemHandle);
    start: "HcsStartComputeSystem", build 17763, fn(SystemHandle, OperationHandle, PCWSTR) -> HRESULT;
    shut_down: "HcsShutDownComputeSystem", build 17763, fn(SystemHandle, OperationHandle, PCWSTR) -> HRESULT;
    terminate: "HcsTerminateComputeSystem", build 17763, fn(SystemHandle, OperationHandle, PCWSTR) -> HRESULT;
    modify: "HcsModifyComputeSystem", build 17763, fn(SystemHandle, OperationHandle, PCWSTR, HANDLE) -> HRESULT;
    properties: "HcsGetComputeSystemProperties", build 17763, fn(
        SystemHandle, OperationHandle, PCWSTR,
    ) -> HRESULT;
    enumerate: "HcsEnumerateComputeSystems", build 17763, fn(PCWSTR, OperationHandle) -> HRESULT;
    service_properties: "HcsGetServiceProperties", build 17763, fn(PCWSTR, *mut PWSTR) -> HRESULT;
    grant_group: "HcsGrantVmGroupAccess", build 19041, fn(PCWSTR) -> HRESULT;
}

/// One asynchronous operation, closed on drop.
struct Operation {
    handle: OperationHandle,
    close: unsafe extern "system" fn(OperationHandle),
}

impl Operation {
    fn new(function: &'static str, subject: &str) -> Result<Self> {
        let call = create_operation()?;
        let close = close_operation()?;
        // SAFETY: no context and no callback: the result is waited for.
        let handle = unsafe { call(ptr::null(), ptr::null()) };
        if handle.is_null() {
            return Err(super::last_error(function, subject));
        }
        Ok(Self { handle, close })
    }

    /// Waits for the end. `started` is what the function that takes the operation returned.
    fn finish(
        self,
        system: &System,
        function: &'static str,
        subject: &str,
        started: HRESULT,
    ) -> Result<String> {
        super::checked(function, subject, started)?;
        let call = wait()?;
        let milliseconds = u32::try_from(system.operation_timeout.as_millis()).unwrap_or(u32::MAX);
        let mut document = Allocated::local();
        // SAFETY: the operation is open; the pointer that is filled outlives the call.
        let answer = unsafe { call(self.handle, milliseconds, document.out()) };
        // A failure comes with a document that says more; one that cannot be read must not hide the failure.
        let text = document.read(function);
        let code = HResult::from_raw(answer);
        if !code.is_failure() {
            return text;
        }
        let error = Error::new(function, subject, code);
        match text {
            Ok(text) if !text.is_empty() => Err(error.with_detail(text)),
            _ => Err(error),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: the operation was made by computecore and is closed once.
        unsafe { (self.close)(self.handle) };
    }
}

fn handle(system: &ComputeSystem) -> SystemHandle {
    system.value() as SystemHandle
}

fn owned(handle: SystemHandle, close: unsafe extern "system" fn(SystemHandle)) -> ComputeSystem {
    ComputeSystem::new(handle as usize, move |value| {
        // SAFETY: the handle was made by computecore for this value alone, which closes it once.
        unsafe { close(value as SystemHandle) };
    })
}

type OnSystem = unsafe extern "system" fn(SystemHandle, OperationHandle, PCWSTR) -> HRESULT;

impl System {
    fn on_system(
        &self,
        function: &'static str,
        call: OnSystem,
        system: &ComputeSystem,
        document: &str,
    ) -> Result<String> {
        let subject = format!("{system:?}");
        let document = Wide::text(function, document)?;
        let operation = Operation::new(function, &subject)?;
        // SAFETY: the system is open as long as it is borrowed, the operation is open, and the document ends with NUL
        // and outlives the call; NULL stands for no document.
        let started = unsafe { call(handle(system), operation.handle, document.as_optional_ptr()) };
        operation.finish(self, function, &subject, started)
    }
}

impl ComputeApi for System {
    fn create_compute_system(&self, id: &str, document: &str) -> Result<ComputeSystem> {
        let function = "HcsCreateComputeSystem";
        let (call, close) = (create()?, close()?);
        let name = Wide::text(function, id)?;
        let document = Wide::text(function, document)?;
        let operation = Operation::new(function, id)?;
        let mut out: SystemHandle = ptr::null_mut();
        // SAFETY: both texts end with NUL and outlive the call, as does the handle; the operation is open; NULL gives
        // the system the default rights.
        let started = unsafe {
            call(name.as_ptr(), document.as_ptr(), operation.handle, ptr::null(), &raw mut out)
        };
        // Closes the handle if the wait fails. A refused call leaves none.
        let system = (!out.is_null()).then(|| owned(out, close));
        operation.finish(self, function, id, started)?;
        system.ok_or_else(|| Error::new(function, id, HResult::win32(6)))
    }

    fn open_compute_system(&self, id: &str) -> Result<ComputeSystem> {
        let function = "HcsOpenComputeSystem";
        let (call, close) = (open()?, close()?);
        let name = Wide::text(function, id)?;
        let mut out: SystemHandle = ptr::null_mut();
        // SAFETY: the name ends with NUL and, like the handle, outlives the call.
        let answer = unsafe { call(name.as_ptr(), GENERIC_ALL, &raw mut out) };
        super::checked(function, id, answer)?;
        Ok(owned(out, close))
    }

    fn start_compute_system(&self, system: &ComputeSystem) -> Result<()> {
        self.on_system("HcsStartComputeSystem", start()?, system, "").map(drop)
    }

    fn shut_down_compute_system(&self, system: &ComputeSystem, options: &str) -> Result<()> {
        self.on_system("HcsShutDownComputeSystem", shut_down()?, system, options).map(drop)
    }

    fn terminate_compute_system(&self, system: &ComputeSystem, options: &str) -> Result<()> {
        self.on_system("HcsTerminateComputeSystem", terminate()?, system, options).map(drop)
    }

    fn modify_compute_system(&self, system: &ComputeSystem, request: &str) -> Result<String> {
        let function = "HcsModifyComputeSystem";
        let call = modify()?;
        let subject = format!("{system:?}");
        let request = Wide::text(function, request)?;
        let operation = Operation::new(function, &subject)?;
        // SAFETY: the system is open as long as it is borrowed, the operation is open, the request ends with NUL and
        // outlives the call; NULL is the caller's own identity.
        let started =
            unsafe { call(handle(system), operation.handle, request.as_ptr(), ptr::null_mut()) };
        operation.finish(self, function, &subject, started)
    }

    fn compute_system_properties(&self, system: &ComputeSystem, query: &str) -> Result<String> {
        self.on_system("HcsGetComputeSystemProperties", properties()?, system, query)
    }

    fn enumerate_compute_systems(&self, query: &str) -> Result<String> {
        let function = "HcsEnumerateComputeSystems";
        let call = enumerate()?;
        let text = Wide::text(function, query)?;
        let operation = Operation::new(function, query)?;
        // SAFETY: the operation is open; the query ends with NUL and outlives the call, and NULL asks for all.
        let started = unsafe { call(text.as_optional_ptr(), operation.handle) };
        operation.finish(self, function, query, started)
    }

    fn service_properties(&self, query: &str) -> Result<String> {
        let function = "HcsGetServiceProperties";
        let call = service_properties()?;
        let text = Wide::text(function, query)?;
        let mut document = Allocated::local();
        // SAFETY: the query ends with NUL and, like the pointer that is filled, outlives the call; NULL asks for the
        // usual properties.
        let answer = unsafe { call(text.as_optional_ptr(), document.out()) };
        super::checked(function, query, answer)?;
        document.read(function)
    }

    fn grant_vm_group_access(&self, file: &Path) -> Result<()> {
        let function = "HcsGrantVmGroupAccess";
        let call = grant_group()?;
        let text = Wide::path(function, file)?;
        // SAFETY: the path ends with NUL and outlives the call.
        let answer = unsafe { call(text.as_ptr()) };
        super::checked(function, file.to_string_lossy(), answer)
    }
}
