//! The interfaces as the double has them.

use std::path::{Path, PathBuf};

use super::{Recorder, shown, shown_parents};
use crate::windows::{
    AttachFlags, CimFileMetadata, CimFs, CimImage, CimMountFlags, CimStream, CimWriter,
    ClusterGeometry, ComputeApi, ComputeSystem, Disk, DiskAccess, DiskApi, Error, Guid, HResult,
    Hive, HostFacts, LayerApi, LayerDescriptor, LibraryFacts, NewDisk, OfflineRegistry, Privilege,
    Result, StorageApi, VolumeApi, WindowsVersion,
};

fn volume_of(name: &str) -> String {
    format!(r"\\?\Volume{{{}}}", Guid::new_v5(&Guid::nil(), name.as_bytes()))
}

fn disk_name(disk: &Disk) -> String {
    format!("disk#{}", disk.value())
}

fn image_name(image: &CimImage) -> String {
    format!("image#{}", image.value())
}

fn system_name(system: &ComputeSystem) -> String {
    format!("system#{}", system.value())
}

/// The GUID in `\\?\Volume{guid}` with or without a backslash.
fn guid_of(volume: &str) -> Option<Guid> {
    let inner = volume.strip_prefix(r"\\?\Volume{")?;
    Guid::parse_str(inner.trim_end_matches('\\').strip_suffix('}')?).ok()
}

fn number<T: std::str::FromStr>(function: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::new(function, text, HResult::INVALID_PARAMETER))
}

impl CimFs for Recorder {
    fn mount_image(
        &self,
        directory: &Path,
        name: &str,
        flags: CimMountFlags,
        volume: &Guid,
    ) -> Result<()> {
        let others = [name.to_owned(), format!("0x{:X}", flags.bits()), volume.to_string()];
        let mut state = self.call("CimMountImage", directory.display(), &others)?;
        if state.mounted.insert(*volume) {
            return Ok(());
        }
        Err(Error::new("CimMountImage", volume.to_string(), HResult::ALREADY_EXISTS))
    }

    fn dismount_image(&self, volume: &Guid) -> Result<()> {
        let mut state = self.call("CimDismountImage", volume, &[])?;
        if state.mounted.remove(volume) {
            return Ok(());
        }
        Err(Error::new("CimDismountImage", volume.to_string(), HResult::FILE_NOT_FOUND))
    }
}

impl CimWriter for Recorder {
    fn create_image(
        &self,
        directory: &Path,
        existing: Option<&str>,
        new: Option<&str>,
    ) -> Result<CimImage> {
        let others = [existing, new].map(|name| name.unwrap_or("NULL").to_owned());
        let state = self.call("CimCreateImage", directory.display(), &others)?;
        let (number, close) = self.handle(state, "CimCloseImage", "image");
        Ok(CimImage::new(number, close))
    }

    fn create_image_file(
        &self,
        image: &CimImage,
        path: &Path,
        metadata: &CimFileMetadata<'_>,
    ) -> Result<CimStream> {
        let CimFileMetadata { attributes, size, .. } = metadata;
        let others = [shown(path), format!("0x{attributes:X}"), size.to_string()];
        let state = self.call("CimCreateFile", image_name(image), &others)?;
        let (number, close) = self.handle(state, "CimCloseStream", "stream");
        Ok(CimStream::new(number, close))
    }

    fn create_alternate_stream(
        &self,
        image: &CimImage,
        path: &Path,
        size: u64,
    ) -> Result<CimStream> {
        let others = [shown(path), size.to_string()];
        let state = self.call("CimCreateAlternateStream", image_name(image), &others)?;
        let (number, close) = self.handle(state, "CimCloseStream", "stream");
        Ok(CimStream::new(number, close))
    }

    fn write_stream(&self, stream: &CimStream, data: &[u8]) -> Result<()> {
        let name = format!("stream#{}", stream.value());
        self.call("CimWriteStream", name, &[data.len().to_string()]).map(drop)
    }

    fn create_image_link(&self, image: &CimImage, new: &Path, existing: &Path) -> Result<()> {
        let others = [shown(new), shown(existing)];
        self.call("CimCreateHardLink", image_name(image), &others).map(drop)
    }

    fn delete_image_path(&self, image: &CimImage, path: &Path) -> Result<()> {
        self.call("CimDeletePath", image_name(image), &[shown(path)]).map(drop)
    }

    fn commit_image(&self, image: &CimImage) -> Result<()> {
        self.call("CimCommitImage", image_name(image), &[]).map(drop)
    }
}

impl LayerApi for Recorder {
    fn activate_layer(&self, layer: &Path) -> Result<()> {
        self.call("ActivateLayer", layer.display(), &[]).map(drop)
    }

    fn deactivate_layer(&self, layer: &Path) -> Result<()> {
        self.call("DeactivateLayer", layer.display(), &[]).map(drop)
    }

    fn prepare_layer(&self, layer: &Path, parents: &[LayerDescriptor]) -> Result<()> {
        self.call("PrepareLayer", layer.display(), &[shown_parents(parents)]).map(drop)
    }

    fn unprepare_layer(&self, layer: &Path) -> Result<()> {
        self.call("UnprepareLayer", layer.display(), &[]).map(drop)
    }

    fn layer_mount_path(&self, layer: &Path) -> Result<String> {
        self.answered("GetLayerMountPath", layer.display(), &[], || volume_of(&shown(layer)))
    }

    fn layer_exists(&self, layer: &Path) -> Result<bool> {
        let text = self.answered("LayerExists", layer.display(), &[], || "true".to_owned())?;
        number("LayerExists", &text)
    }

    fn create_layer(&self, layer: &Path, parent: &str) -> Result<()> {
        self.call("CreateLayer", layer.display(), &[parent.to_owned()]).map(drop)
    }

    fn create_scratch_layer(&self, layer: &Path, parents: &[LayerDescriptor]) -> Result<()> {
        self.call("CreateSandboxLayer", layer.display(), &[shown_parents(parents)]).map(drop)
    }

    fn expand_scratch_size(&self, layer: &Path, bytes: u64) -> Result<()> {
        self.call("ExpandSandboxSize", layer.display(), &[bytes.to_string()]).map(drop)
    }

    fn destroy_layer(&self, layer: &Path) -> Result<()> {
        self.call("DestroyLayer", layer.display(), &[]).map(drop)
    }

    fn import_layer(&self, layer: &Path, source: &Path, parents: &[LayerDescriptor]) -> Result<()> {
        let others = [shown(source), shown_parents(parents)];
        drop(self.call("ImportLayer", layer.display(), &others)?);
        self.become_layer(source, layer);
        Ok(())
    }

    fn export_layer(&self, layer: &Path, target: &Path, parents: &[LayerDescriptor]) -> Result<()> {
        let others = [shown(target), shown_parents(parents)];
        self.call("ExportLayer", layer.display(), &others).map(drop)
    }

    fn process_base_layer(&self, layer: &Path) -> Result<()> {
        self.call("ProcessBaseImage", layer.display(), &[]).map(drop)
    }

    fn process_utility_vm_image(&self, directory: &Path) -> Result<()> {
        self.call("ProcessUtilityImage", directory.display(), &[]).map(drop)
    }

    fn name_to_guid(&self, name: &str) -> Result<Guid> {
        let usual = || Guid::new_v5(&Guid::nil(), name.as_bytes()).to_string();
        number("NameToGuid", &self.answered("NameToGuid", name, &[], usual)?)
    }

    fn base_images(&self) -> Result<String> {
        self.answered("GetBaseImages", "", &[], || r#"{"Images":[]}"#.to_owned())
    }

    fn grant_vm_access(&self, vm: &str, file: &Path) -> Result<()> {
        self.call("GrantVmAccess", vm, &[shown(file)]).map(drop)
    }
}

impl StorageApi for Recorder {
    fn initialize_writable_layer(
        &self,
        layer: &Path,
        layer_data: &str,
        options: &str,
    ) -> Result<()> {
        let others = [layer_data.to_owned(), options.to_owned()];
        self.call("HcsInitializeWritableLayer", layer.display(), &others).map(drop)
    }

    fn attach_layer_storage_filter(&self, layer: &Path, layer_data: &str) -> Result<()> {
        let others = [layer_data.to_owned()];
        self.call("HcsAttachLayerStorageFilter", layer.display(), &others).map(drop)
    }

    fn detach_layer_storage_filter(&self, layer: &Path) -> Result<()> {
        self.call("HcsDetachLayerStorageFilter", layer.display(), &[]).map(drop)
    }

    fn attach_overlay_filter(&self, volume: &str, layer_data: &str) -> Result<()> {
        self.call("HcsAttachOverlayFilter", volume, &[layer_data.to_owned()]).map(drop)
    }

    fn detach_overlay_filter(&self, volume: &str, layer_data: &str) -> Result<()> {
        self.call("HcsDetachOverlayFilter", volume, &[layer_data.to_owned()]).map(drop)
    }

    fn format_writable_layer_vhd(&self, disk: &Disk) -> Result<()> {
        self.call("HcsFormatWritableLayerVhd", disk_name(disk), &[]).map(drop)
    }

    fn layer_vhd_mount_path(&self, disk: &Disk) -> Result<String> {
        let name = disk_name(disk);
        self.answered("HcsGetLayerVhdMountPath", &name, &[], || volume_of(&name))
    }

    fn setup_base_os_layer(&self, layer: &Path, disk: &Disk, options: &str) -> Result<()> {
        let others = [disk_name(disk), options.to_owned()];
        self.call("HcsSetupBaseOSLayer", layer.display(), &others).map(drop)
    }

    fn setup_base_os_volume(&self, layer: &Path, volume: &str, options: &str) -> Result<()> {
        let others = [volume.to_owned(), options.to_owned()];
        self.call("HcsSetupBaseOSVolume", layer.display(), &others).map(drop)
    }

    fn destroy_storage_layer(&self, layer: &Path) -> Result<()> {
        self.call("HcsDestroyLayer", layer.display(), &[]).map(drop)
    }

    fn import_storage_layer(&self, layer: &Path, source: &Path, layer_data: &str) -> Result<()> {
        let others = [shown(source), layer_data.to_owned()];
        self.call("HcsImportLayer", layer.display(), &others).map(drop)
    }

    fn export_storage_layer(
        &self,
        layer: &Path,
        target: &Path,
        layer_data: &str,
        options: &str,
    ) -> Result<()> {
        let others = [shown(target), layer_data.to_owned(), options.to_owned()];
        self.call("HcsExportLayer", layer.display(), &others).map(drop)
    }
}

impl DiskApi for Recorder {
    fn create_disk(&self, path: &Path, disk: &NewDisk) -> Result<Disk> {
        let mut others = vec![format!("size={}", disk.size), format!("block={}", disk.block_size)];
        others.extend(disk.parent.as_deref().map(|parent| format!("parent={}", shown(parent))));
        let state = self.call("CreateVirtualDisk", path.display(), &others)?;
        let (number, close) = self.handle(state, "CloseHandle", "disk");
        Ok(Disk::new(number, close))
    }

    fn open_disk(&self, path: &Path, access: DiskAccess) -> Result<Disk> {
        let others = [format!("0x{:X}", access.bits())];
        let state = self.call("OpenVirtualDisk", path.display(), &others)?;
        let (number, close) = self.handle(state, "CloseHandle", "disk");
        Ok(Disk::new(number, close))
    }

    fn attach_disk(&self, disk: &Disk, flags: AttachFlags) -> Result<()> {
        let others = [format!("0x{:X}", flags.bits())];
        self.call("AttachVirtualDisk", disk_name(disk), &others).map(drop)
    }

    fn detach_disk(&self, disk: &Disk) -> Result<()> {
        self.call("DetachVirtualDisk", disk_name(disk), &[]).map(drop)
    }

    fn disk_physical_path(&self, disk: &Disk) -> Result<String> {
        let usual = || format!(r"\\.\PhysicalDrive{}", disk.value());
        self.answered("GetVirtualDiskPhysicalPath", disk_name(disk), &[], usual)
    }

    fn expand_disk(&self, disk: &Disk, bytes: u64) -> Result<()> {
        self.call("ExpandVirtualDisk", disk_name(disk), &[bytes.to_string()]).map(drop)
    }
}

impl VolumeApi for Recorder {
    fn set_volume_mount_point(&self, directory: &Path, volume: &str) -> Result<()> {
        let mut state =
            self.call("SetVolumeMountPointW", directory.display(), &[volume.to_owned()])?;
        state.mount_points.insert(directory.to_owned(), volume.to_owned());
        Ok(())
    }

    fn delete_volume_mount_point(&self, directory: &Path) -> Result<()> {
        let mut state = self.call("DeleteVolumeMountPointW", directory.display(), &[])?;
        state.mount_points.remove(directory);
        Ok(())
    }

    fn volume_at_mount_point(&self, directory: &Path) -> Result<String> {
        let function = "GetVolumeNameForVolumeMountPointW";
        let mut state = self.call(function, directory.display(), &[])?;
        state
            .answer(function)
            .or_else(|| state.mount_points.get(directory).cloned())
            .ok_or_else(|| Error::at(function, directory, HResult::NOT_A_REPARSE_POINT))
    }

    fn volume_exists(&self, volume: &str) -> Result<bool> {
        let mut state = self.call("GetFileAttributesW", volume, &[])?;
        match state.answer("GetFileAttributesW") {
            Some(text) => number("GetFileAttributesW", &text),
            None => Ok(guid_of(volume).is_some_and(|guid| state.mounted.contains(&guid))),
        }
    }

    fn create_directory_symlink(&self, link: &Path, target: &str) -> Result<()> {
        let mut state = self.call("CreateSymbolicLinkW", link.display(), &[target.to_owned()])?;
        state.links.insert(link.to_owned(), PathBuf::from(target));
        Ok(())
    }

    fn create_junction(&self, link: &Path, target: &Path) -> Result<()> {
        let mut state = self.call("FSCTL_SET_REPARSE_POINT", link.display(), &[shown(target)])?;
        state.links.insert(link.to_owned(), target.to_owned());
        Ok(())
    }

    fn read_link(&self, link: &Path) -> Result<PathBuf> {
        let function = "FSCTL_GET_REPARSE_POINT";
        let mut state = self.call(function, link.display(), &[])?;
        state
            .answer(function)
            .map(PathBuf::from)
            .or_else(|| state.links.get(link).cloned())
            .ok_or_else(|| Error::at(function, link, HResult::NOT_A_REPARSE_POINT))
    }

    fn remove_directory_link(&self, link: &Path) -> Result<()> {
        let mut state = self.call("RemoveDirectoryW", link.display(), &[])?;
        state.links.remove(link);
        Ok(())
    }

    fn partition_length(&self, volume: &str) -> Result<u64> {
        let function = "IOCTL_DISK_GET_LENGTH_INFO";
        number(function, &self.answered(function, volume, &[], || (20u64 << 30).to_string())?)
    }

    fn cluster_geometry(&self, volume: &str) -> Result<ClusterGeometry> {
        let function = "GetDiskFreeSpaceW";
        let clusters = self.answered(function, volume, &[], || (20u32 << 18).to_string())?;
        let clusters = number(function, &clusters)?;
        Ok(ClusterGeometry { bytes_per_sector: 512, sectors_per_cluster: 8, clusters })
    }

    fn extend_volume(&self, volume: &str, sectors: u64) -> Result<()> {
        self.call("FSCTL_EXTEND_VOLUME", volume, &[sectors.to_string()]).map(drop)
    }
}

impl ComputeApi for Recorder {
    fn create_compute_system(&self, id: &str, document: &str) -> Result<ComputeSystem> {
        let state = self.call("HcsCreateComputeSystem", id, &[document.to_owned()])?;
        let (number, close) = self.handle(state, "HcsCloseComputeSystem", "system");
        Ok(ComputeSystem::new(number, close))
    }

    fn open_compute_system(&self, id: &str) -> Result<ComputeSystem> {
        let state = self.call("HcsOpenComputeSystem", id, &[])?;
        let (number, close) = self.handle(state, "HcsCloseComputeSystem", "system");
        Ok(ComputeSystem::new(number, close))
    }

    fn start_compute_system(&self, system: &ComputeSystem) -> Result<()> {
        self.call("HcsStartComputeSystem", system_name(system), &[]).map(drop)
    }

    fn shut_down_compute_system(&self, system: &ComputeSystem, options: &str) -> Result<()> {
        let others = [options.to_owned()];
        self.call("HcsShutDownComputeSystem", system_name(system), &others).map(drop)
    }

    fn terminate_compute_system(&self, system: &ComputeSystem, options: &str) -> Result<()> {
        let others = [options.to_owned()];
        self.call("HcsTerminateComputeSystem", system_name(system), &others).map(drop)
    }

    fn modify_compute_system(&self, system: &ComputeSystem, request: &str) -> Result<String> {
        let others = [request.to_owned()];
        self.answered("HcsModifyComputeSystem", system_name(system), &others, String::new)
    }

    fn compute_system_properties(&self, system: &ComputeSystem, query: &str) -> Result<String> {
        let others = [query.to_owned()];
        let usual = || "{}".to_owned();
        self.answered("HcsGetComputeSystemProperties", system_name(system), &others, usual)
    }

    fn enumerate_compute_systems(&self, query: &str) -> Result<String> {
        self.answered("HcsEnumerateComputeSystems", query, &[], || "[]".to_owned())
    }

    fn service_properties(&self, query: &str) -> Result<String> {
        self.answered("HcsGetServiceProperties", query, &[], || "{}".to_owned())
    }

    fn grant_vm_group_access(&self, file: &Path) -> Result<()> {
        self.call("HcsGrantVmGroupAccess", file.display(), &[]).map(drop)
    }
}

impl HostFacts for Recorder {
    fn version(&self) -> Result<WindowsVersion> {
        Ok(self.state().facts.version)
    }

    fn libraries(&self) -> Vec<LibraryFacts> {
        self.state().facts.libraries.clone()
    }

    fn privileges(&self) -> Result<Vec<Privilege>> {
        Ok(self.state().facts.privileges.clone())
    }

    fn enable_privileges(&self, names: &[&str]) -> Result<()> {
        let mut state = self.call("AdjustTokenPrivileges", names.join(", "), &[])?;
        for name in names {
            let held = state.facts.privileges.iter_mut().find(|held| held.name == *name);
            let missing =
                || Error::new("AdjustTokenPrivileges", *name, HResult::PRIVILEGE_NOT_HELD);
            held.ok_or_else(missing)?.enabled = true;
        }
        Ok(())
    }

    fn is_elevated(&self) -> Result<bool> {
        Ok(self.state().facts.elevated)
    }

    fn filters(&self) -> Result<Vec<String>> {
        Ok(self.state().facts.filters.clone())
    }
}

impl OfflineRegistry for Recorder {
    fn create_hive(&self) -> Result<Hive> {
        let state = self.call("ORCreateHive", "", &[])?;
        let (number, close) = self.handle(state, "ORCloseHive", "hive");
        Ok(Hive::new(number, close))
    }

    fn open_hive(&self, path: &Path) -> Result<Hive> {
        let state = self.call("OROpenHive", path.display(), &[])?;
        let (number, close) = self.handle(state, "ORCloseHive", "hive");
        Ok(Hive::new(number, close))
    }

    fn merge_hives(&self, hives: &[&Hive]) -> Result<Hive> {
        let names = hives.iter().map(|hive| format!("hive#{}", hive.value()));
        let names = names.collect::<Vec<_>>().join(", ");
        let state = self.call("ORMergeHives", format!("[{names}]"), &[])?;
        let (number, close) = self.handle(state, "ORCloseHive", "hive");
        Ok(Hive::new(number, close))
    }

    fn save_hive(&self, hive: &Hive, path: &Path, major: u32, minor: u32) -> Result<()> {
        let others = [shown(path), major.to_string(), minor.to_string()];
        self.call("ORSaveHive", format!("hive#{}", hive.value()), &others).map(drop)
    }
}
