// Replays a fuzz corpus as an ordinary test: calls the fuzzer's entry point on each file of the
// directory given, and on a few thousand deterministic mutations of each. Fails when the directory
// is missing or empty, so that a lost corpus cannot pass.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS_DIR\n", argv[0]);
    return 2;
  }
  size_t files = 0;
  size_t runs = 0;
  std::mt19937 random(1);
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream in(entry.path(), std::ios::binary);
    std::string seed((std::istreambuf_iterator<char>(in)), {});
    ++files;
    for (int round = 0; round < 2000; ++round, ++runs) {
      std::string input = seed;
      for (int change = 0; change < round % 8 && !input.empty(); ++change) {
        size_t at = random() % input.size();
        switch (random() % 4) {
          case 0:
            input[at] = static_cast<char>(random());
            break;
          case 1:
            input[at] = static_cast<char>(input[at] ^ (1 << (random() % 8)));
            break;
          case 2:
            input.resize(at);
            break;
          default:
            input.insert(at, 1 + random() % 9, static_cast<char>(random() % 3 - 1));
            break;
        }
      }
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
    }
  }
  std::printf("%zu inputs, %zu runs\n", files, runs);
  return files == 0 ? 1 : 0;
}
