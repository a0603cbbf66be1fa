// Stands in for libnvinfer_builder_resource_sm90.so, as sm90_from_ptx.cpp does, with the kernel libraries
// in the files that the environment names: KLIBS="one.bin two.bin". One at least must be there. For plans
// whose products are ours, the smallest is enough, and builds begin at once. klibs_of_ptx.cpp makes files.
//
//     g++ -O1 -shared -fPIC -o libnvinfer_builder_resource_sm90.so.10.15.1 sm90_from_files.cpp
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

struct Section {
  const void* begin;
  const void* end;
};

static std::vector<Section> mapped() {
  const char* names = getenv("KLIBS");
  std::stringstream words(names ? names : "");
  std::vector<Section> found;
  for (std::string name; words >> name;) {
    const int file = open(name.c_str(), O_RDONLY);
    struct stat about;
    if (file < 0 || fstat(file, &about)) continue;
    const char* begin = static_cast<char*>(mmap(nullptr, about.st_size, PROT_READ, MAP_PRIVATE, file, 0));
    found.push_back({begin, begin + about.st_size});
  }
  return found;
}

static const std::vector<Section>& libraries() {
  static const std::vector<Section> found = mapped();
  return found;
}

extern "C" int getNbCaskKLibs_INTERNAL(const std::string&) { return static_cast<int>(libraries().size()); }

extern "C" Section getCaskKLibSection_INTERNAL(int index, const std::string&) { return libraries()[index]; }
