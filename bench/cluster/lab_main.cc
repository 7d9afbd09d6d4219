#include "cluster/lab_main.h"

#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "cluster/cluster_bench.h"
#include "cluster/node.h"
#include "cluster/steady_reader.h"

namespace shoal {

namespace bench {

namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;

constexpr int kExitSkip = 77;
constexpr milliseconds kPatience{60'000};

struct LabArguments {
  LabOptions options;
  double mbit = 0;
  std::string directory = "/var/tmp";
  std::string shoal = "/proc/self/exe";
  bool keep = false;
};

NodeChoice choice_from(const Json& command) {
  NodeChoice choice;
  choice.mount = command.value("mount", true);
  choice.cluster = command.value("cluster", std::string());
  choice.cache_size = command.value("cache_size", std::string("1GiB"));
  choice.flags = command.value("flags", std::vector<std::string>());
  choice.origin = command.value("origin", std::string());
  choice.cache = command.value("cache", std::string());
  choice.advertise = command.value("advertise", std::string());
  return choice;
}

std::vector<std::string> words_from(const Json& command) {
  return command.value("argv", std::vector<std::string>());
}

// One lab with its nodes and whatever else was started in it.
class LabServer {
 public:
  LabServer(std::unique_ptr<WorkDirectory> work, std::unique_ptr<Stub> stub,
            std::unique_ptr<Lab> lab, std::string shoal)
      : work_(std::move(work)),
        stub_(std::move(stub)),
        lab_(std::move(lab)),
        shoal_(shoal),
        nodes_(*lab_, *work_, *stub_, std::move(shoal)) {}

  // What everybody must know first.
  Json greeting() const {
    Json addresses = Json::array();
    for (unsigned i = 0; i < lab_->places(); ++i) addresses.push_back(lab_->address(i));
    return {{"pid", getpid()},
            {"work", work_->path()},
            {"hub", lab_->hub_address()},
            {"origin", stub_->url(lab_->hub_address())},
            {"stub_port", stub_->port()},
            {"addresses", addresses}};
  }

  Result<Json> run(const Json& command) {
    using Handler = Result<Json> (LabServer::*)(const Json&);
    static const std::map<std::string, Handler> kHandlers = {
        // constant
        {"start", &LabServer::start},       {"begin", &LabServer::begin},
        {"ready", &LabServer::ready},       {"again", &LabServer::again},
        {"stop", &LabServer::stop},         {"kill9", &LabServer::kill9},
        {"freeze", &LabServer::freeze},     {"status", &LabServer::status},
        {"usage", &LabServer::usage},       {"shoal", &LabServer::type_command},
        {"run", &LabServer::run_in},        {"spawn", &LabServer::spawn},
        {"signal", &LabServer::signal},     {"stub", &LabServer::ask_stub},
        {"read", &LabServer::read},         {"load", &LabServer::begin_load},
        {"load_end", &LabServer::end_load}, {"limit", &LabServer::limit},
        {"plug", &LabServer::plug}};
    auto found = kHandlers.find(command.value("do", std::string()));
    if (found == kHandlers.end()) return fail(Code::kInvalidArgument, "no such command");
    return (this->*found->second)(command);
  }

 private:
  Result<unsigned> place_of(const Json& command) const {
    auto place = command.value("node", int64_t{-1});
    if (place < 0 || place >= lab_->places()) {
      return fail(Code::kInvalidArgument, fmt::format("there is no node {}", place));
    }
    return static_cast<unsigned>(place);
  }
  Result<ClusterNode*> node_of(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(unsigned place, place_of(command));
    return &nodes_[place];
  }
  // A place, or the hub where none is named.
  Result<int> network_of(const Json& command) const {
    if (!command.contains("node") || command["node"].is_null()) return -1;
    SHOAL_ASSIGN_OR_RETURN(unsigned place, place_of(command));
    return lab_->network(place);
  }

  Result<Json> facts(ClusterNode& node) {
    return Json{{"pid", node.process().pid()}, {"name", node.name()},
                {"address", node.address()},   {"mountpoint", node.mountpoint()},
                {"log", node.log_file()},      {"cache", node.cache_directory()},
                {"running", node.running()}};
  }

  Result<Json> start(const Json& command) {
    auto first = command.value("first", 0u);
    auto count = command.value("count", 1u);
    if (count > lab_->places() || first > lab_->places() - count) {
      return fail(Code::kInvalidArgument, "more nodes than places");
    }
    SHOAL_RETURN_IF_ERROR(nodes_.start(first, count, choice_from(command)));
    return Json::object();
  }
  Result<Json> begin(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(ClusterNode * node, node_of(command));
    if (node->running()) return fail(Code::kBusy, node->name() + " runs already");
    SHOAL_RETURN_IF_ERROR(node->begin(*stub_, choice_from(command)));
    return facts(*node);
  }
  Result<Json> ready(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(ClusterNode * node, node_of(command));
    SHOAL_RETURN_IF_ERROR(node->wait_until_ready(
        milliseconds(static_cast<int64_t>(command.value("seconds", 60.0) * 1000))));
    return facts(*node);
  }
  Result<Json> again(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(ClusterNode * node, node_of(command));
    SHOAL_RETURN_IF_ERROR(node->begin_again());
    SHOAL_RETURN_IF_ERROR(node->wait_until_ready(kPatience));
    return facts(*node);
  }
  Result<Json> stop(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(ClusterNode * node, node_of(command));
    SHOAL_RETURN_IF_ERROR(node->stop());
    return facts(*node);
  }
  Result<Json> kill9(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(ClusterNode * node, node_of(command));
    SHOAL_RETURN_IF_ERROR(node->kill9());
    return facts(*node);
  }
  Result<Json> freeze(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(ClusterNode * node, node_of(command));
    SHOAL_RETURN_IF_ERROR(node->freeze(command.value("frozen", true)));
    return Json::object();
  }
  Result<Json> status(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(ClusterNode * node, node_of(command));
    return node->status();
  }
  Result<Json> usage(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(ClusterNode * node, node_of(command));
    if (!node->running()) return fail(Code::kNotFound, node->name() + " does not run");
    SHOAL_ASSIGN_OR_RETURN(double cpu, node->process().cpu_seconds());
    SHOAL_ASSIGN_OR_RETURN(uint64_t rss, node->process().memory_field("VmRSS"));
    return Json{{"cpu_seconds", cpu}, {"rss_bytes", rss}};
  }

  static Json answer(const CommandResult& result) {
    return {{"status", result.status}, {"output", result.output}};
  }
  static milliseconds patience(const Json& command) {
    return milliseconds(static_cast<int64_t>(command.value("seconds", 60.0) * 1000));
  }
  Result<Json> type_command(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(ClusterNode * node, node_of(command));
    SHOAL_ASSIGN_OR_RETURN(CommandResult result,
                           node->command(words_from(command), patience(command)));
    return answer(result);
  }
  Result<Json> run_in(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(int network, network_of(command));
    auto words = words_from(command);
    if (words.empty()) return fail(Code::kInvalidArgument, "argv is empty");
    SHOAL_ASSIGN_OR_RETURN(
        CommandResult result,
        run_command(words, patience(command), {.network = network, .environment = {}}));
    return answer(result);
  }
  Result<Json> spawn(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(int network, network_of(command));
    auto words = words_from(command);
    std::string name = command.value("name", std::string());
    if (words.empty() || name.empty() || name.find('/') != std::string::npos) {
      return fail(Code::kInvalidArgument, "give name and argv");
    }
    std::string log = *work_ / (name + ".log");
    SHOAL_ASSIGN_OR_RETURN(others_[name],
                           Child::execute(words, log, {.network = network, .environment = {}}));
    return Json{{"pid", others_[name].pid()}, {"log", log}};
  }
  // To what was spawned; waits for its end unless told not to.
  Result<Json> signal(const Json& command) {
    auto found = others_.find(command.value("name", std::string()));
    if (found == others_.end()) return fail(Code::kNotFound, "nothing of that name was spawned");
    int number = command.value("signal", SIGTERM);
    if (command.value("wait", true)) {
      found->second.stop(number, kPatience);
    } else if (found->second.running()) {
      ::kill(found->second.pid(), number);
    }
    return Json::object();
  }
  Result<Json> ask_stub(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(
        std::string text,
        stub_->ask(command.value("method", std::string("GET")),
                   command.value("path", std::string("/__stub/stats")),
                   command.contains("body") ? command["body"].dump() : std::string()));
    Json json = Json::parse(text, nullptr, false);
    return json.is_discarded() ? Json(text) : json;
  }
  Result<std::vector<std::string>> paths_of(const Json& command) {
    std::vector<std::string> paths;
    std::string object = command.value("object", std::string());
    for (int64_t place : command.value("nodes", std::vector<int64_t>())) {
      SHOAL_ASSIGN_OR_RETURN(ClusterNode * node, node_of({{"node", place}}));
      paths.push_back(*node / object);
    }
    if (paths.empty()) return fail(Code::kInvalidArgument, "give nodes and object");
    return paths;
  }
  // Whole files through mounts, at the same moment, every byte compared.
  Result<Json> read(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(auto paths, paths_of(command));
    auto readers = read_together(paths, command.value("size", uint64_t{0}),
                                 command.value("seed", uint64_t{0}));
    Json out = Json::array();
    for (const ReaderOutcome& one : readers) {
      out.push_back({{"seconds", one.seconds},
                     {"error", one.status ? std::string() : one.status.error().message()}});
    }
    return out;
  }
  // Small random reads that go on until load_end.
  Result<Json> begin_load(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(auto paths, paths_of(command));
    SteadyReads reads{.paths = paths,
                      .size = command.value("size", uint64_t{0}),
                      .seed = command.value("seed", uint64_t{0})};
    if (reads.size < reads.block) return fail(Code::kInvalidArgument, "the object is too small");
    SHOAL_ASSIGN_OR_RETURN(load_, SteadyReader::start(*work_, reads));
    return Json::object();
  }
  Result<Json> end_load(const Json&) {
    if (!load_) return fail(Code::kNotFound, "no load was begun");
    auto load = std::move(load_);
    SHOAL_ASSIGN_OR_RETURN(SteadyOutcome outcome, load->stop());
    return Json{{"reads", outcome.reads},
                {"errors", outcome.errors},
                {"longest_seconds", outcome.longest_seconds},
                {"first_error", outcome.first_error}};
  }
  Result<Json> limit(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(unsigned place, place_of(command));
    SHOAL_RETURN_IF_ERROR(lab_->limit(place, command.value("mbit", 0.0) * 1e6 / 8));
    return Json::object();
  }
  Result<Json> plug(const Json& command) {
    SHOAL_ASSIGN_OR_RETURN(unsigned place, place_of(command));
    SHOAL_RETURN_IF_ERROR(lab_->plug(place, command.value("in", true)));
    return Json::object();
  }

  std::unique_ptr<WorkDirectory> work_;
  std::unique_ptr<Stub> stub_;
  std::unique_ptr<Lab> lab_;
  std::string shoal_;
  std::map<std::string, Child> others_;
  std::unique_ptr<SteadyReader> load_;
  ClusterNodes nodes_;
};

void say(const Json& json) {
  std::cout << json.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
}

Json failure(const Error& error) { return {{"ok", false}, {"error", error.message()}}; }

Status serve(LabArguments arguments) {
  std::error_code error;
  arguments.shoal = std::filesystem::canonical(arguments.shoal, error).string();
  if (error) return fail(Code::kNotFound, "cannot find the program: " + error.message());
  catch_interrupts();
  SHOAL_RETURN_IF_ERROR(enter_own_namespaces());
  SHOAL_ASSIGN_OR_RETURN(auto work, WorkDirectory::make(arguments.directory, arguments.keep));
  SHOAL_ASSIGN_OR_RETURN(auto stub, Stub::start(*work, 16 * kMiB, "0.0.0.0"));
  arguments.options.bytes_per_second = arguments.mbit * 1e6 / 8;
  SHOAL_ASSIGN_OR_RETURN(auto lab, Lab::make(arguments.options));
  LabServer server(std::move(work), std::move(stub), std::move(lab), arguments.shoal);
  say(server.greeting());
  for (std::string line; !interrupted() && std::getline(std::cin, line);) {
    Json command = Json::parse(line, nullptr, false);
    if (!command.is_object()) {
      say({{"ok", false}, {"error", "this line is no JSON object"}});
      continue;
    }
    try {  // of the JSON library, for values of the wrong type
      auto answer = server.run(command);
      say(answer ? Json{{"ok", true}, {"answer", *answer}} : failure(answer.error()));
    } catch (const Json::exception& problem) {
      say({{"ok", false}, {"error", problem.what()}});
    }
  }
  return {};
}

}  // namespace

}  // namespace bench

int lab_main(int argc, char** argv) {
  bench::LabArguments arguments;
  CLI::App app("Nodes in network namespaces of one machine, steered by lines of JSON.",
               "shoal lab");
  app.add_option("--places", arguments.options.places, "how many network namespaces")
      ->check(CLI::Range(1u, bench::kPlacesMax))
      ->capture_default_str();
  app.add_option("--mbit", arguments.mbit, "limit of each link in each direction; 0: none");
  app.add_flag("--loopback", arguments.options.loopback, "no namespaces: all on loopback");
  app.add_option("--dir", arguments.directory, "where caches and logs go, not on tmpfs")
      ->capture_default_str();
  app.add_option("--shoal", arguments.shoal, "the program to run");
  app.add_flag("--keep", arguments.keep, "leave the work directory behind");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  Status status = bench::serve(std::move(arguments));
  if (status) return 0;
  fmt::print(stderr, "shoal lab: {}\n", status.error().message());
  bool impossible = status.error().code() == Code::kPermissionDenied ||
                    status.error().code() == Code::kNotSupported;
  return impossible ? bench::kExitSkip : 1;
}

}  // namespace shoal
