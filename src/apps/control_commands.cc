// status, sync, publish, scrub, warm, pin, unpin, evict, drain: all talk to a running node through
// AdminClient.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>

#include "apps/admin.h"
#include "apps/commands.h"
#include "apps/progress.h"
#include "apps/runtime.h"
#include "apps/units.h"
#include "base/bytes.h"

namespace shoal {
namespace {

AdminAddress address_of(const RunningNode& node) { return {node.socket, node.http, node.token}; }

// --at: a node of this user on this machine is reached through its socket; for another one only
// SHOAL_ADMIN_TOKEN_FILE can open the door to changes.
Result<AdminAddress> address_at(const std::vector<RunningNode>& nodes, const std::string& at) {
  for (const RunningNode& node : nodes) {
    if (node.http == at) return address_of(node);
  }
  AdminAddress address{"", at, ""};
  const char* file = std::getenv("SHOAL_ADMIN_TOKEN_FILE");
  if (file != nullptr) {
    SHOAL_ASSIGN_OR_RETURN(address.token, read_small_file(file));
    while (!address.token.empty() && address.token.back() == '\n') address.token.pop_back();
  }
  return address;
}

Result<std::vector<RunningNode>> all_nodes() {
  SHOAL_ASSIGN_OR_RETURN(std::string dir, runtime_dir());
  forget_dead_nodes(dir);
  return running_nodes(dir);
}

struct StatusArguments {
  std::string path;
  std::string at;
  bool json = false;
};

// What the nodes that answered did together.
std::string cluster_sums(const std::string& text) {
  std::vector<NodeReport> others = parse_status_nodes(text);
  if (others.empty()) return "";
  std::string out = fmt::format("  {:<16}  {:>10}  {:>10}  {:>10}  {:>10}  {:>9}\n", "node",
                                "cached", "origin", "sent", "received", "memory");
  for (const NodeReport& node : others) {
    out += fmt::format("  {:<16}  {:>10}  {:>10}  {:>10}  {:>10}  {:>9}\n", node.name,
                       format_size(node.files.bytes + node.blocks.bytes),
                       format_size(node.origin_io.bytes_read), format_size(node.peer.bytes_sent),
                       format_size(node.peer.bytes_received), format_size(node.memory.rss_bytes));
  }
  return out;
}

int status_of(const AdminAddress& address, bool json) {
  AdminClient client(address);
  auto text = client.get("/status.json");
  if (!text) return fail_with(text.error());
  if (json) {
    fmt::print("{}\n", *text);
    return kExitDone;
  }
  auto report = parse_status_json(*text);
  if (!report) return fail_with(report.error());
  fmt::print("{}", status_table(*report));
  if (std::string sums = cluster_sums(*text); !sums.empty()) fmt::print("{}", sums);
  return kExitDone;
}

int run_status(const StatusArguments& arguments) {
  auto nodes = all_nodes();
  if (!nodes) return fail_with(nodes.error());
  if (!arguments.at.empty()) {
    auto address = address_at(*nodes, arguments.at);
    return address ? status_of(*address, arguments.json) : fail_with(address.error());
  }
  if (!arguments.path.empty()) {
    auto found = find_node(*nodes, arguments.path);
    return found ? status_of(address_of(found->node), arguments.json) : fail_with(found.error());
  }
  if (nodes->size() > 1 && !arguments.json) {  // people want to see them all
    int worst = kExitDone;
    for (const RunningNode& node : *nodes) {
      worst = std::max(worst, status_of(address_of(node), false));
      if (&node != &nodes->back()) fmt::print("\n");
    }
    return worst;
  }
  auto node = only_node(*nodes);
  return node ? status_of(address_of(*node), arguments.json) : fail_with(node.error());
}

struct JobArguments {
  JobKind kind;
  std::vector<std::string> paths;
  std::string at;
  std::string level = "durable";
  std::string timeout;
  bool wait = false;
  bool everywhere = false;
  std::string pointer = "latest";
  uint32_t keep_last = 0;
  std::string rate;
  bool all = false;
};

struct Target {
  AdminAddress address;
  JobRequest request;
};

// A path names the node that serves it; a name is looked up by any node of this machine.
Result<Target> drain_target(const std::vector<RunningNode>& nodes, const std::string& node) {
  Target target;
  target.request.paths = {""};
  if (node.find('/') != std::string::npos) {
    SHOAL_ASSIGN_OR_RETURN(FoundNode found, find_node(nodes, node));
    target.address = address_of(found.node);
    return target;
  }
  if (node.empty() || nodes.size() == 1) {
    SHOAL_ASSIGN_OR_RETURN(RunningNode only, only_node(nodes));
    target.address = address_of(only);
  } else if (!nodes.empty()) {
    target.address = address_of(nodes.front());
  } else {
    return fail(only_node(nodes).error());  // there is none
  }
  target.request.paths = {node};
  return target;
}

// Paths may lie in several mounts: one request for each node.
Result<std::vector<Target>> targets_of(const JobArguments& arguments) {
  JobRequest request;
  request.kind = arguments.kind;
  request.level = arguments.level;
  request.everywhere = arguments.everywhere;
  request.pointer = arguments.pointer;
  request.keep_last = arguments.keep_last;
  request.all = arguments.all;
  if (!arguments.rate.empty()) {
    SHOAL_ASSIGN_OR_RETURN(request.rate, parse_size(arguments.rate));
  }
  if (!arguments.timeout.empty()) {
    SHOAL_ASSIGN_OR_RETURN(request.timeout, parse_duration(arguments.timeout));
  }
  SHOAL_ASSIGN_OR_RETURN(auto nodes, all_nodes());
  std::vector<Target> targets;
  if (arguments.at.empty() && arguments.kind == JobKind::kDrain) {
    SHOAL_ASSIGN_OR_RETURN(Target target, drain_target(nodes, arguments.paths.front()));
    request.paths = std::move(target.request.paths);
    targets.push_back({std::move(target.address), std::move(request)});
    return targets;
  }
  if (!arguments.at.empty()) {
    SHOAL_ASSIGN_OR_RETURN(AdminAddress address, address_at(nodes, arguments.at));
    request.paths = arguments.paths;
    targets.push_back({std::move(address), std::move(request)});
    return targets;
  }
  for (const std::string& path : arguments.paths) {
    SHOAL_ASSIGN_OR_RETURN(FoundNode found, find_node(nodes, path));
    AdminAddress address = address_of(found.node);
    auto known = std::find_if(targets.begin(), targets.end(), [&address](const Target& target) {
      return target.address.socket == address.socket;
    });
    if (known == targets.end()) {
      targets.push_back({std::move(address), request});
      known = targets.end() - 1;
    }
    known->request.paths.push_back(object_of_path(found.node, found.path));
  }
  return targets;
}

std::string summary(const JobArguments& arguments, const JobProgress& p, double seconds) {
  switch (arguments.kind) {
    case JobKind::kPublish:
      return fmt::format("published {}; {}{} names it ({} to wait for, {:.1f} s)",
                         arguments.level == "durable" ? "in the origin" : "on the nodes",
                         arguments.pointer, arguments.level == "durable" ? "" : ".replicated",
                         format_size(p.bytes_total), seconds);
    case JobKind::kScrub:
      return fmt::format("{} files, {} in the origin are as they were written{} ({:.1f} s)",
                         p.objects_done, format_size(p.bytes_done),
                         p.current.empty() ? "" : "; " + p.current, seconds);
    case JobKind::kSync:
      return fmt::format("everything is in the origin ({} uploaded meanwhile)",
                         format_size(p.bytes_done));
    case JobKind::kWarm:
      return fmt::format("{} objects, {} are cached ({:.1f} s)", p.objects_done,
                         format_size(p.bytes_done), seconds);
    case JobKind::kPin:
      return "pinned";
    case JobKind::kUnpin:
      return "unpinned";
    case JobKind::kDrain:
      return fmt::format("the node has left the cluster; {} were handed over ({:.1f} s)",
                         format_size(p.bytes_done), seconds);
    case JobKind::kEvict:
      return fmt::format("{} freed", format_size(p.bytes_done));
  }
  return "done";
}

int run_job(const JobArguments& arguments) {
  auto targets = targets_of(arguments);
  if (!targets) return fail_with(targets.error());
  bool detach = arguments.kind == JobKind::kWarm && !arguments.wait;
  int worst = kExitDone;
  for (const Target& target : *targets) {
    AdminClient client(target.address);
    ProgressPrinter printer{std::string(job_name(arguments.kind))};
    JobProgress last;
    Status outcome = client.run(
        target.request, detach,
        [&printer](const JobProgress& progress) {
          printer.update(progress);
          return true;
        },
        last);
    printer.clear();
    for (const std::string& line : last.findings) fmt::print("{}\n", line);
    if (!outcome) {
      worst = std::max(worst, fail_with(outcome.error()));
      if (!last.last_error.empty()) fmt::print(stderr, "       last error: {}\n", last.last_error);
    } else if (detach) {
      fmt::print("warming in the background; see shoal status\n");
    } else {
      fmt::print("{}\n", summary(arguments, last, printer.seconds()));
    }
  }
  return worst;
}

CLI::App* add_job(CLI::App& app, Run& run, JobKind kind, const std::string& help,
                  std::shared_ptr<JobArguments>& arguments) {
  auto* command = app.add_subcommand(std::string(job_name(kind)), help);
  command->group("Use");
  arguments = std::make_shared<JobArguments>();
  arguments->kind = kind;
  command
      ->add_option("path", arguments->paths,
                   "Files or directories in a mount (with --at: object names)")
      ->required()
      ->type_name("PATH");
  command->add_option("--at", arguments->at, "Talk to the node with this http address")
      ->type_name("ADDR:PORT");
  command->callback([&run, arguments] { run = [arguments] { return run_job(*arguments); }; });
  return command;
}

const CLI::Validator kIsDuration(
    [](const std::string& text) {
      auto duration = parse_duration(text);
      return duration ? std::string() : duration.error().message();
    },
    "");

const CLI::Validator kIsSize(
    [](const std::string& text) {
      auto size = parse_size(text);
      return size ? std::string() : size.error().message();
    },
    "");

void add_publish(CLI::App& app, Run& run) {
  std::shared_ptr<JobArguments> arguments;
  auto* publish =
      add_job(app, run, JobKind::kPublish,
              "Make a checkpoint directory visible as one, when all of it is safe", arguments);
  publish
      ->add_option("--latest", arguments->pointer,
                   "The pointer beside the directory that then names it; NAME.replicated does so "
                   "earlier, on the nodes (default latest)")
      ->type_name("NAME");
  publish
      ->add_option("--level", arguments->level,
                   "What to wait for: replicated (the rest goes on in the background) or durable "
                   "(default)")
      ->type_name("LEVEL")
      ->check(CLI::IsMember({"replicated", "durable"}));
  publish
      ->add_option("--keep-last", arguments->keep_last,
                   "Remove older published directories beside it, but for the newest N")
      ->type_name("N")
      ->check(CLI::Range(1, 999'999));
  publish
      ->add_option("--timeout", arguments->timeout,
                   "Give up waiting after this long (default never)")
      ->type_name("TIME")
      ->check(kIsDuration);
  publish->footer(
      "Waits for the files that any node wrote below the directory, leaves a manifest in it "
      "(name,\n"
      "size and checksum of each file) and moves the pointer. A reader of the origin never sees\n"
      "the pointer before what it names.\n\n"
      "Examples:\n  shoal publish /mnt/run/step-1000 --keep-last 3\n"
      "  shoal publish /mnt/run/step-1000 --level replicated --timeout 5m");
}

void add_scrub(CLI::App& app, Run& run) {
  std::shared_ptr<JobArguments> arguments;
  auto* scrub = add_job(app, run, JobKind::kScrub,
                        "Compare what the origin holds with what was written", arguments);
  scrub->add_option("--rate", arguments->rate, "Read at most so many bytes a second, like 200MiB")
      ->type_name("SIZE")
      ->check(kIsSize);
  scrub->add_flag("--all", arguments->all, "Name files that are as they should be, too");
  scrub->add_option("--timeout", arguments->timeout, "Give up after this long (default never)")
      ->type_name("TIME")
      ->check(kIsDuration);
  scrub->footer(
      "Reads the origin itself, not the cache, and compares it with the checksums in the objects'\n"
      "metadata and in manifests (shoal publish). Names each file that does not match, with the\n"
      "first byte from which it does not, and each that is missing. Exit status 1 if there are "
      "any.\n\n"
      "Examples:\n  shoal scrub /mnt/run/step-1000\n  shoal scrub /mnt --rate 200MiB");
}

void add_drain(CLI::App& app, Run& run) {
  auto* command = app.add_subcommand(
      "drain", "Hand a node's share of the cluster to the others and take it out");
  command->group("Use");
  auto arguments = std::make_shared<JobArguments>();
  arguments->kind = JobKind::kDrain;
  auto node = std::make_shared<std::string>();
  command
      ->add_option("node", *node,
                   "Name, address or id of a node, or a mountpoint (default: the one node here)")
      ->type_name("NODE");
  command->add_option("--at", arguments->at, "Talk to the node with this http address")
      ->type_name("ADDR:PORT");
  command
      ->add_option("--timeout", arguments->timeout,
                   "Stop waiting after this long (the drain goes on)")
      ->type_name("TIME");
  command->footer(
      "Its chunks go to their new owners first, so that nothing is read from the origin again, "
      "and\n"
      "what is not uploaded yet is uploaded. The process goes on until it is stopped.\n\n"
      "Examples:\n  shoal drain\n  shoal drain /mnt/data\n  shoal drain node-7 --at 10.0.0.5:7071");
  command->callback([&run, arguments, node] {
    run = [arguments, node] {
      arguments->paths = {*node};
      return run_job(*arguments);
    };
  });
}

}  // namespace

void add_control_commands(CLI::App& app, Run& run) {
  auto* status = app.add_subcommand("status", "Show what nodes on this machine hold and do");
  status->group("Use");
  auto shown = std::make_shared<StatusArguments>();
  status->add_option("path", shown->path, "A mountpoint, or a path in it (default: all nodes)")
      ->type_name("MOUNTPOINT");
  status->add_option("--at", shown->at, "Ask the node with this http address")
      ->type_name("ADDR:PORT");
  status->add_flag("--json", shown->json, "Print one JSON object with stable keys");
  status->footer("Examples:\n  shoal status\n  shoal status /mnt/data --json | jq .dirty");
  status->callback([&run, shown] { run = [shown] { return run_status(*shown); }; });

  std::shared_ptr<JobArguments> arguments;
  auto* sync = add_job(app, run, JobKind::kSync,
                       "Wait until what was written is safe in the origin", arguments);
  sync->add_option("--level", arguments->level,
                   "What to wait for: replicated (on the disks of --replicas nodes), or durable"
                   " (committed in the origin)")
      ->type_name("LEVEL")
      ->check(CLI::IsMember({"replicated", "durable"}));
  sync->add_option("--timeout", arguments->timeout,
                   "Give up waiting after this long (default never)")
      ->type_name("TIME")
      ->check(kIsDuration);
  sync->footer(
      "Examples:\n  shoal sync /mnt/data/checkpoint-1000 --timeout 10m\n  shoal sync /mnt/data");

  add_publish(app, run);
  add_scrub(app, run);
  auto* warm =
      add_job(app, run, JobKind::kWarm, "Fetch files into the cache ahead of reads", arguments);
  warm->add_flag("--wait", arguments->wait, "Wait for the end and show progress");
  warm->add_flag("--everywhere", arguments->everywhere,
                 "Into the cache of every node of the cluster, not only of each chunk's owner");
  warm->add_option("--timeout", arguments->timeout, "Give up after this long (default never)")
      ->type_name("TIME")
      ->check(kIsDuration);
  warm->footer("Examples:\n  shoal warm /mnt/data/models/llama --wait");

  add_drain(app, run);
  add_job(app, run, JobKind::kPin, "Never evict these files or directories", arguments);
  add_job(app, run, JobKind::kUnpin, "Let them be evicted again", arguments);
  add_job(app, run, JobKind::kEvict, "Drop cached bytes now (never what is not uploaded yet)",
          arguments);
}

}  // namespace shoal
