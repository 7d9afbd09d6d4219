// Waits until files are safe, and says how safe they are. C++17.
//
//   c++ -std=c++17 wait.cc $(pkg-config --cflags --libs shoal) -o wait
//   ./wait replicated|durable SECONDS FILE...
//
// Exit status: 0 safe, 1 not (the reason is on stderr), 2 usage.
#include <iostream>
#include <shoal/shoal.hpp>

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: " << argv[0] << " replicated|durable SECONDS FILE...\n";
    return 2;
  }
  shoal::SyncOptions options;
  options.level =
      argv[1] == std::string("durable") ? shoal::Level::kDurable : shoal::Level::kReplicated;
  options.timeout = std::chrono::milliseconds(static_cast<long>(std::stod(argv[2]) * 1000));
  options.on_progress = [](const shoal::Progress& now) {
    std::cerr << now.bytes_left << " bytes left, " << now.bytes_per_second / 1e6 << " MB/s\n";
    return true;  // go on
  };
  try {
    shoal::Client client(argv[3]);
    for (int i = 3; i < argc; ++i) {
      client.sync(argv[i], options);
      std::cout << argv[i] << ": level " << static_cast<int>(shoal::file_level(argv[i])) << "\n";
    }
    return 0;
  } catch (const shoal::Error& error) {
    if (error.code() == std::errc::timed_out) {
      std::cerr << "timed out with " << error.progress().bytes_left << " bytes left\n";
    }
    std::cerr << error.message() << "\n";
    return 1;
  }
}
