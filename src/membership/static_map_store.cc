// A fixed list of members: the same map on every node, without a place to keep it.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/bytes.h"
#include "membership/internal/cluster_key.h"
#include "membership/map_store.h"

namespace shoal {
namespace {

constexpr size_t kTextBytesMax = 4 * kMiB;

std::unexpected<Error> bad_line(size_t line, std::string_view why) {
  return fail(Code::kInvalidArgument,
              fmt::format("line {}: {}; a line is NAME ADDRESS:PORT [weight=N] [zone=Z] [id=HEX]",
                          line, why));
}

// The next word, taken off the front of `text`; empty at its end.
std::string_view take_word(std::string_view& text) {
  constexpr std::string_view kBlank = " \t\r";
  size_t begin = std::min(text.find_first_not_of(kBlank), text.size());
  size_t end = std::min(text.find_first_of(kBlank, begin), text.size());
  std::string_view word = text.substr(begin, end - begin);
  text.remove_prefix(end);
  return word;
}

bool has_port(std::string_view address) {
  size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return false;
  std::string_view port = address.substr(colon + 1);
  uint32_t value = 0;
  auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  return error == std::errc() && end == port.data() + port.size() && value > 0 && value < 65536;
}

Status take_option(std::string_view word, size_t line, Member& member) {
  size_t equals = word.find('=');
  std::string_view name = word.substr(0, equals);
  std::string_view value = equals == std::string_view::npos ? "" : word.substr(equals + 1);
  if (value.empty()) return bad_line(line, fmt::format("'{}' is no option", word));
  if (name == "zone") {
    if (value.size() > 255) return bad_line(line, "the zone is above 255 bytes");
    member.zone = value;
    return {};
  }
  if (name == "weight") {
    auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), member.weight);
    bool whole = error == std::errc() && end == value.data() + value.size();
    if (!whole || member.weight == 0 || member.weight > kWeightMax) {
      return bad_line(line, fmt::format("'{}' is no weight (GiB, 1 at least)", value));
    }
    return {};
  }
  if (name == "id") {
    Result<Hash128> id = Hash128::from_hex(value);
    if (!id || id->is_zero()) {
      return bad_line(line, fmt::format("'{}' is no id: 32 hexadecimal digits", value));
    }
    member.id = *id;
    return {};
  }
  return bad_line(line, fmt::format("'{}' is no option", word));
}

Result<std::optional<Member>> parse_line(std::string_view text, size_t line,
                                         std::string_view cluster) {
  text = text.substr(0, text.find('#'));
  Member member;
  member.name = take_word(text);
  if (member.name.empty()) return std::optional<Member>();
  if (member.name.size() > 255) return bad_line(line, "the name is above 255 bytes");
  member.address = take_word(text);
  if (!has_port(member.address) || member.address.size() > 300) {
    return bad_line(line, fmt::format("'{}' is no ADDRESS:PORT", member.address));
  }
  member.id = hash_string(fmt::format("{}/{}", cluster, member.name));
  for (std::string_view word = take_word(text); !word.empty(); word = take_word(text)) {
    SHOAL_RETURN_IF_ERROR(take_option(word, line, member));
  }
  return std::optional<Member>(std::move(member));
}

// In order of ids, so that the order of lines does not matter.
Result<std::vector<Member>> parse_list(std::string_view text, std::string_view cluster) {
  if (text.size() > kTextBytesMax) return fail(Code::kInvalidArgument, "the list is above 4 MiB");
  std::vector<Member> members;
  std::set<std::string> names;
  std::set<NodeId> ids;
  size_t line = 0;
  while (!text.empty()) {
    ++line;
    size_t end = std::min(text.find('\n'), text.size());
    SHOAL_ASSIGN_OR_RETURN(std::optional<Member> member,
                           parse_line(text.substr(0, end), line, cluster));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!member) continue;
    if (!names.insert(member->name).second || !ids.insert(member->id).second) {
      return bad_line(line, fmt::format("{} or its id is in the list already", member->name));
    }
    members.push_back(std::move(*member));
    if (members.size() > kMembersMax) {
      return fail(Code::kInvalidArgument, fmt::format("more than {} members", kMembersMax));
    }
  }
  if (members.empty()) return fail(Code::kInvalidArgument, "the list of members is empty");
  std::ranges::sort(members, {}, &Member::id);
  return members;
}

class StaticMapStore final : public MapStore {
 public:
  StaticMapStore(std::string name, SlotMap map, std::string key)
      : name_(std::move(name)), map_(std::move(map)), key_(std::move(key)) {}

  std::string display_name() const override { return "static " + name_; }
  bool is_fixed() const override { return true; }
  Task<Result<std::optional<StoredMap>>> load(Context) override {
    co_return std::optional<StoredMap>(StoredMap{map_, "static"});
  }
  Task<Result<std::string>> compare_and_swap(SlotMap, std::string, Context) override {
    co_return fail(Code::kReadOnly,
                   fmt::format("{} is a fixed list; to change it, change the file on every node "
                               "and restart them",
                               name_));
  }
  Task<Status> watch(std::string, Context) override {
    co_return fail(Code::kNotSupported, "a fixed list does not change");
  }
  Task<Result<std::string>> key(Context) override { co_return key_; }

 private:
  std::string name_;
  SlotMap map_;
  std::string key_;
};

}  // namespace

Result<std::unique_ptr<MapStore>> make_static_map_store(std::string_view text, std::string name,
                                                        std::string cluster, std::string origin,
                                                        uint32_t copies, std::string key) {
  SHOAL_RETURN_IF_ERROR(check_cluster_name(cluster));
  Result<std::vector<Member>> members = parse_list(text, cluster);
  if (!members) return fail(std::move(members).error().with_context(name));
  // The id of the cluster names the list: nodes with different lists do not take each other's map.
  std::string canonical = fmt::format("{}\n{}\n{}\n", cluster, origin, copies);
  for (const Member& member : *members) {
    canonical += fmt::format("{} {} {} {} {}\n", member.id.to_hex(), member.name, member.address,
                             member.weight, member.zone);
  }
  Member first = members->front();
  SlotMap map = placement::first_map(std::move(cluster), hash_string(canonical), std::move(origin),
                                     copies, std::move(first));
  if (members->size() > 1) {
    members->erase(members->begin());
    map = placement::settle(placement::join(map, std::move(*members)));
  }
  map.version = 1;
  Status valid = validate(map);
  if (!valid) return fail(std::move(valid).error().with_context(name));
  return std::make_unique<StaticMapStore>(std::move(name), std::move(map), std::move(key));
}

Result<NodeId> static_member_id(std::string_view text, std::string_view name,
                                std::string_view cluster) {
  SHOAL_ASSIGN_OR_RETURN(std::vector<Member> members, parse_list(text, cluster));
  for (const Member& member : members) {
    if (member.name == name) return member.id;
  }
  return fail(Code::kNotFound,
              fmt::format("the list has no member called {}; add a line for it, or say with --name "
                          "which of the list this node is",
                          name));
}

}  // namespace shoal
