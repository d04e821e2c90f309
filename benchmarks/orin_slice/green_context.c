// A CUDA context that owns only some of the GPU's multiprocessors: as many as an Orin has.
//
//   gcc -shared -fPIC green_context.c -I$CUDA_HOME/include -o libgreen.so -lcuda
//
// Needs driver 550 or newer. On a Hopper, counts are multiples of eight: 8 as on an Orin Nano 8GB or NX, 16 as on an
// AGX Orin 64GB. The device still reports all of its multiprocessors, and its memory is far faster than an Orin's.
#include <cuda.h>

// Creates a context on the multiprocessors of slice `index` of device 0, when it is cut into slices of `sms`. Returns how
// many it has, or a negative error: -1000 * step - the driver's error code; -3999: there are fewer slices.
int green_make(int sms, int index, CUcontext *out) {
  CUdevice device;
  CUcontext primary;
  CUdevResource all, parts[64], rest;
  CUdevResourceDesc description;
  CUgreenCtx green;
  unsigned count = index + 1;
  CUresult r;
  if ((r = cuInit(0)) || (r = cuDeviceGet(&device, 0)) || (r = cuDevicePrimaryCtxRetain(&primary, device)))
    return -1000 - (int)r;
  if ((r = cuDeviceGetDevResource(device, &all, CU_DEV_RESOURCE_TYPE_SM))) return -2000 - (int)r;
  if (index >= 64) return -3999;
  if ((r = cuDevSmResourceSplitByCount(parts, &count, &all, &rest, 0, sms))) return -3000 - (int)r;
  if (count <= (unsigned)index) return -3999;
  if ((r = cuDevResourceGenerateDesc(&description, &parts[index], 1))) return -4000 - (int)r;
  if ((r = cuGreenCtxCreate(&green, description, device, CU_GREEN_CTX_DEFAULT_STREAM))) return -5000 - (int)r;
  if ((r = cuCtxFromGreenCtx(out, green))) return -6000 - (int)r;
  return (int)parts[index].sm.smCount;
}

int green_push(CUcontext context) { return cuCtxPushCurrent(context); }
