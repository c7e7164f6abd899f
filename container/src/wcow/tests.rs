//! Sequences of calls against tables written from hcs-layers.md 1.3, 1.4 and 3.2.

mod allocation;
mod layers;

use std::sync::Arc;
use std::time::Duration;

use ::mount::windows::{
    CimVolumes, Folders, Retry, Sharing, WindowsCims, WindowsLayers, WindowsPath,
};
use serde_json::Value;
use sys::windows::recording::Recorder;
use uvm::hcs::{HcsOptions, HcsVm, WindowsGuest};

use super::*;

const VOLUME: &str = r"\\?\Volume{11111111-2222-3333-4444-555555555555}";

struct Bench {
    directory: tempfile::TempDir,
    recorder: Recorder,
    host: Arc<WcowHost>,
}

impl Bench {
    /// A host with the scratch `C:\s` and its disk.
    fn new() -> Self {
        let bench = Self::bare();
        bench.make(r"C:\s");
        std::fs::write(bench.folders().path(&path(r"C:\s\sandbox.vhdx")), "").unwrap();
        bench
    }

    fn bare() -> Self {
        let (directory, recorder) = (tempfile::tempdir().unwrap(), Recorder::new());
        std::fs::create_dir(directory.path().join("host")).unwrap();
        recorder.answer("GetLayerMountPath", VOLUME);
        let (run, wait) = (directory.path().join("run"), Duration::from_secs(1));
        let folders = Folders::below(directory.path().join("host"));
        let shared = Arc::new(recorder.clone());
        let layers =
            WindowsLayers::open(shared.clone(), folders, &run, Retry::never(), wait).unwrap();
        let cims =
            CimVolumes::open(WindowsCims::new(shared), &run, Sharing::PerContainer, wait).unwrap();
        Self { directory, recorder, host: Arc::new(WcowHost { layers, cims }) }
    }

    fn folders(&self) -> Folders {
        Folders::below(self.directory.path().join("host"))
    }

    fn make(&self, folder: &str) {
        self.folders().make(&path(folder)).unwrap();
    }

    fn guest(&self) -> Arc<WindowsGuest> {
        let shared = Arc::new(self.recorder.clone());
        let guest = WindowsGuest::new(HcsVm::open(shared, "vm", HcsOptions::default()).unwrap());
        self.recorder.take_lines();
        Arc::new(guest)
    }

    /// The calls, those of the service with what they are about.
    fn said(&self) -> Vec<String> {
        let short = |line: &String| {
            let Some(document) = line.strip_prefix("HcsModifyComputeSystem(system#1, ") else {
                return line.clone();
            };
            let json: Value = serde_json::from_str(&document[..document.len() - 1]).unwrap();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let request = &json["GuestRequest"];
            if request.is_null() {
                let (settings, resource) = (&json["Settings"], text(&json["ResourcePath"]));
                let kind = resource.split('/').nth(2).unwrap_or_default();
                let name = ["Name", "Path"].map(|key| text(&settings[key])).join(" ");
                return format!("{} {kind} {}", text(&json["RequestType"]), name.trim());
            }
            let settings = &request["Settings"];
            let at =
                ["ContainerPath", "ContainerRootPath"].map(|key| text(&settings[key])).concat();
            format!(
                "guest {} {} {at}",
                text(&request["RequestType"]),
                text(&request["ResourceType"])
            )
        };
        self.recorder.take_lines().iter().map(short).collect()
    }

    /// Nothing is attached, mounted or on record.
    fn assert_clean(&self, what: &str) {
        assert!(self.host.cims.volumes().unwrap().is_empty(), "{what}");
        assert!(self.recorder.volumes().is_empty(), "{what}");
        assert_eq!(self.host.layers.reconcile(&|_| false).unwrap(), Default::default(), "{what}");
        assert!(self.recorder.take_lines().is_empty(), "{what}");
    }
}

fn path(text: &str) -> WindowsPath {
    WindowsPath::parse(text).unwrap()
}
