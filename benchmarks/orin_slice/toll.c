// Makes kernels that no Orin has lose while TensorRT times them, so that it picks the best of the others.
//
//   gcc -shared -fPIC toll.c -o libtoll.so -ldl
//   LD_PRELOAD=./libtoll.so python ...
//
// Kernel names begin with the GPU generation that they were written for. The builder reads how long a kernel took as the
// time between two CUDA events. For each kernel written for Hopper that was launched between the two, TOLL_MS
// milliseconds (1000 by default) are added to that time. Nothing waits and nothing else changes: results stay right, and
// the timing cache works, which an IAlgorithmSelector rules out. Both ways in which CUDA's runtime finds the driver's
// functions are intercepted: dlsym and cuGetProcAddress. Needs driver 525 or newer (cuFuncGetName).
//
// The builder repeats short timings until they add up to some milliseconds, ten times for most kernels. While TOLL_SCALE is
// set in the environment, all times are multiplied by it, which changes no comparison but ends the repetition.
//
// Waiting for an event spins instead of sleeping until an interrupt: a build of a YOLO waits a million times. Attributes of
// the device are read once: the driver asks the kernel for some of them each time, and the builder reads them before every
// timing, which took a third of its time in the driver.
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
typedef CUresult (*Record)(void *, CUstream);
typedef CUresult (*RecordFlags)(void *, CUstream, unsigned);
typedef CUresult (*Attribute)(int *, int, int);
typedef CUresult (*Elapsed)(float *, void *, void *);
typedef CUresult (*Address)(const char *, void **, int, cuuint64_t);
typedef CUresult (*Address2)(const char *, void **, int, cuuint64_t, int *);
typedef void *(*Symbol)(void *, const char *);

#define FUNCTIONS 65536
static struct {
  CUfunction function;
  int pays;
} known[FUNCTIONS]; // open addressing; TensorRT builds and launches in one thread

#define EVENTS 65536
static struct {
  void *event;
  long paid; // launches of Hopper's kernels before it was recorded
} recorded[EVENTS];
static long paid, timings;

// How many times were read since the process started: what a build costs.
long toll_timings(void) { return timings; }

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

// The driver's own function, looked up once per place where it is called.
#define REAL(type, name)                                                                                               \
  ({                                                                                                                   \
    static type function;                                                                                              \
    if (!function) function = (type)driver(name);                                                                      \
    function;                                                                                                          \
  })

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

// The slot of an event; one of events long destroyed when the slots near its own are taken.
static long *paid_before(void *event) {
  size_t i = ((size_t)event >> 4) * 0x9E3779B97F4A7C15ull >> 48;
  for (int tries = 0; tries < 64; tries++, i = (i + 1) % EVENTS)
    if (recorded[i].event == event || !recorded[i].event) break;
  if (recorded[i].event != event) recorded[i].event = event;
  return &recorded[i].paid;
}

CUresult cuEventElapsedTime(float *milliseconds, void *start, void *end) {
  static float toll = -1;
  CUresult result = REAL(Elapsed, "cuEventElapsedTime")(milliseconds, start, end);
  if (toll < 0) toll = getenv("TOLL_MS") ? strtof(getenv("TOLL_MS"), NULL) : 1000;
  const char *scale = getenv("TOLL_SCALE");
  timings++;
  if (result != CUDA_SUCCESS) return result;
  *milliseconds += (float)(*paid_before(end) - *paid_before(start)) * toll;
  if (scale) *milliseconds *= strtof(scale, NULL);
  return result;
}

#define WRAP(suffix)                                                                                                   \
  CUresult cuLaunchKernel##suffix(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, \
                                  unsigned shared, CUstream stream, void **parameters, void **extra) {                 \
    paid += pays(f);                                                                                                   \
    return REAL(Launch, "cuLaunchKernel" #suffix)(f, a, b, c, d, e, g, shared, stream, parameters, extra);             \
  }                                                                                                                    \
  CUresult cuLaunchKernelEx##suffix(const CUlaunchConfig *config, CUfunction f, void **parameters, void **extra) {     \
    paid += pays(f);                                                                                                   \
    return REAL(LaunchEx, "cuLaunchKernelEx" #suffix)(config, f, parameters, extra);                                   \
  }                                                                                                                    \
  CUresult cuLaunchCooperativeKernel##suffix(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, \
                                             unsigned g, unsigned shared, CUstream stream, void **parameters) {        \
    paid += pays(f);                                                                                                   \
    return REAL(Cooperative, "cuLaunchCooperativeKernel" #suffix)(f, a, b, c, d, e, g, shared, stream, parameters);    \
  }
WRAP()
WRAP(_ptsz)

#define ATTRIBUTES 1024
CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
  static struct {
    int known, value;
  } read[ATTRIBUTES]; // of device 0, the only one that is used
  int kept = device == 0 && attribute >= 0 && attribute < ATTRIBUTES;
  if (kept && read[attribute].known) {
    *value = read[attribute].value;
    return CUDA_SUCCESS;
  }
  CUresult result = REAL(Attribute, "cuDeviceGetAttribute")(value, attribute, device);
  if (kept && result == CUDA_SUCCESS) {
    read[attribute].value = *value;
    read[attribute].known = 1;
  }
  return result;
}

#define RECORD(suffix)                                                                                                 \
  CUresult cuEventRecord##suffix(void *event, CUstream stream) {                                                       \
    *paid_before(event) = paid;                                                                                        \
    return REAL(Record, "cuEventRecord" #suffix)(event, stream);                                                       \
  }                                                                                                                    \
  CUresult cuEventRecordWithFlags##suffix(void *event, CUstream stream, unsigned flags) {                              \
    *paid_before(event) = paid;                                                                                        \
    return REAL(RecordFlags, "cuEventRecordWithFlags" #suffix)(event, stream, flags);                                  \
  }
RECORD()
RECORD(_ptsz)

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
  if (!strcmp(name, "cuDeviceGetAttribute")) return (void *)cuDeviceGetAttribute;
  if (!strcmp(name, "cuEventElapsedTime")) return (void *)cuEventElapsedTime;
  if (!strcmp(name, "cuEventRecord")) return per_thread ? (void *)cuEventRecord_ptsz : (void *)cuEventRecord;
  if (!strcmp(name, "cuEventRecord_ptsz")) return (void *)cuEventRecord_ptsz;
  if (!strcmp(name, "cuEventRecordWithFlags"))
    return per_thread ? (void *)cuEventRecordWithFlags_ptsz : (void *)cuEventRecordWithFlags;
  if (!strcmp(name, "cuEventRecordWithFlags_ptsz")) return (void *)cuEventRecordWithFlags_ptsz;
  if (!strcmp(name, "cuGetProcAddress")) return (void *)address;
  if (!strcmp(name, "cuGetProcAddress_v2")) return (void *)address2;
  return NULL;
}

void *dlsym(void *library, const char *name) {
  void *own = ours(name, 0);
  void *symbol = real_dlsym()(library, name);
  return own && symbol ? own : symbol;
}
