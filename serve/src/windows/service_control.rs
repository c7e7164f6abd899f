//! Running as a Windows service. Nothing has to be said for it: a process that the service manager has not started is told
//! so by Windows, and goes on in its console.

use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{
    self, ServiceControlHandlerResult, ServiceStatusHandle,
};
use windows_service::{define_windows_service, service_dispatcher};

use super::{Stop, run_until};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};

/// What the service is called: `sc.exe create plywood binPath= "…\plywood.exe serve"`.
const NAME: &str = "plywood";
/// `ERROR_FAILED_SERVICE_CONTROLLER_CONNECT`: not started by the service manager.
const IN_CONSOLE: i32 = 1063;
/// How long the manager is to wait for a start that sweeps the store, and for the last calls of a stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the service's own thread is given, and what it gives back: it takes no arguments of ours.
static CONFIG: Mutex<Option<Config>> = Mutex::new(None);
static ENDED: Mutex<Option<Result<()>>> = Mutex::new(None);

define_windows_service!(service_main, main_of_service);

/// Runs as a service to its end; or gives the configuration back in a console.
///
/// # Errors
/// Those of the daemon, and of the service manager.
pub(super) fn run_as_service(config: Config) -> Result<Option<Config>> {
    *CONFIG.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    match service_dispatcher::start(NAME, service_main) {
        Ok(()) => match ENDED.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(Err(error)) => Err(error),
            _ => Ok(None),
        },
        Err(windows_service::Error::Winapi(error)) if error.raw_os_error() == Some(IN_CONSOLE) => {
            Ok(CONFIG.lock().unwrap_or_else(PoisonError::into_inner).take())
        }
        Err(error) => Err(Error::caused(ErrorKind::Io, "cannot run as a service", error)),
    }
}

fn main_of_service(_arguments: Vec<OsString>) {
    let Some(config) = CONFIG.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let ended = serve(config);
    if let Err(error) = &ended {
        tracing::error!("ended: {}", crate::status::line(error));
    }
    *ENDED.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
}

fn serve(config: Config) -> Result<()> {
    static STOP: Mutex<Option<Stop>> = Mutex::new(None);
    let failed = |error| Error::caused(ErrorKind::Io, "cannot talk to the service manager", error);
    let handler = |control| match control {
        ServiceControl::Stop | ServiceControl::Shutdown | ServiceControl::Preshutdown => {
            if let Some(stop) = &*STOP.lock().unwrap_or_else(PoisonError::into_inner) {
                stop.now();
            }
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let manager = service_control_handler::register(NAME, handler).map_err(failed)?;
    tell(&manager, ServiceState::StartPending, 0).map_err(failed)?;
    let ended = run_until(config, &mut |stop| {
        *STOP.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
        if let Err(error) = tell(&manager, ServiceState::Running, 0) {
            tracing::warn!("cannot tell the service manager of the start: {error}");
        }
    });
    tell(&manager, ServiceState::Stopped, u32::from(ended.is_err())).map_err(failed)?;
    ended
}

fn tell(
    manager: &ServiceStatusHandle,
    state: ServiceState,
    code: u32,
) -> windows_service::Result<()> {
    let accepted = match state {
        ServiceState::Running => ServiceControlAccept::STOP | ServiceControlAccept::PRESHUTDOWN,
        _ => ServiceControlAccept::empty(),
    };
    manager.set_service_status(ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: accepted,
        exit_code: ServiceExitCode::ServiceSpecific(code),
        checkpoint: 0,
        wait_hint: if state == ServiceState::StartPending { PATIENCE } else { Duration::ZERO },
        process_id: None,
    })
}
