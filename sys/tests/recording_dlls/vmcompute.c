/* vmcompute.dll: undocumented; names, order and structures from hcs-layers.md 2.1. */
#include "recording.h"

#include <objbase.h>

typedef struct {
    ULONG flavour;
    PCWSTR home;
} DRIVER;

typedef struct {
    GUID id;
    ULONG flags;
    PCWSTR path;
} DESCRIPTOR;

static void note_call(const char *function, const DRIVER *driver, PCWSTR layer)
{
    note("%s {%lu", function, driver->flavour);
    note_wide(driver->home);
    note("}");
    note_wide(layer);
}

static void note_parents(const DESCRIPTOR *parents, ULONG count)
{
    note(" %lu", count);
    if (!parents)
        note(" NULL");
    for (ULONG at = 0; at < count; at++) {
        note(" {");
        note_guid(&parents[at].id);
        note(" 0x%lx", parents[at].flags);
        note_wide(parents[at].path);
        note("}");
    }
}

#define ON_LAYER(name)                                                                                                 \
    __declspec(dllexport) HRESULT WINAPI name(const DRIVER *driver, PCWSTR layer)                                       \
    {                                                                                                                  \
        note_call(#name, driver, layer);                                                                               \
        return answer(#name);                                                                                          \
    }

ON_LAYER(ActivateLayer)
ON_LAYER(DeactivateLayer)
ON_LAYER(UnprepareLayer)
ON_LAYER(DestroyLayer)

__declspec(dllexport) HRESULT WINAPI PrepareLayer(const DRIVER *driver, PCWSTR layer, const DESCRIPTOR *parents, ULONG count)
{
    note_call("PrepareLayer", driver, layer);
    note_parents(parents, count);
    return answer("PrepareLayer");
}

/* With a non-ASCII letter, which a wrong encoding would spoil. */
static const WCHAR mount_path[] = L"\\\\?\\Volume{7cadcf96-8e6b-5702-8a86-d30724925c2e}\\\u00e9";

__declspec(dllexport) HRESULT WINAPI GetLayerMountPath(const DRIVER *driver, PCWSTR layer, SIZE_T *length, PWSTR buffer)
{
    note_call("GetLayerMountPath", driver, layer);
    if (wcsstr(layer, L"missing")) {
        *length = 0;
        return answer("GetLayerMountPath");
    }
    note(buffer ? " %u buffer" : " %u NULL", (unsigned)*length);
    SIZE_T needed = sizeof mount_path / sizeof *mount_path;
    if (buffer && *length < needed)
        return HRESULT_FROM_WIN32(ERROR_INSUFFICIENT_BUFFER);
    if (buffer)
        wcscpy(buffer, mount_path);
    *length = needed;
    return answer("GetLayerMountPath");
}

__declspec(dllexport) HRESULT WINAPI LayerExists(const DRIVER *driver, PCWSTR layer, DWORD *exists)
{
    note_call("LayerExists", driver, layer);
    *exists = wcsstr(layer, L"missing") ? 0 : 1;
    return answer("LayerExists");
}

__declspec(dllexport) HRESULT WINAPI CreateLayer(const DRIVER *driver, PCWSTR layer, PCWSTR parent)
{
    note_call("CreateLayer", driver, layer);
    note_wide(parent);
    return answer("CreateLayer");
}

__declspec(dllexport) HRESULT WINAPI CreateSandboxLayer(const DRIVER *driver, PCWSTR layer, PCWSTR parent,
                                                        const DESCRIPTOR *parents, ULONG count)
{
    note_call("CreateSandboxLayer", driver, layer);
    note_wide(parent);
    note_parents(parents, count);
    return answer("CreateSandboxLayer");
}

__declspec(dllexport) HRESULT WINAPI ExpandSandboxSize(const DRIVER *driver, PCWSTR layer, UINT64 size)
{
    note_call("ExpandSandboxSize", driver, layer);
    note(" 0x%llx", (unsigned long long)size);
    return answer("ExpandSandboxSize");
}

__declspec(dllexport) HRESULT WINAPI ImportLayer(const DRIVER *driver, PCWSTR layer, PCWSTR source,
                                                 const DESCRIPTOR *parents, ULONG count)
{
    note_call("ImportLayer", driver, layer);
    note_wide(source);
    note_parents(parents, count);
    return answer("ImportLayer");
}

__declspec(dllexport) HRESULT WINAPI ExportLayer(const DRIVER *driver, PCWSTR layer, PCWSTR target,
                                                 const DESCRIPTOR *parents, ULONG count)
{
    note_call("ExportLayer", driver, layer);
    note_wide(target);
    note_parents(parents, count);
    return answer("ExportLayer");
}

__declspec(dllexport) HRESULT WINAPI ProcessBaseImage(PCWSTR path)
{
    note("ProcessBaseImage");
    note_wide(path);
    return answer("ProcessBaseImage");
}

__declspec(dllexport) HRESULT WINAPI ProcessUtilityImage(PCWSTR path)
{
    note("ProcessUtilityImage");
    note_wide(path);
    return answer("ProcessUtilityImage");
}

__declspec(dllexport) HRESULT WINAPI NameToGuid(PCWSTR name, GUID *guid)
{
    static const GUID known = {0x7cadcf96, 0x8e6b, 0x5702, {0x8a, 0x86, 0xd3, 0x07, 0x24, 0x92, 0x5c, 0x2e}};
    note("NameToGuid");
    note_wide(name);
    *guid = known;
    return answer("NameToGuid");
}

__declspec(dllexport) HRESULT WINAPI GetBaseImages(PWSTR *buffer)
{
    static const WCHAR images[] = L"{\"Images\":[]}";
    note("GetBaseImages");
    *buffer = CoTaskMemAlloc(sizeof images);
    memcpy(*buffer, images, sizeof images);
    return answer("GetBaseImages");
}

__declspec(dllexport) HRESULT WINAPI GrantVmAccess(PCWSTR vm, PCWSTR file)
{
    note("GrantVmAccess");
    note_wide(vm);
    note_wide(file);
    return answer("GrantVmAccess");
}
