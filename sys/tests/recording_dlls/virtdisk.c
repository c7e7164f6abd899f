/* virtdisk.dll: the compiler compares the definitions with mingw-w64's header, whose CREATE_VIRTUAL_DISK_PARAMETERS
 * lacks a member of version 2; that one is written from Microsoft's documentation. Handles are events, so that closing
 * one is a real CloseHandle. */
#define _WIN32_WINNT 0x0A00
#include "recording.h"

/* The header declares what is imported; this defines it. */
#pragma GCC diagnostic ignored "-Wattributes"
#include <virtdisk.h>

typedef struct {
    ULONG Version;
    struct {
        GUID UniqueId;
        ULONGLONG MaximumSize;
        ULONG BlockSizeInBytes;
        ULONG SectorSizeInBytes;
        ULONG PhysicalSectorSizeInBytes;
        PCWSTR ParentPath;
        PCWSTR SourcePath;
        ULONG OpenFlags;
        VIRTUAL_STORAGE_TYPE ParentVirtualStorageType;
        VIRTUAL_STORAGE_TYPE SourceVirtualStorageType;
        GUID ResiliencyGuid;
    } Version2;
} CREATION;

static void note_type(const VIRTUAL_STORAGE_TYPE *type)
{
    note(" {%lu", type->DeviceId);
    note_guid(&type->VendorId);
    note("}");
}

static void note_pointer(const void *pointer)
{
    note(pointer ? " there" : " NULL");
}

DWORD WINAPI CreateVirtualDisk(PVIRTUAL_STORAGE_TYPE type, PCWSTR path, VIRTUAL_DISK_ACCESS_MASK access,
                               PSECURITY_DESCRIPTOR security, CREATE_VIRTUAL_DISK_FLAG flags, ULONG provider,
                               PCREATE_VIRTUAL_DISK_PARAMETERS given, LPOVERLAPPED overlapped, PHANDLE handle)
{
    const CREATION *parameters = (const CREATION *)given;
    note("CreateVirtualDisk");
    note_type(type);
    note_wide(path);
    note(" 0x%x", access);
    note_pointer(security);
    note(" 0x%x 0x%lx version %lu", flags, provider, parameters->Version);
    note_guid(&parameters->Version2.UniqueId);
    note(" size 0x%llx block 0x%lx sector %lu %lu", parameters->Version2.MaximumSize,
         parameters->Version2.BlockSizeInBytes, parameters->Version2.SectorSizeInBytes,
         parameters->Version2.PhysicalSectorSizeInBytes);
    note(" parent");
    note_wide(parameters->Version2.ParentPath);
    note(" source");
    note_wide(parameters->Version2.SourcePath);
    note(" open 0x%lx", parameters->Version2.OpenFlags);
    note_type(&parameters->Version2.ParentVirtualStorageType);
    note_pointer(overlapped);
    *handle = CreateEventW(NULL, TRUE, FALSE, NULL);
    return answer("CreateVirtualDisk");
}

DWORD WINAPI OpenVirtualDisk(PVIRTUAL_STORAGE_TYPE type, PCWSTR path, VIRTUAL_DISK_ACCESS_MASK access,
                             OPEN_VIRTUAL_DISK_FLAG flags, POPEN_VIRTUAL_DISK_PARAMETERS parameters, PHANDLE handle)
{
    note("OpenVirtualDisk");
    note_type(type);
    note_wide(path);
    note(" 0x%x 0x%x version %u", access, flags, parameters->Version);
    if (parameters->Version == OPEN_VIRTUAL_DISK_VERSION_1)
        note(" depth %lu", parameters->Version1.RWDepth);
    else
        note(" info %d read-only %d", parameters->Version2.GetInfoOnly, parameters->Version2.ReadOnly);
    *handle = CreateEventW(NULL, TRUE, FALSE, NULL);
    return answer("OpenVirtualDisk");
}

DWORD WINAPI AttachVirtualDisk(HANDLE disk, PSECURITY_DESCRIPTOR security, ATTACH_VIRTUAL_DISK_FLAG flags,
                               ULONG provider, PATTACH_VIRTUAL_DISK_PARAMETERS parameters, LPOVERLAPPED overlapped)
{
    note("AttachVirtualDisk");
    note_pointer(disk);
    note_pointer(security);
    note(" 0x%x 0x%lx version %u", flags, provider, parameters->Version);
    note_pointer(overlapped);
    return answer("AttachVirtualDisk");
}

DWORD WINAPI DetachVirtualDisk(HANDLE disk, DETACH_VIRTUAL_DISK_FLAG flags, ULONG provider)
{
    note("DetachVirtualDisk");
    note_pointer(disk);
    note(" 0x%x 0x%lx", flags, provider);
    return answer("DetachVirtualDisk");
}

/* Longer than the caller's first buffer, and sized in bytes. */
static const WCHAR physical_path[] =
    L"\\\\.\\PhysicalDrive000000000000000000000000000000000000000000000000000000000000000000000007";

DWORD WINAPI GetVirtualDiskPhysicalPath(HANDLE disk, PULONG bytes, PWSTR path)
{
    note("GetVirtualDiskPhysicalPath");
    note_pointer(disk);
    note(" %lu", *bytes);
    if (*bytes < sizeof physical_path) {
        *bytes = sizeof physical_path;
        note("\n");
        return ERROR_INSUFFICIENT_BUFFER;
    }
    *bytes = sizeof physical_path;
    memcpy(path, physical_path, sizeof physical_path);
    return answer("GetVirtualDiskPhysicalPath");
}

DWORD WINAPI ExpandVirtualDisk(HANDLE disk, EXPAND_VIRTUAL_DISK_FLAG flags, PEXPAND_VIRTUAL_DISK_PARAMETERS parameters,
                               LPOVERLAPPED overlapped)
{
    note("ExpandVirtualDisk");
    note_pointer(disk);
    note(" 0x%x version %u size 0x%llx", flags, parameters->Version, parameters->Version1.NewSize);
    note_pointer(overlapped);
    return answer("ExpandVirtualDisk");
}
