/* offreg.dll: prototypes from the public documentation of offreg.h; ORMergeHives from regf.md 16.4. */
#include "recording.h"

typedef PVOID ORHKEY;

static SIZE_T hives = 0x300;

static ORHKEY next(void)
{
    return (ORHKEY)++hives;
}

static void note_hive(ORHKEY hive)
{
    note(" hive 0x%x", (unsigned)(SIZE_T)hive);
}

__declspec(dllexport) DWORD WINAPI ORCreateHive(ORHKEY *hive)
{
    note("ORCreateHive");
    *hive = next();
    return answer("ORCreateHive");
}

__declspec(dllexport) DWORD WINAPI OROpenHive(PCWSTR path, ORHKEY *hive)
{
    note("OROpenHive");
    note_wide(path);
    *hive = next();
    return answer("OROpenHive");
}

__declspec(dllexport) DWORD WINAPI ORCloseHive(ORHKEY hive)
{
    note("ORCloseHive");
    note_hive(hive);
    return answer("ORCloseHive");
}

__declspec(dllexport) DWORD WINAPI ORMergeHives(ORHKEY *given, DWORD count, ORHKEY *merged)
{
    note("ORMergeHives %lu", count);
    for (DWORD at = 0; at < count; at++)
        note_hive(given[at]);
    *merged = next();
    return answer("ORMergeHives");
}

__declspec(dllexport) DWORD WINAPI ORSaveHive(ORHKEY hive, PCWSTR path, DWORD major, DWORD minor)
{
    note("ORSaveHive");
    note_hive(hive);
    note_wide(path);
    note(" %lu %lu", major, minor);
    return answer("ORSaveHive");
}
