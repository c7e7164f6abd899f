/* What a recording DLL keeps: one line of text for each call, which the test takes, and the answer that the test
 * wants next. Every DLL includes this once and so has a log of its own. Tests take turns, so nothing is locked. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <windows.h>

static char log_text[1 << 16];
static size_t log_length;
static char failing[64];
static LONG failing_with;

/* Appends as printf does. */
static void note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(log_text + log_length, sizeof log_text - log_length, format, arguments);
    va_end(arguments);
    if (written > 0 && log_length + written < sizeof log_text)
        log_length += written;
}

/* Appends UTF-16 as it arrived: what is not printable ASCII as the value of the unit. */
static inline void note_wide(PCWSTR text)
{
    if (!text) {
        note(" NULL");
        return;
    }
    note(" \"");
    for (; *text; text++) {
        if (*text >= 0x20 && *text < 0x7f)
            note("%c", *text);
        else
            note("<%04x>", *text);
    }
    note("\"");
}

static inline void note_guid(const GUID *guid)
{
    note(" %08lx-%04x-%04x-%02x%02x-", guid->Data1, guid->Data2, guid->Data3, guid->Data4[0], guid->Data4[1]);
    for (int at = 2; at < 8; at++)
        note("%02x", guid->Data4[at]);
}

/* Ends the line; the answer is what the test asked for, once, or 0. */
static LONG answer(const char *function)
{
    note("\n");
    if (strcmp(function, failing))
        return 0;
    failing[0] = 0;
    return failing_with;
}

/* Text that the caller frees with LocalFree. */
static inline PWSTR local_text(PCWSTR text)
{
    PWSTR copy = LocalAlloc(LMEM_FIXED, (wcslen(text) + 1) * sizeof(WCHAR));
    wcscpy(copy, text);
    return copy;
}

/* Copies the log out, without a NUL, and empties it. */
__declspec(dllexport) size_t recording_take(char *out, size_t size)
{
    size_t length = log_length < size ? log_length : size;
    memcpy(out, log_text, length);
    log_length = 0;
    return length;
}

/* The next call of the function answers so. */
__declspec(dllexport) void recording_fail(const char *function, LONG with)
{
    snprintf(failing, sizeof failing, "%s", function);
    failing_with = with;
}
