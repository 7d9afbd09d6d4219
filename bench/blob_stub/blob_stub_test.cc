#include <gtest/gtest.h>
TEST(BlobStub, builds) {}
