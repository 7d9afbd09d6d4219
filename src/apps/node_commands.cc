// mount, serve, unmount.
#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>

#include "apps/admin.h"
#include "apps/commands.h"
#include "apps/options.h"
#include "apps/run_node.h"
#include "apps/runtime.h"
#include "apps/units.h"
#include "base/bytes.h"
#include "mount/mount_point.h"

namespace shoal {
namespace {

constexpr std::string_view kOriginHelp =
    "A directory (/data, file:///data), az://ACCOUNT/CONTAINER[/PREFIX], or an emulator's URL "
    "(http://127.0.0.1:10000/devstoreaccount1/CONTAINER)";

struct NodeArguments {
  std::string origin;
  std::string mountpoint;
  std::string config;
  std::map<std::string, std::string> flags;
};

void add_options(CLI::App& command, const std::shared_ptr<NodeArguments>& arguments, bool mount) {
  for (const OptionSpec& spec : option_specs()) {
    if (spec.mount_only && !mount) continue;
    std::string name(spec.name);
    std::string help(spec.help);
    if (!spec.default_text.empty()) help += fmt::format(" (default: {})", spec.default_text);
    CLI::Option* option = nullptr;
    if (spec.kind == OptionKind::kSwitch) {
      option = command.add_flag_callback(
          "--" + name, [arguments, name] { arguments->flags[name] = "true"; }, help);
    } else {
      option = command.add_option_function<std::string>(
          "--" + name,
          [arguments, name](const std::string& value) { arguments->flags[name] = value; }, help);
      option->type_name(std::string(spec.placeholder));
    }
    option->group(std::string(spec.group));
  }
  command
      .add_option("--config", arguments->config, "TOML file; its keys are the names of the flags")
      ->type_name("FILE")
      ->group("Process");
}

int run_plan(const NodeArguments& arguments) {
  auto resolved = resolve_options({arguments.flags, shoal_environment(), arguments.config});
  if (!resolved) return fail_with(resolved.error());
  return run_node({arguments.origin, arguments.mountpoint, std::move(resolved->options),
                   std::move(resolved->warnings)});
}

constexpr std::string_view kCommonFooter =
    "Every flag can stand in the --config file (cache-dir = \"/nvme/shoal\") and in the "
    "environment\n"
    "(SHOAL_CACHE_DIR); a flag beats the environment, the environment beats the file.\n"
    "Credentials for Azure come from the environment (AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN,\n"
    "AZURE_STORAGE_CONNECTION_STRING) or from --account-key-file or --sas-file, never from a flag.";

// Waits until the process has ended. False when the time is up.
bool wait_for_end(int64_t pid, int timeout_ms) {
  int descriptor = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0));
  if (descriptor < 0) return errno == ESRCH;
  pollfd wanted{descriptor, POLLIN, 0};
  int n = poll(&wanted, 1, timeout_ms);
  close(descriptor);
  return n > 0;
}

int run_unmount(const std::string& typed, bool lazy) {
  auto dir = runtime_dir();
  if (!dir) return fail_with(dir.error());
  forget_dead_nodes(*dir);
  auto nodes = running_nodes(*dir);
  std::string path = absolute_path(typed);
  const RunningNode* node = nullptr;
  for (int pass = 0; pass < 2 && node == nullptr; ++pass) {
    if (pass == 1) path = resolved_path(typed);
    for (const RunningNode& one : nodes) {
      if (one.mountpoint == path) node = &one;
    }
  }
  uint64_t dirty_objects = 0;
  uint64_t dirty_bytes = 0;
  if (node != nullptr) {
    auto report = node_status(AdminClient({node->socket, node->http, node->token}));
    if (report) {
      dirty_objects = report->dirty.objects;
      dirty_bytes = report->dirty.bytes;
    }
  }
  // A mount whose daemon died is detached as well, so that this command always cleans up.
  if (Status status = fuse::detach(path, lazy); !status) return fail_with(status.error());
  if (node != nullptr && !wait_for_end(node->pid, 60'000)) {
    fmt::print(stderr, "shoal: {} is unmounted, but its daemon (pid {}) still tidies up; see {}\n",
               path, node->pid, node->log_file);
    return kExitFailed;
  }
  if (dirty_objects > 0) {
    fmt::print(
        "{} objects ({}) were not uploaded yet; what is left is safe in {} and goes up when the "
        "origin is mounted with that cache again\n",
        dirty_objects, format_size(dirty_bytes), node->cache_dir);
  }
  return kExitDone;
}

}  // namespace

void add_node_commands(CLI::App& app, Run& run) {
  auto* mount = app.add_subcommand("mount", "Mount an origin as a file system");
  mount->group("Run");
  auto to_mount = std::make_shared<NodeArguments>();
  mount->add_option("origin", to_mount->origin, std::string(kOriginHelp))
      ->required()
      ->type_name("ORIGIN");
  mount->add_option("mountpoint", to_mount->mountpoint, "An empty directory")
      ->required()
      ->type_name("MOUNTPOINT");
  add_options(*mount, to_mount, true);
  mount->footer(
      std::string(kCommonFooter) +
      "\n\nExamples:\n"
      "  shoal mount /data /mnt/data\n"
      "  AZURE_STORAGE_KEY=... shoal mount az://account/container /mnt/data --cache-dir "
      "/nvme/shoal\n"
      "  shoal mount az://account/models /mnt/models --sas-file /run/secrets/sas --read-only\n"
      "  shoal unmount /mnt/data");
  mount->callback([&run, to_mount] { run = [to_mount] { return run_plan(*to_mount); }; });

  auto* serve = app.add_subcommand("serve", "Run a node without a mount");
  serve->group("Run");
  auto to_serve = std::make_shared<NodeArguments>();
  serve->add_option("origin", to_serve->origin, std::string(kOriginHelp))
      ->required()
      ->type_name("ORIGIN");
  add_options(*serve, to_serve, false);
  serve->footer(std::string(kCommonFooter) +
                "\n\nExamples:\n  shoal serve az://account/container --http 127.0.0.1:7071");
  serve->callback([&run, to_serve] { run = [to_serve] { return run_plan(*to_serve); }; });

  auto* unmount = app.add_subcommand("unmount", "Unmount, and end the daemon in good order");
  unmount->group("Run");
  auto mountpoint = std::make_shared<std::string>();
  auto lazy = std::make_shared<bool>(false);
  unmount->add_option("mountpoint", *mountpoint, "The mountpoint")
      ->required()
      ->type_name("MOUNTPOINT");
  unmount->add_flag("--lazy", *lazy,
                    "Take it away now even if files are open; the last user ends it");
  unmount->footer(
      "What is not uploaded yet stays safe in the cache directory and goes up at the next "
      "mount;\nto wait for it first: shoal sync MOUNTPOINT");
  unmount->callback([&run, mountpoint, lazy] {
    run = [mountpoint, lazy] { return run_unmount(*mountpoint, *lazy); };
  });
}

}  // namespace shoal
