/* computecore.dll: the compiler compares the definitions with mingw-w64's header. */
#include "recording.h"

#include <computecore.h>

static SIZE_T operations = 0x100;
static SIZE_T systems = 0x200;

static void note_operation(HCS_OPERATION operation)
{
    note(" operation 0x%x", (unsigned)(SIZE_T)operation);
}

static void note_system(HCS_SYSTEM system)
{
    note(" system 0x%x", (unsigned)(SIZE_T)system);
}

HCS_OPERATION WINAPI HcsCreateOperation(const void *context, HCS_OPERATION_COMPLETION callback)
{
    note("HcsCreateOperation%s%s\n", context ? " context" : "", callback ? " callback" : "");
    return (HCS_OPERATION)++operations;
}

void WINAPI HcsCloseOperation(HCS_OPERATION operation)
{
    note("HcsCloseOperation");
    note_operation(operation);
    note("\n");
}

HRESULT WINAPI HcsWaitForOperationResult(HCS_OPERATION operation, DWORD timeout, PWSTR *document)
{
    note("HcsWaitForOperationResult");
    note_operation(operation);
    note(" %lu", timeout);
    LONG result = answer("HcsWaitForOperationResult");
    *document = local_text(result ? L"{\"Error\":-2143878899}" : L"{\"Answer\":\"\u00fc\"}");
    return result;
}

HRESULT WINAPI HcsCreateComputeSystem(PCWSTR id, PCWSTR configuration, HCS_OPERATION operation,
                                      const SECURITY_DESCRIPTOR *security, HCS_SYSTEM *system)
{
    note("HcsCreateComputeSystem");
    note_wide(id);
    note_wide(configuration);
    note_operation(operation);
    note(security ? " security" : " NULL");
    *system = (HCS_SYSTEM)++systems;
    return answer("HcsCreateComputeSystem");
}

HRESULT WINAPI HcsOpenComputeSystem(PCWSTR id, DWORD access, HCS_SYSTEM *system)
{
    note("HcsOpenComputeSystem");
    note_wide(id);
    note(" 0x%lx", access);
    *system = (HCS_SYSTEM)++systems;
    return answer("HcsOpenComputeSystem");
}

void WINAPI HcsCloseComputeSystem(HCS_SYSTEM system)
{
    note("HcsCloseComputeSystem");
    note_system(system);
    note("\n");
}

#define ON_SYSTEM(name)                                                                                                \
    HRESULT WINAPI name(HCS_SYSTEM system, HCS_OPERATION operation, PCWSTR document)                                   \
    {                                                                                                                  \
        note(#name);                                                                                                   \
        note_system(system);                                                                                           \
        note_operation(operation);                                                                                     \
        note_wide(document);                                                                                           \
        return answer(#name);                                                                                          \
    }

ON_SYSTEM(HcsStartComputeSystem)
ON_SYSTEM(HcsShutDownComputeSystem)
ON_SYSTEM(HcsTerminateComputeSystem)
ON_SYSTEM(HcsGetComputeSystemProperties)

HRESULT WINAPI HcsModifyComputeSystem(HCS_SYSTEM system, HCS_OPERATION operation, PCWSTR configuration, HANDLE identity)
{
    note("HcsModifyComputeSystem");
    note_system(system);
    note_operation(operation);
    note_wide(configuration);
    note(identity ? " identity" : " NULL");
    return answer("HcsModifyComputeSystem");
}

HRESULT WINAPI HcsEnumerateComputeSystems(PCWSTR query, HCS_OPERATION operation)
{
    note("HcsEnumerateComputeSystems");
    note_wide(query);
    note_operation(operation);
    return answer("HcsEnumerateComputeSystems");
}

HRESULT WINAPI HcsGetServiceProperties(PCWSTR query, PWSTR *result)
{
    note("HcsGetServiceProperties");
    note_wide(query);
    *result = local_text(L"{\"Properties\":[]}");
    return answer("HcsGetServiceProperties");
}

HRESULT WINAPI HcsGrantVmGroupAccess(PCWSTR file)
{
    note("HcsGrantVmGroupAccess");
    note_wide(file);
    return answer("HcsGrantVmGroupAccess");
}
