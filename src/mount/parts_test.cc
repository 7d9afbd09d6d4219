// The small parts of the room: answers, errno, mountinfo, open files, memory.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "mount/buffer_pool.h"
#include "mount/errors.h"
#include "mount/handle_table.h"
#include "mount/interrupts.h"
#include "mount/mount_point.h"
#include "mount/reply.h"

namespace shoal::fuse {
namespace {

TEST(Errors, have_the_errno_that_programs_expect) {
  struct Row {
    Code code;
    int number;
  };
  const Row rows[] = {
      {Code::kCancelled, EINTR},
      {Code::kDeadlineExceeded, EIO},
      {Code::kNotFound, ENOENT},
      {Code::kAlreadyExists, EEXIST},
      {Code::kConflict, EIO},
      {Code::kStale, ESTALE},
      {Code::kInvalidArgument, EINVAL},
      {Code::kPermissionDenied, EACCES},
      {Code::kUnauthenticated, EIO},
      {Code::kUnavailable, EIO},
      {Code::kThrottled, EIO},
      {Code::kCorrupt, EIO},
      {Code::kNoSpace, ENOSPC},
      {Code::kBusy, EBUSY},
      {Code::kDiskError, EIO},
      {Code::kIsDirectory, EISDIR},
      {Code::kNotDirectory, ENOTDIR},
      {Code::kNotEmpty, ENOTEMPTY},
      {Code::kNameTooLong, ENAMETOOLONG},
      {Code::kNotSupported, EOPNOTSUPP},
      {Code::kReadOnly, EROFS},
      {Code::kTooLarge, EFBIG},
      {Code::kNoData, ENODATA},
      {Code::kInternal, EIO},
  };
  for (const Row& row : rows) EXPECT_EQ(errno_of(row.code), row.number) << code_name(row.code);
  EXPECT_EQ(std::size(rows), static_cast<size_t>(Code::kInternal) + 1) << "a new code needs a row";
}

TEST(Reply, encodes_attributes_and_times) {
  Entry entry;
  entry.attributes.inode = InodeId{9};
  entry.attributes.number = 77;
  entry.attributes.size = 1000;
  entry.attributes.allocated = 513;
  entry.attributes.mode = S_IFREG | 0640;
  entry.attributes.modified = WallTime(Duration(-1));
  entry.entry_ttl = std::chrono::milliseconds(1500);
  entry.attribute_ttl = std::chrono::seconds(-5);
  EntryOut out = encode_entry(entry);
  EXPECT_EQ(out.node, 9u);
  EXPECT_EQ(out.attr.ino, 77u);
  EXPECT_EQ(out.attr.blocks, 2u);
  EXPECT_EQ(out.entry_valid, 1u);
  EXPECT_EQ(out.entry_valid_ns, 500'000'000u);
  EXPECT_EQ(out.attr_valid, 0u);
  EXPECT_EQ(static_cast<int64_t>(out.attr.mtime), -1);
  EXPECT_EQ(out.attr.mtime_ns, 999'999'999u);
  EXPECT_EQ(decode_time(out.attr.mtime, out.attr.mtime_ns), entry.attributes.modified);
  EXPECT_EQ(encode_absence(std::chrono::seconds(2)).node, 0u);
  EXPECT_EQ(encode_absence(std::chrono::seconds(2)).entry_valid, 2u);
}

TEST(Reply, clamps_times_that_do_not_fit) {
  EXPECT_GT(decode_time(UINT64_MAX / 2, UINT32_MAX), WallTime());
  EXPECT_LT(decode_time(uint64_t{1} << 63, 0), WallTime());
}

DirectoryItem item_of(std::string name, uint64_t inode) {
  DirectoryItem item;
  item.name = std::move(name);
  item.cookie = inode;
  item.entry.attributes.inode = InodeId{inode};
  item.entry.attributes.number = inode;
  item.entry.attributes.mode = S_IFREG;
  return item;
}

TEST(DirectoryPacker, fills_exactly_to_its_size) {
  // 24 bytes of head, names of 1 to 8 bytes: 32 each.
  DirectoryPacker plain(96, false);
  EXPECT_TRUE(plain.add(item_of("a", 1)));
  EXPECT_TRUE(plain.add(item_of("12345678", 2)));
  EXPECT_FALSE(plain.add(item_of("123456789", 3)));
  EXPECT_TRUE(plain.add(item_of("c", 4)));
  EXPECT_FALSE(plain.add(item_of("d", 5)));
  EXPECT_EQ(plain.bytes().size(), 96u);
  EXPECT_TRUE(plain.counted().empty());
  Dirent second;
  std::memcpy(&second, plain.bytes().data() + 32, sizeof(second));
  EXPECT_EQ(second.ino, 2u);
  EXPECT_EQ(second.offset, 2u);
  EXPECT_EQ(second.name_length, 8u);
  EXPECT_EQ(second.type, 8u);  // DT_REG

  DirectoryPacker plus(160 * 2 - 1, true);
  EXPECT_TRUE(plus.add(item_of("a", 1)));
  EXPECT_FALSE(plus.add(item_of("b", 2)));
  DirectoryPacker dots(1000, true);
  DirectoryItem dot = item_of(".", 0);
  EXPECT_TRUE(dots.add(dot));
  EXPECT_TRUE(dots.add(item_of("b", 2)));
  ASSERT_EQ(dots.counted().size(), 1u);
  EXPECT_EQ(dots.counted()[0], InodeId{2});
  EXPECT_FALSE(DirectoryPacker(0, false).add(item_of("a", 1)));
}

TEST(Mountinfo, is_read_with_its_oddities) {
  auto entries = parse_mountinfo(
      "36 35 98:0 / /mnt1 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
      "37 35 0:52 / /mnt/with\\040space\\134 rw shared:1 master:2 - fuse.shoal az://x rw\n"
      "nonsense\n"
      "38 35 0:xx / /bad rw - ext4 a b\n"
      "39 35 0:53 / /last rw - fuse.shoal s rw");
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].type, "ext3");
  EXPECT_EQ(entries[1].point, "/mnt/with space\\");
  EXPECT_EQ(entries[1].type, kTypeName);
  EXPECT_EQ(entries[1].minor, 52u);
  EXPECT_EQ(entries[2].point, "/last");
}

TEST(Interrupts, are_for_who_is_to_end) {
  auto status = [](const char* own, const char* shared, const char* blocked) {
    return std::string("Name:\tcat\nPid:\t7\nSigQ:\t1/96364\nSigPnd:\t") + own + "\nShdPnd:\t" +
           shared + "\nSigBlk:\t" + blocked + "\nSigIgn:\t0000000000000002\n";
  };
  const char* none = "0000000000000000";
  EXPECT_FALSE(is_asked_to_end(status(none, none, none)));
  EXPECT_TRUE(is_asked_to_end(status("0000000000000100", none, none)));   // SIGKILL
  EXPECT_TRUE(is_asked_to_end(status(none, "0000000000000002", none)));   // SIGINT
  EXPECT_TRUE(is_asked_to_end(status(none, "0000000000004000", none)));   // SIGTERM
  EXPECT_TRUE(is_asked_to_end(status("0000000000000020", none, none)));   // SIGABRT
  EXPECT_FALSE(is_asked_to_end(status(none, "0000000000060000", none)));  // SIGCONT, SIGSTOP
  EXPECT_FALSE(is_asked_to_end(status("0000000000000200", none, none)));  // SIGUSR1
  EXPECT_FALSE(is_asked_to_end(status(none, "0000000000000002", "0000000000000002")));
  EXPECT_TRUE(is_asked_to_end("Name:\tcat\n"));
  EXPECT_FALSE(is_asked_to_end(static_cast<uint32_t>(::getpid())));
  EXPECT_TRUE(is_asked_to_end(0u));
  EXPECT_TRUE(is_asked_to_end(0x7fffffffu));  // no thread has this number
}

TEST(HandleTable, keeps_numbers_apart) {
  HandleTable table;
  OpenFile file;
  file.handle = HandleId{5};
  file.inode = InodeId{2};
  uint64_t first = table.add(file);
  uint64_t second = table.add(file);
  EXPECT_NE(first, second);
  EXPECT_NE(first, 0u);
  EXPECT_TRUE(table.take_privileges(first));
  EXPECT_FALSE(table.take_privileges(first));
  table.keep_privileges(InodeId{2});
  EXPECT_TRUE(table.take_privileges(first));
  ASSERT_TRUE(table.remove(first));
  EXPECT_FALSE(table.remove(first));
  EXPECT_FALSE(table.find(first));
  EXPECT_EQ(table.view(first), nullptr);
  EXPECT_EQ(table.size(), 1u);
  EXPECT_EQ(table.take_all().size(), 1u);
  EXPECT_EQ(table.size(), 0u);
}

TEST(BufferPool, reuses_and_gives_back) {
  BufferPool pool(8192);
  std::byte* first;
  {
    auto a = pool.get();
    auto b = pool.get();
    first = b.span().data();
    EXPECT_EQ(b.span().size(), 8192u);
    EXPECT_NE(a.span().data(), first);
    a.reset();
  }
  EXPECT_EQ(pool.get().span().data(), first) << "the one used last";
  EXPECT_EQ(pool.count(), 2u);
  EXPECT_TRUE(pool.trim()) << "it was in use just now";
  EXPECT_FALSE(pool.trim());
  EXPECT_EQ(pool.count(), 0u);
}

TEST(Budget, makes_threads_wait_and_lets_one_large_through) {
  Budget budget(100);
  ASSERT_TRUE(budget.acquire(1000)) << "alone, anything passes";
  std::atomic<bool> passed{false};
  std::thread waiter([&] {
    EXPECT_TRUE(budget.acquire(60));
    passed = true;
  });
  EXPECT_FALSE(passed);
  budget.release(1000);
  waiter.join();
  EXPECT_EQ(budget.used(), 60u);
  std::thread stopped([&] { EXPECT_FALSE(budget.acquire(50)); });
  budget.close();
  stopped.join();
  budget.release(60);
}

}  // namespace
}  // namespace shoal::fuse
