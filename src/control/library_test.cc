// libshoal.so from outside, against a server that behaves as no daemon would.
#include <gtest/gtest.h>
#include <shoal/shoal.h>
#include <sys/time.h>

#include <csignal>
#include <string>
#include <thread>

#include "control/scripted_server_test_support.h"

namespace shoal {
namespace {

using Asker = ScriptedServer::Asker;

constexpr const char* kStatus =
    "HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n{\"shoal\":{\"mountpoint\":\"/mnt/nowhere\"}}";

bool answers_status(Asker& asker) {
  if (!asker.request().starts_with("GET ")) return false;
  asker.say(kStatus);
  return true;
}

class Client {
 public:
  explicit Client(const ScriptedServer& server, const char* mountpoint = nullptr) {
    EXPECT_EQ(shoal_client_open_socket(server.path().c_str(), mountpoint, &client_), SHOAL_OK)
        << shoal_last_error();
  }
  ~Client() { shoal_client_close(client_); }
  operator shoal_client*() { return client_; }  // NOLINT

 private:
  shoal_client* client_ = nullptr;
};

std::string last_error() { return shoal_last_error(); }

struct Heard {
  int times = 0;
  int cancel_at = 0;  // the how manieth time; 0: never
  shoal_progress last = {};
  std::string error;
};
int hear(const shoal_progress* progress, void* context) {
  auto* heard = static_cast<Heard*>(context);
  heard->last = *progress;
  heard->error = progress->last_error;
  return ++heard->times == heard->cancel_at ? 1 : 0;
}

shoal_sync_options hearing(Heard& heard) {
  shoal_sync_options options = SHOAL_SYNC_OPTIONS_INIT;
  options.on_progress = hear;
  options.context = &heard;
  return options;
}

constexpr const char* kHalf =
    R"({"event":"progress","bytes_done":60,"bytes_total":100,"objects_done":1,"objects_total":3,)"
    R"("failures":1,"current":"","last_error":"no network"})";

TEST(Library, tells_progress_and_asks_what_was_said) {
  std::string body;
  ScriptedServer server([&body](Asker& asker) {
    if (answers_status(asker)) return;
    body = asker.request();
    asker.begin_lines();
    asker.say_line(kHalf);
    asker.say_line(R"({"event":"done"})");
    asker.end_lines();
  });
  Client client(server);
  EXPECT_STREQ(shoal_client_mountpoint(client), "/mnt/nowhere");
  Heard heard;
  shoal_sync_options options = hearing(heard);
  options.level = SHOAL_REPLICATED;
  options.timeout_ms = 12'345;
  ASSERT_EQ(shoal_sync(client, "/mnt/nowhere/run/a", &options), SHOAL_OK) << last_error();
  EXPECT_EQ(last_error(), "");
  EXPECT_EQ(heard.times, 1);
  EXPECT_EQ(heard.last.bytes_left, 40u);
  EXPECT_EQ(heard.last.objects_left, 2u);
  EXPECT_EQ(heard.error, "no network");
  EXPECT_GT(heard.last.bytes_per_second, 0);
  EXPECT_EQ(shoal_last_progress()->bytes_left, 40u);
  EXPECT_TRUE(body.starts_with("POST /v1/sync "));
  for (const char* part :
       {R"("paths":["run/a"])", R"("level":"replicated")", R"("timeout_ms":12345)"}) {
    EXPECT_NE(body.find(part), std::string::npos) << part << " in " << body;
  }
  shoal_publish_options publish = SHOAL_PUBLISH_OPTIONS_INIT;
  publish.latest = "newest";
  publish.keep_last = 7;
  ASSERT_EQ(shoal_publish(client, "/mnt/nowhere/run", &publish), SHOAL_OK) << last_error();
  EXPECT_TRUE(body.starts_with("POST /v1/publish "));
  EXPECT_NE(body.find(R"("pointer":"newest")"), std::string::npos);
  EXPECT_NE(body.find(R"("keep_last":7)"), std::string::npos);
  EXPECT_EQ(body.find("timeout_ms"), std::string::npos);
}

TEST(Library, cancelling_ends_the_connection) {
  std::atomic<bool> gone = false;
  ScriptedServer server([&gone](Asker& asker) {
    if (answers_status(asker)) return;
    asker.begin_lines();
    asker.say_line(kHalf);
    asker.say_line(kHalf);
    asker.wait_until_gone();
    gone = true;
  });
  Client client(server);
  Heard heard;
  heard.cancel_at = 2;
  shoal_sync_options options = hearing(heard);
  EXPECT_EQ(shoal_sync(client, "/mnt/nowhere/a", &options), SHOAL_CANCELLED);
  EXPECT_EQ(heard.times, 2);
  while (!gone) std::this_thread::yield();
}

TEST(Library, a_daemon_that_dies_is_told_with_what_was_left) {
  ScriptedServer server([](Asker& asker) {
    if (answers_status(asker)) return;
    asker.begin_lines();
    asker.say_line(kHalf);
  });
  Client client(server);
  EXPECT_EQ(shoal_sync(client, "/mnt/nowhere/a", nullptr), SHOAL_UNAVAILABLE);
  EXPECT_NE(last_error().find("went away"), std::string::npos) << last_error();
  EXPECT_EQ(shoal_last_progress()->bytes_left, 40u);
  EXPECT_STREQ(shoal_last_progress()->last_error, "no network");
}

TEST(Library, a_stopping_daemon_cancels_but_the_caller_did_not) {
  ScriptedServer server([](Asker& asker) {
    if (answers_status(asker)) return;
    asker.begin_lines();
    asker.say_line(R"({"event":"failed","code":"cancelled","message":"x"})");
    asker.end_lines();
  });
  Client client(server);
  EXPECT_EQ(shoal_sync(client, "/mnt/nowhere/a", nullptr), SHOAL_UNAVAILABLE);
}

TEST(Library, a_timeout_says_what_is_left) {
  ScriptedServer server([](Asker& asker) {
    if (answers_status(asker)) return;
    asker.begin_lines();
    asker.say_line(kHalf);
    asker.say_line(R"({"event":"failed","code":"deadline exceeded","message":"x"})");
    asker.end_lines();
  });
  Client client(server);
  EXPECT_EQ(shoal_sync(client, "/mnt/nowhere/a", nullptr), SHOAL_TIMED_OUT);
  EXPECT_EQ(last_error(),
            "not within the time limit: 2 files (40 B) at or below /mnt/nowhere/a are not in the "
            "origin yet; last error: no network");
}

void ignore(int) {}

TEST(Library, signals_interrupt_nothing_and_none_is_raised) {
  // SIGPIPE keeps its deadly default here.
  ScriptedServer server([](Asker& asker) {
    if (answers_status(asker)) return;
    asker.begin_lines();
    for (int i = 0; i < 200; ++i) {
      asker.say_line(kHalf);
      poll(nullptr, 0, 1);  // paces what is sent; nothing waits for it
    }
    asker.say_line(R"({"event":"done"})");
    asker.end_lines();
  });
  Client client(server);
  struct sigaction action{};
  action.sa_handler = ignore;  // without SA_RESTART
  sigaction(SIGALRM, &action, nullptr);
  itimerval often{{0, 500}, {0, 500}};
  setitimer(ITIMER_REAL, &often, nullptr);
  Heard heard;
  shoal_sync_options options = hearing(heard);
  EXPECT_EQ(shoal_sync(client, "/mnt/nowhere/a", &options), SHOAL_OK) << last_error();
  EXPECT_EQ(heard.times, 200);
  itimerval off{};
  setitimer(ITIMER_REAL, &off, nullptr);
}

TEST(Library, a_server_that_hangs_up_at_once_kills_nobody) {
  std::atomic<int> asked = 0;
  ScriptedServer server([&asked](Asker& asker) {
    if (!answers_status(asker)) ++asked;
  });
  Client client(server);
  std::string path = "/mnt/nowhere/" + std::string(1000, 'x');
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(shoal_sync(client, path.c_str(), nullptr), SHOAL_UNAVAILABLE);
  }
  EXPECT_EQ(asked, 100);
}

TEST(Library, threads_have_their_own_errors) {
  ScriptedServer server([](Asker& asker) {
    if (answers_status(asker)) return;
    size_t begin = asker.request().find("thread-");
    std::string name = asker.request().substr(begin, asker.request().find('"', begin) - begin);
    asker.begin_lines();
    asker.say_line(R"({"event":"failed","code":"busy","message":")" + name + "\"}");
    asker.end_lines();
  });
  Client client(server);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([t, &client] {
      std::string name = "thread-" + std::to_string(t);
      for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(shoal_sync(client, ("/mnt/nowhere/" + name).c_str(), nullptr), SHOAL_BUSY);
        EXPECT_EQ(last_error(), name);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(last_error(), "");
}

TEST(Library, arguments_are_checked) {
  ScriptedServer server([](Asker& asker) { answers_status(asker); });
  Client client(server);
  shoal_client* none = client;
  EXPECT_EQ(shoal_client_open("", &none), SHOAL_INVALID);
  EXPECT_EQ(none, nullptr);
  EXPECT_EQ(shoal_client_open(nullptr, &none), SHOAL_INVALID);
  EXPECT_EQ(shoal_client_open("/", nullptr), SHOAL_INVALID);
  EXPECT_EQ(shoal_client_open_socket("/no/such", nullptr, &none), SHOAL_UNAVAILABLE);
  shoal_client_close(nullptr);
  EXPECT_EQ(shoal_sync(client, "/elsewhere", nullptr), SHOAL_NOT_MOUNTED);
  EXPECT_NE(last_error().find("/mnt/nowhere"), std::string::npos);
  EXPECT_EQ(shoal_sync(nullptr, "/proc/self", nullptr), SHOAL_NOT_MOUNTED);
  shoal_sync_options options = SHOAL_SYNC_OPTIONS_INIT;
  for (int level : {int{SHOAL_OPEN}, int{SHOAL_LOCAL}, 4, -1}) {
    options.level = level;
    EXPECT_EQ(shoal_sync(client, "/mnt/nowhere/a", &options), SHOAL_INVALID);
  }
  options = SHOAL_SYNC_OPTIONS_INIT;
  options.timeout_ms = INT64_MAX;
  EXPECT_EQ(shoal_sync(client, "/mnt/nowhere/a", &options), SHOAL_INVALID);
  shoal_publish_options publish = SHOAL_PUBLISH_OPTIONS_INIT;
  publish.keep_last = 1'000'000;
  EXPECT_EQ(shoal_publish(client, "/mnt/nowhere/a", &publish), SHOAL_INVALID);
  int level = 0;
  EXPECT_EQ(shoal_file_level("/proc/self/exe", nullptr), SHOAL_INVALID);
  EXPECT_EQ(shoal_file_level("/proc/self/exe", &level), SHOAL_NOT_MOUNTED);
  EXPECT_EQ(shoal_file_level("/no/such", &level), SHOAL_NOT_FOUND);
  EXPECT_EQ(shoal_file_level("/", &level), SHOAL_IS_DIRECTORY);
}

TEST(Library, options_of_other_versions) {
  ScriptedServer server([](Asker& asker) {
    if (answers_status(asker)) return;
    asker.begin_lines();
    asker.say_line(R"({"event":"done"})");
    asker.end_lines();
  });
  Client client(server, "");  // paths are names
  struct {
    shoal_sync_options known = SHOAL_SYNC_OPTIONS_INIT;
    int later = 0;
    int later_still = 0;
  } newer;
  newer.known.size = sizeof newer;
  EXPECT_EQ(shoal_sync(client, "a", &newer.known), SHOAL_OK) << last_error();
  newer.later_still = 1;
  EXPECT_EQ(shoal_sync(client, "a", &newer.known), SHOAL_NOT_SUPPORTED);
  newer.known.size = 8;
  EXPECT_EQ(shoal_sync(client, "a", &newer.known), SHOAL_INVALID);
}

int hear_and_ask(const shoal_progress* progress, void* context) {
  auto* client = static_cast<Client*>(context);
  EXPECT_EQ(shoal_sync(*client, "/elsewhere", nullptr), SHOAL_NOT_MOUNTED);
  EXPECT_STREQ(progress->last_error, "no network");
  return 0;
}

TEST(Library, progress_functions_may_call_it) {
  ScriptedServer server([](Asker& asker) {
    if (answers_status(asker)) return;
    asker.begin_lines();
    asker.say_line(kHalf);
    asker.say_line(R"({"event":"done"})");
    asker.end_lines();
  });
  Client client(server);
  shoal_sync_options options = SHOAL_SYNC_OPTIONS_INIT;
  options.on_progress = hear_and_ask;
  options.context = &client;
  EXPECT_EQ(shoal_sync(client, "/mnt/nowhere/a", &options), SHOAL_OK) << last_error();
  EXPECT_EQ(shoal_last_progress()->bytes_done, 60u);
}

}  // namespace
}  // namespace shoal
