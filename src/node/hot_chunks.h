// HotChunks: whom an owner sends askers of a chunk that many want at once. It serves the first
// itself; later ones get a parent among those that came before. The first kChain of them form a
// chain: each link carries the chunk once, so that many nodes that read the same object use every
// link's full rate (with two children each, half of the links would carry two copies and the others
// none: measured twice the time with 8 nodes). Beyond that a node has up to kChildren, so that the
// time to reach N nodes grows with log N.
//
// A node keeps its place in a chunk's tree for a while, so that all parts of the chunk come to it
// the same way, and nobody waits in a circle: a parent always came earlier. Shard's thread.
#pragma once

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
  static constexpr size_t kDirect = 1;    // nodes that the owner serves itself
  static constexpr size_t kChain = 8;     // so many nodes serve one other node each
  static constexpr size_t kChildren = 2;  // nodes that each node serves when there are more
  static constexpr size_t kChunksMax = 4096;
  static constexpr Duration kLife = std::chrono::seconds(10);  // of a chunk's tree, unused

  // The node that `asker` should read the chunk from; nothing: from the owner. `alive` says whether
  // a member can be sent to.
  template <typename Alive>
  std::optional<NodeId> parent_of(const Hash128& chunk, const NodeId& asker, SteadyTime now,
                                  Alive alive) {
    if (now - swept_ > kLife || trees_.size() >= kChunksMax) sweep(now);
    if (trees_.size() >= kChunksMax) return std::nullopt;
    Tree& tree = trees_[chunk];
    tree.used = now;
    for (size_t i = 0; i < tree.nodes.size(); ++i) {
      if (tree.nodes[i].id == asker) return parent_at(tree, i, alive);
    }
    tree.nodes.push_back({asker, SIZE_MAX, 0});
    size_t place = tree.nodes.size() - 1;
    if (tree.direct < kDirect) {
      ++tree.direct;
      return std::nullopt;
    }
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
    std::vector<Node> nodes;  // in the order in which they came
    size_t direct = 0;
    SteadyTime used{};
  };
  template <typename Alive>
  static std::optional<NodeId> parent_at(Tree& tree, size_t place, Alive alive) {
    size_t parent = tree.nodes[place].parent;
    if (parent == SIZE_MAX || !alive(tree.nodes[parent].id)) return std::nullopt;
    return tree.nodes[parent].id;
  }
  void sweep(SteadyTime now) {
    std::erase_if(trees_, [&](const auto& entry) { return now - entry.second.used > kLife; });
    swept_ = now;
  }

  std::unordered_map<Hash128, Tree> trees_;
  SteadyTime swept_{};
};

}  // namespace shoal
