// shoal.hpp. Nothing of the rooms' own namespace is included beside it.
#include <gtest/gtest.h>

#include <shoal/shoal.hpp>
#include <stdexcept>
#include <type_traits>

#include "control/scripted_server_test_support.h"

namespace {

using shoal::ScriptedServer;
using Asker = ScriptedServer::Asker;

static_assert(std::is_nothrow_copy_constructible_v<shoal::Error>);
static_assert(std::is_move_constructible_v<shoal::Client>);
static_assert(!std::is_copy_constructible_v<shoal::Client>);

// Says where it is mounted, then half the work, and `last`.
ScriptedServer::Script half_then(std::string last) {
  return [last](Asker& asker) {
    if (asker.request().starts_with("GET ")) {
      return asker.say("HTTP/1.1 200 OK\r\n\r\n{\"shoal\":{\"mountpoint\":\"/mnt/nowhere\"}}");
    }
    asker.begin_lines();
    asker.say_line(
        R"({"event":"progress","bytes_done":60,"bytes_total":100,"objects_total":1,"current":"step"})");
    if (last.empty()) return asker.wait_until_gone();
    asker.say_line(last);
    asker.end_lines();
  };
}

TEST(Wrapper, returns_the_last_progress) {
  ScriptedServer server(half_then(R"({"event":"done"})"));
  shoal::Client client = shoal::Client::at_socket(server.path());
  EXPECT_EQ(client.mountpoint(), "/mnt/nowhere");
  std::string stage;
  auto on_progress = [&stage](const shoal::Progress& now) { return stage = now.stage, true; };
  shoal::Progress last = client.publish(
      "/mnt/nowhere/a", {.timeout = std::chrono::seconds(9), .on_progress = on_progress});
  EXPECT_EQ(last.bytes_left, 40u);
  EXPECT_EQ(stage, "step");
  EXPECT_EQ(client.sync("/mnt/nowhere/a").bytes_done, 60u);
}

TEST(Wrapper, errors_are_system_errors_with_what_was_left) {
  ScriptedServer server(
      half_then(R"({"event":"failed","code":"deadline exceeded","message":"late"})"));
  shoal::Client client = shoal::Client::at_socket(server.path());
  try {
    client.publish("/mnt/nowhere/a");
    FAIL() << "it should have thrown";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), std::errc::timed_out);
    EXPECT_EQ(error.code().value(), SHOAL_TIMED_OUT);
    const auto& ours = dynamic_cast<const shoal::Error&>(error);
    EXPECT_EQ(ours.message(), "late");
    EXPECT_EQ(ours.progress().bytes_left, 40u);
  }
  EXPECT_THROW(shoal::Client("/proc/self"), shoal::Error);
  EXPECT_THROW(shoal::sync("/proc/self"), shoal::Error);
  EXPECT_THROW(shoal::publish("/proc/self"), shoal::Error);
  EXPECT_THROW(shoal::file_level("/proc/self/exe"), shoal::Error);
}

TEST(Wrapper, progress_functions_cancel_and_throw) {
  ScriptedServer server(half_then(""));
  shoal::Client client = shoal::Client::at_socket(server.path());
  try {
    client.sync("/mnt/nowhere/a", {.on_progress = [](const shoal::Progress&) { return false; }});
    FAIL() << "it should have thrown";
  } catch (const shoal::Error& error) {
    EXPECT_EQ(error.code(), std::errc::operation_canceled);
  }
  auto thrower = [](const shoal::Progress&) -> bool { throw std::out_of_range("mine"); };
  EXPECT_THROW(client.sync("/mnt/nowhere/a", {.on_progress = thrower}), std::out_of_range);
}

}  // namespace
