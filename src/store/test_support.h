// For this room's tests: a store on a simulated machine that can be restarted and crashed.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/gate.h"
#include "store/store.h"
#include "world_sim/sim_world.h"

namespace shoal {

inline Code code_of(const Status& status) {
  SHOAL_ASSERT(!status.has_value(), "expected an error");
  return status.error().code();
}
template <typename T>
Code code_of(const Result<T>& result) {
  SHOAL_ASSERT(!result.has_value(), "expected an error");
  return result.error().code();
}

inline std::string pattern(uint64_t size, uint64_t seed) {
  std::string text(size, '\0');
  uint64_t x = seed * 0x9E3779B97F4A7C15ull + 1;
  for (char& c : text) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    c = static_cast<char>(x);
  }
  return text;
}

class StoreMachine {
 public:
  explicit StoreMachine(uint64_t seed = 1, SimDiskOptions disk = {})
      : sim({.seed = seed}), machine(sim.add_machine("m", disk)) {
    options.directory = "/cache";
    options.identity = "az://account/container";
    options.capacity = 128 * kMiB;
    options.memory = kMiB;
  }
  ~StoreMachine() {
    if (store_ == nullptr) return;
    if (machine.running()) crash(CrashKind::kProcess);
  }

  // Starts a process and opens the store.
  Status open() {
    if (!machine.running()) machine.boot();
    Result<std::unique_ptr<Store>> opened = fail(Code::kInternal, "unset");
    opened = run(Store::open(machine.world(), registry, log, options));
    if (!opened) {
      std::printf("open: %s\n", opened.error().to_string().c_str());
      return fail(std::move(opened).error());
    }
    store_ = &machine.own(std::move(*opened));
    return {};
  }
  Status close() {
    Status status = run(store().close());
    store_ = nullptr;
    machine.shut_down();
    return status;
  }
  void crash(CrashKind kind) {
    store_ = nullptr;
    machine.crash(kind);
  }
  Store& store() {
    SHOAL_ASSERT(store_ != nullptr);
    return *store_;
  }

  template <typename T>
  T run(Task<T> task) {
    std::optional<T> result;
    Gate& gate = machine.own(std::make_unique<Gate>(machine.world().executor));
    EXPECT_TRUE(gate.spawn(keep(std::move(task), result)));
    EXPECT_TRUE(sim.run_until([&] { return gate.count() == 0; }, std::chrono::hours(10)));
    SHOAL_ASSERT(result.has_value(), "the task did not end");
    return std::move(*result);
  }
  // Runs it for so long. Nothing if it did not end; it then needs a crash.
  template <typename T>
  std::optional<T> run_for(Task<T> task, Duration limit) {
    auto result = std::make_shared<std::optional<T>>();
    machine.process().owned.push_back(result);
    Gate& gate = machine.own(std::make_unique<Gate>(machine.world().executor));
    EXPECT_TRUE(gate.spawn(keep(std::move(task), *result)));
    sim.run_until([&] { return gate.count() == 0; }, limit);
    return *result;
  }
  // A write whose author goes on as soon as it is accepted.
  struct EarlyWrite {
    EarlyWrite(Executor& executor, std::string content)
        : bytes(std::move(content)), changed(executor), gate(executor) {}
    bool answered() const { return accepted || ended.has_value(); }

    const std::string bytes;
    bool accepted = false;
    std::optional<Status> ended;
    Signal changed;
    Gate gate;
  };
  EarlyWrite& start_write(CachedFile& file, uint64_t offset, std::string bytes) {
    Executor& executor = machine.world().executor;
    auto& write = machine.own(std::make_unique<EarlyWrite>(executor, std::move(bytes)));
    EXPECT_TRUE(write.gate.spawn(serve(&file, offset, &write)));
    return write;
  }
  // Until it is answered; its error, if that is the answer.
  static Task<Status> answer_of(EarlyWrite* write) {
    while (!write->answered()) (void)co_await write->changed.wait({});
    co_return write->accepted ? Status() : *write->ended;
  }
  static Task<Status> end_of(EarlyWrite* write) {
    while (!write->ended) (void)co_await write->changed.wait({});
    co_return *write->ended;
  }
  // Keeps a reference for ever: what a crashed process held must not be released.
  static void bury(FileRef file) {
    static auto* graveyard = new std::vector<FileRef>;
    graveyard->push_back(std::move(file));
  }

  // Paths of the cache's files with a suffix.
  std::vector<std::string> files(std::string_view suffix) {
    std::vector<std::string> found;
    auto files = machine.disk().tree().find(options.directory + "/files");
    if (!files) return found;
    for (const auto& [name, directory] : files->seen) {
      for (const auto& [leaf, node] : directory->seen) {
        if (leaf.ends_with(suffix)) {
          found.push_back(options.directory + "/files/" + name + "/" + leaf);
        }
      }
    }
    return found;
  }

  FileRef open_file(std::string object, std::string etag, uint64_t size) {
    return run(store().open_file(std::move(object), std::move(etag), size)).value();
  }
  // A clean version, complete.
  void cache(std::string object, std::string etag, const std::string& bytes) {
    FileRef file = open_file(std::move(object), std::move(etag), bytes.size());
    ASSERT_TRUE(run(file->fill(0, as_bytes(bytes))));
  }
  Result<std::string> read(const FileRef& file, uint64_t offset, uint64_t length) {
    std::string text(length, '?');
    Status status = run(file->read(offset, std::as_writable_bytes(std::span(text))));
    if (!status) return fail(std::move(status).error());
    return text;
  }
  Result<std::string> read_all(const FileRef& file) { return read(file, 0, file->size()); }
  // Until files that nobody uses are closed.
  void settle() { sim.run_for(std::chrono::seconds(10)); }

  static StagedRecord record(uint64_t id, std::string object = "dir/o", std::string base = "") {
    StagedRecord record;
    record.object = std::move(object);
    record.write_id = {7, id};
    record.base_etag = std::move(base);
    record.metadata["mode"] = "33188";
    return record;
  }

  Simulation sim;
  SimMachine& machine;
  Registry registry;
  Log log{LogLevel::kWarning, [](LogLevel, std::string_view text) {
            std::printf("log: %.*s\n", static_cast<int>(text.size()), text.data());
          }};
  StoreOptions options;

 private:
  template <typename T>
  static Task<void> keep(Task<T> task, std::optional<T>& into) {
    into.emplace(co_await task);
  }
  static Task<void> serve(CachedFile* file, uint64_t offset, EarlyWrite* write) {
    auto accept = [write] {
      EXPECT_FALSE(write->answered());
      write->accepted = true;
      write->changed.notify_all();
    };
    write->ended = co_await file->write(offset, as_bytes(write->bytes), {},
                                        CachedFile::Way::kPageCache, accept);
    write->changed.notify_all();
  }
  Store* store_ = nullptr;
};

}  // namespace shoal
