// Makes kernels that no Orin has lose while TensorRT times them, so that it picks the best of the others.
//
//   gcc -shared -fPIC toll.c -o libtoll.so -ldl
//   LD_PRELOAD=./libtoll.so python ...
//
// Kernel names begin with the GPU generation that they were written for. Before each launch of one written for Hopper,
// a kernel that only waits (TOLL_US microseconds, 60 by default) is launched on the same stream. TensorRT's builder
// measures the two together, some ten times per kernel, so a long wait makes builds long; it must exceed what Hopper's
// kernel gains in the slowest layer. Nothing else changes: results stay right, and the timing cache works, which an
// IAlgorithmSelector rules out. Both ways in which CUDA's runtime finds the driver's functions are intercepted: dlsym
// and cuGetProcAddress. Needs driver 525 or newer (cuFuncGetName).
//
// Waiting for an event spins instead of sleeping until an interrupt: a build of a YOLO waits a million times.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

// From cuda.h, so that this compiles without it.
typedef int CUresult;
typedef void *CUfunction, *CUstream, *CUcontext, *CUmodule;
typedef unsigned long long cuuint64_t;
typedef struct {
  unsigned grid[3], block[3], shared;
  CUstream stream;
} CUlaunchConfig; // its first fields
enum { CUDA_SUCCESS = 0, PER_THREAD_DEFAULT_STREAM = 2, EVENT_BLOCKING_SYNC = 1 };

typedef CUresult (*Launch)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                           void **, void **);
typedef CUresult (*Cooperative)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                CUstream, void **);
typedef CUresult (*LaunchEx)(const CUlaunchConfig *, CUfunction, void **, void **);
typedef CUresult (*Address)(const char *, void **, int, cuuint64_t);
typedef CUresult (*Address2)(const char *, void **, int, cuuint64_t, int *);
typedef void *(*Symbol)(void *, const char *);

static const char WAIT[] =
    ".version 6.0\n.target sm_50\n.address_size 64\n"
    ".visible .entry toll(.param .u64 nanoseconds) {\n"
    "  .reg .u64 %begin, %now, %limit;\n  .reg .pred %early;\n"
    "  ld.param.u64 %limit, [nanoseconds];\n"
    "  mov.u64 %begin, %globaltimer;\n"
    "again:\n"
    "  mov.u64 %now, %globaltimer;\n  sub.u64 %now, %now, %begin;\n"
    "  setp.lt.u64 %early, %now, %limit;\n  @%early bra again;\n  ret;\n}\n";

#define FUNCTIONS 65536
static struct {
  CUfunction function;
  int pays;
} known[FUNCTIONS]; // open addressing; TensorRT builds and launches in one thread

static Symbol real_dlsym(void) {
  static Symbol function;
  if (!function) function = (Symbol)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
  if (!function) function = (Symbol)dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
  return function;
}

static void *driver(const char *name) {
  static void *library;
  if (!library) library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  return library ? real_dlsym()(library, name) : NULL;
}

static int hopper(CUfunction function) {
  const char *name = NULL;
  CUresult (*of_function)(const char **, CUfunction) = driver("cuFuncGetName");
  CUresult (*of_kernel)(const char **, CUfunction) = driver("cuKernelGetName");
  if ((!of_function || of_function(&name, function)) && (!of_kernel || of_kernel(&name, function))) return 0;
  return name && (strcasestr(name, "sm90") || strcasestr(name, "cutlass_90") || strcasestr(name, "hopper"));
}

static int pays(CUfunction function) {
  size_t i = ((size_t)function >> 4) * 0x9E3779B97F4A7C15ull >> 48;
  for (int tries = 0; tries < FUNCTIONS; tries++, i = (i + 1) % FUNCTIONS) {
    if (known[i].function == function) return known[i].pays;
    if (known[i].function) continue;
    known[i].pays = hopper(function);
    known[i].function = function;
    return known[i].pays;
  }
  return hopper(function);
}

static CUfunction waiting(void) {
  static struct {
    CUcontext context;
    CUfunction function;
  } loaded[8];
  CUcontext context = NULL;
  CUmodule module;
  ((CUresult(*)(CUcontext *))driver("cuCtxGetCurrent"))(&context);
  for (int i = 0; i < 8; i++) {
    if (loaded[i].function && loaded[i].context == context) return loaded[i].function;
    if (loaded[i].function) continue;
    if (((CUresult(*)(CUmodule *, const void *))driver("cuModuleLoadData"))(&module, WAIT)) return NULL;
    ((CUresult(*)(CUfunction *, CUmodule, const char *))driver("cuModuleGetFunction"))(&loaded[i].function, module, "toll");
    loaded[i].context = context;
    return loaded[i].function;
  }
  return NULL;
}

static void take_toll(CUfunction function, CUstream stream, const char *launch) {
  if (!pays(function)) return;
  CUfunction wait = waiting();
  const char *text = getenv("TOLL_US");
  unsigned long long nanoseconds = 1000ull * (text ? strtoul(text, NULL, 10) : 60);
  void *parameters[] = {&nanoseconds};
  if (wait) ((Launch)driver(launch))(wait, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL);
}

#define WRAP(suffix)                                                                                                   \
  CUresult cuLaunchKernel##suffix(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, \
                                  unsigned shared, CUstream stream, void **parameters, void **extra) {                 \
    take_toll(f, stream, "cuLaunchKernel" #suffix);                                                                    \
    return ((Launch)driver("cuLaunchKernel" #suffix))(f, a, b, c, d, e, g, shared, stream, parameters, extra);         \
  }                                                                                                                    \
  CUresult cuLaunchKernelEx##suffix(const CUlaunchConfig *config, CUfunction f, void **parameters, void **extra) {     \
    take_toll(f, config->stream, "cuLaunchKernel" #suffix);                                                           \
    return ((LaunchEx)driver("cuLaunchKernelEx" #suffix))(config, f, parameters, extra);                               \
  }                                                                                                                    \
  CUresult cuLaunchCooperativeKernel##suffix(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, \
                                             unsigned g, unsigned shared, CUstream stream, void **parameters) {        \
    take_toll(f, stream, "cuLaunchKernel" #suffix);                                                                    \
    return ((Cooperative)driver("cuLaunchCooperativeKernel" #suffix))(f, a, b, c, d, e, g, shared, stream, parameters); \
  }
WRAP()
WRAP(_ptsz)

CUresult cuEventCreate(void **event, unsigned flags) {
  return ((CUresult(*)(void **, unsigned))driver("cuEventCreate"))(event, flags & ~EVENT_BLOCKING_SYNC);
}

static void *ours(const char *name, int per_thread);

static CUresult address(const char *name, void **out, int version, cuuint64_t flags) {
  CUresult result = ((Address)driver("cuGetProcAddress"))(name, out, version, flags);
  void *own = ours(name, (flags & PER_THREAD_DEFAULT_STREAM) != 0);
  if (result == CUDA_SUCCESS && own) *out = own;
  return result;
}

static CUresult address2(const char *name, void **out, int version, cuuint64_t flags,
                         int *state) {
  CUresult result = ((Address2)driver("cuGetProcAddress_v2"))(name, out, version, flags, state);
  void *own = ours(name, (flags & PER_THREAD_DEFAULT_STREAM) != 0);
  // Asked for by its plain name, the second form comes from CUDA 12 on.
  if (own == (void *)address && version >= 12000) own = (void *)address2;
  if (result == CUDA_SUCCESS && own) *out = own;
  return result;
}

static void *ours(const char *name, int per_thread) {
  if (!name) return NULL;
  if (!strcmp(name, "cuLaunchKernel")) return per_thread ? (void *)cuLaunchKernel_ptsz : (void *)cuLaunchKernel;
  if (!strcmp(name, "cuLaunchKernel_ptsz")) return (void *)cuLaunchKernel_ptsz;
  if (!strcmp(name, "cuLaunchKernelEx")) return per_thread ? (void *)cuLaunchKernelEx_ptsz : (void *)cuLaunchKernelEx;
  if (!strcmp(name, "cuLaunchKernelEx_ptsz")) return (void *)cuLaunchKernelEx_ptsz;
  if (!strcmp(name, "cuLaunchCooperativeKernel"))
    return per_thread ? (void *)cuLaunchCooperativeKernel_ptsz : (void *)cuLaunchCooperativeKernel;
  if (!strcmp(name, "cuLaunchCooperativeKernel_ptsz")) return (void *)cuLaunchCooperativeKernel_ptsz;
  if (!strcmp(name, "cuEventCreate")) return (void *)cuEventCreate;
  if (!strcmp(name, "cuGetProcAddress")) return (void *)address;
  if (!strcmp(name, "cuGetProcAddress_v2")) return (void *)address2;
  return NULL;
}

void *dlsym(void *library, const char *name) {
  void *own = ours(name, 0);
  void *symbol = real_dlsym()(library, name);
  return own && symbol ? own : symbol;
}
