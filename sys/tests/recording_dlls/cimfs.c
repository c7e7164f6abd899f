/* cimfs.dll: prototypes from the public documentation of cimfs.h (cim-format.md 11.1). */
#include "recording.h"

__declspec(dllexport) HRESULT WINAPI CimMountImage(PCWSTR directory, PCWSTR name, ULONG flags, const GUID *volume)
{
    note("CimMountImage");
    note_wide(directory);
    note_wide(name);
    note(" 0x%lx", flags);
    note_guid(volume);
    return answer("CimMountImage");
}

__declspec(dllexport) HRESULT WINAPI CimDismountImage(const GUID *volume)
{
    note("CimDismountImage");
    note_guid(volume);
    return answer("CimDismountImage");
}
