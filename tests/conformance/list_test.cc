// Listing, paging and odd names, for every Origin.
#include <algorithm>
#include <set>

#include "backend.h"

namespace shoal {
namespace {

class OriginListing : public OriginConformance {
 protected:
  // All pages together; checks that no page is too large and none repeats.
  std::vector<std::string> list_all(ListOptions options, std::vector<std::string>* prefixes) {
    std::vector<std::string> names;
    for (int pages = 0; pages < 200; ++pages) {
      Result<ListPage> page = run(origin_->list(options, {}));
      if (!page) {
        ADD_FAILURE() << page.error().to_string();
        return names;
      }
      EXPECT_LE(page->objects.size() + page->prefixes.size(), options.entries_max);
      for (const ObjectInfo& info : page->objects) names.push_back(info.name);
      for (const std::string& prefix : page->prefixes) {
        if (prefixes != nullptr) prefixes->push_back(prefix);
      }
      if (page->next_marker.empty()) {
        EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
        return names;
      }
      options.marker = page->next_marker;
    }
    ADD_FAILURE() << "the pages do not end";
    return names;
  }
};

using Names = std::vector<std::string>;

TEST_P(OriginListing, lists_nothing_where_nothing_is) {
  Names prefixes;
  EXPECT_TRUE(list_all({}, &prefixes).empty());
  EXPECT_TRUE(list_all({.prefix = "no/such/", .recursive = true}, &prefixes).empty());
  EXPECT_TRUE(list_all({.prefix = "no/such"}, &prefixes).empty());
  EXPECT_TRUE(prefixes.empty());
}

TEST_P(OriginListing, folds_names_at_slashes) {
  for (const char* name : {"top", "a/1", "a/2", "a-b", "a.b", "ab/c/d", "ab/c/e", "z/z/z/z"}) {
    put(name, "x");
  }
  Names prefixes;
  EXPECT_EQ(list_all({}, &prefixes), (Names{"a-b", "a.b", "top"}));
  EXPECT_EQ(prefixes, (Names{"a/", "ab/", "z/"}));
  prefixes.clear();
  EXPECT_EQ(list_all({.prefix = "a/"}, &prefixes), (Names{"a/1", "a/2"}));
  EXPECT_TRUE(prefixes.empty());
  EXPECT_EQ(list_all({.prefix = "ab/"}, &prefixes), Names{});
  EXPECT_EQ(prefixes, (Names{"ab/c/"}));
  prefixes.clear();
  EXPECT_EQ(list_all({.prefix = "a"}, &prefixes), (Names{"a-b", "a.b"}));
  EXPECT_EQ(prefixes, (Names{"a/", "ab/"}));
  EXPECT_EQ(list_all({.prefix = "a", .recursive = true}, nullptr),
            (Names{"a-b", "a.b", "a/1", "a/2", "ab/c/d", "ab/c/e"}));
  EXPECT_EQ(list_all({.prefix = "ab/c/e", .recursive = true}, nullptr), (Names{"ab/c/e"}));
}

TEST_P(OriginListing, pages) {
  std::set<std::string> objects;
  std::set<std::string> prefixes;
  for (int i = 0; i < 23; ++i) {
    std::string name = "page/n" + std::to_string(i * 7 % 23);
    objects.insert(name);
    put(name, "x");
    if (i % 3 == 0) {
      put(name + "-d/inside", "x");
      prefixes.insert(name + "-d/");
    }
  }
  std::set<std::string> everything = objects;
  for (const std::string& prefix : prefixes) everything.insert(prefix + "inside");
  for (uint32_t entries_max : {1u, 4u, 7u, 5000u}) {
    Names seen_prefixes;
    Names seen = list_all({.prefix = "page/", .entries_max = entries_max}, &seen_prefixes);
    EXPECT_EQ(seen, Names(objects.begin(), objects.end())) << entries_max;
    EXPECT_EQ(seen_prefixes, Names(prefixes.begin(), prefixes.end())) << entries_max;
    seen = list_all({.prefix = "page/", .recursive = true, .entries_max = entries_max}, nullptr);
    EXPECT_EQ(seen, Names(everything.begin(), everything.end())) << entries_max;
  }
}

TEST_P(OriginListing, tells_what_head_tells) {
  ObjectInfo info = put("x/y", "12345", {Condition::none(), {{"k", "v"}}});
  Result<ListPage> page = run(origin_->list({.prefix = "x/"}, {}));
  ASSERT_TRUE(page);
  ASSERT_EQ(page->objects.size(), 1u);
  EXPECT_EQ(page->objects[0].size, 5u);
  EXPECT_EQ(page->objects[0].etag, info.etag);
  EXPECT_EQ(page->objects[0].metadata, info.metadata);
  Result<ObjectInfo> head = run(origin_->head("x/y", {}));
  ASSERT_TRUE(head);
  EXPECT_EQ(page->objects[0].modified, head->modified);
}

TEST_P(OriginListing, carries_odd_names) {
  Names names = {"a b",
                 "per%cent",
                 "per%20cent",
                 "plus+plus",
                 "quest?ion",
                 "ha#sh",
                 "quo\"te",
                 "apo'strophe",
                 "am&p",
                 "less<more>",
                 "semi;colon",
                 "equal=s",
                 "at@",
                 "co,mma",
                 "br[ack]et",
                 "cur{ly}",
                 "back\\slash",
                 "tilde~",
                 "dollar$",
                 "star*",
                 "pipe|",
                 "caret^",
                 "tick`",
                 "colon:",
                 "bang!",
                 "paren(s)",
                 "\xf0\x9f\x90\x9f fish",
                 "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e",
                 "e\xcc\x81 combining",
                 "\xc3\xa9 composed",
                 "dir with space/\xc3\xbc/in ner",
                 "trailing.dots..txt",
                 "...",
                 "-",
                 " leading",
                 "UPPER",
                 "upper"};
  if (deviates(Deviation::kBackslashIsSlash)) std::erase(names, "back\\slash");
  for (const std::string& name : names) {
    ObjectInfo info = put(name, name);
    EXPECT_EQ(get(info), name) << name;
    Result<ObjectInfo> head = run(origin_->head(name, {}));
    ASSERT_TRUE(head) << name << ": " << head.error().to_string();
    EXPECT_EQ(head->etag, info.etag) << name;
  }
  std::set<std::string> expected(names.begin(), names.end());
  Names listed = list_all({.recursive = true}, nullptr);
  EXPECT_EQ(std::set<std::string>(listed.begin(), listed.end()), expected);
  EXPECT_EQ(listed.size(), expected.size());
  for (const std::string& name : names) {
    EXPECT_EQ(list_all({.prefix = name, .recursive = true, .entries_max = 1}, nullptr).size(),
              static_cast<size_t>(std::count_if(
                  names.begin(), names.end(), [&](const auto& n) { return n.starts_with(name); })))
        << name;
    Result<ObjectInfo> copied = run(origin_->copy(name, "", "copy of " + name, {}, {}));
    EXPECT_TRUE(copied) << name << ": " << copied.error().to_string();
    Status removed = run(origin_->remove(name, Condition::none(), {}));
    EXPECT_TRUE(removed) << name << ": " << removed.error().to_string();
  }
}

TEST_P(OriginListing, hides_shoals_own_state) {
  put(".shoal/cluster/map", "x");
  put(".shoalish/y", "x");
  Names prefixes;
  EXPECT_TRUE(list_all({}, &prefixes).empty());
  EXPECT_EQ(prefixes, (Names{".shoalish/"}));
  EXPECT_EQ(list_all({.recursive = true}, nullptr), (Names{".shoalish/y"}));
  EXPECT_EQ(list_all({.prefix = ".shoal/", .recursive = true}, nullptr),
            (Names{".shoal/cluster/map"}));
}

TEST_P(OriginListing, mounts_prefixes) {
  put("top", "x");
  put("sub/in", "inside");
  put("sub/deep/er", "x");
  put("subway", "x");
  origin_ = make("/sub");
  Names prefixes;
  EXPECT_EQ(list_all({}, &prefixes), (Names{"in"}));
  EXPECT_EQ(prefixes, (Names{"deep/"}));
  EXPECT_EQ(list_all({.recursive = true}, nullptr), (Names{"deep/er", "in"}));
  Result<ObjectInfo> head = run(origin_->head("in", {}));
  ASSERT_TRUE(head);
  EXPECT_EQ(get(*head), "inside");
  EXPECT_TRUE(run(origin_->copy("in", head->etag, "out", {}, {})));
  EXPECT_EQ(code_of(run(origin_->head("top", {}))), Code::kNotFound);
  origin_ = make();
  EXPECT_TRUE(run(origin_->head("sub/out", {})));
}

INSTANTIATE_TEST_SUITE_P(directory, OriginListing, testing::Values(BackendKind::kDirectory));
INSTANTIATE_TEST_SUITE_P(azurite, OriginListing, testing::Values(BackendKind::kAzurite));
INSTANTIATE_TEST_SUITE_P(stub, OriginListing, testing::Values(BackendKind::kStub));
INSTANTIATE_TEST_SUITE_P(faulty, OriginListing, testing::Values(BackendKind::kFaultyStub));

}  // namespace
}  // namespace shoal
