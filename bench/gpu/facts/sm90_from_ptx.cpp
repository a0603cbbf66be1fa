// Stands in for libnvinfer_builder_resource_sm90.so where a distribution of TensorRT 10.15 leaves it
// out: hands out the kernels of the PTX resource, which the driver compiles for the GPU at hand. For
// finding facts alone: kernels are slower than those made for the GPU, and so is every build.
//
//     g++ -O1 -shared -fPIC -o libnvinfer_builder_resource_sm90.so.10.15.1 sm90_from_ptx.cpp -ldl
#include <dlfcn.h>

#include <string>

struct Section {
  const void* begin;
  const void* end;
};

static const std::string kKernels = "ptx";

static void* symbol(const char* name) {
  static void* library = dlopen("libnvinfer_builder_resource_ptx.so.10.15.1", RTLD_NOW | RTLD_LOCAL);
  return library ? dlsym(library, name) : nullptr;
}

extern "C" int getNbCaskKLibs_INTERNAL(const std::string&) {
  using Count = int (*)(const std::string&);
  static const auto count = reinterpret_cast<Count>(symbol("getNbCaskKLibs_INTERNAL"));
  return count ? count(kKernels) : -1;
}

extern "C" Section getCaskKLibSection_INTERNAL(int index, const std::string&) {
  using Find = Section (*)(int, const std::string&);
  static const auto find = reinterpret_cast<Find>(symbol("getCaskKLibSection_INTERNAL"));
  return find ? find(index, kKernels) : Section{nullptr, nullptr};
}
