// Writes the kernel libraries of TensorRT's PTX resource to files klib0.bin, klib1.bin and so on.
//
//     g++ -O1 -o klibs_of_ptx klibs_of_ptx.cpp -ldl
//     ./klibs_of_ptx ./libnvinfer_builder_resource_ptx.so.10.15.1
#include <dlfcn.h>

#include <cstdio>
#include <string>

struct Section {
  const char* begin;
  const char* end;
};

int main(int, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (!library) return std::puts(dlerror()), 1;
  const auto count = reinterpret_cast<int (*)(const std::string&)>(dlsym(library, "getNbCaskKLibs_INTERNAL"));
  const auto find = reinterpret_cast<Section (*)(int, const std::string&)>(
      dlsym(library, "getCaskKLibSection_INTERNAL"));
  for (int index = 0; index < count("ptx"); ++index) {
    const Section section = find(index, "ptx");
    const std::string name = "klib" + std::to_string(index) + ".bin";
    FILE* file = std::fopen(name.c_str(), "wb");
    std::fwrite(section.begin, 1, section.end - section.begin, file);
    std::fclose(file);
    std::printf("%s: %ld bytes\n", name.c_str(), static_cast<long>(section.end - section.begin));
  }
}
