// A CUDA driver in which every launch takes 2 ms, and a program that times two kernels as CUDA's runtime does.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

typedef struct {
  const char *name;
} Kernel;

int cuFuncGetName(const char **out, Kernel *kernel) { return *out = kernel->name, 0; }
int cuModuleGetFunction(Kernel **out, void *module, const char *name) {
  static Kernel kernels[8];
  static int count;
  kernels[count].name = name;
  return *out = &kernels[count++], 0;
}
static float now;
int cuLaunchKernel(Kernel *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
  now += 2;
  return printf("%s on stream %d\n", kernel->name, (int)(size_t)stream), 0;
}
int cuEventCreate(float **out, unsigned flags) {
  static float events[8];
  static int count;
  return *out = &events[4 * count++], printf("event %u\n", flags), 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  printf("attribute %d\n", attribute);
  return *value = 100 + attribute, attribute == 7;
}
int cuEventRecord(float *event, void *stream) { return *event = now, 0; }
int cuEventElapsedTime(float *milliseconds, float *start, float *end) { return *milliseconds = *end - *start, 0; }
int cuGetProcAddress(const char *name, void **out, int version, unsigned long long flags) {
  *out = !strcmp(name, "cuLaunchKernel") ? (void *)cuLaunchKernel : NULL;
  return *out == NULL;
}

#ifdef PROGRAM
typedef int (*Launch)(Kernel *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                      void **);
int main(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW);
  int (*address)(const char *, void **, int, unsigned long long) = dlsym(library, "cuGetProcAddress");
  int (*function)(Kernel **, void *, const char *) = dlsym(library, "cuModuleGetFunction");
  int (*create)(float **, unsigned) = dlsym(library, "cuEventCreate");
  int (*record)(float *, void *) = dlsym(library, "cuEventRecord");
  int (*elapsed)(float *, float *, float *) = dlsym(library, "cuEventElapsedTime");
  int (*attribute)(int *, int, int) = dlsym(library, "cuDeviceGetAttribute");
  Launch by_address, by_symbol = (Launch)dlsym(library, "cuLaunchKernel");
  Kernel *kernels[2];
  float *before, *after, milliseconds;
  address("cuLaunchKernel", (void **)&by_address, 11000, 0);
  function(&kernels[0], NULL, "sm80_xmma_fprop");
  function(&kernels[1], NULL, "sm90_xmma_fprop");
  for (int i = 0, value; i < 4; i++) {
    int error = attribute(&value, i / 2 * 7, 0);
    printf("%d error %d\n", value, error);
  }
  create(&before, 3), create(&after, 2);
  for (int i = 0; i < 4; i++) {
    record(before, (void *)5);
    by_address(kernels[i % 2], 1, 1, 1, 1, 1, 1, 0, (void *)5, NULL, NULL);
    by_symbol(kernels[i % 2], 1, 1, 1, 1, 1, 1, 0, (void *)5, NULL, NULL);
    record(after, (void *)5);
    elapsed(&milliseconds, before, after);
    printf("%.0f ms\n", milliseconds);
  }
  return 0;
}
#endif
