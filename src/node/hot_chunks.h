// HotChunks: whom an owner sends askers of a chunk that many want at once. It serves the first
// itself; later ones get a parent among the others, so that each link carries about one copy.
//
// Nodes that read an object side by side ask for its chunks in the same order of nodes each time,
// and whoever comes last could pass nothing on to others: the links of the rest would be full, and
// the last ones fall behind more and more. So the owner remembers who reads the object, and gives
// all of them their places when the first one asks for a chunk, in another order for each chunk. A
// node that is sent to one that has not asked yet makes it fetch the chunk a little earlier. Up to
// kChain nodes form a chain (with two children each, half of the links would carry two copies and
// the others none: measured twice the time with 8 nodes). More form a tree of two children each: it
// is not deep, and over all chunks each node has its share of them.
//
// Who is not expected is attached to those that came before: kChain of them form a chain, beyond
// that a node has up to kChildren.
//
// A node keeps its place in a chunk's tree for a while, so that all parts of the chunk come to it
// the same way. Places never change, so nobody waits in a circle. Shard's thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "placement/slot_map.h"
#include "world/time.h"

namespace shoal {

class HotChunks {
 public:
  static constexpr size_t kChain = 8;     // so many nodes serve one other node each
  static constexpr size_t kChildren = 2;  // nodes that each node serves when there are more
  static constexpr size_t kChunksMax = 4096;
  static constexpr size_t kObjectsMax = 256;
  static constexpr uint64_t kNear =
      4096;  // chunks: who reads elsewhere in the object is not expected
  static constexpr Duration kLife = std::chrono::seconds(10);  // of a tree or a reader, unused

  struct Question {
    Hash128 object;  // a version of one
    uint64_t chunk = 0;
    NodeId asker;
    SteadyTime now{};
  };
  // The node that the asker should read the chunk from; nothing: from the owner. `alive` says
  // whether a member can be sent to.
  template <typename Alive>
  std::optional<NodeId> parent_of(const Question& question, Alive alive) {
    if (question.now - swept_ > kLife || trees_.size() >= kChunksMax) sweep(question.now);
    if (trees_.size() >= kChunksMax) return std::nullopt;
    Hash128 key{question.object.high, question.object.low + question.chunk};
    auto [found, is_new] = trees_.try_emplace(key);
    Tree& tree = found->second;
    tree.used = question.now;
    if (is_new) expect_readers(tree, question, alive);
    note_reader(question);
    for (size_t i = 0; i < tree.nodes.size(); ++i) {
      if (tree.nodes[i].id == question.asker) return parent_at(tree, i, alive);
    }
    tree.nodes.push_back({question.asker, SIZE_MAX, 0});
    size_t place = tree.nodes.size() - 1;
    size_t children_max = place < kChain ? 1 : kChildren;
    for (size_t i = 0; i < place; ++i) {
      Node& node = tree.nodes[i];
      if (node.children >= children_max || !alive(node.id)) continue;
      ++node.children;
      tree.nodes[place].parent = i;
      return node.id;
    }
    return std::nullopt;
  }
  size_t size() const { return trees_.size(); }

 private:
  struct Node {
    NodeId id;
    size_t parent;  // index; SIZE_MAX: the owner
    size_t children;
  };
  struct Tree {
    std::vector<Node> nodes;  // those expected, then others in the order in which they came
    SteadyTime used{};
  };
  struct Reader {
    NodeId id;
    uint64_t chunk = 0;  // that it asked for last
    SteadyTime used{};
  };

  template <typename Alive>
  static std::optional<NodeId> parent_at(Tree& tree, size_t place, Alive alive) {
    size_t parent = tree.nodes[place].parent;
    if (parent == SIZE_MAX || !alive(tree.nodes[parent].id)) return std::nullopt;
    return tree.nodes[parent].id;
  }

  template <typename Alive>
  void expect_readers(Tree& tree, const Question& question, Alive alive) {
    auto found = readers_.find(question.object);
    if (found == readers_.end()) return;
    std::vector<std::pair<uint64_t, NodeId>> order;
    for (const Reader& reader : found->second) {
      uint64_t apart =
          std::max(reader.chunk, question.chunk) - std::min(reader.chunk, question.chunk);
      bool reads = question.now - reader.used <= kLife && apart <= kNear && alive(reader.id);
      if (reads) order.emplace_back(turn(question, reader.id), reader.id);
    }
    std::ranges::sort(order);
    bool chain = order.size() <= kChain;
    for (size_t i = 0; i < order.size(); ++i) {
      size_t parent = i == 0 ? SIZE_MAX : chain ? i - 1 : (i - 1) / kChildren;
      tree.nodes.push_back({order[i].second, parent, 0});
      if (parent != SIZE_MAX) ++tree.nodes[parent].children;
    }
  }

  // Where a node stands in the order of the chunk.
  static uint64_t turn(const Question& question, const NodeId& id) {
    uint64_t mixed = (question.object.low + question.chunk) * 0x9e37'79b9'7f4a'7c15ull;
    mixed = (mixed ^ (mixed >> 29) ^ id.low ^ id.high) * 0xbf58'476d'1ce4'e5b9ull;
    return (mixed ^ (mixed >> 32)) * 0x94d0'49bb'1331'11ebull;
  }

  void note_reader(const Question& question) {
    if (readers_.size() >= kObjectsMax && !readers_.contains(question.object)) return;
    std::vector<Reader>& readers = readers_[question.object];
    auto found = std::ranges::find(readers, question.asker, &Reader::id);
    if (found == readers.end()) found = readers.insert(found, Reader{question.asker});
    found->chunk = question.chunk;
    found->used = question.now;
  }

  void sweep(SteadyTime now) {
    auto unused = [now](const auto& one) { return now - one.used > kLife; };
    std::erase_if(trees_, [&](const auto& entry) { return unused(entry.second); });
    for (auto& [object, readers] : readers_) std::erase_if(readers, unused);
    std::erase_if(readers_, [](const auto& entry) { return entry.second.empty(); });
    swept_ = now;
  }

  std::unordered_map<Hash128, Tree> trees_;
  std::unordered_map<Hash128, std::vector<Reader>> readers_;  // by object
  SteadyTime swept_{};
};

}  // namespace shoal
