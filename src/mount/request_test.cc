#include "mount/request.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "mount/negotiate.h"

namespace shoal::fuse {
namespace {

// A message as the kernel would send it: header, then the parts given.
class MessageBuilder {
 public:
  explicit MessageBuilder(Opcode opcode) {
    InHeader header{};
    header.opcode = static_cast<uint32_t>(opcode);
    header.unique = 42;
    header.node = 7;
    header.uid = 1000;
    header.gid = 100;
    header.pid = 99;
    add(header);
  }
  template <typename T>
  MessageBuilder& add(const T& value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  MessageBuilder& name(std::string_view name) {
    bytes_ += name;
    bytes_ += '\0';
    return *this;
  }
  MessageBuilder& raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  ConstByteSpan done() {
    auto length = static_cast<uint32_t>(bytes_.size());
    std::memcpy(bytes_.data(), &length, sizeof(length));
    return as_bytes(bytes_);
  }
  // The first `size` bytes, with an honest header.
  ConstByteSpan cut(size_t size) {
    bytes_.resize(size);
    return done();
  }

 private:
  std::string bytes_;
};

TEST(Request, takes_apart_what_the_kernel_sends) {
  MessageBuilder write(Opcode::kWrite);
  write.add(WriteIn{5, 4096, 3, kWriteKillSuidGid, 0, 0, 0}).raw("abc");
  auto request = parse_request(write.done());
  ASSERT_TRUE(request);
  EXPECT_EQ(request->unique, 42u);
  EXPECT_EQ(request->node, 7u);
  EXPECT_EQ(request->uid, 1000u);
  EXPECT_EQ(request->handle, 5u);
  EXPECT_EQ(request->offset, 4096u);
  EXPECT_EQ(as_text(request->payload), "abc");
  EXPECT_EQ(request->flags, kWriteKillSuidGid);

  MessageBuilder rename(Opcode::kRename2);
  rename.add(Rename2In{9, 1, 0}).name("from").name("to");
  request = parse_request(rename.done());
  ASSERT_TRUE(request);
  EXPECT_EQ(request->new_parent, 9u);
  EXPECT_EQ(request->flags, 1u);
  EXPECT_EQ(request->name, "from");
  EXPECT_EQ(request->name2, "to");

  MessageBuilder xattr(Opcode::kSetxattr);
  xattr.add(SetxattrIn{4, 1}).name("user.x").raw(std::string_view("v\0lu", 4));
  request = parse_request(xattr.done());
  ASSERT_TRUE(request);
  EXPECT_EQ(request->name, "user.x");
  EXPECT_EQ(as_text(request->payload), std::string_view("v\0lu", 4));

  MessageBuilder forgets(Opcode::kBatchForget);
  forgets.add(BatchForgetIn{2, 0}).add(ForgetOne{3, 1}).add(ForgetOne{4, 2});
  request = parse_request(forgets.done());
  ASSERT_TRUE(request);
  ASSERT_EQ(request->forgets.size(), 2u);
  EXPECT_EQ(request->forgets[1].node, 4u);
  EXPECT_EQ(request->forgets[1].lookups, 2u);
}

TEST(Request, refuses_every_truncation) {
  auto refuse_cuts = [](MessageBuilder message) {
    size_t size = message.done().size();
    for (size_t cut = sizeof(InHeader); cut < size; ++cut) {
      MessageBuilder shorter = message;
      auto request = parse_request(shorter.cut(cut));
      EXPECT_FALSE(request) << "cut to " << cut << " of " << size;
      if (!request) EXPECT_EQ(request.error(), EIO);
    }
  };
  refuse_cuts(MessageBuilder(Opcode::kLookup).name("a"));
  refuse_cuts(MessageBuilder(Opcode::kSetattr).add(SetattrIn{}));
  refuse_cuts(MessageBuilder(Opcode::kSymlink).name("a").name("target"));
  refuse_cuts(MessageBuilder(Opcode::kMknod).add(MknodIn{}).name("a"));
  refuse_cuts(MessageBuilder(Opcode::kMkdir).add(MkdirIn{}).name("a"));
  refuse_cuts(MessageBuilder(Opcode::kCreate).add(CreateIn{}).name("a"));
  refuse_cuts(MessageBuilder(Opcode::kRename).add(RenameIn{}).name("a").name("b"));
  refuse_cuts(MessageBuilder(Opcode::kRename2).add(Rename2In{}).name("a").name("b"));
  refuse_cuts(MessageBuilder(Opcode::kOpen).add(OpenIn{}));
  refuse_cuts(MessageBuilder(Opcode::kRead).add(ReadIn{}));
  refuse_cuts(MessageBuilder(Opcode::kWrite).add(WriteIn{0, 0, 5, 0, 0, 0, 0}).raw("12345"));
  refuse_cuts(MessageBuilder(Opcode::kRelease).add(ReleaseIn{}));
  refuse_cuts(MessageBuilder(Opcode::kFsync).add(FsyncIn{}));
  refuse_cuts(MessageBuilder(Opcode::kSetxattr).add(SetxattrIn{3, 0}).name("n").raw("123"));
  refuse_cuts(MessageBuilder(Opcode::kGetxattr).add(GetxattrIn{}).name("n"));
  refuse_cuts(MessageBuilder(Opcode::kListxattr).add(GetxattrIn{}));
  refuse_cuts(MessageBuilder(Opcode::kFlush).add(FlushIn{}));
  refuse_cuts(MessageBuilder(Opcode::kForget).add(ForgetIn{}));
  refuse_cuts(MessageBuilder(Opcode::kBatchForget).add(BatchForgetIn{1, 0}).add(ForgetOne{}));
  refuse_cuts(MessageBuilder(Opcode::kInterrupt).add(InterruptIn{}));
  refuse_cuts(MessageBuilder(Opcode::kFallocate).add(FallocateIn{}));
  refuse_cuts(MessageBuilder(Opcode::kLseek).add(LseekIn{}));
}

TEST(Request, refuses_lies) {
  MessageBuilder lookup(Opcode::kLookup);
  lookup.name("");
  EXPECT_FALSE(parse_request(lookup.done())) << "an empty name";
  MessageBuilder many(Opcode::kBatchForget);
  many.add(BatchForgetIn{0x10000001, 0}).add(ForgetOne{});
  EXPECT_FALSE(parse_request(many.done())) << "a count that overflows 32 bits of bytes";
  MessageBuilder far(Opcode::kFallocate);
  far.add(FallocateIn{1, UINT64_MAX - 1, 2, 0, 0});
  EXPECT_FALSE(parse_request(far.done())) << "an end past the last offset";
  InHeader header{};
  header.length = 39;
  EXPECT_FALSE(parse_request(std::as_bytes(std::span(&header, 1))));
  header.length = sizeof(header);
  header.extension_words = 1;
  EXPECT_FALSE(parse_request(std::as_bytes(std::span(&header, 1))));
  EXPECT_FALSE(parse_request({}));
}

TEST(Request, knows_what_needs_no_file_system) {
  auto refused_with = [](Opcode opcode) {
    auto request = parse_request(MessageBuilder(opcode).done());
    return request ? refused(*request) : -1;
  };
  EXPECT_EQ(refused_with(Opcode::kAccess), ENOSYS);
  EXPECT_EQ(refused_with(Opcode::kPoll), ENOSYS);
  EXPECT_EQ(refused_with(Opcode::kCopyFileRange), ENOSYS);
  EXPECT_EQ(refused_with(Opcode::kTmpfile), ENOSYS);
  EXPECT_EQ(refused_with(Opcode::kStatx), ENOSYS);
  EXPECT_EQ(refused_with(static_cast<Opcode>(4711)), ENOSYS);
  EXPECT_EQ(refused_with(Opcode::kIoctl), ENOTTY);
  EXPECT_EQ(refused_with(Opcode::kLink), EPERM);
  EXPECT_EQ(refused_with(Opcode::kGetattr), 0);
  MessageBuilder capability(Opcode::kGetxattr);
  capability.add(GetxattrIn{}).name("security.capability");
  EXPECT_EQ(refused(*parse_request(capability.done())), ENODATA);
  MessageBuilder acl(Opcode::kGetxattr);
  acl.add(GetxattrIn{}).name("system.posix_acl_access");
  EXPECT_EQ(refused(*parse_request(acl.done())), EOPNOTSUPP);
  MessageBuilder fifo(Opcode::kMknod);
  fifo.add(MknodIn{0010600, 0, 0, 0}).name("f");
  EXPECT_EQ(refused(*parse_request(fifo.done())), EPERM);
}

TEST(Negotiate, takes_only_what_is_offered) {
  InitIn in{};
  in.major = 7;
  in.minor = 45;
  in.max_readahead = 128 * 1024;
  in.flags = 0xffffffff;
  in.flags2 = 0xffffffff;
  auto all = negotiate(in, true);
  ASSERT_TRUE(all);
  EXPECT_TRUE(all->passthrough());
  EXPECT_TRUE(all->direct_mmap());
  EXPECT_EQ(all->answer.max_stack_depth, 1u);
  EXPECT_EQ(all->answer.max_write, 1u << 20);
  EXPECT_EQ(all->answer.max_pages, 256u);
  EXPECT_EQ(all->answer.max_readahead, 128u * 1024);
  EXPECT_EQ(all->flags & (1ull << 16), 0u) << "the write-back cache";
  EXPECT_FALSE(negotiate(in, false)->passthrough());
  in.flags = static_cast<uint32_t>(kInitBigWrites | kInitMaxPages);  // without INIT_EXT
  auto few = negotiate(in, true);
  ASSERT_TRUE(few);
  EXPECT_EQ(few->flags, kInitBigWrites | kInitMaxPages);
  EXPECT_EQ(few->answer.flags2, 0u);
  in.minor = 60;
  EXPECT_EQ(negotiate(in, true)->answer.minor, 45u);
  in.minor = 12;
  EXPECT_FALSE(negotiate(in, true));
  in.minor = 45;
  in.major = 8;
  EXPECT_FALSE(negotiate(in, true));
}

TEST(Negotiate, reads_short_and_long_init) {
  MessageBuilder shorter(Opcode::kInit);
  shorter.raw(std::string(kInitInShort, '\1'));
  InitIn in;
  ASSERT_TRUE(parse_init(shorter.done(), in));
  EXPECT_EQ(in.flags, 0x01010101u);
  EXPECT_EQ(in.flags2, 0u);
  EXPECT_FALSE(parse_init(shorter.cut(sizeof(InHeader) + 15), in));
  MessageBuilder other(Opcode::kGetattr);
  other.raw(std::string(sizeof(InitIn), '\0'));
  EXPECT_FALSE(parse_init(other.done(), in));
}

}  // namespace
}  // namespace shoal::fuse
