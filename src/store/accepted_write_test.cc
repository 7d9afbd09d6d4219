// Appends that are accepted before their bytes are in the file: what is asked for later comes after
// them, and no error is lost.
#include <gtest/gtest.h>

#include "base/checksum.h"
#include "store/test_support.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using EarlyWrite = StoreMachine::EarlyWrite;

class AcceptedWrites : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(m_.open());
    file_ = m_.run(m_.store().create_staged(m_.record(1))).value();
  }
  void TearDown() override {
    if (file_ == nullptr) return;
    file_.reset();
    ASSERT_TRUE(m_.close());
  }
  EarlyWrite& append(std::string bytes) {
    uint64_t offset = file_->size();
    content_ += bytes;
    return m_.start_write(*file_, offset, std::move(bytes));
  }
  EarlyWrite& append_accepted(std::string bytes) {
    EarlyWrite& write = append(std::move(bytes));
    EXPECT_TRUE(m_.run(m_.answer_of(&write)));
    EXPECT_TRUE(write.accepted && !write.ended);
    return write;
  }
  SimDiskOptions& disk() { return m_.machine.disk().options(); }
  // What a sync promised is there after a power loss.
  void expect_durable() {
    EXPECT_EQ(file_->crc({0, content_.size()}), crc32c(as_bytes(content_)));
    m_.bury(std::move(file_));
    m_.crash(CrashKind::kPowerLoss);
    ASSERT_TRUE(m_.open());
    file_ = m_.run(m_.store().find_staged(m_.record(1).write_id)).value();
    ASSERT_TRUE(m_.read_all(file_).value() == content_);
  }

  StoreMachine m_;
  FileRef file_;
  std::string content_;
};

TEST_F(AcceptedWrites, reads_and_syncs_come_after_them) {
  EarlyWrite& first = append_accepted(pattern(kMiB + 7, 1));
  EarlyWrite& second = append_accepted(pattern(300, 2));
  EXPECT_EQ(file_->size(), content_.size());
  EXPECT_TRUE(m_.read(file_, kMiB, 307).value() == content_.substr(kMiB));
  EXPECT_TRUE(first.ended && second.ended);
  append_accepted(pattern(100 * kKiB, 3));
  ASSERT_TRUE(m_.run(file_->sync(m_.record(1))));
  expect_durable();
}

TEST_F(AcceptedWrites, what_is_no_append_is_answered_at_its_end) {
  append_accepted(pattern(kMiB, 1));
  EarlyWrite& over = m_.start_write(*file_, 1000, "changed");
  content_.replace(1000, 7, "changed");
  ASSERT_TRUE(m_.run(m_.answer_of(&over)));
  EXPECT_FALSE(over.accepted);
  EarlyWrite& beyond = m_.start_write(*file_, content_.size() + 5, "beyond");
  content_ += std::string(5, 0) + "beyond";
  ASSERT_TRUE(m_.run(m_.answer_of(&beyond)));
  EXPECT_FALSE(beyond.accepted);
  ASSERT_TRUE(m_.run(file_->sync(m_.record(1))));
  expect_durable();
}

TEST_F(AcceptedWrites, a_truncation_comes_after_them) {
  append_accepted(pattern(kMiB, 1));
  content_.resize(70'000);
  ASSERT_TRUE(m_.run(file_->set_size(70'000)));
  append_accepted(pattern(kMiB, 2));
  ASSERT_TRUE(m_.run(file_->sync(m_.record(1))));
  expect_durable();
}

TEST_F(AcceptedWrites, no_more_than_the_bound_are_under_way) {
  m_.machine.disk().set_rates(kMiB, 0);
  uint64_t accepted = 0;
  for (int i = 0; i < 40; ++i) {
    EarlyWrite& write = append(pattern(kMiB, static_cast<uint64_t>(i)));
    if (!m_.sim.run_until([&] { return write.answered(); }, milliseconds(100))) break;
    ++accepted;
  }
  EXPECT_GE(accepted, 2u);
  EXPECT_LE(accepted, 8u);
  m_.machine.disk().set_rates(0, 0);
  m_.sim.run_for(std::chrono::seconds(30));
  EXPECT_EQ(file_->size(), content_.size());
  ASSERT_TRUE(m_.run(file_->sync(m_.record(1))));
  expect_durable();
}

TEST_F(AcceptedWrites, an_error_is_told_until_the_bytes_are_there) {
  ASSERT_TRUE(m_.run(m_.end_of(&append(pattern(kMiB, 1)))));
  disk().faults.write_error = 1;
  EarlyWrite& failing = append_accepted(pattern(kMiB + 9, 2));
  EXPECT_EQ(code_of(m_.run(m_.end_of(&failing))), Code::kDiskError);
  EXPECT_EQ(file_->size(), content_.size());
  EXPECT_EQ(code_of(m_.run(file_->sync(m_.record(1)))), Code::kDiskError);
  EXPECT_EQ(code_of(m_.run(file_->write(content_.size(), as_bytes("next")))), Code::kDiskError);
  EXPECT_EQ(code_of(m_.run(file_->set_size(5))), Code::kDiskError);
  EXPECT_EQ(code_of(m_.run(m_.store().clone_staged(file_, m_.record(2)))), Code::kDiskError);
  EXPECT_TRUE(m_.read(file_, kMiB - 5, 10).value() == content_.substr(kMiB - 5, 10));
  EXPECT_TRUE(m_.read_all(file_).value() == content_);
  disk().faults.write_error = 0;
  append_accepted("more");
  ASSERT_TRUE(m_.run(file_->sync(m_.record(1))));
  expect_durable();
}

TEST_F(AcceptedWrites, a_full_disk_is_told_and_later_there_is_room) {
  ASSERT_TRUE(m_.run(m_.end_of(&append(pattern(kMiB, 1)))));
  m_.machine.disk().set_capacity(m_.machine.disk().used() + 64 * kKiB);
  EarlyWrite& failing = append_accepted(pattern(kMiB, 2));
  EXPECT_EQ(code_of(m_.run(m_.end_of(&failing))), Code::kNoSpace);
  EXPECT_EQ(code_of(m_.run(file_->sync(m_.record(1)))), Code::kNoSpace);
  m_.machine.disk().set_capacity(kTiB);
  EXPECT_TRUE(m_.read_all(file_).value() == content_);
  ASSERT_TRUE(m_.run(file_->sync(m_.record(1))));
  expect_durable();
}

TEST_F(AcceptedWrites, one_that_failed_may_be_dropped) {
  disk().faults.write_error = 1;
  EXPECT_FALSE(m_.run(m_.end_of(&append_accepted(pattern(kMiB, 1)))));
  ASSERT_TRUE(m_.run(m_.store().drop_staged(file_)));
  file_.reset();
  m_.settle();
  EXPECT_EQ(m_.store().stats().files_bytes, 0u);
  disk().faults.write_error = 0;
  ASSERT_TRUE(m_.close());
}

}  // namespace
}  // namespace shoal
