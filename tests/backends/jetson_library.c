// Stand-in for a Jetson's libnvbufsurface and for the EGL functions of CUDA's driver: NVIDIA's structures (nvbufsurface.h,
// cudaEGL.h), and a log of the calls. `refused` names the call that fails.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t num_planes, width[4], height[4], pitch[4], offset[4], psize[4], bytesPerPix[4];
    void* _reserved[16];
} NvBufSurfacePlaneParams;

typedef struct {
    void *addr[4], *eglImage, *_reserved[4];
} NvBufSurfaceMappedAddr;

typedef struct {
    uint32_t width, height, pitch;
    int colorFormat, layout;
    uint64_t bufferDesc;
    uint32_t dataSize;
    void* dataPtr;
    NvBufSurfacePlaneParams planeParams;
    NvBufSurfaceMappedAddr mappedAddr;
    void *paramex, *_reserved[3];
} NvBufSurfaceParams;

typedef struct {
    uint32_t gpuId, batchSize, numFilled;
    bool isContiguous;
    int memType;
    NvBufSurfaceParams* surfaceList;
    void* _reserved[4];
} NvBufSurface;

typedef struct {
    void* frame[3];
    unsigned width, height, depth, pitch, planeCount, numChannels;
    int frameType, eglColorFormat, cuFormat;
} CUeglFrame;

// As other users of the headers assert.
_Static_assert(sizeof(NvBufSurfacePlaneParams) == 232 && sizeof(NvBufSurfaceMappedAddr) == 72, "planes");
_Static_assert(sizeof(NvBufSurfaceParams) == 384 && sizeof(NvBufSurface) == 64, "surface");

const size_t layout[] = {
    sizeof(NvBufSurface), offsetof(NvBufSurface, memType), offsetof(NvBufSurface, surfaceList),
    sizeof(NvBufSurfaceParams), offsetof(NvBufSurfaceParams, planeParams),
    offsetof(NvBufSurfaceParams, mappedAddr.eglImage), offsetof(NvBufSurfaceParams, paramex),
    sizeof(NvBufSurfacePlaneParams), offsetof(NvBufSurfacePlaneParams, offset),
    sizeof(CUeglFrame), offsetof(CUeglFrame, pitch), offsetof(CUeglFrame, frameType),
};

char calls[4096], refused[64];
int frame_type = 1;

static int called(const char* name) {
    strcat(strcat(calls, name), " ");
    return strcmp(name, refused) == 0;
}

// A surface whose planes begin at `memory` and `memory + colors`.
NvBufSurface* surface_of(uint8_t* memory, uint32_t width, uint32_t height, uint32_t pitch, uint32_t colors) {
    NvBufSurface* surface = calloc(1, sizeof *surface);
    NvBufSurfaceParams* params = calloc(1, sizeof *params);
    NvBufSurfacePlaneParams planes = {
        2, {width, width / 2}, {height, height / 2}, {pitch, pitch}, {0, colors}, {colors, pitch * height / 2}, {1, 2}, {0}};
    *params = (NvBufSurfaceParams){.width = width, .height = height, .pitch = pitch, .colorFormat = 6, .dataPtr = memory};
    params->planeParams = planes;
    *surface = (NvBufSurface){.batchSize = 1, .numFilled = 1, .memType = 4, .surfaceList = params};
    return surface;
}

void free_surface(NvBufSurface* surface) {
    free(surface->surfaceList);
    free(surface);
}

int NvBufSurfaceMapEglImage(NvBufSurface* surface, int index) {
    if (called("map")) return -1;
    surface->surfaceList[index].mappedAddr.eglImage = &surface->surfaceList[index];
    return 0;
}

int NvBufSurfaceUnMapEglImage(NvBufSurface* surface, int index) {
    surface->surfaceList[index].mappedAddr.eglImage = NULL;
    return -called("unmap");
}

int cuGraphicsEGLRegisterImage(void** resource, void* image, unsigned flags) {
    *resource = image;
    return called("register") || flags;
}

int cuGraphicsResourceGetMappedEglFrame(CUeglFrame* frame, void* resource, unsigned index, unsigned level) {
    const NvBufSurfaceParams* params = resource;
    const NvBufSurfacePlaneParams* planes = &params->planeParams;
    *frame = (CUeglFrame){.width = params->width, .height = params->height, .pitch = planes->pitch[0]};
    frame->planeCount = planes->num_planes;
    frame->frameType = frame_type;
    for (unsigned i = 0; i < planes->num_planes; i++) frame->frame[i] = (uint8_t*)params->dataPtr + planes->offset[i];
    return called("frame") || index || level;
}

int cuGraphicsUnregisterResource(void* resource) { return called("unregister") || !resource; }
