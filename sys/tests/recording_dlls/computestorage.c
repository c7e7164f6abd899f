/* computestorage.dll: the compiler compares the definitions with mingw-w64's header; the overlay filters are not in
 * it and come from hcs-layers.md 2.2. */
#include "recording.h"

#include <computestorage.h>

#define ONE(name)                                                                                                      \
    HRESULT WINAPI name(PCWSTR first)                                                                                  \
    {                                                                                                                  \
        note(#name);                                                                                                   \
        note_wide(first);                                                                                              \
        return answer(#name);                                                                                          \
    }
#define TWO(name)                                                                                                      \
    HRESULT WINAPI name(PCWSTR first, PCWSTR second)                                                                   \
    {                                                                                                                  \
        note(#name);                                                                                                   \
        note_wide(first);                                                                                              \
        note_wide(second);                                                                                             \
        return answer(#name);                                                                                          \
    }
#define THREE(name)                                                                                                    \
    HRESULT WINAPI name(PCWSTR first, PCWSTR second, PCWSTR third)                                                     \
    {                                                                                                                  \
        note(#name);                                                                                                   \
        note_wide(first);                                                                                              \
        note_wide(second);                                                                                             \
        note_wide(third);                                                                                              \
        return answer(#name);                                                                                          \
    }

ONE(HcsDestroyLayer)
ONE(HcsDetachLayerStorageFilter)
TWO(HcsAttachLayerStorageFilter)
TWO(HcsAttachOverlayFilter)
TWO(HcsDetachOverlayFilter)
THREE(HcsImportLayer)
THREE(HcsInitializeWritableLayer)
THREE(HcsSetupBaseOSVolume)

HRESULT WINAPI HcsExportLayer(PCWSTR layer, PCWSTR target, PCWSTR data, PCWSTR options)
{
    note("HcsExportLayer");
    note_wide(layer);
    note_wide(target);
    note_wide(data);
    note_wide(options);
    return answer("HcsExportLayer");
}

HRESULT WINAPI HcsSetupBaseOSLayer(PCWSTR layer, HANDLE disk, PCWSTR options)
{
    note("HcsSetupBaseOSLayer");
    note_wide(layer);
    note(disk ? " disk" : " NULL");
    note_wide(options);
    return answer("HcsSetupBaseOSLayer");
}

HRESULT WINAPI HcsFormatWritableLayerVhd(HANDLE disk)
{
    note(disk ? "HcsFormatWritableLayerVhd disk" : "HcsFormatWritableLayerVhd NULL");
    return answer("HcsFormatWritableLayerVhd");
}

HRESULT WINAPI HcsGetLayerVhdMountPath(HANDLE disk, PWSTR *path)
{
    note(disk ? "HcsGetLayerVhdMountPath disk" : "HcsGetLayerVhdMountPath NULL");
    *path = local_text(L"\\\\?\\Volume{2afd4900-a4ec-5041-82c5-db5f93089099}");
    return answer("HcsGetLayerVhdMountPath");
}
