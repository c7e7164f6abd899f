/* fltlib.dll: the compiler compares the definitions with mingw-w64's header. Tells of two filters. */
#define _WIN32_WINNT 0x0A00
#include "recording.h"

#include <fltuser.h>

static const PCWSTR names[] = {L"wcifs", L"WdFilter"};
static unsigned at;

static HRESULT fill(const char *function, FILTER_INFORMATION_CLASS class, void *buffer, DWORD size, DWORD *filled)
{
    note(" %u %lu", class, size);
    if (at >= sizeof names / sizeof *names) {
        note("\n");
        return HRESULT_FROM_WIN32(ERROR_NO_MORE_ITEMS);
    }
    FILTER_FULL_INFORMATION *information = buffer;
    information->NextEntryOffset = 0;
    information->FrameID = 0;
    information->NumberOfInstances = 3;
    information->FilterNameLength = wcslen(names[at]) * sizeof(WCHAR);
    memcpy(information->FilterNameBuffer, names[at], information->FilterNameLength);
    *filled = FIELD_OFFSET(FILTER_FULL_INFORMATION, FilterNameBuffer) + information->FilterNameLength;
    at++;
    return answer(function);
}

HRESULT WINAPI FilterFindFirst(FILTER_INFORMATION_CLASS class, LPVOID buffer, DWORD size, LPDWORD filled, LPHANDLE search)
{
    note("FilterFindFirst");
    at = 0;
    *search = (HANDLE)0x77;
    return fill("FilterFindFirst", class, buffer, size, filled);
}

HRESULT WINAPI FilterFindNext(HANDLE search, FILTER_INFORMATION_CLASS class, LPVOID buffer, DWORD size, LPDWORD filled)
{
    note("FilterFindNext 0x%x", (unsigned)(SIZE_T)search);
    return fill("FilterFindNext", class, buffer, size, filled);
}

HRESULT WINAPI FilterFindClose(HANDLE search)
{
    note("FilterFindClose 0x%x", (unsigned)(SIZE_T)search);
    return answer("FilterFindClose");
}
