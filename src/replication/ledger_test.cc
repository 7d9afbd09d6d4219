#include "replication/ledger.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/bytes.h"
#include "store/test_support.h"

namespace shoal {
namespace {

LedgerRecord record_of(const std::string& object, uint64_t id, uint32_t generation = 0,
                       uint64_t sequence = 1) {
  LedgerRecord record;
  record.object = record.home = object;
  record.write = {{7, id}, generation};
  record.sequence = sequence;
  record.sealed = true;
  record.changed = WallTime(std::chrono::seconds(1000 + id));
  record.writer = {1, 2};
  record.holders = {{3, 4}, {5, 6}};
  record.replicas = 2;
  record.size = 3;
  record.has_content = true;
  record.content = "abc";
  record.metadata["shoalmode"] = "644";
  record.chunk_crcs = {1, 0xFFFFFFFF};
  return record;
}

TEST(LedgerRecord, names_of_writes) {
  WriteName name{{0x12, 0x34}, 7};
  EXPECT_EQ(WriteName::parse(name.text()), name);
  EXPECT_EQ(WriteName::parse(name.etag()), name);
  EXPECT_TRUE(is_unuploaded(name.etag()));
  for (const char* text : {"", "~", "~12.3", "0x8D1", "zz000000000000000000000000000000.1"}) {
    EXPECT_FALSE(WriteName::parse(text).has_value()) << text;
  }
  std::string good = name.text();
  EXPECT_FALSE(WriteName::parse(good + "x").has_value());
  EXPECT_FALSE(WriteName::parse(good.substr(0, good.size() - 1)).has_value());
  EXPECT_FALSE(WriteName::parse(good.substr(0, 33) + "99999999999999999999").has_value());
}

TEST(LedgerRecord, names_of_commits) {
  LedgerRecord sealed = record_of("a", 1, 2, 7);
  LedgerRecord synced = sealed;
  synced.sealed = false;
  for (const LedgerRecord& record : {sealed, synced}) {
    CommitName name = CommitName::of(record);
    EXPECT_EQ(CommitName::parse(name.text()), name);
    EXPECT_TRUE(name.covers(record));
  }
  EXPECT_EQ(CommitName::of(sealed).text(), sealed.write.text());
  EXPECT_TRUE(CommitName::of(sealed).covers(synced));
  EXPECT_FALSE(CommitName::of(synced).covers(sealed));
  LedgerRecord later = synced;
  ++later.sequence;
  EXPECT_FALSE(CommitName::of(synced).covers(later));
  EXPECT_TRUE(CommitName::of(later).covers(synced));
  LedgerRecord reopened = record_of("a", 1, 3, 1);
  EXPECT_FALSE(CommitName::of(sealed).covers(reopened));
  EXPECT_TRUE(CommitName::of(reopened).covers(sealed));
  EXPECT_FALSE(CommitName::of(sealed).covers(record_of("a", 2, 2, 7)));
  std::string text = CommitName::of(synced).text();
  for (const std::string& other : {text + "x", text.substr(0, text.size() - 1), std::string("~")}) {
    EXPECT_FALSE(CommitName::parse(other).has_value()) << other;
  }
}

TEST(LedgerRecord, survives_the_wire) {
  LedgerRecord record = record_of("a/b", 1);
  record.home = "a/b.tmp";
  wire::LedgerBody body;
  to_wire(record, body);
  auto back = from_wire(body);
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->object, record.object);
  EXPECT_EQ(back->home, record.home);
  EXPECT_EQ(back->write, record.write);
  EXPECT_EQ(back->holders, record.holders);
  EXPECT_EQ(back->content, record.content);
  EXPECT_EQ(back->chunk_crcs, record.chunk_crcs);
  EXPECT_EQ(back->metadata, record.metadata);
}

TEST(PackedRecord, gives_back_all_but_the_content) {
  LedgerRecord record = record_of("a/b", 1, 3, 9);
  record.home = "a/b.tmp";
  record.base_etag = "~0";  // not looked at
  record.must_be_absent = true;
  record.repairs = 4;
  record.crc = 77;
  record.ancestors = "12 34";
  record.placed = {{3, 4}};
  record.map_version = 12;
  for (const std::string& id : {record.write.text(), std::string("another")}) {
    record.metadata["shoalwriteid"] = id;
    LedgerRecord expected = record;
    expected.content.reset();
    PackedRecord packed(record);
    EXPECT_EQ(packed.write(), record.write);
    EXPECT_TRUE(packed.sealed() && packed.has_content());
    EXPECT_EQ(packed.unpack(), expected);
  }
  record.size = 0;
  record.content = "";
  EXPECT_FALSE(PackedRecord(record).unpack().content.has_value());
}

TEST(LedgerRecord, refuses_what_cannot_be) {
  auto refused = [](const std::function<void(wire::LedgerBody&)>& spoil) {
    wire::LedgerBody body;
    to_wire(record_of("a", 1), body);
    spoil(body);
    auto record = from_wire(body);
    return !record && record.error().code() == Code::kCorrupt;
  };
  EXPECT_TRUE(refused([](auto& body) { body.set_object("../x"); }));
  EXPECT_TRUE(refused([](auto& body) { body.set_object(""); }));
  EXPECT_TRUE(refused([](auto& body) { body.set_home("/"); }));
  EXPECT_TRUE(refused([](auto& body) { body.set_size(UINT64_MAX); }));
  EXPECT_TRUE(refused([](auto& body) { body.set_size(4); }));  // not the content's
  EXPECT_TRUE(refused([](auto& body) { body.set_replicas(0); }));
  EXPECT_TRUE(refused([](auto& body) { body.set_replicas(6); }));
  EXPECT_TRUE(refused([](auto& body) { body.mutable_write()->Clear(); }));
  EXPECT_TRUE(refused([](auto& body) { body.set_base_etag(std::string(1000, 'x')); }));
  EXPECT_FALSE(refused([](auto&) {}));
}

class LedgerMachine : public StoreMachine {
 public:
  Ledger& ledger() {
    if (ledger_ == nullptr) {
      ledger_ = std::make_unique<Ledger>(machine.world(), store(), log);
      for (const Store::Staged& staged : store().staged()) ledger_->note_recovered(staged);
      EXPECT_TRUE(run(ledger_->load()).has_value());
    }
    return *ledger_;
  }
  void lose_power() {
    ledger_ = nullptr;
    crash(CrashKind::kPowerLoss);
    EXPECT_TRUE(open().has_value());
  }

 private:
  std::unique_ptr<Ledger> ledger_;
};

TEST(Ledger, keeps_records_over_power_loss) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  ASSERT_TRUE(m.run(m.ledger().put(record_of("a", 1))).has_value());
  ASSERT_TRUE(m.run(m.ledger().put(record_of("b", 2))).has_value());
  ASSERT_TRUE(
      m.run(m.ledger().remove("b", {{7, 2}, 0}, kAllSequences, EndReason::kReplaced)).has_value());
  m.lose_power();
  EXPECT_EQ(m.ledger().size(), 1u);
  ASSERT_TRUE(m.ledger().visible("a").has_value());
  EXPECT_EQ(m.run(m.ledger().with_content(*m.ledger().visible("a")))->content, "abc");
  EXPECT_FALSE(m.ledger().visible("b").has_value());
}

TEST(Ledger, the_newest_state_counts) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  ASSERT_TRUE(m.run(m.ledger().put(record_of("a", 1, 1, 5))).has_value());
  ASSERT_TRUE(m.run(m.ledger().put(record_of("a", 1, 1, 4))).has_value());
  EXPECT_EQ(m.ledger().find("a").at(0).sequence, 5u);
  ASSERT_TRUE(m.run(m.ledger().put(record_of("a", 1, 2, 1))).has_value());
  EXPECT_EQ(m.ledger().find("a").at(0).write.generation, 2u);
  // The end of an older generation is not that of this one.
  ASSERT_TRUE(
      m.run(m.ledger().remove("a", {{7, 1}, 1}, kAllSequences, EndReason::kReplaced)).has_value());
  EXPECT_EQ(m.ledger().size(), 1u);
  ASSERT_TRUE(
      m.run(m.ledger().remove("a", {{7, 1}, 2}, kAllSequences, EndReason::kReplaced)).has_value());
  EXPECT_EQ(m.ledger().size(), 0u);
  // A late request does not bring it back.
  EXPECT_EQ(code_of(m.run(m.ledger().put(record_of("a", 1, 2, 9)))), Code::kNotFound);
}

// A file that is renamed and then renamed back has records under its first name again.
TEST(Ledger, a_later_record_than_what_ended_is_taken) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  ASSERT_TRUE(m.run(m.ledger().put(record_of("a", 1, 0, 5))).has_value());
  ASSERT_TRUE(m.run(m.ledger().remove("a", {{7, 1}, 0}, 4, EndReason::kReplaced)).has_value());
  EXPECT_EQ(m.ledger().size(), 1u);
  ASSERT_TRUE(m.run(m.ledger().remove("a", {{7, 1}, 0}, 6, EndReason::kGone)).has_value());
  EXPECT_EQ(m.ledger().size(), 0u);
  const Ledger::Ended* ended = m.ledger().find_ended("a", {7, 1});
  ASSERT_NE(ended, nullptr);
  EXPECT_EQ(ended->reason, EndReason::kGone);
  EXPECT_TRUE(ended->covers({{7, 1}, 0}, 6));
  EXPECT_FALSE(ended->covers({{7, 1}, 0}, 7));
  EXPECT_EQ(code_of(m.run(m.ledger().put(record_of("a", 1, 0, 6)))), Code::kNotFound);
  EXPECT_TRUE(m.run(m.ledger().put(record_of("a", 1, 0, 7))).has_value());
}

TEST(Ledger, knows_where_else_a_record_may_be) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  LedgerRecord record = record_of("a", 1, 0, 5);
  record.placed = {{1, 1}, {2, 2}};
  ASSERT_TRUE(m.run(m.ledger().put(record)).has_value());
  record.sequence = 4;  // late, but where it was sent counts
  record.placed = {{3, 3}};
  ASSERT_TRUE(m.run(m.ledger().put(record)).has_value());
  ASSERT_TRUE(m.run(m.ledger().add_placed("a", record.write, {{2, 2}, {4, 4}})).has_value());
  EXPECT_EQ(code_of(m.run(m.ledger().add_placed("b", record.write, {{4, 4}}))), Code::kNotFound);
  m.lose_power();
  EXPECT_EQ(m.ledger().find("a").at(0).sequence, 5u);
  auto placed = m.run(m.ledger().remove("a", record.write, kAllSequences, EndReason::kReplaced));
  ASSERT_TRUE(placed.has_value());
  EXPECT_EQ(*placed, (std::vector<NodeId>{{1, 1}, {2, 2}, {3, 3}, {4, 4}}));
}

TEST(Ledger, remembers_what_the_origin_called_it) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  ASSERT_TRUE(m.run(m.ledger().put(record_of("a", 1, 0, 5))).has_value());
  Commits first;
  first.in_place = {"mine", 0, 5};
  ASSERT_TRUE(
      m.run(m.ledger().remove("a", {{7, 1}, 0}, 5, EndReason::kCommitted, first)).has_value());
  EXPECT_EQ(m.ledger().find_ended("a", {7, 1})->commits.stray(), "");
  Commits then;
  then.by_writer = {"theirs", 0, kAllSequences};
  ASSERT_TRUE(m.run(m.ledger().remove("a", {{7, 1}, 0}, kAllSequences, EndReason::kCommitted, then))
                  .has_value());
  const Ledger::Ended* ended = m.ledger().find_ended("a", {7, 1});
  ASSERT_NE(ended, nullptr);
  EXPECT_EQ(ended->commits.by_writer.etag, "theirs");
  EXPECT_EQ(ended->commits.stray(), "mine");
}

TEST(Commits, only_what_the_writer_had_committed_before_is_stray) {
  Commits commits;
  EXPECT_EQ(commits.stray(), "");
  commits.in_place = {"b", 1, 3};
  EXPECT_EQ(commits.stray(), "");
  commits.by_writer = {"a", 0, kAllSequences};  // of the generation before: the other one counts
  EXPECT_EQ(commits.stray(), "");
  commits.by_writer = {"a", 1, kAllSequences};
  EXPECT_EQ(commits.stray(), "b");
  commits.by_writer.etag = "b";  // it found the other one there
  EXPECT_EQ(commits.stray(), "");
}

TEST(Commits, later_records_count) {
  Commits commits;
  commits.in_place = {"first", 1, 3};
  Commits other;
  other.in_place = {"again", 1, 3};
  other.by_writer = {"a", 0, kAllSequences};
  commits.add(other);
  EXPECT_EQ(commits.in_place.etag, "first");
  EXPECT_EQ(commits.by_writer.etag, "a");
  other.in_place = {"later", 1, 4};
  other.by_writer = {};
  commits.add(other);
  EXPECT_EQ(commits.in_place.etag, "later");
  EXPECT_EQ(commits.by_writer.etag, "a");
  wire::CommitsBody body;
  to_wire(commits, body);
  Commits read = from_wire(body);
  EXPECT_EQ(read.in_place.etag, "later");
  EXPECT_EQ(read.in_place.sequence, 4u);
  EXPECT_EQ(read.by_writer.etag, "a");
  EXPECT_EQ(read.by_writer.sequence, kAllSequences);
  body.mutable_by_writer()->set_etag(std::string(1000, 'x'));
  EXPECT_EQ(from_wire(body).by_writer.etag, "");
}

TEST(Ledger, a_repair_does_not_outdo_the_writer) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  LedgerRecord record = record_of("a", 1, 0, 5);
  ASSERT_TRUE(m.run(m.ledger().put(record)).has_value());
  record.repairs = 2;
  ASSERT_TRUE(m.run(m.ledger().put(record)).has_value());
  EXPECT_EQ(m.ledger().find("a").at(0).repairs, 2u);
  ASSERT_TRUE(m.run(m.ledger().put(record_of("a", 1, 0, 6))).has_value());
  ASSERT_TRUE(m.run(m.ledger().put(record)).has_value());
  EXPECT_EQ(m.ledger().find("a").at(0).sequence, 6u);
}

TEST(Ledger, shows_the_version_that_follows) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  LedgerRecord first = record_of("a", 9);
  LedgerRecord second = record_of("a", 1);  // an older clock, but it names the first
  second.ancestors = first.write.id.to_hex();
  LedgerRecord open = record_of("a", 20);
  open.sealed = false;
  for (const LedgerRecord& record : {first, second, open}) {
    ASSERT_TRUE(m.run(m.ledger().put(record)).has_value());
  }
  EXPECT_EQ(m.ledger().visible("a")->write, second.write);
}

TEST(Ledger, a_wrong_clock_does_not_hide_what_was_made_later) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  LedgerRecord ahead = record_of("a", 9000);  // its writer's clock is hours ahead
  LedgerRecord later = record_of("a", 1);
  later.base_etag = ahead.write.etag();
  for (const LedgerRecord& record : {later, ahead}) {
    ASSERT_TRUE(m.run(m.ledger().put(record)).has_value());
  }
  EXPECT_EQ(m.ledger().visible("a")->write, later.write);
}

TEST(Ledger, lists_records_in_order) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  for (const char* name : {"d/a", "d/b", "d/c/x", "d/c/y", "d/c0", "d/d", "e"}) {
    ASSERT_TRUE(m.run(m.ledger().put(record_of(name, 1))).has_value());
  }
  using Names = std::vector<std::string>;
  // All pages of so many names, as one.
  auto names = [&](bool recursive, size_t count) {
    Names found;
    for (bool more = true; more;) {
      LedgerRange range{"d/", recursive, found.empty() ? "" : found.back(), count};
      LedgerPage page = m.ledger().below(range);
      Names here(page.prefixes);
      for (const LedgerRecord& record : page.records) here.push_back(record.object);
      std::ranges::sort(here);
      range.what = LedgerPage::What::kNames;
      LedgerPage by_name = m.ledger().below(range);
      EXPECT_TRUE(by_name.records.empty() && by_name.prefixes == page.prefixes);
      EXPECT_TRUE(by_name.more == page.more && by_name.last() == page.last());
      EXPECT_EQ(by_name.size(), here.size());
      EXPECT_LE(here.size(), count);
      EXPECT_EQ(page.last(), here.empty() ? "" : here.back());
      found.insert(found.end(), here.begin(), here.end());
      more = page.more;
    }
    return found;
  };
  for (size_t count : {1, 2, 3, 10}) {
    EXPECT_EQ(names(false, count), (Names{"d/a", "d/b", "d/c/", "d/c0", "d/d"}));
    EXPECT_EQ(names(true, count), (Names{"d/a", "d/b", "d/c/x", "d/c/y", "d/c0", "d/d"}));
  }
}

TEST(Ledger, leaves_out_records_of_some_writers) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  for (uint64_t i = 0; i < 6; ++i) {
    LedgerRecord record = record_of("d/" + std::to_string(i), i + 1);
    record.writer = {7, i % 2};
    ASSERT_TRUE(m.run(m.ledger().put(record)).has_value());
  }
  auto names = [&](const std::set<NodeId>& but_of, size_t count) {
    std::string found;
    for (const auto& record : m.ledger().records_below("d", "", count, but_of).records) {
      found += record.object.back();
    }
    return found;
  };
  EXPECT_EQ(names({}, 10), "012345");
  EXPECT_EQ(names({{7, 0}}, 10), "135");
  EXPECT_EQ(names({{7, 0}}, 2), "13") << "those left out take no place";
  EXPECT_EQ(names({{7, 0}, {7, 1}}, 10), "");
}

// Where nearly all are left out too: a million of them would keep a node from answering for
// seconds.
TEST(Ledger, looks_at_a_few_thousand_names_at_a_time) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  constexpr uint64_t kCount = 9000;
  for (uint64_t i = 0; i < kCount; ++i) {
    LedgerRecord record = record_of(fmt::format("d/{:05}", i), i + 1);
    record.writer = {7, i == kCount - 1 ? 1u : 0u};
    ASSERT_TRUE(m.run(m.ledger().put(record)).has_value());
  }
  std::string after;
  size_t pages = 0;
  std::vector<LedgerRecord> found;
  for (bool more = true; more; ++pages) {
    auto below = m.ledger().records_below("d", after, 10, {{7, 0}});
    EXPECT_GT(below.reached, after);
    after = below.reached;
    more = below.more;
    found.insert(found.end(), below.records.begin(), below.records.end());
  }
  EXPECT_EQ(pages, 3u);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].object, "d/08999");
}

TEST(Ledger, content_stays_in_the_store) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  ASSERT_TRUE(m.run(m.ledger().put(record_of("a", 1))).has_value());
  LedgerRecord known = m.ledger().find("a").at(0);
  EXPECT_TRUE(known.has_content && !known.content);
  EXPECT_EQ(m.run(m.ledger().with_content(known))->content, "abc");
  // Where others may be is added to a record that came without its bytes.
  ASSERT_TRUE(m.run(m.ledger().add_placed("a", known.write, {{8, 8}})).has_value());
  EXPECT_EQ(m.run(m.ledger().with_content(m.ledger().find("a").at(0)))->content, "abc");
  LedgerRecord other = known;
  other.size = 4;
  EXPECT_EQ(m.run(m.ledger().with_content(other)).error().code(), Code::kNotFound);
  LedgerRecord unknown = record_of("b", 2);
  unknown.content.reset();
  EXPECT_FALSE(m.run(m.ledger().put(unknown)).has_value()) << "nobody here has its bytes";
}

TEST(Ledger, goes_through_many_in_turns) {
  LedgerMachine m;
  ASSERT_TRUE(m.open().has_value());
  for (uint64_t i = 0; i < 25; ++i) {
    ASSERT_TRUE(m.run(m.ledger().put(record_of(std::string(1, char('a' + i)), i + 1))).has_value());
  }
  std::vector<std::string> seen;
  std::string after;
  for (bool end = false; !end;) {
    auto some = m.ledger().all_after(after, 10);
    end = some.size() < 10;
    for (const LedgerRecord& record : some) seen.push_back(record.object);
    if (!some.empty()) after = some.back().object;
  }
  EXPECT_EQ(seen.size(), 25u);
  EXPECT_TRUE(std::ranges::is_sorted(seen));
}

}  // namespace
}  // namespace shoal
