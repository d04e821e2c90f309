// Lets a program believe that the GPU is an Ampere: compute capability 8.0, with AS_AMPERE_SMS multiprocessors.
//
//   gcc -shared -fPIC as_ampere.c -I$CUDA_HOME/include -o libas_ampere.so -ldl
//   LD_PRELOAD=./libas_ampere.so AS_AMPERE_SMS=8 python ...
//
// TensorRT then offers no kernel that was written for Hopper (sm90_*). Kernels still run as what the driver finds in
// them for the real GPU. Both ways that CUDA's runtime finds the driver's functions are intercepted: dlsym, and
// cuGetProcAddress.
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#undef cuGetProcAddress

typedef CUresult (*Attribute)(int *, CUdevice_attribute, CUdevice);
typedef CUresult (*Capability)(int *, int *, CUdevice);
typedef CUresult (*Address)(const char *, void **, int, cuuint64_t);
typedef CUresult (*Address2)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);
typedef void *(*Symbol)(void *, const char *);

static Symbol real_dlsym(void) {
  static Symbol found;
  if (!found) found = (Symbol)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
  if (!found) found = (Symbol)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
  return found;
}

static void *driver(const char *name) {
  static void *library;
  if (!library) library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  return library ? real_dlsym()(library, name) : NULL;
}

static int multiprocessors(void) {
  const char *text = getenv("AS_AMPERE_SMS");
  return text ? atoi(text) : 0;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute what, CUdevice device) {
  CUresult result = ((Attribute)driver("cuDeviceGetAttribute"))(value, what, device);
  if (result == CUDA_SUCCESS) {
    if (what == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) *value = 8;
    if (what == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) *value = 0;
    if (what == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT && multiprocessors()) *value = multiprocessors();
  }
  return result;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
  CUresult result = ((Capability)driver("cuDeviceComputeCapability"))(major, minor, device);
  if (result == CUDA_SUCCESS) *major = 8, *minor = 0;
  return result;
}

static void *ours(const char *name);

static CUresult address(const char *name, void **found, int version, cuuint64_t flags) {
  CUresult result = ((Address)driver("cuGetProcAddress"))(name, found, version, flags);
  void *own = ours(name);
  if (result == CUDA_SUCCESS && own) *found = own;
  return result;
}

static CUresult address2(const char *name, void **found, int version, cuuint64_t flags,
                         CUdriverProcAddressQueryResult *state) {
  CUresult result = ((Address2)driver("cuGetProcAddress_v2"))(name, found, version, flags, state);
  void *own = ours(name);
  // Asked for by its plain name, the second form comes from CUDA 12 on.
  if (own == (void *)address && version >= 12000) own = (void *)address2;
  if (result == CUDA_SUCCESS && own) *found = own;
  return result;
}

static void *ours(const char *name) {
  if (!name) return NULL;
  if (!strcmp(name, "cuDeviceGetAttribute")) return (void *)cuDeviceGetAttribute;
  if (!strcmp(name, "cuDeviceComputeCapability")) return (void *)cuDeviceComputeCapability;
  if (!strcmp(name, "cuGetProcAddress")) return (void *)address;
  if (!strcmp(name, "cuGetProcAddress_v2")) return (void *)address2;
  return NULL;
}

void *dlsym(void *library, const char *name) {
  void *own = ours(name);
  void *found = real_dlsym()(library, name);
  return own && found ? own : found;
}
