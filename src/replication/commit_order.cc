#include "replication/commit_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "base/object_name.h"
#include "replication/manifest.h"
#include "replication/replication.h"
#include "replication/waiting.h"

namespace shoal {

namespace {
// How far clocks of nodes may lie apart.
constexpr Duration kClockSkew = std::chrono::seconds(2);
}  // namespace

bool is_marker(std::string_view leaf) {
  constexpr std::array<std::string_view, 5> kParts = {"latest", "manifest", "metadata", "complete",
                                                      "commit_success"};
  constexpr std::array<std::string_view, 3> kEnds = {".index.json", "_iteration.txt", ".done"};
  std::string lower(leaf);
  std::ranges::transform(lower, lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return lower == "checkpoint" || lower.starts_with("_success") ||
         std::ranges::any_of(kParts, [&](auto part) { return lower.contains(part); }) ||
         std::ranges::any_of(kEnds, [&](auto end) { return lower.ends_with(end); });
}

Task<Status> check_earlier(Replication& replication, std::string marker, WallTime closed,
                           NodeId writer, Context context) {
  std::string directory(parent_of(marker));
  SHOAL_CO_ASSIGN_OR_RETURN(
      Waiting found, co_await waiting_below(replication, directory, Push::kNothing, context));
  for (const auto& [object, item] : found.items) {
    if (object == marker || item.state == WaitingItem::State::kOpen) continue;
    // The order of its own files is known to a writer that lives.
    if (writer == replication.self() && item.writer == writer) continue;
    // Of two markers exactly one waits; others never wait for markers of other nodes.
    bool before = is_marker(leaf_of(object))
                      ? std::tie(item.changed, item.writer) < std::tie(closed, writer)
                      : item.changed <= closed + kClockSkew;
    if (before) {
      co_return fail(Code::kBusy,
                     fmt::format("{} waits for {}, which was closed before it", marker, object));
    }
  }
  if (found.silent.empty()) co_return Status();
  co_return fail(Code::kBusy,
                 fmt::format("{} may have to wait for others; {}", marker, found.silent));
}

Task<Status> pass_gate(Replication& replication, std::string object, std::string gate,
                       std::string content, Context context) {
  Status open =
      co_await check_gate(replication.parts().origin, object, gate, std::move(content), context);
  if (open || open.error().code() != Code::kBusy) co_return open;
  std::string manifest = object;
  if (gate != kGateSelf) {
    SHOAL_CO_ASSIGN_OR_RETURN(manifest, percent_decode(gate));
  }
  auto told = co_await behind_below(replication, std::string(parent_of(manifest)),
                                    Behind::Goal::kDurable, Push::kUpload, context);
  static_cast<void>(told);  // asked again at the next attempt
  co_return open;
}

}  // namespace shoal
