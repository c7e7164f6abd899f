/* cimwriter.dll: prototypes and the structure from Microsoft's documentation of cimfs.h (cim-format.md 11.1). */
#include "recording.h"

typedef PVOID IMAGE;
typedef PVOID STREAM;

typedef struct {
    UINT32 Attributes;
    INT64 FileSize;
    LARGE_INTEGER CreationTime;
    LARGE_INTEGER LastWriteTime;
    LARGE_INTEGER ChangeTime;
    LARGE_INTEGER LastAccessTime;
    const void *SecurityDescriptorBuffer;
    UINT32 SecurityDescriptorSize;
    const void *ReparseDataBuffer;
    UINT32 ReparseDataSize;
    const void *EaBuffer;
    UINT32 EaBufferSize;
} METADATA;

static SIZE_T handles = 0x400;

static void note_handle(const char *kind, PVOID handle)
{
    note(" %s 0x%x", kind, (unsigned)(SIZE_T)handle);
}

static void note_bytes(const void *bytes, UINT32 size)
{
    if (!bytes)
        note(" NULL");
    else
        note(" ");
    for (UINT32 at = 0; bytes && at < size; at++)
        note("%02x", ((const unsigned char *)bytes)[at]);
}

__declspec(dllexport) HRESULT WINAPI CimCreateImage(PCWSTR directory, PCWSTR existing, PCWSTR new, IMAGE *image)
{
    note("CimCreateImage");
    note_wide(directory);
    note_wide(existing);
    note_wide(new);
    *image = (IMAGE)++handles;
    return answer("CimCreateImage");
}

__declspec(dllexport) void WINAPI CimCloseImage(IMAGE image)
{
    note("CimCloseImage");
    note_handle("image", image);
    answer("CimCloseImage");
}

__declspec(dllexport) HRESULT WINAPI CimCommitImage(IMAGE image)
{
    note("CimCommitImage");
    note_handle("image", image);
    return answer("CimCommitImage");
}

__declspec(dllexport) HRESULT WINAPI CimCreateFile(IMAGE image, PCWSTR path, const METADATA *metadata, STREAM *stream)
{
    note("CimCreateFile");
    note_handle("image", image);
    note_wide(path);
    note(" 0x%x %lld times %lld %lld %lld %lld", metadata->Attributes, metadata->FileSize,
         metadata->CreationTime.QuadPart, metadata->LastWriteTime.QuadPart, metadata->ChangeTime.QuadPart,
         metadata->LastAccessTime.QuadPart);
    note_bytes(metadata->SecurityDescriptorBuffer, metadata->SecurityDescriptorSize);
    note_bytes(metadata->ReparseDataBuffer, metadata->ReparseDataSize);
    note_bytes(metadata->EaBuffer, metadata->EaBufferSize);
    *stream = (STREAM)++handles;
    return answer("CimCreateFile");
}

__declspec(dllexport) HRESULT WINAPI CimCreateAlternateStream(IMAGE image, PCWSTR path, UINT64 size, STREAM *stream)
{
    note("CimCreateAlternateStream");
    note_handle("image", image);
    note_wide(path);
    note(" %llu", (unsigned long long)size);
    *stream = (STREAM)++handles;
    return answer("CimCreateAlternateStream");
}

__declspec(dllexport) HRESULT WINAPI CimWriteStream(STREAM stream, const void *buffer, UINT32 size)
{
    note("CimWriteStream");
    note_handle("stream", stream);
    note_bytes(buffer, size);
    return answer("CimWriteStream");
}

__declspec(dllexport) void WINAPI CimCloseStream(STREAM stream)
{
    note("CimCloseStream");
    note_handle("stream", stream);
    answer("CimCloseStream");
}

__declspec(dllexport) HRESULT WINAPI CimCreateHardLink(IMAGE image, PCWSTR new, PCWSTR existing)
{
    note("CimCreateHardLink");
    note_handle("image", image);
    note_wide(new);
    note_wide(existing);
    return answer("CimCreateHardLink");
}

__declspec(dllexport) HRESULT WINAPI CimDeletePath(IMAGE image, PCWSTR path)
{
    note("CimDeletePath");
    note_handle("image", image);
    note_wide(path);
    return answer("CimDeletePath");
}
